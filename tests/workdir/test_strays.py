"""What does not belong into a run's directory: others' checkpoints, names that mislead, files."""

import json
import os
import shutil

import numpy as np
import pytest

from byoljax import config as config_lib
from byoljax.main import main
from byoljax.workdir import checkpoint, history
from tests.paths import ROOT
from tests.said import one_sentence

STATE = {'params': {'encoder': {'kernel': np.arange(3, dtype=np.float32)}}}


def make_run(workdir, seed=0, data='abc', **more):
  """A directory as a run leaves it: config.json and the checkpoint of step 3."""
  config = config_lib.load(f'{ROOT}/configs/byol.py:smoke', [('seed', str(seed)), *more.items()])
  workdir.mkdir(parents=True)
  stored = {'config': json.loads(config.to_json()), 'data_fingerprint': data}
  (workdir / 'config.json').write_text(json.dumps(stored))
  with checkpoint.Checkpoints(workdir) as checkpoints:
    checkpoints.save(3, STATE, {})
  return workdir


def newest(workdir):
  with checkpoint.Checkpoints(workdir) as checkpoints:
    found = checkpoints.restore_newest(STATE)
    return found and found[1], checkpoints.notes


@pytest.fixture
def run(tmp_path):
  return make_run(tmp_path / 'run')


@pytest.mark.parametrize('other', [{'seed': 1}, {'data': 'xyz'}, {'optim.base_lr': '9'}])
def test_a_checkpoint_of_another_run_is_refused_and_stays(run, tmp_path, other):
  other = make_run(tmp_path / 'other', **other)
  shutil.rmtree(run / 'checkpoints' / '3')
  shutil.copytree(other / 'checkpoints' / '3', run / 'checkpoints' / '3')
  with pytest.raises(ValueError, match='checkpoints/3. was written by another run'):
    newest(run)
  with pytest.raises(ValueError, match='written by another run'):
    checkpoint.restore_subtrees(run / 'checkpoints' / '3', [('params',)])
  assert not (run / 'damaged-checkpoints').exists()
  assert newest(other) == (3, [])


def test_a_directory_that_was_copied_or_resumed_with_neutral_fields_changed_is_the_same_run(
  run, tmp_path
):
  shutil.copytree(run, tmp_path / 'copy')
  assert newest(tmp_path / 'copy') == (3, [])
  stored = json.loads((run / 'config.json').read_text())
  stored['config']['data'] |= {'dir': '/elsewhere', 'threads': 3}
  (run / 'config.json').write_text(json.dumps(stored))
  assert newest(run) == (3, [])


def test_runs_within_a_run_differ_and_what_has_no_settings_belongs_to_nobody(run, tmp_path):
  names = [history.identities(run / name)[0] for name in ('', 'sweep0', 'online/sweep0')]
  assert len(set(names)) == 3 and '' not in names
  assert history.identities(tmp_path) == []
  (run / 'config.json').unlink()
  assert newest(run) == (3, [])


def test_an_evaluation_says_so_in_one_line(run, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  stored = json.loads((run / 'config.json').read_text())
  stored['config']['seed'] = 5
  (run / 'config.json').write_text(json.dumps(stored))
  assert main(['--config=configs/knn.py', f'--config.pretrained={run}']) == 2
  error = capsys.readouterr().err
  assert 'was written by another run' in error and one_sentence(error)


@pytest.mark.parametrize('name', ['²', '٣', '007', '0003'])
def test_a_name_that_only_looks_like_a_step_is_moved_aside(run, name):
  shutil.copytree(run / 'checkpoints' / '3', run / 'checkpoints' / name)
  assert checkpoint.latest_finished(run) == 3
  step, notes = newest(run)
  assert step == 3 and len(notes) == 1 and f'Checkpoint {name} is damaged: its name' in notes[0]
  assert (run / 'damaged-checkpoints' / name / 'state').is_dir()


@pytest.mark.parametrize('name', ['checkpoints', 'damaged-checkpoints'])
@pytest.mark.parametrize('make', ['file', 'link'])
def test_a_file_in_the_place_of_a_directory_is_named(run, name, make):
  shutil.rmtree(run / name, ignore_errors=True)
  if make == 'file':
    (run / name).write_text('in the way')
  else:
    os.symlink('/nowhere', run / name)
  with pytest.raises(ValueError, match=f"/{name}' is not a directory: move it away"):
    newest(run)
  assert checkpoint.latest_finished(run) == (3 if name != 'checkpoints' else None)
