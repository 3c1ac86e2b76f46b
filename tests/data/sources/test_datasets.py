"""Sets by name: what is refused, and that TensorFlow keeps quiet."""

import os
import subprocess
import sys

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
