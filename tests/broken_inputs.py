"""Broken inputs of every kind: valid files with bytes changed, odd texts, odd JSON."""

import io
import json
import os
import pickle

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
from PIL import Image

from byoljax import config
from byoljax.workdir import integrity
from tests.paths import GOLDEN, ROOT

_FEW = settings(
  derandomize=True, max_examples=30, deadline=5000, database=None,
  suppress_health_check=list(HealthCheck),
)  # fmt: skip
_AMOUNTS = {'few': _FEW, 'many': settings(_FEW, max_examples=3000)}


def tried(amount, strategy, check):
  """Calls `check` on 'few' or 'many' draws."""
  _AMOUNTS[amount](given(strategy)(check))()


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


BYTES = st.binary(max_size=200)
CONFIGS = st.one_of(
  JSON.map(lambda value: json.dumps(value).encode()),
  JSON.map(lambda value: json.dumps({'config': value}).encode()),
  st.integers(1, 100000).map(lambda depth: b'[' * depth),
  st.binary(max_size=60),
)
