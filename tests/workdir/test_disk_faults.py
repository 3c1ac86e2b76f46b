"""Disks that are full or read-only, and torn records: one sentence, and nothing is lost."""

import contextlib
import errno
import os
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import main
from byoljax.config import ConfigError
from byoljax.workdir import checkpoint, files, lock, metrics
from byoljax.workdir.checkpoint import Checkpoints


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 3 MB of its own."""
  place = tmp_path / 'disk'
  place.mkdir()
  command = ['mount', '-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', str(place)]
  try:
    subprocess.run(command, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    pytest.skip('only root may mount')
  yield place
  subprocess.run(['umount', '-l', str(place)], check=True)


def state_of(step):
  return {'a': jnp.asarray(np.random.default_rng(step).normal(size=250_000), jnp.float32)}


def test_a_disk_that_fills_up_during_a_save(small_disk, capfd):
  """What was saved before stays; with room again the same step is saved."""
  with pytest.raises(OSError, match='No space left .* steps 1, 2, 3') as error:  # noqa: SIM117
    with Checkpoints(small_disk, keep=5) as checkpoints:
      for step in range(1, 9):
        checkpoints.save(step, state_of(step), {'loss': 1.0})
  assert error.value.errno == errno.ENOSPC
  assert capfd.readouterr().err.count('\n') < 5, 'pages of traceback'
  template = jax.eval_shape(lambda: state_of(0))
  with Checkpoints(small_disk, keep=1) as checkpoints:
    state, step = checkpoints.restore_newest(template)
    assert step == 3 and checkpoints.notes == []
    np.testing.assert_array_equal(state['a'], state_of(3)['a'])
    shutil.move(small_disk / 'checkpoints' / '1', small_disk.parent / 'elsewhere')
    checkpoints.save(4, state_of(4), {})
  assert checkpoint.latest_finished(small_disk) == 4


def test_a_disk_that_becomes_read_only(small_disk):
  with lock.lock_workdir(small_disk):
    pass
  subprocess.run(['mount', '-o', 'remount,ro', str(small_disk)], check=True)
  with (
    pytest.raises(ConfigError, match='cannot be written: Read-only'),
    lock.lock_workdir(small_disk),
  ):
    pass
  with (
    pytest.raises(ConfigError, match='cannot be written: Read-only'),
    lock.lock_workdir(small_disk / 'new'),
  ):
    pass


def test_a_save_that_vanishes_is_noticed(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, state_of(1), {})
  checkpoints.wait()
  monkeypatch.setattr(checkpoint.ocp.CheckpointManager, 'save', lambda *_, **__: True)
  checkpoints.save(2, state_of(2), {})
  with pytest.raises(OSError, match='checkpoint 2 is not in'):
    checkpoints.close()


def test_what_is_no_longer_kept_goes_in_one_move(tmp_path, monkeypatch):
  """Killed while an old checkpoint is deleted, a run finds neither half of one nor damage."""
  real = shutil.rmtree
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    # What a kill in the middle of every deletion leaves: some files are gone, some are not.
    monkeypatch.setattr(shutil, 'rmtree', lambda path, **_: half_deleted(path))
    for step in (1, 2, 3):
      checkpoints.save(step, state_of(step), {'loss': 1.0})
  monkeypatch.setattr(shutil, 'rmtree', real)
  folder = tmp_path / 'checkpoints'
  assert sorted(p.name for p in folder.iterdir()) == ['.removing', '3']
  assert sorted(p.name for p in (folder / '.removing').iterdir()) == ['1', '2']
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    assert [p.name for p in folder.iterdir()] == ['3']
    assert checkpoints.restore_newest(jax.eval_shape(lambda: state_of(0)))[1] == 3
    assert checkpoints.notes == []
    checkpoints.save(4, state_of(4), {})
    with pytest.raises(RuntimeError, match=r'checkpoint 3 was not saved: .*\[4\]'):
      checkpoints.save(3, state_of(3), {})
  assert [p.name for p in folder.iterdir()] == ['4']
  assert not (tmp_path / 'damaged-checkpoints').exists()


def half_deleted(path):
  for file in path.glob('*/_CHECKPOINT_METADATA'):
    file.unlink()


def test_a_step_that_is_only_said_to_be_there_is_noticed(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, state_of(1), {})
  checkpoints.wait()
  shutil.rmtree(tmp_path / 'checkpoints' / '1')
  checkpoints.save(1, state_of(1), {})
  with pytest.raises(OSError, match='checkpoint 1 is not in'):
    checkpoints.close()


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EIO])
def test_the_disks_errors_are_sentences_and_others_are_not_hidden(number, monkeypatch, capsys):
  def run(options, overrides):
    raise OSError(number, os.strerror(number), 'runs/x/metrics.jsonl')

  monkeypatch.setattr(main, 'run', run)
  assert main.main(['--config=configs/byol.py:smoke']) == 4
  error = capsys.readouterr().err
  assert error == f"error: {os.strerror(number)} ('runs/x/metrics.jsonl').\n"

  def broken(options, overrides):
    raise FileNotFoundError(errno.ENOENT, 'a mistake of ours')

  monkeypatch.setattr(main, 'run', broken)
  with pytest.raises(FileNotFoundError):
    main.main(['--config=configs/byol.py:smoke'])


def test_torn_rows_at_every_byte(tmp_path):
  """However much of the last row a crash left, the rows before it are read and kept."""
  with metrics.Writer(tmp_path, tensorboard=False) as writer:
    for step in (1, 2, 3):
      writer.write(step, {'loss': 0.1 * step, 'grad_norm': float('nan')})
  whole = (tmp_path / 'metrics.jsonl').read_bytes()
  start = whole.rindex(b'\n', 0, -1) + 1
  for end in range(start, len(whole)):
    (tmp_path / 'metrics.jsonl').write_bytes(whole[:end])
    rows = metrics.read(tmp_path)
    # A row that lacks only its newline is whole.
    assert [row['step'] for row in rows] == ([1, 2, 3] if end == len(whole) - 1 else [1, 2])
    with metrics.Writer(tmp_path, tensorboard=False, resume_step=2) as writer:
      writer.write(3, {'loss': 7})
    assert [row['step'] for row in metrics.read(tmp_path)] == [1, 2, 3]
    assert metrics.read(tmp_path)[-1]['loss'] == 7


def test_configurations_are_the_old_or_the_new_never_half(tmp_path, monkeypatch):
  path = tmp_path / 'config.json'
  files.write_json(path, {'a': 1})

  def fail(descriptor):
    raise OSError(errno.ENOSPC, 'full')

  monkeypatch.setattr(files.os, 'fsync', fail)
  with contextlib.suppress(OSError):
    files.write_json(path, {'a': 2})
  assert path.read_text() == '{\n  "a": 1\n}\n'
  assert list(tmp_path.iterdir()) == [path]
