"""Two runs in one directory: the second is refused; what a killed one leaves is no obstacle."""

import re
import signal
import subprocess
import sys

import jax
import pytest

from byoljax import config as config_lib
from byoljax.config import ConfigError
from byoljax.main import main
from byoljax.workdir import lock, run_dir
from tests.paths import ROOT

fcntl = pytest.importorskip('fcntl', reason='this system has no flock')

# A process of its own that takes the lock as a run does, says so, and stays.
HOLDER = """
import fcntl, os, sys, time
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o666)
fcntl.flock(descriptor, fcntl.LOCK_EX)
os.pwrite(descriptor, f'process {os.getpid()} on elsewhere\\n'.encode(), 0)
print('held', flush=True)
time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
  process = subprocess.Popen(
    [sys.executable, '-c', HOLDER, str(tmp_path / lock.LOCK)], stdout=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == 'held\n'
  yield process
  process.kill()
  process.communicate()


def test_the_second_run_is_refused_and_a_killed_one_is_not_in_the_way(
  other, tiny, tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(ROOT)
  assert main([*tiny, f'--workdir={tmp_path}']) == 2
  *before, error = capsys.readouterr().err.splitlines()
  # A busy machine may say first that it is at work.
  assert error.startswith('error: ') and not any('Error' in line for line in before)
  assert f'process {other.pid} on elsewhere' in error and '--workdir' in error
  assert sorted(p.name for p in tmp_path.iterdir()) == [lock.LOCK], 'it wrote something'
  other.send_signal(signal.SIGKILL)
  other.wait()
  with lock.lock_workdir(tmp_path):
    pass


def test_the_lock_says_who_and_ends_with_the_block(tmp_path):
  run = tmp_path / 'new' / 'run'
  with lock.lock_workdir(run):
    assert re.fullmatch(r'process \d+ on \S+, start \d+\n', (run / lock.LOCK).read_text())
    with pytest.raises(ConfigError, match='in use by another run'), lock.lock_workdir(run):
      pass
  with pytest.raises(RuntimeError), lock.lock_workdir(run):
    raise RuntimeError
  with lock.lock_workdir(run):
    pass


def test_processes_that_see_different_directories_are_named(tmp_path, monkeypatch):
  """Each reads what process 0 has written; the sentence is the same for all of them."""
  with lock.lock_workdir(tmp_path / 'run'):
    start = int((tmp_path / 'run' / lock.LOCK).read_text().split()[-1])
    assert lock._sees(tmp_path / 'run', start)
    for place, number in ((tmp_path / 'run', start + 1), (tmp_path / 'nowhere', start)):
      assert not lock._sees(place, number, seconds=0.0)
  monkeypatch.setattr(lock.processes, 'is_multiprocess', lambda: True)
  monkeypatch.setattr(lock.hosts, 'dissenters', lambda fine: [] if fine else [1, 3])
  with lock.lock_workdir(tmp_path / 'run'):
    pass
  monkeypatch.setattr(lock, '_sees', lambda *unused: False)
  with (
    pytest.raises(ConfigError, match='not the same directory for process 1, 3 as for process 0'),
    lock.lock_workdir(tmp_path / 'run'),
  ):
    raise AssertionError('it began')


def test_only_the_first_process_locks(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  with lock.lock_workdir(tmp_path / 'run'), lock.lock_workdir(tmp_path / 'run'):
    pass
  assert not (tmp_path / 'run').exists()


def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch):
  def flock(descriptor, how):
    raise OSError(95, 'Operation not supported')

  monkeypatch.setattr(lock.fcntl, 'flock', flock)
  with lock.lock_workdir(tmp_path), lock.lock_workdir(tmp_path):
    pass


def test_processes_of_other_settings_or_networks_are_refused(tmp_path, monkeypatch):
  """Before anything is written."""
  told = []
  monkeypatch.setattr(run_dir.hosts, 'differing', lambda text: told.append(text) or [1])
  config = config_lib.load('configs/byol.py:smoke')
  for seed, given in ((0, {}), (1, {}), (0, {'encoder': 'digest'})):
    config.seed = seed
    with pytest.raises(ConfigError, match='given networks in process 1 than in process 0'):
      run_dir.open_workdir(
        tmp_path, config, run_dir.Invocation('', ''), 'photos', 'x', {'given': given}
      )
  assert len(set(told)) == 3 and not list(tmp_path.iterdir())
