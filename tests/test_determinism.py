"""A run is a function of its command: not of the process, the cache, the threads, or a network."""

import json
import os
import subprocess
import sys

import pytest

from byoljax.workdir import metrics
from tests.sealed import ROOT, TRAIN_AND_EVALUATE, needs_filter, sealed

ONE_DEVICE = {
  'XLA_FLAGS': '--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=1'
}


def outcome(workdir):
  """Digests of all arrays of the last checkpoint, and all rows of metrics but for times."""
  newest = max((workdir / 'checkpoints').iterdir(), key=lambda path: int(path.name))
  record = json.loads((newest / 'integrity' / 'metadata').read_text())
  rows = [
    {name: value for name, value in row.items() if not name.startswith('time/')}
    for row in metrics.read(workdir)
  ]
  return record['step'], record['leaves'], rows


@pytest.fixture(scope='module')
def sealed_run(npz, tmp_path_factory):
  """Trained and evaluated without the internet and without kept programs, on one thread."""
  workdir = tmp_path_factory.mktemp('sealed') / 'run'
  done = sealed(
    'socket', TRAIN_AND_EVALUATE, workdir, npz, '--config.data.name=npz', '--config.data.threads=1',
    JAX_ENABLE_COMPILATION_CACHE='false', PYTHONHASHSEED='1',
    **ONE_DEVICE,
  )  # fmt: skip
  return workdir, done


@pytest.mark.slow
@needs_filter
def test_training_and_evaluation_talk_to_nobody(sealed_run):
  """One attempt to make an internet socket, in any library, would have ended the process."""
  workdir, done = sealed_run
  assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
  assert 'k-NN' in done.stdout and list((workdir / 'tensorboard').iterdir())


@pytest.mark.slow
@needs_filter
def test_the_same_command_gives_the_same_bits(sealed_run, npz, tmp_path):
  """Another process, hash seed, time zone and directory, kept programs, three threads."""
  run = [sys.executable, '-c', 'import sys\n' + TRAIN_AND_EVALUATE, str(tmp_path / 'other'), npz]
  run += ['--config.data.name=npz', '--config.data.threads=3']
  other = ONE_DEVICE | {'PYTHONHASHSEED': '2', 'TZ': 'Asia/Tokyo', 'PYTHONPATH': str(ROOT)}
  subprocess.run(run, cwd=ROOT, env=os.environ | other, check=True, capture_output=True)
  step, leaves, rows = outcome(tmp_path / 'other')
  assert step == 6 and len(rows) > 2 and len(leaves) > 10
  assert (step, leaves, rows) == outcome(sealed_run[0])


@pytest.mark.slow
@pytest.mark.parametrize('resident', ['off', 'on'])
def test_programs_from_the_cache_give_the_same_bits(resident, tiny, tmp_path):
  """A network that is compiled, compiled and kept, and taken from where it was kept."""
  found = []
  for name, enabled in (('without', 'false'), ('cold', 'true'), ('warm', 'true')):
    environment = ONE_DEVICE | {
      'JAX_ENABLE_COMPILATION_CACHE': enabled,
      'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'programs'),
      'PYTHONPATH': str(ROOT),
    }
    command = [sys.executable, '-m', 'byoljax.main', *tiny, f'--config.data.resident={resident}']
    command += [f'--workdir={tmp_path / name}']
    subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=True, capture_output=True)
    found.append(outcome(tmp_path / name))
    kept = len(list((tmp_path / 'programs').glob('*'))) if enabled == 'true' else 0
    assert (kept > 0) == (enabled == 'true')
  assert found[0] == found[1] == found[2]
