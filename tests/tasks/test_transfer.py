"""The transfer table: columns that are any evaluation, each metric in a table of its own."""

import json

import numpy as np
import pytest

from byoljax import cli
from byoljax.tasks import cells, transfer
from configs import transfer as transfer_config


@pytest.fixture
def scenes(tmp_path):
  """Images with a class, a mask, a depth and two boxes each."""
  rng = np.random.default_rng(0)
  members = {}
  for split, count in (('train', 12), ('test', 8)):
    box = rng.uniform(0, 0.4, (count, 2, 2))
    boxes = np.concatenate([box, box + 0.5, rng.integers(0, 2, (count, 2, 1))], -1)
    members |= {
      f'x_{split}': rng.integers(0, 256, (count, 12, 12, 3), np.uint8),
      f'y_{split}': np.arange(count, dtype=np.int32) % 2,
      f'mask_{split}': rng.integers(0, 3, (count, 12, 12), np.uint8),
      f'depth_{split}': rng.uniform(1, 2, (count, 12, 12)).astype(np.float32),
      f'boxes_{split}': boxes.astype(np.float32),
    }
  path = tmp_path / 'scenes.npz'
  np.savez(path, **members, class_names=['cat', 'dog'])
  return path


COLUMNS = ('knn', 'segment', 'depth', 'detect')


def command(run, home, scenes, npz, *flags):
  return ['transfer:small,smoke', str(run), f'--workdir={home}', f'--datasets=npz={scenes}',
          f'--reads.knn.datasets=all,npz={npz}', f'--reads.depth.datasets=npz={npz}',
          f'--protocols={",".join(COLUMNS)}', '--log.tensorboard=false', *flags]  # fmt: skip


def test_columns_are_any_evaluation(untrained, scenes, npz, tmp_path, monkeypatch, capsys):
  """What is opened is real; what is trained is not, but counted."""
  home, computed = tmp_path / 'table', []

  def compute(name, result):
    def run(encoder, data, config, where):
      computed.append((name, config.data.dir, where.name.split('-')[1]))
      assert config.image_size == (16 if name == 'detect' else 0)
      assert (encoder is None, data is None, where.parent.parent) == (False, False, home)
      return result

    return run

  results = {
    'knn': {'top1': 0.75, 'mean_per_class': 0.5, 'majority': 0.625},
    'segment': {'mean_iou': 0.3333, 'pixel_accuracy': 0.9},
    'depth': {'rms': 0.12345, 'rel': 0.5},
    'detect': {'ap50': 0.5},  # Without any object of its sizes AP is left out.
  }
  made = {
    name: cells.EVALUATIONS[name]._replace(compute=compute(name, result))
    for name, result in results.items()
  }
  for name, each in made.items():
    monkeypatch.setitem(cells.EVALUATIONS, name, each)
  flags = ['--reads.depth.datasets=all', '--reads.detect.image_size=16']
  assert cli.run(command(untrained, home, scenes, npz, *flags)) == 0
  result = json.loads((home / 'result.json').read_text())['result']
  entry = f'npz={scenes}'
  assert result['rows'] == [
    {'data set': entry, 'metric': 'top-1', 'knn, online': 0.75, 'knn, random': 0.75,
     'largest class': 0.625},
    {'data set': entry, 'metric': 'mean IoU', 'segment, online': 0.3333,
     'segment, random': 0.3333},
    {'data set': entry, 'metric': 'rms', 'depth, online': 0.12345, 'depth, random': 0.12345},
    {'data set': entry, 'metric': 'AP', 'detect, online': None, 'detect, random': None},
    {'data set': f'npz={npz}', 'metric': 'top-1', 'knn, online': 0.75, 'knn, random': 0.75,
     'largest class': 0.625},
  ]  # fmt: skip
  tables = (home / 'table.md').read_text().split('\n\n')
  first_lines = [each.splitlines()[0].split('|')[1].strip() for each in tables]
  assert first_lines == ['top-1', 'mean IoU', 'rms (lower is better)', 'AP']
  assert len(tables[0].splitlines()) == 4 and 'segment' not in tables[0]
  assert '| 33.3% |' in ' '.join(tables[1].split()) and '0.1235' in tables[2]
  assert 'lower is better' in capsys.readouterr().out
  # Started again, nothing is computed; the encoder under masks is another cell when frozen.
  count = len(computed)
  assert count == 10
  assert cli.run(command(untrained, home, scenes, npz, *flags)) == 0
  assert len(computed) == count
  assert cli.run(command(untrained, home, scenes, npz, *flags, '--mode=frozen')) == 0
  assert {name for name, *_ in computed[count:]} == {'segment', 'depth'}


def test_what_the_data_lack_is_skipped_by_name(untrained, scenes, npz, tmp_path, capsys):
  """Without a single cell it is an error that says why of each."""
  home = tmp_path / 'table'
  flags = [f'--datasets=npz={npz},shapes', '--protocols=segment,depth,detect',
           '--reads.depth.datasets=all']  # fmt: skip
  assert cli.run(command(untrained, home, scenes, npz, *flags)) == 2
  skipped = json.loads((home / 'result.json').read_text())['result']['skipped']
  assert "has no 'mask_train'" in skipped[f'npz={npz}']['segment']
  assert "has no 'depth_train'" in skipped[f'npz={npz}']['depth']
  assert "has no 'boxes_train'" in skipped[f'npz={npz}']['detect']
  assert 'shapes has no masks of classes' in skipped['shapes']['segment']
  assert 'nothing was evaluated' in capsys.readouterr().err


def test_images_with_several_labels_are_skipped_where_one_is_needed(
  untrained, voc, tmp_path, monkeypatch, capsys
):
  computed = cells.EVALUATIONS['finetune']._replace(compute=lambda *_: {'map11': 0.5})
  monkeypatch.setitem(cells.EVALUATIONS, 'finetune', computed)
  entry = f'voc_labels={voc}'
  command = ['transfer:small,smoke', str(untrained), f'--workdir={tmp_path}',
             f'--datasets={entry}', '--protocols=knn,linear,finetune']  # fmt: skip
  assert cli.run(command) == 0
  result = json.loads((tmp_path / 'result.json').read_text())['result']
  (row,) = result['rows']
  assert row['finetune, online'] == 0.5 and not [name for name in row if 'knn' in name]
  assert list(result['skipped'][entry]) == ['knn', 'linear']
  assert f'{entry}: skipped by linear. VOC:trainval has several' in capsys.readouterr().out


def test_layers_of_a_projector_are_not_kept_here(untrained, tmp_path, capsys):
  command = ['transfer:small', str(untrained), f'--workdir={tmp_path / "out"}']
  assert cli.run([*command, '--finetune.head_layers=1']) == 2
  assert 'head_layers=1 keeps layers of the projector, which `byol' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_the_recipe_knows_every_evaluation():
  assert tuple(cells.EVALUATIONS) == transfer_config.EVALUATIONS
  for options in ('', 'small', 'smoke'):
    config = transfer_config.get_config(options)
    assert all(name in config for name in cells.EVALUATIONS)
  assert transfer_config.get_config().reads.segment.image_size == 512
  assert transfer.COMMAND.recipe == 'transfer'


@pytest.mark.slow
def test_every_column_is_trained(untrained, scenes, npz, tmp_path):
  home = tmp_path / 'table'
  flags = ['--reads.depth.datasets=all', '--baselines=false']
  assert cli.run(command(untrained, home, scenes, npz, *flags)) == 0
  rows = json.loads((home / 'result.json').read_text())['result']['rows']
  values = {name: row[f'{name}, online'] for row in rows for name in COLUMNS
            if f'{name}, online' in row}  # fmt: skip
  assert set(values) == set(COLUMNS)
  assert all(value is not None and np.isfinite(value) for value in values.values())
