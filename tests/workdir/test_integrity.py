"""Checkpoints that are not what was written: found, said, kept aside, and the one before used."""

import asyncio
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.workdir import checkpoint, integrity, restore
from byoljax.workdir.checkpoint import Checkpoints, DamagedError
from tests.paths import ROOT
from tests.said import one_sentence

pytestmark = pytest.mark.filterwarnings('error::pytest.PytestUnraisableExceptionWarning')


def state_of(step):
  rng = np.random.default_rng(step)
  return {
    'step': jnp.asarray(step, jnp.int32),
    'params': {
      'encoder': {'kernel': jnp.asarray(rng.normal(size=(40, 30)), jnp.float32)},
      'head': {'kernel': jnp.asarray(rng.normal(size=(7, 5)), jnp.bfloat16)},
    },
    'opt_state': (jnp.asarray(rng.normal(size=300), jnp.float32), ()),
    'key': jnp.asarray(rng.integers(0, 9, 2), jnp.uint32),
  }


def written(workdir, steps=(1, 2)):
  with Checkpoints(workdir, keep=5) as checkpoints:
    for step in steps:
      checkpoints.save(step, state_of(step), {'loss': 1.0 / step, 'knn/top1': 0.5})
  return workdir


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """A workdir with the checkpoints 1 and 2; copy it before it is damaged."""
  return written(tmp_path_factory.mktemp('two'))


@pytest.fixture
def workdir(two, tmp_path):
  shutil.copytree(two, tmp_path / 'run')
  return tmp_path / 'run'


def newest(workdir):
  template = jax.eval_shape(lambda: state_of(0))
  with Checkpoints(workdir, keep=5) as checkpoints:
    found = checkpoints.restore_newest(template)
    return found, checkpoints.notes


def assert_is(found, step):
  state, at = found
  assert at == step
  pairs = zip(jax.tree.leaves(state), jax.tree.leaves(state_of(step)), strict=True)
  for ours, due in pairs:
    assert ours.dtype == due.dtype
    np.testing.assert_array_equal(ours, due)


def flip(path, bit):
  data = bytearray(path.read_bytes())
  data[bit // 8] ^= 1 << bit % 8
  path.write_bytes(data)


def files_of(workdir, step=2):
  root = workdir / 'checkpoints' / str(step)
  return sorted(p for p in root.rglob('*') if p.is_file() and p.stat().st_size)


def test_the_record_says_what_was_saved(two):
  record = json.loads((two / 'checkpoints' / '2' / 'integrity' / 'metadata').read_text())
  import hashlib

  due = hashlib.sha256(np.asarray(state_of(2)['opt_state'][0]).tobytes()).hexdigest()
  assert record['leaves']['opt_state/0'] == ['float32', [300], due]
  assert record['leaves']['params/head/kernel'][:2] == ['bfloat16', [7, 5]]
  assert record['step'] == 2 and record['metrics'] == {'loss': 0.5, 'knn/top1': 0.5}
  assert len(record['leaves']) == len(jax.tree.leaves(state_of(2)))
  found, notes = newest(two)
  assert_is(found, 2)
  assert notes == []


def test_a_changed_number_is_found_although_the_storage_is_consistent(workdir):
  """What a faulty disk or memory may do on the way: other bytes, stored without an error."""
  other = state_of(2)
  other['params']['encoder']['kernel'] = other['params']['encoder']['kernel'].at[3, 4].add(1e-6)
  shutil.copytree(workdir, workdir.parent / 'other')
  with Checkpoints(workdir.parent / 'more', keep=5) as checkpoints:
    checkpoints.save(2, other, {'loss': 0.5, 'knn/top1': 0.5})
  ours = workdir / 'checkpoints' / '2' / 'state'
  shutil.rmtree(ours)
  shutil.copytree(workdir.parent / 'more' / 'checkpoints' / '2' / 'state', ours)
  with pytest.raises(DamagedError, match='params/encoder/kernel changed after it was written'):
    restore.restore_subtrees(ours.parent, [('params', 'encoder')])
  restore.restore_subtrees(ours.parent, [('params', 'head')])  # That one is as it was.
  found, notes = newest(workdir)
  assert_is(found, 1)
  kept = workdir / 'damaged-checkpoints' / '2'
  assert len(notes) == 1 and 'Checkpoint 2 is damaged' in notes[0] and str(kept) in notes[0]
  assert (kept / 'state').is_dir() and not ours.exists()


@pytest.mark.parametrize('how', ['flipped', 'truncated', 'emptied', 'deleted', 'a directory'])
def test_every_file_in_turn(two, tmp_path, how):
  """Either the damage is found and checkpoint 1 is used, or what is read is still right."""
  rng = np.random.default_rng(0)
  harmless = []
  for number, path in enumerate(files_of(two)):
    run = tmp_path / str(number)
    shutil.copytree(two, run)
    victim = run / path.relative_to(two)
    if how == 'flipped':
      flip(victim, int(rng.integers(0, 8 * victim.stat().st_size)))
    elif how == 'truncated':
      os.truncate(victim, victim.stat().st_size // 2)
    elif how == 'emptied':
      os.truncate(victim, 0)
    else:
      victim.unlink()
      if how == 'a directory':
        victim.mkdir()
    found, notes = newest(run)
    name = victim.relative_to(run)
    if found[1] == 2:
      harmless.append(name)
      assert notes == [], name
      assert_is(found, 2)
    else:
      assert_is(found, 1)
      assert len(notes) == 1 and len(notes[0]) < 600 and '\n' not in notes[0], name
  # Files that hold nothing that is read: how the arrays lay on the devices, empty indices.
  assert len(harmless) < len(files_of(two)), 'nothing was found'


def test_all_damaged_is_an_error_then_a_fresh_start(workdir):
  for step in (1, 2):
    (workdir / 'checkpoints' / str(step) / 'integrity' / 'metadata').write_text('{}')
  with pytest.raises(DamagedError, match='Checkpoint 1 .*Checkpoint 2 .* begins at step 0'):
    newest(workdir)
  assert newest(workdir) == (None, [])
  assert sorted(p.name for p in (workdir / 'damaged-checkpoints').iterdir()) == ['1', '2']


def test_what_is_kept_aside_is_never_overwritten(two, tmp_path):
  for due in ('2', '2-2', '2-3'):
    shutil.rmtree(tmp_path / 'checkpoints', ignore_errors=True)
    shutil.copytree(two / 'checkpoints', tmp_path / 'checkpoints')
    assert integrity.set_aside(tmp_path / 'checkpoints' / '2').name == due


def test_a_run_that_does_not_fit_is_not_damage(workdir):
  template = jax.eval_shape(lambda: state_of(0))
  with Checkpoints(workdir) as checkpoints:
    for change, word in (
      ({'key': jax.ShapeDtypeStruct((3,), np.uint32)}, r'! key: \(2,\) uint32'),
      ({'key': jax.ShapeDtypeStruct((2,), np.int32)}, 'int32 expected'),
      ({'new': jax.ShapeDtypeStruct((2,), np.int32)}, r'- new \(missing\)'),
    ):
      with pytest.raises(ValueError, match=word) as error:
        checkpoints.restore_newest(template | change)
      assert not isinstance(error.value, DamagedError)
    assert checkpoints.steps() == [1, 2]


def rewrite(path, **changes):
  record = json.loads(path.read_text())
  del record['sha256']
  record |= changes
  path.write_text(json.dumps(record | {'sha256': integrity._own_digest(record)}))


def test_another_version_loads_or_says_why(workdir):
  path = workdir / 'checkpoints' / '2' / 'integrity' / 'metadata'
  rewrite(path, byoljax='0.0.7')
  found, notes = newest(workdir)
  assert_is(found, 2)
  template = jax.eval_shape(lambda: state_of(0)) | {'new': jax.ShapeDtypeStruct((2,), np.int32)}
  with (
    Checkpoints(workdir) as checkpoints,
    pytest.raises(ValueError, match='written by byoljax 0.0.7'),
  ):
    checkpoints.restore_newest(template)
  rewrite(path, format=2, byoljax='9.0')
  with pytest.raises(ValueError, match='format 2, written by byoljax 9.0: this version reads'):
    newest(workdir)
  assert path.exists(), 'a later format is not damage'


def test_a_step_without_its_record_is_not_complete(workdir):
  shutil.rmtree(workdir / 'checkpoints' / '2' / 'integrity')
  assert checkpoint.latest_finished(workdir) == 1
  found, notes = newest(workdir)
  assert_is(found, 1)
  assert 'record is missing' in notes[0]


def test_a_step_under_another_number_is_found(workdir):
  (workdir / 'checkpoints' / '2').rename(workdir / 'checkpoints' / '7')
  found, notes = newest(workdir)
  assert_is(found, 1)
  assert 'holds step 2' in notes[0]


def test_a_hiccup_is_no_damage(workdir, monkeypatch):
  """A read that fails once is tried again; files that may not be read are not set aside."""
  real, failures = restore.ocp.Checkpointer.restore, [OSError(5, 'Input/output error')]

  def flaky(self, *arguments, **named):
    if failures:
      raise failures.pop()
    return real(self, *arguments, **named)

  monkeypatch.setattr(restore.ocp.Checkpointer, 'restore', flaky)
  assert_is(newest(workdir)[0], 2)
  failures.append(ValueError('PERMISSION_DENIED: d/123'))
  with pytest.raises(PermissionError):
    newest(workdir)
  assert not (workdir / 'damaged-checkpoints').exists()


def test_what_fails_beside_the_first_error_is_awaited(tmp_path, capfd, collect):
  """Orbax reads all arrays at once; each of the others would print a traceback of its own."""
  rng = np.random.default_rng(0)
  many = {f'w{i}': jnp.asarray(rng.normal(size=(64, 64)), jnp.float32) for i in range(60)}
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {'params': many}, {})
  directory = tmp_path / 'checkpoints' / '1'
  for file in (directory / 'state').glob('ocdbt.process_0/d/*'):
    os.truncate(file, file.stat().st_size // 2)
  policy = asyncio.get_event_loop_policy()
  for _ in range(3):
    with pytest.raises(DamagedError, match='cannot be read'):
      restore.restore_subtrees(directory, [('params',)])
  collect()
  assert capfd.readouterr() == ('', '')
  assert asyncio.get_event_loop_policy() is policy


def test_a_loop_ends_what_it_began():
  done = []

  async def slow(seconds):
    await asyncio.sleep(seconds)
    done.append(seconds)
    if seconds < 0.02:
      asyncio.ensure_future(slow(0.02))  # noqa: RUF006
    raise OSError(seconds)

  async def both():
    await asyncio.gather(slow(0), slow(0.01))

  loop = restore._PatientLoop()
  with pytest.raises(OSError, match='0$'):
    loop.run_until_complete(both())
  loop.close()
  assert loop.is_closed() and sorted(done) == [0, 0.01, 0.02, 0.02]
  loop.close()


def test_a_damaged_checkpoint_is_one_line_of_the_program(untrained, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(untrained, run)
  for file in (run / 'checkpoints/0/state').glob('ocdbt.process_0/d/*'):
    os.truncate(file, file.stat().st_size // 2)
  command = [sys.executable, '-m', 'byoljax.main', '--config=configs/knn.py']
  command += [f'--config.pretrained={run}']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout) == (2, '')
  assert one_sentence(done.stderr), done.stderr
  assert re.search(r"^error: '.*/0' is damaged: .*\n\Z", done.stderr, re.M), done.stderr


def test_evaluations_name_the_damage(workdir, capsys):
  path = workdir / 'checkpoints' / '2' / 'integrity' / 'metadata'
  flip(path, 8 * 40)
  with pytest.raises(DamagedError, match=f"'{path.parent.parent}' is damaged: .*Use another"):
    restore.restore_subtrees(path.parent.parent, [('params', 'encoder')])


def test_saved_again_after_a_fall_back(workdir):
  """The run goes on from 1 and comes by 2 again."""
  flip(workdir / 'checkpoints' / '2' / 'integrity' / 'metadata', 8 * 40)
  with Checkpoints(workdir, keep=5) as checkpoints:
    found = checkpoints.restore_newest(jax.eval_shape(lambda: state_of(0)))
    assert_is(found, 1)
    checkpoints.save(2, state_of(2), {})
  assert_is(newest(workdir)[0], 2)
  assert pathlib.Path(workdir / 'damaged-checkpoints' / '2').is_dir()
