"""Reads PyTorch's checkpoint files without PyTorch and without running what is in them.

Such a file is a pickle, see `pickles`. Here it can call five functions, all of this module, that
take note of a tensor; every other class that it names becomes an inert stand-in. Both forms are
read: the zip archive (PyTorch 1.6 and later) and the older sequence of pickles. Tensors
are materialised after the pickle has ended, within the bounds of the bytes that are really there.

Not read: sparse and quantized tensors, tensor subclasses, and files in which a tensor is more than
a view of a storage; these are left out, and names that a network then lacks are said where it is
put together. A file that holds programs or whole modules, which only PyTorch can make something of,
is refused with the line of Python that saves the weights.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
import functools
import io
import math
import os
import pickle
from typing import Any, BinaryIO, NamedTuple
import zipfile

import ml_dtypes
import numpy as np

from byoljax.weights import pickles

# What the older form begins with.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

_DTYPES: Mapping[str, Any] = {
  'DoubleStorage': np.float64,
  'FloatStorage': np.float32,
  'HalfStorage': np.float16,
  'BFloat16Storage': ml_dtypes.bfloat16,
  'LongStorage': np.int64,
  'IntStorage': np.int32,
  'ShortStorage': np.int16,
  'CharStorage': np.int8,
  'ByteStorage': np.uint8,
  'BoolStorage': np.bool_,
}


class _Storage(NamedTuple):
  """A run of numbers in the file, by name."""

  key: str
  dtype: np.dtype
  count: int


class _Tensor(NamedTuple):
  """A view of a storage, in elements."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _RebuildTensor:
  """A function without attributes that a pickle could set."""

  __slots__ = ()

  def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *unused: Any) -> Any:
    del unused
    if not isinstance(storage, _Storage):
      return pickles.Inert()
    return _Tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


class _RebuildParameter:
  """The same."""

  __slots__ = ()

  def __call__(self, tensor: Any, *unused: Any) -> Any:
    del unused
    return tensor


_FUNCTIONS: Mapping[tuple[str, str], Callable[..., Any]] = {
  ('collections', 'OrderedDict'): OrderedDict,
  ('torch._utils', '_rebuild_tensor_v2'): _RebuildTensor(),
  ('torch._utils', '_rebuild_tensor'): _RebuildTensor(),
  ('torch._utils', '_rebuild_parameter'): _RebuildParameter(),
  ('torch._utils', '_rebuild_parameter_with_state'): _RebuildParameter(),
}


class _Unpickler(pickles.Unpickler):
  """Finds nothing but what is listed above; `item_sizes` are bytes by storage, of all it met."""

  def __init__(self, file: BinaryIO):
    super().__init__(file, _FUNCTIONS)
    self.item_sizes: dict[str, int] = {}

  def find_class(self, module: str, name: str) -> Any:
    """Also the name of a storage's type."""
    if module in ('torch', 'torch.storage') and name in _DTYPES:
      return name
    return super().find_class(module, name)

  def persistent_load(self, pid: Any) -> Any:
    """A storage: ('storage', type, key, location, count, ...), or a class with its source."""
    if isinstance(pid, tuple) and pid[:1] == ('module',):  # Of whole modules in the older form.
      return pickles.Inert
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != 'storage':
      raise pickle.UnpicklingError('it refers to something other than a storage')
    _, kind, key, _, count = pid[:5]
    if not isinstance(kind, str) or kind not in _DTYPES:
      return pickles.Inert()
    storage = _Storage(str(key), np.dtype(_DTYPES[kind]), int(count))
    self.item_sizes[storage.key] = storage.dtype.itemsize
    return storage


def is_torch_file(path: str | os.PathLike[str]) -> bool:
  """Whether a file begins like PyTorch's, whatever it is called."""
  with open(path, 'rb') as file:
    if zipfile.is_zipfile(file):
      return True
    file.seek(0)
    try:
      return _Unpickler(file).load() == _MAGIC
    except pickles.WHAT_DAMAGE_RAISES:
      return False


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """All tensors of a file by dotted name, such as 'state_dict.module.encoder_q.conv1.weight'.

  Args:
    path: a `.pth`, `.pt`, `.pth.tar` or `.bin` file.

  Returns:
    Arrays of their own, in the file's dtypes.

  Raises:
    ValueError: not such a file, damaged, made to mislead, or without tensors that have names.
  """
  path = os.fspath(path)
  try:
    with open(path, 'rb') as file:
      found, unknown, bytes_of = _zipped(file) if zipfile.is_zipfile(file) else _sequence(file)
      tensors = pickles.flat(found, _Tensor)
      if not tensors:
        raise pickle.UnpicklingError(_without_names(unknown))
      # One storage after another: each is read once, and no two of them are in memory.
      read_once = functools.lru_cache(maxsize=1)(bytes_of)
      in_order = sorted(tensors, key=lambda name: tensors[name].storage.key)
      arrays = {name: _array(tensors[name], read_once) for name in in_order}
      return {name: arrays[name] for name in tensors}
  except OSError as error:
    raise ValueError(f"'{path}' cannot be read: {error.strerror or error}.") from error
  except pickles.WHAT_DAMAGE_RAISES as error:
    why = pickles.why(error)
    raise ValueError(f"'{path}' is no PyTorch checkpoint that can be read: {why}.") from error


# What names nothing of a program's own.
_PLAIN = ('collections.', 'torch._', 'builtins.', '__builtin__.')
_SAVE = "torch.save({}, 'weights.pth')"


def _without_names(unknown: Mapping[str, None]) -> str:
  """Why there is nothing to read in a pickle that names these classes."""
  others = [name for name in unknown if not name.startswith(_PLAIN)]
  save = _SAVE.format('model.state_dict()')
  if not others:
    return f'it has no tensors by name; {save} writes them'
  few = ', '.join(others[:3]) + (', ...' if len(others) > 3 else '')
  return (
    f'it holds whole objects ({few}), of which only the library that made them can tell the '
    f'weights: load it there, and {save}'
  )


def _zipped(file: BinaryIO) -> tuple[Any, Mapping[str, None], Callable[[_Storage], bytes]]:
  archive = zipfile.ZipFile(file)
  infos = {info.filename: info for info in archive.infolist()}
  if any(name.endswith('/constants.pkl') for name in infos):
    save = _SAVE.format('torch.jit.load(FILE).state_dict()')
    raise pickle.UnpicklingError(f'it is a program, TorchScript; {save} writes its weights')
  if any(name.endswith('/archive_format') for name in infos):
    save = _SAVE.format('torch.export.load(FILE).state_dict')
    raise pickle.UnpicklingError(f'it is an exported program; {save} writes its weights')
  main = [name for name in infos if name.endswith('/data.pkl') and name.count('/') == 1]
  if len(main) != 1:
    raise pickle.UnpicklingError(f'the archive has {len(main)} files data.pkl, not 1')
  root = main[0].removesuffix('data.pkl')
  order = f'{root}byteorder'
  if order in infos and archive.read(order) != b'little':
    raise pickle.UnpicklingError('its numbers are big-endian')

  def bytes_of(storage: _Storage) -> bytes:
    info = infos.get(f'{root}data/{storage.key}')
    # PyTorch stores them as they are: a small file cannot unpack to a large one.
    if info is None or info.compress_type != zipfile.ZIP_STORED:
      raise pickle.UnpicklingError(f'the numbers of storage {storage.key!r} are missing')
    return archive.read(info)

  if infos[main[0]].compress_type != zipfile.ZIP_STORED:
    raise pickle.UnpicklingError('its data.pkl is compressed')
  unpickler = _Unpickler(io.BytesIO(archive.read(main[0])))
  return unpickler.load(), unpickler.unknown, bytes_of


def _sequence(file: BinaryIO) -> tuple[Any, Mapping[str, None], Callable[[_Storage], bytes]]:
  file.seek(0)
  if _Unpickler(file).load() != _MAGIC:
    raise pickle.UnpicklingError('it begins with something else')
  if _Unpickler(file).load() != _PROTOCOL:
    raise pickle.UnpicklingError('it has an unknown version')
  about = _Unpickler(file).load()
  if not isinstance(about, dict) or not about.get('little_endian', True):
    raise pickle.UnpicklingError('its numbers are big-endian')
  main = _Unpickler(file)
  found = main.load()
  keys = _Unpickler(file).load()
  # Storages follow one another, each behind its number of elements. What follows one of an
  # unknown type cannot be found.
  end = os.fstat(file.fileno()).st_size
  contents: dict[str, bytes] = {}
  for key in map(str, keys):
    length = int.from_bytes(file.read(8), 'little', signed=True) * main.item_sizes.get(key, -1)
    if not 0 <= length <= end - file.tell():
      break
    contents[key] = file.read(length)

  def bytes_of(storage: _Storage) -> bytes:
    if storage.key not in contents:
      raise pickle.UnpicklingError(f'the numbers of storage {storage.key!r} are missing')
    return contents[storage.key]

  return found, main.unknown, bytes_of


def _array(tensor: _Tensor, bytes_of: Callable[[_Storage], bytes]) -> np.ndarray:
  """The numbers that a tensor shows, contiguous.

  Raises:
    pickle.UnpicklingError: it reaches beyond its storage.
  """
  storage, offset, shape, strides = tensor
  if len(shape) != len(strides) or min((*shape, *strides, offset), default=0) < 0:
    raise pickle.UnpicklingError(f'a tensor of shape {shape} with strides {strides} at {offset}')
  content = bytes_of(storage)
  count = len(content) // storage.dtype.itemsize
  size = math.prod(shape)
  last = offset + sum((length - 1) * step for length, step in zip(shape, strides, strict=True))
  # More elements than the storage has: strides of 0 would make terabytes of a byte.
  if size and (last >= count or size > count):
    raise pickle.UnpicklingError(f'a tensor of shape {shape} reaches beyond its {count} numbers')
  flat = np.frombuffer(content, storage.dtype, count)
  steps = [step * storage.dtype.itemsize for step in strides]
  start = flat[offset:] if size else flat
  return np.lib.stride_tricks.as_strided(start, shape, steps, writeable=False).copy()
