"""What the page about a run reads."""

import numpy as np
import pytest

from byoljax import cli
from byoljax import config as config_lib
from byoljax.report import contents


def configured(**data):
  config = config_lib.load(f'{cli.recipes_directory()}/byol.py:npz')
  with config.unlocked():
    config.data.update(data)
  return config


def test_images_are_read_by_the_range_of_the_run(tmp_path):
  images = np.full((6, 8, 8, 1), 4095, np.uint16)
  np.savez(tmp_path / 'scans.npz', x_train=images, x_test=images)
  config = configured(name='npz', dir=str(tmp_path / 'scans.npz'), range='0,4095')
  for source in contents._sources(config):
    (read,) = source.read(np.arange(1), ('image',))
    assert read.min() == pytest.approx(1), 'white'


def test_of_several_labels_an_image_none_is_shown(voc):
  config = configured(name='voc_labels', dir=str(voc))
  bank, queries = contents._sources(config)
  assert (bank.size, queries.size) == (48, 24) and bank.fingerprint != queries.fingerprint
  assert bank.labels is None and queries.num_classes == 0


def test_a_folder_without_a_run_is_named_as_it_was_given(tmp_path, capsys):
  assert cli.run(['report', str(tmp_path)]) == 2
  assert capsys.readouterr().err.startswith(f"error: '{tmp_path}' exists but holds no checkpoint")
