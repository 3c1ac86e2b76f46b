"""Sets by name: what is refused, and that TensorFlow keeps quiet."""

import os
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from byoljax.data.sources import (
  datasets,
)
from tests.paths import ROOT


def test_load_errors(tmp_path):
  for name, split, message in (
    ('cifra10', 'train', "did you mean 'cifar10'"),
    ('tfds:', 'train', 'unknown data set'),
    ('npz', 'trian', "did you mean 'train'"),
    ('npz', 'train', 'needs config.data.dir: the path of the .npz'),
    ('folder', 'train', 'the path of the folder of images'),
  ):
    with pytest.raises(ValueError, match=message):
      datasets.load(name, split)
  with pytest.raises(ValueError, match='does not exist'):
    datasets.load('folder', 'train', data_dir=tmp_path / 'missing')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['shapes', 'sprites'])
def test_a_built_in_set_is_not_kept_among_images(name, tmp_path):
  """Who names a folder of photographs alone means these."""
  photos = tmp_path / 'photos' / 'cats'
  photos.mkdir(parents=True)
  Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(photos / 'a.JPG', 'JPEG')
  (tmp_path / 'set.npz').touch()
  for place, kind in (('photos', 'folder'), ('set.npz', 'npz')):
    with pytest.raises(ValueError, match=f'holds images, .* add --data.name={kind}'):
      datasets.load(name, 'train', data_dir=tmp_path / place)
  assert [path.name for path in (tmp_path / 'photos').iterdir()] == ['cats']


@pytest.mark.slow
def test_importing_tensorflow_is_silent():
  environment = {k: v for k, v in os.environ.items() if k != 'TF_CPP_MIN_LOG_LEVEL'}
  code = (
    'import jax; from byoljax.data.sources import tensorflow_import as t; tf = t.tensorflow(); '
    't.tensorflow_datasets(); print(tf.config.get_visible_devices("GPU"))'
  )
  found = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=environment,
    check=False,
  )
  assert (found.returncode, found.stdout, found.stderr) == (0, '[]\n', '')
