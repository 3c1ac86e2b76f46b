"""What the page about a run reads."""

import json
import shutil

import numpy as np
import pytest

from byoljax import cli
from byoljax import config as config_lib
from byoljax.report import own_images
from byoljax.tasks import data as data_lib


def configured(**data):
  config = config_lib.load(f'{cli.recipes_directory()}/byol.py:npz')
  with config.unlocked():
    config.data.update(data)
  return config


def test_images_are_read_by_the_range_of_the_run(tmp_path):
  images = np.full((6, 8, 8, 1), 4095, np.uint16)
  np.savez(tmp_path / 'scans.npz', x_train=images, x_test=images)
  config = configured(name='npz', dir=str(tmp_path / 'scans.npz'), range='0,4095')
  for source in own_images.load(config):
    (read,) = source.read(np.arange(1), ('image',))
    assert read.min() == pytest.approx(1), 'white'


def test_of_several_labels_an_image_none_is_shown(voc):
  config = configured(name='voc_labels', dir=str(voc))
  bank, queries = own_images.load(config)
  assert (bank.size, queries.size) == (48, 24) and bank.fingerprint != queries.fingerprint
  assert bank.labels is None and queries.num_classes == 0


def test_a_folder_without_a_run_is_named_as_it_was_given(tmp_path, capsys):
  assert cli.run(['report', str(tmp_path)]) == 2
  assert capsys.readouterr().err.startswith(f"error: '{tmp_path}' exists but holds no checkpoint")


@pytest.fixture
def moved(untrained, npz, tmp_path, monkeypatch):
  """A run whose images lie at a path that is relative to where it was started."""
  run = tmp_path / 'run'
  shutil.copytree(untrained, run)
  started = tmp_path / 'started'
  started.mkdir()
  shutil.copy(npz, started / 'mine.npz')
  monkeypatch.chdir(started)
  stored = json.loads((run / 'config.json').read_text())
  stored['config']['data']['dir'] = 'mine.npz'
  config = config_lib.from_json(stored['config'])
  stored['data_fingerprint'] = own_images.split(config, 'pretrain').fingerprint
  (run / 'config.json').write_text(json.dumps(stored))
  return run, config


def test_a_runs_images_are_compared_with_those_that_it_was_trained_on(moved, monkeypatch, tmp_path):
  run, config = moved
  images, wrong = own_images.find(run, config)
  assert images is not None and images.bank.size == 80 and not wrong
  monkeypatch.chdir(tmp_path)
  images, wrong = own_images.find(run, config)
  assert images is None and wrong.startswith('No images are shown: ')
  assert wrong.endswith('; call byoljax in the folder where the run was started to see them.')
  others = np.zeros((6, 12, 12, 3), np.uint8)
  np.savez('mine.npz', x_train=others, y_train=np.arange(6) % 2)
  images, wrong = own_images.find(run, config)
  assert images is not None and images.bank.size == 6
  assert wrong == (
    "There are other images in data.dir='mine.npz' than the run was trained on: call byoljax in "
    'the folder where the run was started to see those.'
  )
  with config.unlocked():
    config.data.dir = str(tmp_path / 'gone.npz')
  assert own_images.find(run, config)[1].endswith('; put them back there to see them.')


def test_what_a_run_is_trained_on_is_found_again(npz):
  marks = set()
  for fields in ({}, {'classes': (0, 2)}, {'labels': '4 per class'}, {'unlabelled': str(npz)}):
    config = configured(name='npz', dir=str(npz), **fields)
    source = data_lib.open_split(config, 'pretrain', None, resolve=False)
    assert own_images._trained_on(config).fingerprint == source.fingerprint
    marks.add(source.fingerprint)
  assert len(marks) == 4


def test_the_report_is_written_without_images(moved, monkeypatch, tmp_path, capsys):
  run, _ = moved
  monkeypatch.chdir(tmp_path)
  assert cli.run(['report', str(run)]) == 0
  said, text = capsys.readouterr().out, (run / 'report.html').read_text()
  assert 'No images are shown: ' in said and 'bad">No images are shown: ' in text
  assert 'id="recipe"' in text and 'id="first-layer"' in text
  assert 'id="nearest-neighbors"' not in text and 'id="classes"' not in text
  assert [path.name for path in (run / 'report').iterdir()] == ['filters.png']
