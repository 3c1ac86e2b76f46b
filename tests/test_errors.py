"""Every mistake a user can make on the command line: one sentence, status 2, before any compute."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from byoljax.data.batches import pipeline
from byoljax.main import main
from byoljax.train import run as run_module
from tests.paths import ROOT
from tests.said import one_sentence


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
  monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True)
def no_compute(monkeypatch):
  """A mistake must be found before the first state is made."""

  def fail(*unused, **unused_too):
    raise AssertionError('something was computed before the mistake was found')

  monkeypatch.setattr(run_module, 'train_step', fail)


def said(capsys, arguments, *words):
  """Runs, expects status 2 and one message on standard error with these words."""
  status = main(arguments)
  out, err = capsys.readouterr()
  # On a busy machine imports take so long that the program says it is working.
  err = ''.join(line for line in err.splitlines(keepends=True) if ': working, ' not in line)
  assert status == 2, out + err
  assert err.startswith('error: ') and 'Traceback' not in err
  for word in words:
    assert word in err, err
  return err


MISTAKES = {
  'no config': ([], ['--config is missing']),
  'no such recipe': (['--config=configs/byl.py'], ["did you mean 'configs/byol.py'"]),
  'unknown preset': (['--config=configs/byol.py:cfar10'], ['valid: shapes']),
  'unknown flag': (['--config=configs/byol.py', '--workdr=x'], ["did you mean '--workdir'"]),
  'unknown field': (['TINY', '--config.optim.base_rl=1'], ["did you mean 'optim.base_lr'"]),
  'no value': (['TINY', '--config.seed'], ['--config.seed=VALUE']),
  'wrong type': (['TINY', '--config.seed=x'], ['is not a whole number']),
  'unknown task': (['TINY', '--config.task=pretran'], ["did you mean 'pretrain'"]),
  'unknown method': (['TINY', '--config.method.name=byl'], ["did you mean 'byol'"]),
  'unknown encoder': (['TINY', '--config.encoder.name=resnet51'], ['resnet50']),
  'unknown stem': (
    ['TINY', '--config.encoder.name=resnet18', '--config.encoder.stem=cfar'],
    ['cifar'],
  ),
  'unknown dtype': (['TINY', '--config.encoder.dtype=float16'], ['bfloat16']),
  'unknown optimizer': (['TINY', '--config.optim.name=lrs'], ['lars']),
  'unknown data': (['TINY', '--config.data.name=cifar'], ['cifar10']),
  'tau': (['TINY', '--config.method.base_tau=1.5'], ['between 0 and 1']),
  'heads': (['TINY', '--config.method.predictor=(16,9)'], ['must be equal']),
  'indivisible batch': (
    ['TINY', '--config.train.batch_size=18'],
    ['18', '4 devices', 'use 16 or 20'],
  ),
  'accumulation': (['TINY', '--config.train.accumulate=3'], ['3 micro-batches']),
  'batch of nothing': (['TINY', '--config.train.batch_size=0'], ['at least 1']),
  'batch too large': (['TINY', '--config.train.batch_size=96'], ['96', '80 images']),
  'bank': (['TINY', '--config.evals.knn.max_bank=-5'], ['max_bank=-5 must be at least 0']),
  'queries': (['TINY', '--config.evals.knn.max_queries=0'], ['max_queries=0 must be at least 1']),
  'warm-up too long': (['TINY', '--config.optim.warmup=3 epochs'], ['15 steps', '10 steps']),
  'not a duration': (['TINY', '--config.train.length=five'], ["such as '10 epochs'"]),
  'too short': (['TINY', '--config.train.length=0 steps'], ['less than one step']),
  'crop scale': (['TINY', '--config.views.view1.crop_scale=(0.5,0.2)'], ['crop_scale']),
  'probability': (['TINY', '--config.views.view2.blur_prob=2'], ['blur_prob', '[0, 1]']),
  'momentum': (['TINY', '--config.optim.momentum=1.0'], ['momentum']),
  'nothing pretrained': (['--config=configs/linear.py'], ['config.pretrained is empty']),
  'pretrained missing': (
    ['--config=configs/knn.py', '--config.pretrained=/nowhere'],
    ["'/nowhere' does not exist"],
  ),
  'pretrained of an unknown user': (
    ['--config=configs/knn.py', '--config.pretrained=~nobody_here/run'],
    ["'~nobody_here' is no home directory"],
  ),
  'network': (['--config=configs/knn.py', '--config.network=onlin'], ['pretrained']),
  'npz missing': (['TINY', '--config.data.dir=/nowhere.npz'], ['/nowhere.npz']),
  'folder missing': (
    ['TINY', '--config.data.name=folder', '--config.data.dir=/nowhere'],
    ['/nowhere'],
  ),
  'folder not named': (
    ['TINY', '--config.data.name=folder', '--config.data.dir='],
    ['config.data.dir'],
  ),
  'folder in place of an .npz': (['TINY', '--config.data.dir=configs'], ['add --data.name=folder']),
  'list in place of a folder': (
    ['TINY', '--config.data.name=folder', '--config.data.dir=tests/golden/saved_datasets.zip'],
    ['is not a folder of images: add --data.name=shards'],
  ),
  'processes': (['TINY', '--num_processes=2'], ['go together']),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes(mistake, tiny, tmp_path, capsys):
  arguments, words = MISTAKES[mistake]
  full = [part for a in arguments for part in (tiny if a == 'TINY' else [a])]
  message = said(capsys, [*full, f'--workdir={tmp_path / "run"}'], *words)
  assert one_sentence(message), 'more than one line'
  assert not (tmp_path / 'run' / 'checkpoints').exists(), 'something was begun'


def test_missing_dataset_says_what_to_run(tmp_path, capsys):
  pytest.importorskip('tensorflow_datasets', reason='TFDS sets need tensorflow-datasets')
  arguments = ['--config=configs/byol.py:cifar10', f'--config.data.dir={tmp_path}']
  said(capsys, [*arguments, f'--workdir={tmp_path / "run"}'], 'download_and_prepare', 'cifar10')


def test_folders_without_images(tiny, tmp_path, capsys):
  folder = tmp_path / 'photos'
  folder.mkdir()
  arguments = [*tiny, '--config.data.name=folder', f'--config.data.dir={folder}']
  workdir = f'--workdir={tmp_path / "run"}'
  said(capsys, [*arguments, workdir], str(folder))
  (folder / 'notes.txt').write_text('not a picture')
  said(capsys, [*arguments, workdir], str(folder))


def test_data_that_cannot_be_used_are_found_with_the_first_batch(
  tiny, tmp_path, monkeypatch, capsys
):
  """Such as 1,000 examples in a row that cannot be read, or a label that no class has."""
  closed = []

  def batches(*unused, **unused_too):
    try:
      raise ValueError('20 examples of photos in a row cannot be read')
      yield
    finally:
      closed.append(True)

  monkeypatch.setattr(pipeline, 'train_batches', batches)
  message = said(capsys, [*tiny, f'--workdir={tmp_path / "run"}'])
  assert message == 'error: config.data: 20 examples of photos in a row cannot be read\n'
  assert closed


def test_unwritable_workdir(tiny, tmp_path, capsys):
  (tmp_path / 'file').write_text('in the way')
  said(capsys, [*tiny, f'--workdir={tmp_path / "file" / "run"}'], 'cannot be written')


def test_workdir_of_another_run_is_refused_with_the_differences(tiny, tmp_path, capsys):
  config = {'recipe': 'x', 'config': {}, 'versions': {}}
  from byoljax import config as config_lib

  overrides = [a.removeprefix('--config.').split('=', 1) for a in tiny if a.startswith('--config.')]
  loaded = config_lib.load('configs/byol.py:smoke', [tuple(pair) for pair in overrides])
  config['config'] = json.loads(config_lib.to_json(loaded))
  (tmp_path / 'config.json').write_text(json.dumps(config))
  message = said(
    capsys, [*tiny, f'--workdir={tmp_path}', '--config.optim.base_lr=9', '--config.seed=7'],
    'seed: 0 -> 7', 'optim.base_lr', '-> 9.0', '--workdir',
  )  # fmt: skip
  assert 'views' not in message, 'only what differs'


def test_checkpoint_of_another_encoder(tiny, tmp_path, capsys):
  """A config.json that was edited to name another encoder than the checkpoint holds."""
  pytest.importorskip('orbax.checkpoint')
  from byoljax.encoders.encoder import Preprocessing, random_encoder
  from byoljax.workdir import checkpoint

  encoder = random_encoder({'name': 'small'}, Preprocessing((0.5,) * 3, (0.25,) * 3, 12), 0)
  state = {'params': encoder.params, 'method_state': {'bn': encoder.bn}}
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(3, state, {})
  from byoljax import config as config_lib

  config = config_lib.load('configs/byol.py:smoke', [('encoder.name', 'resnet18')])
  stored = {'config': json.loads(config_lib.to_json(config))}
  (tmp_path / 'config.json').write_text(json.dumps(stored))
  knn = ['--config=configs/knn.py', f'--config.pretrained={tmp_path}']
  said(capsys, knn, 'does not fit', 'missing')
  said(capsys, [*knn, '--config.network=target'], 'target')
  (tmp_path / 'config.json').unlink()
  said(capsys, knn, 'config.json')
  shutil.rmtree(tmp_path / 'checkpoints')
  said(capsys, knn, 'holds no checkpoint')


def test_a_mistake_in_a_new_process_is_quick_and_quiet():
  """The real program: status 2, one line, no traceback, no library chatter."""
  command = [sys.executable, '-m', 'byoljax.main', '--config=configs/byol.py', '--config.sed=1']
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
  assert done.returncode == 2
  assert done.stdout == ''
  assert done.stderr == "error: unknown field 'sed', did you mean 'seed'?\n"


def test_help_and_version_name_what_can_be_set():
  for flag, word in (('--help', 'configs/byol.py'), ('--version', 'byoljax')):
    command = [sys.executable, '-m', 'byoljax.main', flag]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0 and word in done.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_read_only_workdir(tiny, tmp_path, capsys):
  tmp_path.chmod(0o500)
  said(capsys, [*tiny, f'--workdir={tmp_path / "run"}'], 'cannot be written')


def test_folder_without_classes_is_unlabelled(tmp_path):
  folder = tmp_path / 'photos'
  folder.mkdir()
  rng = np.random.default_rng(0)
  for number in range(3):
    Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(
      folder / f'{number}.png'
    )
  from byoljax.data.sources import datasets

  source = datasets.load('folder', 'pretrain', data_dir=str(folder))
  assert source.size == 3 and source.num_classes == 0
