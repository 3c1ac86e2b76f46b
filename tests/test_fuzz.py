"""Thousands of broken inputs: an answer or one clear error; no crash, no hang, nothing executed.

The cases are the same in every run. `-m slow` tries two hundred times as many.
"""

import json
import os

import numpy as np
import pytest

from byoljax import config
from byoljax.data.sources import image_file, image_header
from byoljax.weights import files
from byoljax.workdir import checkpoint, integrity, run_dir
from tests.paths import GOLDEN, ROOT


@pytest.fixture(scope='module')
def broken():
  """Imported where it is needed: Hypothesis takes two seconds, in every worker."""
  from tests import broken_inputs

  return broken_inputs


def images(data):
  try:
    kind, height, width = image_file.inspect(data)
  except image_file.UnreadableImageError as error:
    assert str(error)
  else:
    assert kind in (image_header.JPEG, image_header.PNG, image_header.PILLOW)
    assert 1 <= height * width <= image_file.MAX_PIXELS
  try:
    pixels = image_file.decode(data)
  except image_file.UnreadableImageError as error:
    assert str(error)
  else:
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def overrides(text):
  loaded = config.load(f'{ROOT}/configs/byol.py:smoke')
  field, _, value = text.partition('=')
  try:
    with loaded.unlocked():
      config.override(loaded, field, value)
  except config.ConfigError as error:
    assert str(error)
  flat = config.flatten(loaded)
  assert config.differences(
    config.from_json(json.loads(config.to_json(loaded))), loaded
  ) == [] or any(isinstance(x, float) and x != x for x in flat.values())


def weights(path, data):
  for suffix in ('.pth', '.safetensors'):
    file = path.with_suffix(suffix)
    file.write_bytes(data)
    try:
      found = files.read(file)
    except ValueError as error:
      assert file.name in str(error) and len(str(error)) < 2000
    else:
      assert all(isinstance(array, np.ndarray) for array in found.values())


def integrity_records(home, record):
  directory = home / '3'
  (directory / integrity.ITEM).mkdir(parents=True, exist_ok=True)
  path = directory / integrity.ITEM / 'metadata'
  path.write_text(json.dumps(record | {'sha256': integrity._own_digest(record)}))
  try:
    found = integrity.read(directory)
    integrity.verify_shapes(found, {'params/a': np.ones((2, 3), np.float32)})
    integrity.verify(found, {'params/a': np.ones((2, 3), np.float32)})
  except ValueError as error:
    assert str(error)


def run_configs(home, data):
  (home / 'config.json').write_bytes(data)
  try:
    run_dir.run_config(home)
  except config.ConfigError as error:
    assert 'config.json' in str(error)


@pytest.mark.parametrize('amount', ['few', pytest.param('many', marks=pytest.mark.slow)])
class TestFuzz:
  def test_images(self, amount, broken):
    broken.tried(amount, broken.mutated(list(broken.IMAGES.values())), images)
    broken.tried(amount, broken.BYTES, images)

  def test_overrides(self, amount, broken):
    broken.tried(amount, broken.TEXTS, overrides)

  def test_weights(self, amount, broken, tmp_path):
    mutated = broken.mutated(broken.WEIGHTS)
    broken.tried(amount, mutated, lambda data: weights(tmp_path / 'x', data))
    assert not os.path.exists('/nonexistent')

  def test_integrity_records(self, amount, broken, tmp_path):
    broken.tried(amount, broken.records(), lambda record: integrity_records(tmp_path, record))

  def test_run_configs(self, amount, broken, tmp_path):
    broken.tried(amount, broken.CONFIGS, lambda data: run_configs(tmp_path, data))


def test_the_untouched_are_accepted(broken, tmp_path):
  """Else the tests above would prove nothing."""
  for data in broken.IMAGES.values():
    assert image_file.decode(data).shape in ((20, 24, 3), (24, 20, 3))
  for path in (GOLDEN / 'torch_legacy.pth', GOLDEN / 'torch_zip.pth'):
    assert files.read(path)
  (tmp_path / '3' / integrity.ITEM).mkdir(parents=True)
  (tmp_path / '3' / integrity.ITEM / 'metadata').write_text(json.dumps(broken.RECORD))
  assert integrity.read(tmp_path / '3') == broken.RECORD
  assert checkpoint.latest_finished(tmp_path) is None
