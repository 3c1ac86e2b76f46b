"""Reads TensorFlow's checkpoints without TensorFlow: TF1's, TF2's, and SavedModels' variables.

A checkpoint is an index, `model.ckpt-1000.index`, and one or more files of numbers beside it,
`model.ckpt-1000.data-00000-of-00001`. The index is a sorted table of LevelDB's kind: blocks of
(name, entry), where an entry says type, shape and place of a variable; the last bytes say where the
list of blocks is. All of it carries checksums (CRC-32C), which are checked.

TF2 stores variables by the path of Python attributes that leads to them, and tells their own names
in a variable of its own, the object graph: what comes out here goes by the variables' own names,
which are alike in TF1 and TF2.

Not read: checkpoints of the form before TensorFlow 0.12, partitioned variables, strings,
and compressed indices (TensorFlow writes none).
"""

from collections.abc import Iterator
import itertools
import math
import os
import pathlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from byoljax.weights.crc32c import checksum, masked

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
# types.proto
_STRING = 7
_DTYPES: dict[int, Any] = {
  1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 5: np.int16, 6: np.int8, 9: np.int64,
  10: np.bool_, 14: ml_dtypes.bfloat16, 17: np.uint16, 19: np.float16, 22: np.uint32, 23: np.uint64,
}  # fmt: skip
_GRAPH = '_CHECKPOINTABLE_OBJECT_GRAPH'
_SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'


class _Damaged(Exception):
  """What is wrong with the file."""


class _Entry(NamedTuple):
  """Where a variable is stored."""

  dtype: int
  shape: tuple[int, ...]
  shard: int
  offset: int
  size: int
  crc: int
  sliced: bool


def index_of(path: pathlib.Path) -> pathlib.Path | None:
  """The index that a path stands for; None if it stands for no TensorFlow checkpoint.

  Args:
    path: 'model.ckpt-1000', any of its files, or a folder: of a SavedModel, or with one checkpoint.

  Raises:
    ValueError: the folder holds several checkpoints.
  """
  if path.is_dir():
    if (path / 'variables' / 'variables.index').is_file():
      return path / 'variables' / 'variables.index'
    found = sorted(path.glob('*.index'))
    if len(found) > 1:
      names = ', '.join(file.stem for file in found[:8])
      raise ValueError(f"'{path}' holds {len(found)} checkpoints: name one of {names}.")
    return found[0] if found else None
  if path.suffix == '.index':
    return path
  stem, mark, _ = path.name.rpartition('.data-')
  whole = path.with_name((stem if mark else path.name) + '.index')
  return whole if whole.is_file() and (mark or not path.is_file()) else None


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """All numbers of a checkpoint by the variables' names, such as 'base_model/conv2d/kernel'.

  Args:
    path: the index.

  Raises:
    ValueError: damaged, incomplete, or none.
  """
  path = pathlib.Path(path)
  try:
    records = dict(_table(path.read_bytes()))
    shards = _shards(records.pop(b'', b''))
    # The names of slices begin with a zero.
    whole = {key.decode(): value for key, value in records.items() if not key.startswith(b'\0')}
    entries = {key: _entry(value) for key, value in whole.items()}
    stem = path.name.removesuffix('.index')
    files = [path.with_name(f'{stem}.data-{i:05}-of-{shards:05}') for i in range(shards)]
    contents = [np.memmap(file, np.uint8, 'r') if file.stat().st_size else b'' for file in files]
    names = _own_names(entries, contents)
    return {
      names.get(key, key): _array(key, entry, contents)
      for key, entry in entries.items()
      if entry.dtype in _DTYPES and not entry.sliced
    }
  except OSError as error:
    raise ValueError(f"'{error.filename}' cannot be read: {error.strerror or error}.") from error
  except _Damaged as error:
    raise ValueError(f"'{path}' is no TensorFlow checkpoint that can be read: {error}.") from error
  except (ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError) as error:
    raise ValueError(f"'{path}' is a damaged TensorFlow checkpoint.") from error


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
  """(key, value) of everything in a sorted table."""
  if len(content) < _FOOTER or int.from_bytes(content[-8:], 'little') != _MAGIC:
    raise _Damaged('its end is missing, or it is something else')
  footer = len(content) - _FOOTER
  _, at = _number(content, footer)
  _, at = _number(content, at)
  for _, handle in _block(content, at):
    yield from _block(handle, 0, content)


def _block(handle: bytes, at: int, content: bytes = b'') -> Iterator[tuple[bytes, bytes]]:
  """(key, value) of one block, which two numbers in `handle` locate in `content`, or in itself."""
  content = content or handle
  offset, at = _number(handle, at)
  size, _ = _number(handle, at)
  whole = content[offset : offset + size + 5]
  if len(whole) < size + 5:
    raise _Damaged('its index reaches beyond its end')
  if masked(checksum(whole[:-4])) != int.from_bytes(whole[-4:], 'little'):
    raise _Damaged('the checksum of its index does not fit')
  if whole[size]:
    raise _Damaged('its index is compressed')
  block = whole[:size]
  # Behind the entries stand places where keys are written out, and their number.
  end = size - 4 - 4 * int.from_bytes(block[-4:], 'little')
  key, at = b'', 0
  while at < end:
    shared, at = _number(block, at)
    new, at = _number(block, at)
    length, at = _number(block, at)
    if shared > len(key) or at + new + length > end:
      raise _Damaged('its index is damaged')
    key = key[:shared] + block[at : at + new]
    yield key, block[at + new : at + new + length]
    at += new + length


def _number(content: bytes, at: int) -> tuple[int, int]:
  """A number of seven bits a byte, and the place behind it."""
  value = 0
  for shift in range(0, 70, 7):
    byte = content[at]
    at += 1
    value |= (byte & 0x7F) << shift
    if byte < 0x80:
      return value, at
  raise _Damaged('a number in its index does not end')


def _message(content: bytes) -> Iterator[tuple[int, Any]]:
  """(field, value) of a protocol buffer: whole numbers and bytes."""
  at = 0
  while at < len(content):
    tag, at = _number(content, at)
    kind = tag & 7
    if kind == 0:
      value, at = _number(content, at)
    else:
      if kind == 2:
        length, at = _number(content, at)
      elif kind in (1, 5):
        length = 8 if kind == 1 else 4
      else:
        raise _Damaged('an entry of its index is of an unknown kind')
      value, at = content[at : at + length], at + length
      if at > len(content):
        raise _Damaged('an entry of its index is cut short')
    yield tag >> 3, value


def _shards(header: bytes) -> int:
  """How many files of numbers there are."""
  fields = dict(_message(header))
  if fields.get(2, 0):
    raise _Damaged('its numbers are big-endian')
  if not 1 <= fields.get(1, 0) < 100_000:
    raise _Damaged('it does not say how many files it has')
  return fields[1]


def _entry(content: bytes) -> _Entry:
  found: dict[int, Any] = {1: 0, 2: b'', 3: 0, 4: 0, 5: 0, 6: bytes(4)}
  found |= dict(_message(content))
  sizes = [dict(_message(dim)).get(1, 0) for field, dim in _message(found[2]) if field == 2]
  crc = int.from_bytes(found[6], 'little')
  return _Entry(found[1], tuple(sizes), found[3], found[4], found[5], crc, 7 in found)


def _bytes(key: str, entry: _Entry, contents: list[Any]) -> Any:
  """A variable's bytes, as stored in its file."""
  if entry.shard >= len(contents):
    raise _Damaged(f"'{key}' is in a file that does not exist")
  part = contents[entry.shard][entry.offset : entry.offset + entry.size]
  if len(part) < entry.size:
    raise _Damaged(f"the numbers of '{key}' are truncated")
  return part


def _array(key: str, entry: _Entry, contents: list[Any]) -> np.ndarray:
  dtype = np.dtype(_DTYPES[entry.dtype])
  if math.prod(entry.shape) * dtype.itemsize != entry.size:
    raise _Damaged(f"'{key}' of shape {entry.shape} has {entry.size} bytes")
  part = _bytes(key, entry, contents)
  if masked(checksum(part)) != entry.crc:
    raise _Damaged(f"the checksum of '{key}' does not fit")
  return np.frombuffer(part, dtype).reshape(entry.shape).copy()


def _own_names(entries: dict[str, _Entry], contents: list[Any]) -> dict[str, str]:
  """The variables' own names by the names that TF2 stores them under; empty for TF1."""
  names = {key: key.removesuffix(_SUFFIX) for key in entries if key.endswith(_SUFFIX)}
  if _GRAPH not in entries or entries[_GRAPH].dtype != _STRING:
    return names
  whole = bytes(_bytes(_GRAPH, entries[_GRAPH], contents))
  # One string: its length, the length's checksum, the string.
  length, at = _number(whole, 0)
  summed = length.to_bytes(4, 'little') + whole[at:]
  if masked(checksum(summed)) != entries[_GRAPH].crc:
    raise _Damaged('the checksum of its object graph does not fit')
  told: dict[str, str] = {}
  for node in _fields(whole[at + 4 : at + 4 + length], 1):
    for attribute in _fields(node, 2):
      about = {field: value for field, value in _message(attribute) if isinstance(value, bytes)}
      name, key = about.get(2, b'').decode(), about.get(3, b'').decode()
      if name and key in names:
        told[key] = name
  # Where two are called alike, paths have to do.
  often = {name for name, same in itertools.groupby(sorted(told.values())) if len(list(same)) > 1}
  return names | {key: name for key, name in told.items() if name not in often}


def _fields(content: bytes, wanted: int) -> Iterator[bytes]:
  found = (value for field, value in _message(content) if field == wanted)
  return (value for value in found if isinstance(value, bytes))
