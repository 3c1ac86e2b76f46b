"""Files of other libraries for the tests, written without these libraries."""

import io
import pickle
import zipfile

import numpy as np

from byoljax.models import options

FIELDS = {'name': 'resnet50', 'input': 'rgb'} | options.defaults()


def as_torch_file(program, zipped, storages=None):
  """A pickle as a PyTorch file."""
  if zipped:
    made = io.BytesIO()
    with zipfile.ZipFile(made, 'w') as archive:
      archive.writestr('archive/data.pkl', program)
      for key, content in (storages or {}).items():
        archive.writestr(f'archive/data/{key}', content)
    return made.getvalue()
  head = [0x1950A86A20F9469CFC6C, 1001, {'little_endian': True}]
  return b''.join(pickle.dumps(x, 2) for x in head) + program + pickle.dumps([], 2)


def numbers(values):
  """A tuple of whole numbers, as pickle's instructions."""
  return b'(' + b''.join(b'I%d\n' % value for value in values) + b't'


def torch_file(path, trees):
  """Writes {'state_dict': {name: array}, ...}, one level deep, as PyTorch's zip archive."""
  program, storages = b'(d', {}
  for outer, state in trees.items():
    program += b'S"%s"\n(d' % outer.encode()
    for name, array in state.items():
      key = str(len(storages))
      storages[key] = np.ascontiguousarray(array, np.float32).tobytes()
      strides = [int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim)]
      program += b'S"%s"\nctorch._utils\n_rebuild_tensor_v2\n(' % name.encode()
      program += b'(S"storage"\nctorch\nFloatStorage\nS"%s"\nS"cpu"\n' % key.encode()
      program += b'I%d\ntQI0\n' % array.size + numbers(array.shape) + numbers(strides) + b'tRs'
    program += b's'
  path.write_bytes(as_torch_file(program + b'.', True, storages))


def damaged(content, cuts, flips, seed=0):
  """The content cut short at random places, then with random bits turned."""
  rng = np.random.default_rng(seed)
  for cut in rng.integers(0, len(content), cuts):
    yield content[:cut]
  for place in rng.integers(0, len(content), flips):
    turned = bytearray(content)
    turned[place] ^= 1 << rng.integers(8)
    yield bytes(turned)
