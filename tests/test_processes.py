"""Real processes: two of them train like one, and a run does not depend on the device count."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from byoljax import checkpoint, metrics

ROOT = pathlib.Path(__file__).parent.parent
STEP = 10


def start(arguments, devices, workdir, *more, program=('-m', 'byoljax.main')):
  environment = dict(os.environ)
  flags = [f for f in environment.get('XLA_FLAGS', '').split() if 'device_count' not in f]
  flags.append(f'--xla_force_host_platform_device_count={devices}')
  environment['XLA_FLAGS'] = ' '.join(flags)
  command = [sys.executable, *program, *arguments, f'--workdir={workdir}', *more]
  return subprocess.Popen(
    command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  )


def finish(*processes):
  for process in processes:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
  return output


def free_port():
  with socket.socket() as found:
    found.bind(('localhost', 0))
    return found.getsockname()[1]


def state_of(workdir):
  path = workdir / 'checkpoints' / str(STEP)
  roles = [('step',), ('params',), ('method_state',)]
  return checkpoint.restore_subtrees(path, roles)


def assert_close(a, b, tolerance):
  pairs = zip(jax.tree.leaves(state_of(a)), jax.tree.leaves(state_of(b)), strict=True)
  for x, y in pairs:
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def several(arguments, workdir, count, devices, program=('-m', 'byoljax.main')):
  port = free_port()
  return [
    start(
      arguments, devices, workdir, f'--coordinator_address=localhost:{port}',
      f'--num_processes={count}', f'--process_id={number}', program=program,
    )
    for number in range(count)
  ]  # fmt: skip


@pytest.fixture(scope='module')
def one_device(tiny, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('one') / 'run'
  finish(start(tiny, 1, workdir))
  return workdir


def test_two_processes_are_one(tiny, one_device, tmp_path):
  """Two processes of two devices each: the same parameters, the same k-NN, one set of files."""
  finish(*several(tiny, tmp_path, 2, 2))
  assert_close(one_device, tmp_path, 2e-4)
  ours, theirs = metrics.read(tmp_path), metrics.read(one_device)
  assert [row['step'] for row in ours] == [row['step'] for row in theirs]
  for name in ('loss', 'probe/top1', 'knn/top1', 'collapse/std'):
    assert ours[-1][name] == pytest.approx(theirs[-1][name], abs=2e-2), name
  for name in ('config.json', 'curves.png', 'views.png'):
    assert (tmp_path / name).exists()


@pytest.mark.slow
def test_two_processes_whose_data_live_on_their_devices(tiny, one_device, tmp_path):
  """Many steps per call in two processes of two devices; they agree on how many."""
  loops = 'import sys; from byoljax import main, parallel; parallel.must_unroll = lambda: False; '
  resident = ['--config.data.resident=on', '--config.log.every=4 steps']
  finish(*several(
    [*tiny, *resident], tmp_path, 2, 2, ['-c', loops + 'sys.exit(main.main())'],
  ))  # fmt: skip
  assert_close(one_device, tmp_path, 2e-4)
  assert [row['step'] for row in metrics.read(tmp_path)] == [4, 5, 8, 10]


@pytest.mark.slow
@pytest.mark.parametrize('devices', [2, 8])
def test_device_counts(tiny, one_device, tmp_path, devices):
  finish(start(tiny, devices, tmp_path))
  assert_close(one_device, tmp_path, 2e-4)


@pytest.mark.slow
def test_a_run_moves_between_device_counts(tiny, one_device, tmp_path):
  """Started on 4 devices and stopped half-way, finished by 2 processes."""
  finish(start([*tiny, '--config.log.csv=true'], 4, tmp_path))
  later = tmp_path / 'checkpoints' / '10'
  for path in sorted(later.rglob('*'), reverse=True):
    path.rmdir() if path.is_dir() else path.unlink()
  later.rmdir()
  finish(*several(tiny, tmp_path, 2, 1))
  assert_close(one_device, tmp_path, 2e-4)
