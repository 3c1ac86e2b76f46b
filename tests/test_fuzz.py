"""Thousands of broken inputs: an answer or one clear error; no crash, no hang, nothing executed.

The cases are the same in every run. `-m slow` tries a hundred times as many.
"""

import io
import json
import os
import pickle

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest

from byoljax import config
from byoljax.data.sources import image_file
from byoljax.weights import files
from byoljax.workdir import checkpoint, integrity, run_dir
from tests.paths import GOLDEN, ROOT

few = settings(
  derandomize=True, max_examples=60, deadline=5000, database=None,
  suppress_health_check=list(HealthCheck),
)  # fmt: skip
many = settings(few, max_examples=6000)


def _image(kind, **options):
  y, x = np.mgrid[:20, :24]
  pixels = np.stack([y * 9, x * 9, 255 - y * 4 - x * 4], 2).clip(0, 255).astype(np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, kind, **options)
  return buffer.getvalue()


IMAGES = {
  'jpeg': _image('JPEG'),
  'progressive': _image('JPEG', progressive=True),
  'exif': _image(
    'JPEG', exif=bytes.fromhex('45786966000049492a0008000000010012010300010000000600')
  ),
  'png': _image('PNG'),
  'gif': _image('GIF'),
  'bmp': _image('BMP'),
  'webp': _image('WEBP'),
}


@st.composite
def mutated(draw, originals):
  """A valid file with some bytes changed, cut out, repeated or put in."""
  data = bytearray(draw(st.sampled_from(originals)))
  for _ in range(draw(st.integers(1, 6))):
    # Headers are short and matter most.
    end = max(1, len(data)) if draw(st.booleans()) else min(max(1, len(data)), 64)
    place = draw(st.integers(0, end - 1))
    match draw(st.integers(0, 4)):
      case 0:
        data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
      case 1:
        del data[place : place + draw(st.integers(1, 40))]
      case 2:
        data[place:place] = draw(st.binary(max_size=20))
      case 3:
        data[place : place + 4] = draw(
          st.sampled_from([b'\xff' * 4, b'\0' * 4, b'\x7f' + b'\xff' * 3])
        )
      case _:
        data[place:place] = data[place : place + 30]
  return bytes(data)


def images(data):
  try:
    kind, height, width = image_file.inspect(data)
  except image_file.UnreadableImageError as error:
    assert str(error)
  else:
    assert kind in (image_file.JPEG, image_file.PNG, image_file.PILLOW)
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


FIELDS = sorted(config.flatten(config.load(f'{ROOT}/configs/byol.py:smoke')))
TEXTS = st.one_of(
  st.text(max_size=40),
  st.builds(
    '{}={}'.format,
    st.sampled_from([*FIELDS, 'optim', 'optim.base_lr.x', '']),
    st.one_of(
      st.text(max_size=30),
      st.sampled_from(
        ['1e999', '-0', 'nan', '9' * 400, '((((', '(1,)*9', '[[1],2]', '__import__("os")', '{}',
         '(' * 500, '0x10', '1_000', 'None', '\x00', '(None,)', '("a",)', '(1e400,)']
      ),
    ),
  ),
)  # fmt: skip


class Evil:
  """What must never be called."""

  def __reduce__(self):
    return os.mkdir, ('/nonexistent/called',)


WEIGHTS = [
  *(path.read_bytes() for path in sorted(GOLDEN.glob('*.pth'))),
  pickle.dumps({'state': [Evil()], 'x': Evil()}),
]


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


JSON = st.recursive(
  st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(['float32', 'object', 'O', 'V99', 'f4,i8', 'sha256', 'leaves', 10**30]),
  ),
  lambda inner: st.lists(inner, max_size=4)
  | st.dictionaries(
    st.sampled_from(['config', 'leaves', 'step', 'metrics', 'format', 'a', 'encoder', 'recipe']),
    inner,
    max_size=4,
  ),
  max_leaves=12,
)  # fmt: skip
RECORD = integrity.make(
  {'params/a': np.ones((2, 3), np.float32)}, step=3, metrics={'loss': 1.0}, version='0.1.0'
)


@st.composite
def records(draw):
  """A checkpoint's record with entries of any kind, and a digest that is right all the same."""
  record = {key: value for key, value in RECORD.items() if key != 'sha256'}
  for key in draw(st.lists(st.sampled_from(sorted(record)), max_size=3)):
    record[key] = draw(JSON)
  if draw(st.booleans()):
    record['leaves'] = {'params/a': draw(JSON)}
  return record


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
  def go(self, amount, strategy, check):
    (few if amount == 'few' else many)(given(strategy)(check))()

  def test_images(self, amount):
    self.go(amount, mutated(list(IMAGES.values())), images)
    self.go(amount, st.binary(max_size=200), images)

  def test_overrides(self, amount):
    self.go(amount, TEXTS, overrides)

  def test_weights(self, amount, tmp_path):
    self.go(amount, mutated(WEIGHTS), lambda data: weights(tmp_path / 'x', data))
    assert not os.path.exists('/nonexistent')

  def test_integrity_records(self, amount, tmp_path):
    self.go(amount, records(), lambda record: integrity_records(tmp_path, record))

  def test_run_configs(self, amount, tmp_path):
    as_json = JSON.map(lambda value: json.dumps(value).encode())
    wrapped = JSON.map(lambda value: json.dumps({'config': value}).encode())
    deep = st.integers(1, 100000).map(lambda depth: b'[' * depth)
    self.go(amount, st.one_of(as_json, wrapped, deep, st.binary(max_size=60)),
            lambda data: run_configs(tmp_path, data))  # fmt: skip


def test_the_untouched_are_accepted(tmp_path):
  """Else the tests above would prove nothing."""
  for data in IMAGES.values():
    assert image_file.decode(data).shape in ((20, 24, 3), (24, 20, 3))
  for path in (GOLDEN / 'torch_legacy.pth', GOLDEN / 'torch_zip.pth'):
    assert files.read(path)
  (tmp_path / '3' / integrity.ITEM).mkdir(parents=True)
  (tmp_path / '3' / integrity.ITEM / 'metadata').write_text(json.dumps(RECORD))
  assert integrity.read(tmp_path / '3') == RECORD
  assert checkpoint.latest_finished(tmp_path) is None
