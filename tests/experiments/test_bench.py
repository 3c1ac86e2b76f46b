"""The benchmarks' own machinery: turns, replies, tables, and byoljax's contestants; no speed."""

import json
import subprocess
import sys

from flax import traverse_util
import jax
import numpy as np
import pytest

from byoljax.devices import collectives
from tests.paths import ROOT

BENCH = ROOT / 'experiments' / 'bench'

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
  import sections

  wall = {'byoljax': [0.1, 0.2, 0.9], 'PyTorch eager': [0.4, 0.3, 0.8]}
  errors = {'PyTorch eager': {'first loss': 1e-7, 'losses': 3e-4}}
  text = sections.step([_result(wall, 1.5, errors)])
  ours = _cells(text, 'BYOL, small, batch 64, float32: byoljax')
  assert ours[1:] == ['200 [150, 550]', '320', '1.50', '']
  assert _cells(text, 'BYOL, small, batch 64, float32: PyTorch eager')[2:] == [
    '160',
    '1.50',
    '2.00',
  ]
  assert 'over the fastest PyTorch: BYOL, small, float32 2.00.' in text
  assert 'at most 0.25 s' in text and '1.0e-07' in text and '3.0e-04 (losses)' in text


def test_a_step_is_named_and_its_work_found_by_its_method():
  import sections

  byol, moco, simclr = (_result({'byoljax': [0.1]}, 1.5) for _ in range(3))
  moco['case']['method'], simclr['case']['method'] = 'moco', 'simclr'
  assert _cells(sections.step([moco]), 'MoCo, small, batch 64, float32: byoljax')[2] == '640'
  rates = {'XLA, float32': [4e9], 'XLA, bfloat16': [2e9]}
  limits = {'side': 256, 'rates': rates, 'work': {'step, small': 1e6, 'step, small, moco': 2e6}}
  text = sections.limits({'step': [byol], 'moco': [moco], 'simclr': [simclr], 'limits': limits})
  assert _cells(text, 'step, small, float32: byoljax')[1:] == ['0.064', '100', '0.640', '16%']
  assert _cells(text, 'step, small, moco, float32: byoljax')[1:] == ['0.128', '100', '1.28', '32%']
  assert 'simclr' not in text, 'nobody has counted its work'


def test_stored_results_are_still_read():
  import render

  stored = json.loads((BENCH / 'results.json').read_text(encoding='utf-8'))
  text = render.report(stored)
  assert 'BYOL, resnet18, batch 64, float32: byoljax' in text
  assert 'step, resnet18, float32: byoljax' in text


def test_pipeline_table_adds_host_and_device_and_compares_only_what_is_comparable():
  import sections

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
  text = sections.pipeline([{'name': 'JPEG', 'images': 'drawn', 'samples': samples}])
  assert _cells(text, 'JPEG: byoljax, accelerator: both')[1:] == ['25.0', '50.0', '4.00', '5.00']
  assert _cells(text, 'JPEG: byoljax, accelerator: host')[1:] == ['100', '200', '16.00', '20.00']
  assert _cells(text, 'JPEG: byoljax, accelerator: device')[3:] == ['', '']
  assert _cells(text, 'JPEG: byoljax, host: host')[3:] == ['', '']
  assert _cells(text, 'JPEG: lightly: host')[1:] == ['6.25', '10.0', '', '']


@pytest.mark.parametrize(
  ('value', 'text'), [(0.01234, '0.012'), (1.234, '1.23'), (99.96, '100'), (12345.6, '12,346')]
)
def test_numbers_have_three_digits(value, text):
  import formats

  assert formats.number(value) == text


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


def _tiny(method):
  """A case of a method with a small batch, small heads and a small queue."""
  import step_bench

  case = step_bench.cases(method, True)['small']
  small = {'projector': [16, 8], 'predictor': [16, 8], 'queue_size': 32}
  arguments = {name: small.get(name, value) for name, value in case['arguments'].items()}
  return case | {'batch_size': 4, 'dtype': 'float32', 'arguments': arguments}


@pytest.mark.slow
def test_byoljax_step_contestant(tmp_path, monkeypatch):
  import setting
  import step_bench

  monkeypatch.setenv('XLA_FLAGS', '--xla_backend_optimization_level=0')  # One device.
  here = setting.Setting(tmp_path, None, (), ('float32',), None, 1, True, lambda text: None)
  result = step_bench._pair(here, 'small', _tiny('byol'))
  assert list(result['samples']) == ['byoljax'] and not result['agreement']
  assert len(result['samples']['byoljax']['wall']) == 2
  with np.load(tmp_path / 'start.npz') as start:
    count = sum(start[k].size for k in start if k.startswith('online/'))
    assert start['view1'].shape == (4, 32, 32, 3)
    assert np.any(start['view1'] != start['view2'])
  assert result['parameters']['online'] == count
  difference = result['parameters']['online'] - result['parameters']['target']
  assert difference == 8 * 16 + 16 + 2 * 16 + 16 * 8, 'only the predictor is the online alone'


def _network(case, params, *views):
  """Projections of views, float64, from the arrays of a start; each view is a forward pass."""
  import train_step

  net = train_step.method_of(case).net
  tree = traverse_util.unflatten_dict(params, sep='/')
  _, bn = net.init(jax.random.key(0), views[0])

  def project(view):
    return net.apply(tree, bn, view, train=True)[0]['projection']

  mapped = jax.jit(jax.vmap(project, axis_name=collectives.AXIS))
  return [np.asarray(mapped(view[None])[0], np.float64) for view in views]


def _unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize('method', ['simclr', 'moco'])
def test_the_first_loss_of_a_contestant_is_the_methods(method, tmp_path):
  """From what was written for the others: weights, queue and views; the loss written out."""
  import setting

  here = setting.Setting(tmp_path, None, (), ('float32',), None, 1, True, lambda text: None)
  one_device = '--xla_backend_optimization_level=0'
  case, path = _tiny(method), str(tmp_path / 'start.npz')
  with here.ours('jax_step.py', XLA_FLAGS=one_device) as player:
    counts = player.ask('prepare', case=case, start=path)['parameters']
    found = player.ask('check', steps=1)
    assert player.ask('work')['flops'] > 1e6
  with np.load(path) as arrays:
    start = dict(arrays)
  parts = {
    role: {k.partition('/')[2]: v for k, v in start.items() if k.startswith(f'{role}/')}
    for role in ('online', 'target')
  }
  assert counts == {role: sum(v.size for v in own.values()) for role, own in parts.items() if own}
  views, temperature = (start['view1'], start['view2']), case['arguments']['temperature']
  kinds = {'online, adapted', 'online, excluded'}
  if method == 'simclr':
    (both,) = _network(case, parts['online'], np.concatenate(views))
    exponentials = np.exp(_unit(both) @ _unit(both).T / temperature)
    np.fill_diagonal(exponentials, 0)
    positive = exponentials[np.arange(8), (np.arange(8) + 4) % 8]
    loss = 2 * np.mean(np.log(exponentials.sum(1) / positive))
  else:
    kinds |= {'target', 'queue'}
    (queries,) = _network(case, parts['online'], views[0])
    (keys,) = _network(case, parts['target'], views[1])
    queries, keys, queue = _unit(queries), _unit(keys), start['queue'].astype(np.float64)
    assert queue.shape == (32, 8) and np.linalg.norm(queue, axis=1) == pytest.approx(1, abs=1e-5)
    positive = np.exp((queries * keys).sum(1) / temperature)
    loss = np.mean(np.log1p(np.exp(queries @ queue.T / temperature).sum(1) / positive))
    wanted = np.linalg.norm(keys - queue[:4])
    assert found['moved']['queue'] == pytest.approx(wanted, rel=1e-3), 'after the loss'
  assert found['losses'] == pytest.approx([loss], rel=1e-4)
  assert set(found['moved']) == kinds and min(found['moved'].values()) > 0


def test_cases_of_all_methods_are_built():
  import run
  import sections
  import step_bench
  import train_step

  assert set(step_bench.PARTS) <= set(run.PARTS) == {*sections.PARTS, 'limits'}
  assert set(run.PARTS) == set(run._MINUTES)
  counted = []
  for method in step_bench.PARTS.values():
    for quick in (False, True):
      for name, case in step_bench.cases(method, quick).items():
        train_step.method_of(case | {'dtype': 'bfloat16'})
        counted.append(sections.step_work(name, case))
        assert json.loads(json.dumps(case)) == case
    small, large = (step_bench.cases(method, False)[name] for name in ('small', 'resnet18'))
    assert small['batch_size'] == large['batch_size'] == 64
    assert step_bench.dtypes(small) == step_bench.DTYPES
    assert step_bench.dtypes(large) == step_bench.DTYPES[: 2 if method == 'byol' else 1]
  assert len(set(counted)) == 6
  arguments = step_bench.cases('moco', False)['small']['arguments']
  assert arguments['queue_size'] == 65536 and arguments['projector'] == [512, 128]


def test_a_step_on_several_devices_is_refused(tmp_path):
  import jax_step

  assert jax.device_count() > 1
  with pytest.raises(RuntimeError, match='one is meant'):
    jax_step.Contestant().prepare(_tiny('byol'), str(tmp_path / 'start.npz'))


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
  assert contestant.host(5)['images'] == 20, 'more than one epoch'
  assert contestant.device(2)['images'] == 8


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
    (['--dtypes=float16'], "no type 'float16'"),
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
  for name in ('gray', 'solarize', 'jitter: brightness'):
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


def test_slopes_are_those_of_a_line_through_the_logarithms():
  import formats

  assert formats.slope([(32, 5.0), (64, 10.0), (128, 20.0)]) == pytest.approx(1)
  assert formats.slope([(10, 3.0), (100, 3.0)]) == pytest.approx(0)
  x, y = np.array([1.0, 4.0, 16.0, 32.0]), np.array([2.0, 9.0, 100.0, 900.0])
  wanted = np.polyfit(np.log(x), np.log(y), 1)[0]
  assert formats.slope(list(zip(x, y, strict=True))) == pytest.approx(wanted)
  assert np.isnan(formats.slope([(1, 2.0)])) and np.isnan(formats.slope([(1, 0.0), (2, 1.0)]))


def _curves():
  points = [
    {'x': 32, 'seconds': [0.3, 0.1, 0.2], 'bytes': 1e6, 'all_reduces': 3},
    {'x': 64, 'seconds': [0.4], 'bytes': 4e6, 'all_reduces': 3},
    {'x': 128, 'seconds': [], 'bytes': 16e6, 'all_reduces': 3},
  ]
  return {'batch, train step': {'unit': 'images per step', 'points': points}}


def test_growth_table_has_slopes_and_what_was_not_run(tmp_path):
  import growth_plot
  import sections

  text = sections.growth({'curves': _curves()})
  row = _cells(text, 'batch, train step, by images per step')
  assert row[1:] == ['32 … 64: 200 ms … 400 ms', '1.00', '1.00', '32 … 128: 1.00 MB … 16.0 MB',
                     '2.00', '2.00']  # fmt: skip
  assert '128: not run, 16.0 MB, 3 all-reduces' in text and '![' in text
  growth_plot.draw(_curves(), tmp_path / 'growth.png')
  assert (tmp_path / 'growth.png').read_bytes()[:4] == b'\x89PNG'


def test_training_table_compares_rates():
  import sections

  def turns(*seconds):
    return [{'images': 100, 'wall': s, 'cpu': 1.5 * s, 'wait': 0.02} for s in seconds]

  result = {
    'case': {'batch_size': 50},
    'images': '10 drawn arrays',
    'parameters': {'byoljax': {'encoder': 11, 'heads': 3}},
    'samples': {'byoljax': turns(1.0, 2.0, 4.0), 'lightly, 2 workers': turns(4.0, 5.0, 8.0)},
  }
  text = sections.training(result)
  own = _cells(text, 'byoljax')
  assert own[1].startswith('50.0 [') and own[2:] == ['16.7', '1.50', '']
  assert _cells(text, 'lightly, 2 workers')[4] == '2.50'
  assert 'waits for data 2.0%' in text


def test_another_network_is_not_compared():
  import training_bench

  own = {'parameters': {'encoder': 11_176_512, 'heads': 1000}}
  training_bench._check({'byoljax': own, 'x': {'parameters': own['parameters'] | {'heads': 1005}}})
  for changed in ({'encoder': 11_176_513}, {'heads': 1200}):
    with pytest.raises(RuntimeError, match='x has other|x has another'):
      training_bench._check({'byoljax': own, 'x': {'parameters': own['parameters'] | changed}})


def test_knn_contestants_predict_the_same(tmp_path, bench):
  """byoljax, scikit-learn twice, and the votes written out; the evaluation's accuracy is theirs."""
  pytest.importorskip('sklearn')
  import jax_knn
  import knn_bench
  import sklearn_knn

  path = tmp_path / 'knn.npz'
  knn_bench.write(path, 400, 60, 16)
  case = {'path': str(path), 'k': 20, 'temperature': 0.07, 'classes': 10}
  own, theirs, found = jax_knn.Contestant(), sklearn_knn.Contestant(), {}
  for player in (own, theirs):
    assert player.prepare(case, 1)['memory']['now'] > 1e7
  for name, player, way in (
    ('byoljax', own, 'predict'),
    ('cosine', theirs, 'cosine'),
    ('euclidean', theirs, 'euclidean'),
  ):
    out = tmp_path / f'{name}.npy'
    assert player.search(way, str(out))['memory']['peak'] > 1e7
    found[name] = np.load(out)
  assert knn_bench.compare(found) == {'cosine': 1.0, 'euclidean': 1.0}
  with np.load(path) as arrays:
    bank, labels, queries, truth = (
      arrays[name] for name in ('bank', 'bank_labels', 'queries', 'query_labels')
    )
  assert np.linalg.norm(bank, axis=1) == pytest.approx(1, abs=1e-5)
  similarity = queries.astype(np.float64) @ bank.T.astype(np.float64)
  rows = np.argsort(-similarity, axis=1)[:, :20]
  weights = np.exp(np.take_along_axis(similarity, rows, 1) / 0.07)
  votes = np.stack([(weights * (labels[rows] == c)).sum(1) for c in range(10)], 1)
  np.testing.assert_array_equal(found['byoljax'], votes.argmax(1))
  assert own.search('evaluate', '')['top1'] == pytest.approx(np.mean(found['byoljax'] == truth))
  with pytest.raises(RuntimeError, match="not the same classifier: {'cosine'"):
    knn_bench.compare(found | {'cosine': (found['cosine'] + (np.arange(60) == 3)) % 10})


_PEAKS = """
import contest, mmap

def peak_of(size):
  before = contest.resident_bytes_anew()
  # Not by an allocator, which may still have the pages of earlier arrays.
  with mmap.mmap(-1, size) as pages:
    for page in range(0, size, 4096):
      pages[page] = 1
  return contest.resident_bytes()['peak'] - before['now']

print(peak_of(200_000_000), peak_of(50_000_000))
"""


def test_a_peak_of_memory_is_what_came_after_it_was_set_back():
  """In a process of its own: another thread of this one might free memory meanwhile."""
  command = [sys.executable, '-c', _PEAKS]
  done = subprocess.run(command, cwd=BENCH, capture_output=True, text=True, check=True)
  large, small = map(int, done.stdout.split())
  assert 190e6 < large < 300e6 and 40e6 < small < 150e6


def test_imagenet_estimate_says_how_it_was_made():
  import sections

  part = {
    'rows': 1000, 'queries': 10, 'width': 8,
    'found': {'byoljax': {'500': {'wall': 1.0, 'memory': 1e9},
                          '1000': {'wall': 2.0, 'memory': 1.5e9}}},
  }  # fmt: skip
  text = sections._imagenet(part)
  factor = 1_281_167 / 1000 * 50_000 / 10
  assert 'Estimate, not a measurement' in text and f'{factor:,.1f}' in text
  cells = _cells(text, 'byoljax')
  assert cells[1:] == ['2.00', '2.00', '1.00', '1.50', f'{2 * factor / 60:,.0f}']


@pytest.mark.slow
def test_growth_points_are_of_the_real_programs(bench):
  import growth_bench
  import jax_growth

  contestant = jax_growth.Contestant()
  changes = growth_bench._SMALL | growth_bench._views(8)
  heads = {f'method.{head}': '(16, 8)' for head in ('projector', 'predictor')}
  changes |= {'train.batch_size': 8, 'encoder.name': 'pixels'} | heads
  point = contestant.step('byol.py', changes)
  assert point['seconds'] and point['bytes'] > 1000
  assert point['all_reduces'] > 3, 'batch statistics and gradients of several devices'
  once, streamed = (contestant.nt_xent(1024, chunk, True) for chunk in (0, 64))
  assert once['bytes'] >= 2048**2 * 4 > 2 * streamed['bytes'], 'all similarities, or never all'
  assert contestant.nt_xent(64, 0, False)['seconds'] == []
  assert contestant.moco_loss(4096, 8)['bytes'] >= 8 * 4096 * 4
  order = contestant.order(5000, 16)
  assert 5000 * 8 <= order['bytes'] < 20 * 5000 * 8 and order['later_step_s'] > 0


def _recorded(command, version):
  import machine

  moment = machine.now(watch=0.05)
  return {
    'command': command, 'quick': False, 'busy': False, 'cores': 2, 'machine': machine.facts(),
    'before': moment, 'after': moment, 'versions': {'jax': version},
  }  # fmt: skip


def test_a_part_that_is_run_again_leaves_the_others(tmp_path, monkeypatch):
  """Old results of all parts in one, then one part anew: the rest stays, with its own facts."""
  import render
  import run

  old = {'wait': [{'name': 'default', 'steps': 7, 'wait_run': 0.125, 'img_per_s_run': 50.0}],
         'pipeline': []}  # fmt: skip
  whole = _recorded('python old.py', '1.1.1') | {'parts': old}
  (tmp_path / 'results.json').write_text(json.dumps(whole))
  anew = [{'name': 'again', 'steps': 9, 'wait_run': 0.5, 'img_per_s_run': 5.0}]
  monkeypatch.setitem(run.PARTS, 'wait', lambda setting: anew)
  monkeypatch.setattr(run.machine, 'now', lambda watch=0: whole['before'] | {'time': 'later'})
  assert run.main(['--only=wait', f'--out={tmp_path}']) == 0
  stored = json.loads((tmp_path / 'results.json').read_text())
  assert stored['parts'] == {'wait': anew, 'pipeline': []}
  assert stored['runs']['pipeline']['command'] == 'python old.py'
  assert '--only' in stored['runs']['wait']['command'] and stored['runs']['wait']['seconds'] >= 0
  text = (tmp_path / 'table.md').read_text()
  assert text == render.report(stored)
  assert _cells(text, 'again')[1:] == ['9', '50.0%', '5.00']
  assert '### pipeline' in text and '### wait' in text and 'jax 1.1.1' in text
