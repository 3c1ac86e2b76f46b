"""Several runs in one table: what is a seed, what is a difference, what cannot be compared."""

import csv
import functools
import json
import pathlib

import pytest

from byoljax import cli
from byoljax import config as config_lib
from byoljax.report import compare, compare_plot, curves, evaluations, facts, finished
from byoljax.tasks import export
from tests.workdir.test_listing import save


def write_run(
  folder, method='byol', seed=0, knn=0.5, linear=0.6, baselines=True, recipe='', mark='', **changes
):
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
    config.setdefault(group, {})[field] = value
  result = {method: {'knn': {'top1': knn}, 'linear': {'top1': linear}}}
  if baselines:
    result['random initialization'] = {'knn': {'top1': 0.1 + seed / 100}, 'linear': {'top1': 0.2}}
  (folder / 'config.json').write_text(
    json.dumps({'config': config, 'recipe': recipe, 'data_fingerprint': mark})
  )
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


def test_all_attempts_of_a_run_that_was_resumed_count(tmp_path):
  """120 seconds, then 50 and, of a third attempt, 200, which is later than all before it."""
  run = pathlib.Path(write_run(tmp_path / 'a'))
  rows = [
    {'step': step, 'epoch': step, 'time/first_step_s': first, 'time/elapsed_s': elapsed}
    for step, (first, elapsed) in enumerate(((20.5, 60), (20.5, 120), (9.5, 50), (8.5, 200)), 1)
  ]
  (run / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  assert made(run)[0]['minutes'] == pytest.approx(370 / 60)
  assert finished.training_seconds([{'step': 1}]) is None


def test_runs_of_a_method_are_named_by_what_differs(tmp_path):
  write_run(tmp_path / 'small', train__batch_size=32, linear=0.3)
  write_run(tmp_path / 'large', train__batch_size=512, baselines=False)
  write_run(tmp_path / 'other', method='moco', train__batch_size=7, linear=0.1)
  names = [row['encoder'] for row in made(*tmp_path.iterdir())]
  assert names == [
    'byol (batch_size=512)', 'byol (batch_size=32)', 'moco', 'random initialization',
  ]  # fmt: skip


def test_groups_whose_names_are_cut_off_are_all_there(tmp_path):
  """More fields differ than a name shows, and directories of sweeps have equal names."""
  shown = {'train__batch_size': 1, 'train__length': 1, 'train__accumulate': 1}
  runs = [write_run(tmp_path / str(n) / 'run', optim__lr=n, **shown) for n in range(4)]
  other = write_run(tmp_path / 'other', **dict.fromkeys(shown, 2))
  groups = compare.grouped([compare.load(pathlib.Path(run)) for run in (*runs, other)])
  ends = [name.partition(' and 1 more)')[2] for name in groups]
  assert sorted(ends) == ['', '', ' [1]', ' [2]', ' [run]']


def test_other_protocols_are_said(tmp_path):
  write_run(tmp_path / 'a')
  write_run(tmp_path / 'b', method='moco', evals__knn={'k': [20]})
  said = compare.protocols([compare.load(folder) for folder in tmp_path.iterdir()])
  assert sorted(sentence.split(' ')[0] for sentence in said) == ['evals.knn.k']
  assert compare.protocols([compare.load(tmp_path / 'a')] * 2) == []


def test_fields_that_came_later_have_their_defaults(tmp_path):
  """A seed of an older version: neither another setting, nor another protocol."""
  recipe = config_lib.as_data(config_lib.load(f'{config_lib.recipes_directory()}/byol.py'))
  for seed in (0, 1):
    folder = pathlib.Path(write_run(tmp_path / str(seed)))
    config = recipe | {'seed': seed}
    if seed:
      del config['train']['keep_tokens'], config['evals']['linear']['norm']
    (folder / 'config.json').write_text(json.dumps({'config': config}))
  runs = [compare.load(folder) for folder in sorted(tmp_path.iterdir())]
  assert {name: len(group) for name, group in compare.grouped(runs).items()} == {'byol': 2}
  assert compare.protocols(runs) == []


def test_other_data_stand_apart(tmp_path, capsys):
  """Baselines are of the same images: 10 % of one set are not averaged with 40 % of another."""
  one = [write_run(tmp_path / f'a{seed}', seed=seed, mark='x') for seed in (0, 1)]
  other = write_run(tmp_path / 'photos', data__name='folder', data__dir='my/photos', mark='y')
  same_name = write_run(tmp_path / 'new', data__name='folder', data__dir='other/photos', mark='z')
  results = json.loads((tmp_path / 'photos' / 'results.json').read_text())
  results['result']['random initialization']['knn']['top1'] = 0.4
  (tmp_path / 'photos' / 'results.json').write_text(json.dumps(results))
  runs = [compare.load(tmp_path / name) for name in ('a0', 'a1', 'photos', 'new')]
  found = compare.by_data(runs)
  assert {name: len(own) for name, own in found.items()} == {
    'shapes': 2, 'photos (folder)': 1, 'photos (folder) 2': 1
  }  # fmt: skip
  out = tmp_path / 'out'
  assert cli.run(['compare', *one, other, same_name, '--out', str(out)]) == 0
  shown = capsys.readouterr().out
  first, second, _ = shown.split('photos (folder)')
  assert first.startswith('shapes\n') and '10.5 ± 0.7' in first and '40.0' in second
  assert 'Careful' not in shown, 'each table is of one data set'
  with (out / 'table.csv').open() as file:
    assert [row['data'] for row in csv.DictReader(file)] == [
      name for name in found for _ in range(2)
    ]


def test_baselines_of_other_encoders_are_not_averaged(tmp_path):
  for seed, width in ((0, 1), (1, 1), (0, 2), (1, 2)):
    run = tmp_path / f'{width}-{seed}'
    write_run(run, seed=seed, encoder__name='resnet18', encoder__width=width, encoder__input='rgb')
    path = run / 'results.json'
    stored = json.loads(path.read_text())
    stored['result']['random initialization']['knn']['top1'] = width / 10
    stored['result']['raw pixels'] = {'knn': {'top1': 0.05}}
    path.write_text(json.dumps(stored))
  found = {row['encoder']: row for row in made(*sorted(tmp_path.iterdir()))}
  for width in (1, 2):
    row = found[f'random initialization (width={width})']
    assert row['k-NN top-1'] == pytest.approx(10 * width) and row['runs'] == 2
    assert row['k-NN top-1 sd'] == 0
  # Pixels are the same under any encoder of the same input.
  assert [name for name in found if 'pixels' in name] == ['raw pixels']


def test_labels_lead_with_what_tells_most(tmp_path):
  write_run(tmp_path / 'a', recipe='x/byol.py:folder_small', evals__image_size=64)
  write_run(tmp_path / 'b', recipe='x/byol.py:folder', train__batch_size=256, linear=0.5)
  write_run(tmp_path / 'c', recipe='x/byol.py:folder', train__batch_size=32, linear=0.4,
            train__length='9 epochs', data__mean=[0.5], evals__image_size=96,
            method__tau=0.9)  # fmt: skip
  assert [row['encoder'] for row in made(*sorted(tmp_path.iterdir()))[:3]] == [
    'byol:folder_small',
    'byol:folder (length=300 epochs, batch_size=256, tau=None and 2 more)',
    'byol:folder (length=9 epochs, batch_size=32, tau=0.9 and 2 more)',
  ]


def evaluated_later(run, task, network, step, top1, protocol=None, **data):
  home = run / 'evals' / f'{task}-{network}-{step}-{len(data)}{"-protocol" if protocol else ""}'
  home.mkdir(parents=True)
  size = data.pop('size', 0)
  config = {'task': task, 'network': network, 'tap': 'embedding', 'data': {'name': '', **data}}
  config |= {'image_size': size} | ({task: protocol} if protocol else {})
  stored = {'result': {'top1': top1}, 'checkpoint': f'checkpoints/{step}', 'config': config}
  (home / 'result.json').write_text(json.dumps(stored))


def test_runs_that_were_evaluated_afterwards(tmp_path, capsys):
  folder = tmp_path / 'a'
  write_run(folder)
  (folder / 'results.json').unlink()
  evaluated = functools.partial(evaluated_later, folder)

  # What is evaluated there is no checkpoint.
  evaluated('robustness', '', 'classifier', 0.1)

  evaluated('knn', 'online', 9, 0.3)
  evaluated('knn', 'online', 10, 0.4)
  evaluated('knn', 'random', 10, 0.2)
  evaluated('knn', 'online', 11, 0.9, name='cifar10')
  evaluated('knn', 'online', 12, 0.8, dir='others')
  evaluated('knn', 'online', 13, 0.7, size=64)
  row, random = made(folder)
  assert row['k-NN top-1'] == pytest.approx(40) and 'linear top-1' not in row
  assert random['encoder'] == 'random initialization' and random['k-NN top-1'] == pytest.approx(20)
  assert cli.run(['compare', str(folder), '--out', str(tmp_path / 'out')]) == 0
  assert '–' in capsys.readouterr().out.splitlines()[2]


def test_protocols_of_later_evaluations_are_compared(tmp_path):
  """Of two evaluations of a step, the one by the run's own protocol counts; others are marked."""
  for name in 'ab':
    write_run(tmp_path / name, seed=ord(name), evals__linear={'length': '20 epochs'})
  (tmp_path / 'b' / 'results.json').unlink()
  own, other = {'length': '20 epochs'}, {'length': '500 epochs'}
  evaluated_later(tmp_path / 'b', 'linear', 'online', 6, 0.31, other)
  said = compare.protocols([compare.load(tmp_path / name) for name in 'ab'])
  assert said == ['evals.linear.length differs: "20 epochs", "500 epochs"']
  evaluated_later(tmp_path / 'b', 'linear', 'online', 6, 0.91, own, dir='')
  evaluated_later(tmp_path / 'b', 'linear', 'online', 6, 0.32, other, dir='', name='')
  runs = [compare.load(tmp_path / name) for name in 'ab']
  assert runs[1].results['byol']['linear']['top1'] == 0.91 and compare.protocols(runs) == []


def test_a_run_that_is_named_twice_or_copied_is_no_other_seed(tmp_path, capsys):
  run = write_run(tmp_path / 'a')
  assert cli.run(['compare', run, f'{run}/', f'{run}/../a']) == 0
  shown = capsys.readouterr().out
  assert '±' not in shown and 'Careful' not in shown
  assert cli.run(['compare', run, write_run(tmp_path / 'copy')]) == 0
  assert "Careful: 'a', 'copy' have the same seed 0" in capsys.readouterr().out


def test_results_of_an_earlier_step_are_not_those_of_an_extended_run(tmp_path):
  """Six steps with their results, extended to nine: a later evaluation of step 9 counts."""
  run = pathlib.Path(write_run(tmp_path / 'a', knn=0.13, linear=0.2))
  stored = json.loads((run / 'results.json').read_text())
  for each in stored['result'].values():
    each['knn']['mean_per_class'] = each['linear']['mean_per_class'] = 0.1
  (run / 'results.json').write_text(json.dumps(stored | {'step': 6}))
  save(run, 6)
  evaluated_later(run, 'knn', 'online', 6, 0.9)
  before = evaluations.final(run)
  assert before.is_newest and before.heading.startswith('Step 6, ')
  assert facts.verdict(run)[0] and compare.protocols([compare.load(run)]) == []
  assert made(run)[0]['k-NN top-1'] == pytest.approx(13), 'of one step the results of the run stand'
  save(run, 9)
  assert not evaluations.final(run).is_newest
  assert facts.verdict(run) == ('', True) and list(facts.results(run))[0] == before.heading
  assert export._results(run, 9) == {} and list(export._results(run, 6)) == list(stored['result'])
  said = compare.protocols([compare.load(run)])
  assert [sentence.split(',')[0] for sentence in said] == [
    "knn of 'a' is of step 6", "linear of 'a' is of step 6"
  ]  # fmt: skip
  evaluated_later(run, 'knn', 'online', 9, 0.4)
  (row, _) = made(run)
  assert row['k-NN top-1'] == pytest.approx(40) and row['linear top-1'] == pytest.approx(20)
  assert len(compare.protocols([compare.load(run)])) == 1


def test_command_prints_and_writes(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  runs = [write_run(tmp_path / 'a', linear=0.512), write_run(tmp_path / 'b', seed=1, linear=0.5)]
  several = write_run(tmp_path / 'several labels', method='moco')
  result = {'moco': {'knn': {'map': 0.3}, 'linear': {'map': 0.4}}}
  (tmp_path / 'several labels' / 'results.json').write_text(json.dumps({'result': result}))
  out = tmp_path / 'out'
  assert cli.run(['compare', '~/a', runs[1], several, '--out=~/out']) == 0
  assert '50.6' in capsys.readouterr().out
  assert '| byol ' in (out / 'table.md').read_text()
  with (out / 'table.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert float(rows[0]['linear top-1']) == pytest.approx(50.6)
  assert (out / 'scores.png').read_bytes()[:4] == b'\x89PNG'


class Unwritable:
  """What no encoding has."""

  def __str__(self):
    raise UnicodeError


def test_a_table_is_written_whole_in_utf_8_or_not_at_all(tmp_path):
  path = tmp_path / 'table.csv'
  compare.write_csv([{'encoder': 'größer'}], path)
  before = path.read_bytes()
  assert before.decode('utf-8').split() == ['encoder', 'größer']
  with pytest.raises(UnicodeError):
    compare.write_csv([{'encoder': 'byol'}, {'encoder': Unwritable()}], path)
  assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
  ('broken', 'said'),
  [
    ('absent', 'does not exist: name directories of runs'),
    ('.', 'is no run: name directories of runs'),
    ('unfinished', 'has no final results'),
  ],
)
def test_a_run_without_results_is_a_sentence(broken, said, tmp_path, capsys):
  write_run(tmp_path / 'unfinished')
  (tmp_path / 'unfinished' / 'results.json').unlink()
  assert cli.run(['compare', str(tmp_path / broken), '--out', str(tmp_path / 'out')]) == 2
  assert f"'{(tmp_path / broken).resolve()}' {said}" in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
  assert cli.run(['compare', 'a', '--nonsense']) == 2
  assert "unknown argument '--nonsense'" in capsys.readouterr().err


def test_every_row_of_a_plot_looks_different(tmp_path):
  """Of nine methods the ninth has the color of the first."""
  from matplotlib.figure import Figure

  assert len({curves.look(number) for number in range(64)}) == 64
  assert len({curves.look(number)[::2] for number in range(32)}) == 32, 'without markers'
  for number in range(9):
    write_run(tmp_path / str(number), method=f'method{number}', linear=0.9 - number / 100)
  groups = compare.grouped([compare.load(folder) for folder in sorted(tmp_path.iterdir())])
  figure = Figure()
  compare_plot._line(figure, groups, compare.rows(groups), compare.SCORES)
  for panel in figure.axes:
    assert len({(each.get_color(), each.get_marker()) for each in panel.lines[:9]}) == 9
