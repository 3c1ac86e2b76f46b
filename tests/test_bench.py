"""The benchmarks' own machinery: turns, replies, tables, and byoljax's contestants; no speed."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

BENCH = pathlib.Path(__file__).parent.parent / 'experiments' / 'bench'

_ECHO = """
import contest
def burn(seconds):
  import time
  until = time.process_time() + seconds
  while time.process_time() < until: pass
  return {'burnt': seconds}
contest.serve({'echo': lambda text: print('noise') or {'text': text}, 'burn': burn,
               'fail': lambda: 1 / 0, 'die': lambda: exit(7)})
"""


@pytest.fixture(autouse=True)
def bench(monkeypatch):
  """Imports of the benchmarks' modules, which lie beside one another like scripts."""
  monkeypatch.syspath_prepend(str(BENCH))


@pytest.fixture
def echo(tmp_path):
  """A contestant that says what it was told."""
  import contest

  environment = {'PYTHONPATH': str(BENCH)}
  with contest.Contestant(
    'echo', [sys.executable, '-c', _ECHO], environment, tmp_path / 'echo.log'
  ) as player:
    yield player


def _result(wall, cpu, agreement=None):
  samples = {
    name: {'wall': seconds, 'cpu': [s * cpu for s in seconds], 'idle_cpu': [0.25]}
    for name, seconds in wall.items()
  }
  case = {'batch_size': 64, 'dtype': 'float32'}
  return {'network': 'small', 'case': case, 'samples': samples, 'agreement': agreement or {}}


def _cells(text, first):
  """The cells of the table row that begins with `first`."""
  rows = [line for line in text.splitlines() if line.startswith(f'| {first} |')]
  assert len(rows) == 1, text
  return [cell.strip() for cell in rows[0].strip('|').split('|')]


def test_a_contestant_replies_whatever_it_prints(echo, tmp_path):
  assert echo.ask('echo', text='ü')['text'] == 'ü'
  assert 'noise' in (tmp_path / 'echo.log').read_text() or echo.ask('echo', text='')
  with pytest.raises(RuntimeError, match='ZeroDivisionError'):
    echo.ask('fail')
  assert echo.ask('echo', text='still there')['text'] == 'still there'
  with pytest.raises(RuntimeError, match='status 7'):
    echo.ask('die')


def test_cpu_time_is_counted_in_the_turn_and_not_between_turns(echo):
  import contest

  echo.ask('burn', seconds=0.2)
  assert echo.ask('echo', text='')['idle_cpu_s'] < 0.05
  child = [sys.executable, '-c', 'import time\nwhile time.process_time() < 0.3: pass']
  wall, cpu = contest.timed(lambda: subprocess.run(child, check=True))
  assert wall >= 0.25 and cpu >= 0.25, 'CPU time of children that have ended belongs to the turn'


def test_turns_alternate():
  import contest

  order = []
  turns = {name: lambda name=name: order.append(name) or {'at': len(order)} for name in 'AB'}
  replies = contest.alternate(turns, 3, pause=0, say=lambda text: None)
  assert order == list('ABABAB')
  assert [reply['at'] for reply in replies['B']] == [2, 4, 6]


def test_step_table_has_medians_and_ratios_of_medians():
  import render

  wall = {'byoljax': [0.1, 0.2, 0.9], 'PyTorch eager': [0.4, 0.3, 0.8]}
  errors = {'PyTorch eager': {'first loss': 1e-7, 'losses': 3e-4}}
  text = render.step([_result(wall, 1.5, errors)])
  ours = _cells(text, 'small, batch 64, float32: byoljax')
  assert ours[1:] == ['200 [150, 550]', '320', '1.50', '']
  assert _cells(text, 'small, batch 64, float32: PyTorch eager')[2:] == ['160', '1.50', '2.00']
  assert 'over the fastest PyTorch: small float32 2.00.' in text
  assert 'at most 0.25 s' in text and '1.0e-07' in text and '3.0e-04 (losses)' in text


def test_pipeline_table_adds_host_and_device_and_compares_only_what_is_comparable():
  import render

  seconds = {
    'byoljax, accelerator: host': (1.0, 0.5),
    'byoljax, accelerator: device': (3.0, 1.5),
    'byoljax, host: host': (8.0, 4.0),
    'byoljax, host: device': (0.0, 0.0),
    'lightly: host': (16.0, 10.0),
  }
  samples = {
    name: [{'images': 100, 'cpu': cpu + 1e-9, 'wall': wall + 1e-9}] * 3
    for name, (cpu, wall) in seconds.items()
  }
  text = render.pipeline([{'name': 'JPEG', 'images': 'drawn', 'samples': samples}])
  assert _cells(text, 'JPEG: byoljax, accelerator: both')[1:] == ['25.0', '50.0', '4.00', '5.00']
  assert _cells(text, 'JPEG: byoljax, accelerator: host')[1:] == ['100', '200', '16.00', '20.00']
  assert _cells(text, 'JPEG: byoljax, accelerator: device')[3:] == ['', '']
  assert _cells(text, 'JPEG: byoljax, host: host')[3:] == ['', '']
  assert _cells(text, 'JPEG: lightly: host')[1:] == ['6.25', '10.0', '', '']


@pytest.mark.parametrize(
  ('value', 'text'), [(0.01234, '0.012'), (1.234, '1.23'), (99.96, '100'), (12345.6, '12,346')]
)
def test_numbers_have_three_digits(value, text):
  import render

  assert render.number(value) == text


def test_results_go_between_the_markers_and_carry_warnings(tmp_path):
  import machine
  import render

  moment = machine.now(watch=0.05)
  results = {
    'command': 'python run.py',
    'quick': True,
    'busy': True,
    'cores': 2,
    'machine': machine.facts(),
    'before': moment,
    'after': moment,
    'versions': {'jax': '1.2.3'},
    'parts': {'wait': [{'name': 'default', 'steps': 7, 'wait_run': 0.125, 'img_per_s_run': 50.0}]},
  }
  assert json.loads(json.dumps(results)) == results
  text = render.report(results)
  assert _cells(text, 'default')[1:] == ['7', '12.5%', '50.0']
  assert 'jax 1.2.3' in text and 'not quiet' in text and 'mean nothing' in text
  readme = tmp_path / 'README.md'
  readme.write_text(f'above\n{render.BEGIN}\nold\n{render.END}\nbelow\n')
  render.put(text, readme)
  render.put(text, readme)
  assert readme.read_text() == f'above\n{render.BEGIN}\n\n{text}\n{render.END}\nbelow\n'
  readme.write_text(f'{render.END}\n{render.BEGIN}\n')
  with pytest.raises(ValueError, match='put them'):
    render.put(text, readme)


def test_different_computations_are_not_compared():
  import step_bench

  facts = {name: {'parameters': {'online': 3}} for name in ('byoljax', 'PyTorch')}
  check = {'losses': [4.0, 3.0], 'moved': {'target': 2.0}}
  other = {'losses': [4.0, 3.03], 'moved': {'target': 1.99}}
  found = step_bench._compare(facts, {'byoljax': check, 'PyTorch': other}, 0.02)
  assert found['PyTorch'] == pytest.approx(
    {'first loss': 0.0, 'losses': 0.01, 'moved: target': 0.005}
  )
  with pytest.raises(RuntimeError, match='moved: target'):
    step_bench._compare(facts, {'byoljax': check, 'PyTorch': other}, 0.004)
  facts['PyTorch'] = {'parameters': {'online': 4}}
  with pytest.raises(RuntimeError, match='other parameters'):
    step_bench._compare(facts, {'byoljax': check, 'PyTorch': check}, 0.02)


def test_byoljax_step_contestant(tmp_path, monkeypatch):
  import setting
  import step_bench

  monkeypatch.setenv('XLA_FLAGS', '--xla_backend_optimization_level=0')  # One device.
  here = setting.Setting(tmp_path, None, (), None, 1, True, lambda text: None)
  sizes = {'batch_size': 4, 'projector': [16, 8], 'predictor': [16, 8], 'dtype': 'float32'}
  result = step_bench._pair(here, 'small', step_bench.cases(True)['small'] | sizes)
  assert list(result['samples']) == ['byoljax'] and not result['agreement']
  assert len(result['samples']['byoljax']['wall']) == 2
  with np.load(tmp_path / 'start.npz') as start:
    count = sum(start[k].size for k in start if k.startswith('online/'))
    assert start['view1'].shape == (4, 32, 32, 3)
    assert np.any(start['view1'] != start['view2'])
  assert result['parameters']['online'] == count
  difference = result['parameters']['online'] - result['parameters']['target']
  assert difference == 8 * 16 + 16 + 2 * 16 + 16 * 8, 'only the predictor is the online alone'


def test_a_step_on_several_devices_is_refused(tmp_path):
  import jax
  import jax_byol
  import step_bench

  assert jax.device_count() > 1
  with pytest.raises(RuntimeError, match='one is meant'):
    case = step_bench.cases(True)['small'] | {'dtype': 'float32'}
    jax_byol.Contestant().prepare(case, str(tmp_path / 'start.npz'))


def test_byoljax_input_contestant(tmp_path):
  import jax_pipeline
  import pictures
  import pipeline_bench

  path = tmp_path / 'images.npz'
  assert '12 drawn arrays of 16x16' in pictures.arrays(path, 12, 16)
  case = {'path': str(path), 'batch_size': 4, 'workers': 1}
  case |= pipeline_bench.view_settings('cifar10')
  for view in case['views']:
    view['size'] = 16
  contestant = jax_pipeline.Contestant()
  contestant.prepare(json.loads(json.dumps(case)))
  for place in ('accelerator', 'host'):
    assert contestant.host(place, 5)['images'] == 20, 'more than one epoch'
    assert contestant.device(place, 2)['images'] == 8


def test_jpegs_are_drawn_or_linked(tmp_path):
  import pictures

  assert '5 JPEGs drawn' in pictures.folder(tmp_path / 'all', 5, None)
  assert '3 JPEGs of all' in pictures.folder(tmp_path / 'some', 3, tmp_path / 'all')
  chosen = [path.resolve().name for path in sorted((tmp_path / 'some').iterdir())]
  assert chosen == ['00000.jpg', '00001.jpg', '00003.jpg'], 'evenly over the folder'
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='no JPEGs'):
    pictures.folder(tmp_path / 'none', 3, tmp_path / 'empty')


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--only=setp'], "no part 'setp'"),
    (['--data=/does/not/exist'], 'is not a folder'),
    (['--torch-python=/does/not/exist'], 'cannot be run'),
    (['--torch-variants=eager,fast'], "no variant 'fast'"),
  ],
)
def test_mistakes_on_the_command_line(arguments, message, capsys):
  import run

  with pytest.raises(SystemExit):
    run.main(arguments)
  assert message in capsys.readouterr().err


def test_the_recorded_command_has_no_path_of_this_machine():
  import run

  shown = run._shown(['--torch-python=/a/b/python', '--data', '/c/train', '--quick'])
  assert shown == 'python experiments/bench/run.py --torch-python python --data train --quick'


def test_every_operator_of_the_augmentation_is_timed_as_it_is(bench):
  """What is timed gives pictures of the right size, and each operator changes them."""
  import augment_bench

  rng = np.random.default_rng(0)
  whole = rng.integers(0, 256, (8, 12, 12, 3), np.uint8)
  arguments = (whole, whole / np.float32(255), np.arange(8, dtype=np.int32))
  timed = augment_bench.functions(12, 12)
  assert {'crop, resize, flip', 'jitter: hue', 'whole view'} < set(timed)
  for name, function in timed.items():
    if name == 'draws':
      continue
    assert jax.eval_shape(function, *arguments).shape == (8, 12, 12, 3), name
  for name in ('grey', 'solarise', 'jitter: brightness'):
    assert not np.allclose(timed[name](*arguments), arguments[1]), name


@pytest.mark.slow
def test_both_ways_of_feeding_a_run_are_timed(bench, tmp_path):
  import resident_bench

  out = tmp_path / 'found.json'
  few = ['--steps=2', '--rounds=1', '--pause=0', '--batch-size=8', '--encoder=pixels']
  assert resident_bench.main([*few, f'--out={out}']) == 0
  found = json.loads(out.read_text())
  (host,), (resident,) = found['samples']['host'], found['samples']['resident']
  assert host['loss'] == pytest.approx(resident['loss'], abs=1e-4)
  assert host['steps'] == resident['steps'] == 2 and set(found['median_img_per_s']) == {
    'host', 'resident'
  }  # fmt: skip
