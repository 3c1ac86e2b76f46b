"""Whole runs through the command line's own function, on arrays: no TensorFlow, no network."""

import errno
import itertools
import json
import os
import pathlib
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from byoljax.encoders import load
from byoljax.main import main
from byoljax.train import resume
from byoljax.workdir import checkpoint, metrics
from tests.paths import ROOT

pytestmark = pytest.mark.usefixtures('made_once')


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def arrays_of(workdir, step):
  """Every array of a checkpoint, by path."""
  path = pathlib.Path(workdir) / 'checkpoints' / str(step)
  roles = ('step', 'params', 'opt_state', 'method_state', 'key')
  parts = checkpoint.restore_subtrees(path, [(role,) for role in roles])
  return jax.tree_util.tree_flatten_with_path(parts)[0]


def assert_same_state(a, b, step):
  left, right = arrays_of(a, step), arrays_of(b, step)
  assert [str(path) for path, _ in left] == [str(path) for path, _ in right]
  for (path, x), (_, y) in zip(left, right, strict=True):
    np.testing.assert_array_equal(x, y, err_msg=str(path))


def test_run_leaves_everything_behind(finished):
  for name in ('config.json', 'run.log', 'metrics.jsonl', 'metrics.csv', 'curves.png', 'views.png'):
    assert (finished / name).stat().st_size > 0, name
  rows = metrics.read(finished)
  assert [row['step'] for row in rows] == list(range(1, 11))
  wanted = {'loss', 'lr', 'tau', 'grad_norm', 'collapse/std', 'collapse/rank', 'probe/top1',
            'collapse/online_target_cosine', 'time/img_per_s', 'time/wait', 'knn/top1'}  # fmt: skip
  assert wanted <= set(rows[-1])
  assert 'decayed' in (finished / 'run.log').read_text()
  stored = json.loads((finished / 'config.json').read_text())
  assert stored['config']['train']['length'] == '2 epochs' and stored['versions']['jax']
  meta = json.loads((finished / 'checkpoints' / '10' / 'meta' / 'metadata').read_text())
  assert meta['metrics']['knn/top1'] == pytest.approx(rows[-1]['knn/top1'])


def test_schedules_are_per_step(finished):
  rows = metrics.read(finished)
  assert rows[0]['lr'] == 0.0, 'warm-up starts from exactly 0'
  peak = 1.0 * 16 / 256
  assert rows[2]['lr'] == pytest.approx(peak), 'the peak follows the warm-up of 2 steps'
  assert rows[9]['lr'] == pytest.approx(peak * 0.5 * (1 + np.cos(np.pi * 7 / 8)), rel=1e-5)
  base = json.loads((finished / 'config.json').read_text())['config']['method']['base_tau']
  taus = [row['tau'] for row in rows]
  assert taus[0] == pytest.approx(base)
  assert taus[5] == pytest.approx(1 - (1 - base) * (np.cos(np.pi * 5 / 10) + 1) / 2, rel=1e-6)


@pytest.mark.usefixtures('no_pictures')
@pytest.mark.parametrize(
  'number, status',
  [(signal.SIGTERM, 75), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_stopped_and_resumed_is_bit_equal_to_uninterrupted(
  finished, tiny, tmp_path, monkeypatch, capsys, number, status
):
  """A signal at step 4 saves and says so; the same command ends where the whole run did."""
  arguments = [*tiny, f'--workdir={tmp_path}', '--config.log.csv=true']
  read = metrics.Writer.write

  def write_then_signal(self, step, row):
    read(self, step, row)
    if step == 3:
      os.kill(os.getpid(), number)

  with monkeypatch.context() as patch:
    patch.setattr(metrics.Writer, 'write', write_then_signal)
    # A process in the background inherits that it ignores Ctrl-C, and a run respects that.
    before = signal.signal(number, signal.SIG_DFL)
    try:
      assert main(arguments) == status
    finally:
      signal.signal(number, before)
  assert 'saved' in capsys.readouterr().out
  assert checkpoint.Checkpoints(tmp_path).steps() == [4]
  assert main(arguments) == 0
  assert_same_state(finished, tmp_path, 10)
  timing = ('time/',)
  for a, b in zip(metrics.read(finished), metrics.read(tmp_path), strict=True):
    own = {k: v for k, v in a.items() if not k.startswith(timing)}
    assert own == {k: v for k, v in b.items() if not k.startswith(timing)}


@pytest.mark.usefixtures('no_pictures')
def test_signals_while_the_last_checkpoint_is_written_wait_for_it(
  finished, tiny, tmp_path, monkeypatch
):
  run = tmp_path / 'run'
  shutil.copytree(finished, run)
  shutil.rmtree(run / 'checkpoints' / '10')
  found, close = [], checkpoint.Checkpoints.close

  def signal_and_close(self):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert found == []
    close(self)

  monkeypatch.setattr(checkpoint.Checkpoints, 'close', signal_and_close)
  before = signal.signal(signal.SIGTERM, lambda *_: found.append(checkpoint.latest_finished(run)))
  try:
    assert main([*tiny, f'--workdir={run}', '--config.log.csv=true']) == 0
  finally:
    signal.signal(signal.SIGTERM, before)
  assert found == [10]
  assert_same_state(finished, run, 10)


@pytest.mark.usefixtures('no_pictures')
def test_a_signal_during_the_last_step_ends_the_process_once_that_is_saved(
  finished, tiny, tmp_path, monkeypatch, capsys
):
  run, write = tmp_path / 'run', metrics.Writer.write
  shutil.copytree(finished, run)
  shutil.rmtree(run / 'checkpoints' / '10')

  def write_then_signal(self, step, row):
    write(self, step, row)
    if step == 9:
      os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(metrics.Writer, 'write', write_then_signal)
  assert main([*tiny, f'--workdir={run}', '--config.log.csv=true']) == 75
  assert 'Stopped at step 10 and saved' in capsys.readouterr().out
  assert_same_state(finished, run, 10)


@pytest.mark.usefixtures('no_pictures')
def test_a_crash_after_a_checkpoint_loses_nothing_before_it(finished, tiny, tmp_path, monkeypatch):
  """Killed between two checkpoints: the run goes on from the last one, rows of later steps go."""
  arguments = [*tiny, f'--workdir={tmp_path}', '--config.log.csv=true']
  write = metrics.Writer.write

  def write_or_crash(self, step, row):
    write(self, step, row)
    if step == 8:
      raise RuntimeError('the machine is gone')

  with monkeypatch.context() as patch:
    patch.setattr(metrics.Writer, 'write', write_or_crash)
    with pytest.raises(RuntimeError, match='machine is gone'):
      main(arguments)
  assert metrics.read(tmp_path)[-1]['step'] == 8
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 9, "loss": 3.1')  # Cut off by the crash.
  assert main(arguments) == 0
  assert_same_state(finished, tmp_path, 10)
  assert [row['step'] for row in metrics.read(tmp_path)] == list(range(1, 11))


@pytest.mark.usefixtures('no_pictures')
def test_processes_must_begin_with_the_same_weights(tiny, tmp_path, monkeypatch, capsys):
  """Of two, the other one has read another file, say."""
  told = []
  compare = in_one_of_two(resume._require_one_start)

  def compared(state):
    with monkeypatch.context() as patch:
      patch.setattr(resume.hosts, 'differing', lambda text: told.append(text) or [1])
      compare(state)

  monkeypatch.setattr(resume, '_require_one_start', compared)
  for number in range(3):
    arguments = [*tiny, f'--workdir={tmp_path / str(number)}', f'--config.seed={number // 2}']
    assert main(arguments) == 2
  assert 'other weights at the start in process 1 than in process 0' in capsys.readouterr().err
  assert told[0] == told[1] != told[2]


def in_one_of_two(function):
  """The function as one of two processes calls it."""

  def called(*arguments):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(jax, 'process_count', lambda: 2)
      return function(*arguments)

  return called


def test_a_damaged_record_is_one_sentence(finished, tiny, tmp_path, capsys):
  run = tmp_path / 'run'
  shutil.copytree(finished, run)
  shutil.rmtree(run / 'checkpoints' / '10')
  rows = (run / 'metrics.jsonl').read_bytes().splitlines(keepends=True)
  (run / 'metrics.jsonl').write_bytes(b''.join([*rows[:2], b'\xff\n', *rows[2:]]))
  assert main([*tiny, f'--workdir={run}', '--config.log.csv=true']) == 2
  error = capsys.readouterr().err.splitlines()[-1]  # Above it, what a slow machine is at.
  assert error.startswith('error: line 3 of ') and error.endswith('delete the line.')


@pytest.mark.usefixtures('no_pictures')
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(
  finished, tiny, tmp_path, monkeypatch, capsys
):
  arguments = [*tiny, f'--workdir={tmp_path}', '--config.log.csv=true']
  write = metrics.Writer.write

  def write_while_there_is_room(self, step, row):
    if step == 7:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / 'metrics.jsonl'))
    write(self, step, row)

  with monkeypatch.context() as patch:
    patch.setattr(metrics.Writer, 'write', write_while_there_is_room)
    assert main(arguments) == 4
  error = capsys.readouterr().err
  assert error.endswith(f"error: No space left on device ('{tmp_path / 'metrics.jsonl'}').\n")
  assert 'Traceback' not in error
  assert main(arguments) == 0
  assert_same_state(finished, tmp_path, 10)


@pytest.mark.usefixtures('no_pictures')
def test_a_damaged_checkpoint_is_replaced_by_training_on_from_the_one_before(
  finished, tiny, tmp_path, monkeypatch, capsys
):
  """And clocks that run backwards meanwhile change nothing."""
  run = tmp_path / 'run'
  shutil.copytree(finished, run)
  for data in (run / 'checkpoints/10/state').rglob('d/*'):
    raw = bytearray(data.read_bytes())
    for place in range(0, len(raw), 61):  # Every array is hit, the encoder's among them.
      raw[place] ^= 4
    data.write_bytes(raw)
  assert main(['--config=configs/knn.py', f'--config.pretrained={run}']) == 2
  error = capsys.readouterr().err
  assert "checkpoints/10' is damaged" in error and 'Traceback' not in error
  jumps = itertools.count()
  with monkeypatch.context() as patch:
    # Every call is a day before the last one.
    patch.setattr(time, 'time', lambda: 1.7e9 - 86400 * next(jumps))
    assert main([*tiny, f'--workdir={run}', '--config.log.csv=true']) == 0
  assert next(jumps) > 0
  out = capsys.readouterr().out
  assert 'Checkpoint 10 is damaged' in out and 'resuming from step 5' in out
  assert 'already complete' not in out and 'Trained in' in out
  assert (run / 'damaged-checkpoints' / '10').is_dir()
  assert_same_state(finished, run, 10)
  assert [row['step'] for row in metrics.read(run)] == list(range(1, 11))


def test_a_finished_run_can_be_read_behind_its_encoder(finished):
  # Its method is built again from what the run recorded.
  assert load.load_encoder(str(finished), 'online', 'projection')[0].dim == 8


@pytest.mark.usefixtures('no_pictures')
def test_a_finished_run_started_again_does_nothing_new(finished, tiny, capsys):
  before = (finished / 'metrics.jsonl').read_bytes()
  assert main([*tiny, f'--workdir={finished}', '--config.log.csv=true']) == 0
  assert 'already' in capsys.readouterr().out
  assert (finished / 'metrics.jsonl').read_bytes() == before


@pytest.mark.usefixtures('no_pictures')
def test_diverged_run_stops_and_keeps_the_last_good_checkpoint(tiny, tmp_path, capsys):
  """An absurd learning rate: exit status 3, the step window, and only finite checkpoints."""
  arguments = [
    *tiny,
    f'--workdir={tmp_path}',
    '--config.encoder.name=pixels',
    '--config.optim.name=sgd',
    '--config.log.every=3 steps',
  ]
  assert main([*arguments, '--config.optim.base_lr=1e38', '--config.optim.warmup=6 steps']) == 3
  error = capsys.readouterr().err
  assert 'became' in error and 'between step' in error and 'Traceback' not in error
  for step in checkpoint.Checkpoints(tmp_path).steps():
    for path, value in arrays_of(tmp_path, step):
      assert np.all(np.isfinite(value)), path


def test_encoder_is_restored_without_knowing_the_rest(finished):
  encoder, config, directory = load.load_encoder(str(finished), 'online')
  assert directory.name == '10' and 'SmallResNet' in config.encoder.name
  stored = [
    value
    for path, value in arrays_of(finished, 10)
    if path[0].key == ('params',) and path[1].key == 'encoder'
  ]
  for a, b in zip(stored, jax.tree.leaves(encoder.params), strict=True):
    np.testing.assert_array_equal(a, b)
  target, _, _ = load.load_encoder(str(finished / 'checkpoints' / '10'), 'target')
  pairs = zip(jax.tree.leaves(encoder.params), jax.tree.leaves(target.params), strict=True)
  assert any(not np.array_equal(a, b) for a, b in pairs)


# By default the table below is made by the same evaluations, and others start from checkpoints.
@pytest.mark.slow
@pytest.mark.parametrize('network', ['online', 'target', 'pixels'])
def test_linear_and_knn_from_a_checkpoint(finished, network, tmp_path, capsys):
  common = [f'--config.pretrained={finished}', f'--config.network={network}']
  linear = [
    '--config=configs/linear.py', *common, f'--workdir={tmp_path / "linear"}',
    '--config.linear.length=6 epochs', '--config.linear.batch_size=16',
    '--config.linear.held_out=0.2', '--config.log.tensorboard=false',
  ]  # fmt: skip
  assert main(linear) == 0
  assert main(['--config=configs/knn.py', *common, f'--workdir={tmp_path / "knn"}']) == 0
  assert 'top-1' in capsys.readouterr().out
  result = json.loads((tmp_path / 'linear' / 'result.json').read_text())['result']
  assert result['top1'] > 0.6, 'colors are linearly separable'
  assert result['train_examples'] + result['held_out_examples'] == 80
  assert str(result['base_lr']) in result['held_out_top1_by_lr']
  knn = json.loads((tmp_path / 'knn' / 'result.json').read_text())['result']
  assert knn['top1'] > 0.6


@pytest.mark.usefixtures('no_pictures')
def test_final_table_compares_with_random_and_pixels(tiny, tmp_path, capsys):
  arguments = [
    *tiny, f'--workdir={tmp_path}', '--config.evals.final=true',
    '--config.evals.linear.length=1 epochs', '--config.evals.linear.batch_size=16',
    '--config.evals.linear.held_out=0.2', '--config.evals.linear.base_lr=(0.1,1.0)',
  ]  # fmt: skip
  assert main(arguments) == 0
  out = capsys.readouterr().out
  for row in ('byol', 'random initialization', 'raw pixels', 'k-NN top-1', 'linear balanced'):
    assert row in out
  assert 'the largest class' in out
  results = json.loads((tmp_path / 'results.json').read_text())['result']
  assert set(results) == {'byol', 'random initialization', 'raw pixels'}


def test_views_task_writes_a_contact_sheet(tiny, tmp_path):
  assert main([*tiny, f'--workdir={tmp_path}', '--config.task=views']) == 0
  assert (tmp_path / 'views.png').stat().st_size > 1000
