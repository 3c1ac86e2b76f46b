"""Several runs in one table: what is a seed, what is a difference, what cannot be compared."""

import csv
import json

import pytest

from byoljax import cli
from byoljax.report import compare


def write_run(folder, method='byol', seed=0, knn=0.5, linear=0.6, baselines=True, **changes):
  folder.mkdir(parents=True)
  config = {
    'seed': seed,
    'method': {'name': method},
    'train': {'batch_size': 64},
    'data': {'name': 'shapes', 'dir': str(folder)},
    'evals': {'knn': {'k': [200]}, 'baselines': baselines},
  }
  for name, value in changes.items():
    group, _, field = name.partition('__')
    config[group][field] = value
  result = {method: {'knn': {'top1': knn}, 'linear': {'top1': linear}}}
  if baselines:
    result['random initialization'] = {'knn': {'top1': 0.1 + seed / 100}, 'linear': {'top1': 0.2}}
  (folder / 'config.json').write_text(json.dumps({'config': config}))
  (folder / 'results.json').write_text(json.dumps({'result': result}))
  rows = [{'step': e, 'epoch': e, 'time/elapsed_s': 60 * e, 'knn/top1': 0.1 * e} for e in (1, 2, 3)]
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(folder)


def made(*folders):
  runs = [compare.load(folder) for folder in folders]
  return compare.rows(compare.grouped(runs))


def test_seeds_are_one_row(tmp_path):
  for seed, linear in enumerate((0.5, 0.6, 0.7)):
    write_run(tmp_path / f'a{seed}', seed=seed, linear=linear)
  write_run(tmp_path / 'b', method='moco', linear=0.9)
  moco, byol, random = made(*sorted(tmp_path.iterdir()))
  assert (moco['encoder'], moco['runs'], 'linear top-1 sd' in moco) == ('moco', 1, False)
  assert (byol['encoder'], byol['runs'], byol['epochs'], byol['minutes']) == ('byol', 3, 3, 3)
  assert byol['linear top-1'] == pytest.approx(60) and byol['linear top-1 sd'] == pytest.approx(10)
  # The baseline of seed 0 was measured twice and counts once.
  assert random['runs'] == 3 and random['k-NN top-1'] == pytest.approx(11)


def test_runs_of_a_method_are_named_by_what_differs(tmp_path):
  write_run(tmp_path / 'small', train__batch_size=32, linear=0.3)
  write_run(tmp_path / 'large', train__batch_size=512, baselines=False)
  write_run(tmp_path / 'other', method='moco', train__batch_size=7, linear=0.1)
  names = [row['encoder'] for row in made(*tmp_path.iterdir())]
  assert names == [
    'byol (train.batch_size=512)', 'byol (train.batch_size=32)', 'moco', 'random initialization',
  ]  # fmt: skip


def test_other_protocols_are_said(tmp_path):
  write_run(tmp_path / 'a')
  write_run(tmp_path / 'b', method='moco', data__name='cifar10', evals__knn={'k': [20]})
  said = compare.protocols([compare.load(folder) for folder in tmp_path.iterdir()])
  assert sorted(sentence.split(' ')[0] for sentence in said) == ['data.name', 'evals.knn.k']
  assert compare.protocols([compare.load(tmp_path / 'a')] * 2) == []


def test_command_prints_and_writes(tmp_path, capsys):
  runs = [write_run(tmp_path / 'a', linear=0.512), write_run(tmp_path / 'b', seed=1, linear=0.5)]
  out = tmp_path / 'out'
  assert cli.run(['compare', *runs, '--out', str(out)]) == 0
  assert '50.6' in capsys.readouterr().out
  assert '| byol ' in (out / 'table.md').read_text()
  with (out / 'table.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert float(rows[0]['linear top-1']) == pytest.approx(50.6)
  assert (out / 'scores.png').read_bytes()[:4] == b'\x89PNG'


@pytest.mark.parametrize('broken', ['absent', 'unfinished'])
def test_a_run_without_results_is_a_sentence(broken, tmp_path, capsys):
  write_run(tmp_path / 'unfinished')
  (tmp_path / 'unfinished' / 'results.json').unlink()
  assert cli.run(['compare', str(tmp_path / broken), '--out', str(tmp_path / 'out')]) == 2
  assert f"{broken}' has no final results" in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
  assert cli.run(['compare', 'a', '--nonsense']) == 2
  assert "unknown argument '--nonsense'" in capsys.readouterr().err
