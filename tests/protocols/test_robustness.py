"""Robustness of a saved classifier: as a function, and as a command."""

import json
import types

import numpy as np
import pytest

from byoljax import cli
from byoljax.encoders import classifier
from byoljax.protocols import extraction, robustness
from byoljax.report import evaluations
from byoljax.tasks import robustness as task


def test_the_command_and_its_table(untrained, tmp_path, capsys, monkeypatch):
  assert cli.run(['knn', str(untrained), f'--workdir={tmp_path / "knn"}']) == 0
  capsys.readouterr()
  run = ['robustness', str(tmp_path / 'knn'), '--robustness.strengths=(1,5)']
  run += ["--robustness.corruptions=('contrast','snow')"]
  assert cli.run([*run, f'--workdir={tmp_path / "evals/out"}']) == 0
  shown = capsys.readouterr().out
  stored = json.loads((tmp_path / 'evals/out' / 'result.json').read_text())
  result = stored['result']
  assert [row['corruption'] for row in result['rows']] == ['contrast', 'snow']
  assert set(result['by_group']) == {'digital', 'weather'} and 'of it' in shown
  # Classes differ in color, which heavy snow covers.
  rows = result['rows']
  assert result['clean']['top1'] > 0.6 > rows[1]['by_strength']['5']
  assert result['corrupted'] == pytest.approx(np.mean([row['top1'] for row in rows]))
  assert (tmp_path / 'evals/out' / 'corruptions.png').stat().st_size > 1000
  clean, _, snow = evaluations.tables(tmp_path)['Accuracy on corrupted images']
  assert clean['mean'] == f'{result["clean"]["top1"]:.1%}' and clean['strength 5'] == ''
  assert snow['corruption'] == 'snow' and snow['classifier'] == 'knn'
  assert clean['images'] == '24'
  assert snow['strength 5'] == f'{rows[1]["by_strength"]["5"]:.1%}'

  again = classifier.load(tmp_path / 'knn')
  assert cli.run([*run, f'--workdir={tmp_path / "few"}', '--robustness.max_images=10']) == 0
  few = json.loads((tmp_path / 'few' / 'result.json').read_text())['result']
  assert few['test_examples'] == 10
  assert cli.run([*run, '--robustness.strengths=(0,)']) == 2
  assert 'strengths=(0,) must be some of' in capsys.readouterr().err
  assert cli.run([*run, "--robustness.corruptions=('fogg',)"]) == 2
  assert "did you mean 'fog'" in capsys.readouterr().err
  assert cli.run([*run, '--data.name=shapes']) == 2
  assert 'has other classes than the classifier' in capsys.readouterr().err
  assert again.classes == classifier.load(tmp_path / 'knn').classes

  def size_of(made, data, **_):
    raise ValueError(f'{data.image_size} pixels')

  monkeypatch.setattr(robustness, 'robustness', size_of)
  for flags, size in (([], 12), (['--image_size=8'], 8)):
    assert cli.run([*run, *flags]) == 2
    assert f'{size} pixels' in capsys.readouterr().err


def test_images_do_not_depend_on_the_batch():
  index = np.arange(6)
  images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
  key = robustness.jax.random.key(0)

  def made(size):
    batches = (
      {'index': index[at : at + size], 'image': images[at : at + size]} for at in range(0, 6, size)
    )
    return np.concatenate(
      [batch['image'] for batch in robustness.corrupted(batches, key, 'gaussian_noise', 1)]
    )

  np.testing.assert_array_equal(made(2), made(3))


def test_images_of_other_channels_are_not_drawn(tmp_path, monkeypatch):
  """And the command names no picture."""
  gray = [{'image': np.zeros((1, 4, 4, 1), np.uint8)}]
  monkeypatch.setattr(extraction, 'eval_batches', lambda *_: gray)
  data, config = types.SimpleNamespace(test=None), types.SimpleNamespace()
  assert task._draw(tmp_path / 'a.png', data, config) is False


def test_some_images():
  source = types.SimpleNamespace(size=9, subset=lambda rows: list(rows))
  assert robustness.some(source, 0, 0) is source and robustness.some(source, 9, 0) is source
  found = robustness.some(source, 4, 0)
  assert len(set(found)) == 4 and found == sorted(found)
  for count, seed in ((-1, 0), (4, -1)):
    with pytest.raises(ValueError, match='must be at least 0'):
      robustness.some(source, count, seed)
