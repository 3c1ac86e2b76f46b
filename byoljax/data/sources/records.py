"""Random access to record files as TFDS writes them: TFRecord and ArrayRecord.

A TFRecord is a chain: length (8 bytes, little endian), its checksum (4), the data, their checksum
(4). It has no index, so one is made by walking the lengths, 16 bytes per record, and kept in the
user's cache directory under the file's path, size and time: the data directory may be read-only.
NumPy only; ArrayRecord needs the package `array_record`.
"""

from collections.abc import Callable, Sequence
import contextlib
import functools
import importlib
import mmap
import os
import struct
from typing import Any

import numpy as np

from byoljax.data.sources import built_in, source
from byoljax.workdir.files import replacing

_HEADER = 12
_FOOTER = 4
# Open files kept per process: ImageNet's 1,024 shards would use up a usual limit of 1,024.
_OPEN_FILES = 128


def cache_path(kind: str, *key: object) -> str:
  """Where something derived from data files is kept: a `.npy` path in the user's cache."""
  name = f'{kind}-{source.fingerprint(*key)}.npy'
  return os.path.join(built_in.default_data_dir(), 'index', name)


def load_cached(path: str) -> np.ndarray | None:
  """A cached array, or None where there is none that can be read."""
  try:
    return np.load(path, allow_pickle=False)
  except (OSError, ValueError, EOFError):
    return None


def save_cached(path: str, array: np.ndarray) -> None:
  """Keeps an array under `path`, atomically; a cache that cannot be written is skipped."""
  with contextlib.suppress(OSError):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with replacing(path) as file:
      np.save(file, array, allow_pickle=False)


def file_key(path: str) -> tuple[str, int, int]:
  """What a cached index of a file depends on: its real path, size and time of change."""
  status = os.stat(path)
  return os.path.realpath(path), status.st_size, status.st_mtime_ns


def tfrecord_offsets(path: str) -> np.ndarray:
  """Where each record of a TFRecord file lies.

  Args:
    path: an uncompressed TFRecord file.

  Returns:
    int64 [n, 2]: offset of the data and their length, in bytes, in the order of the file.

  Raises:
    ValueError: the file is damaged, truncated or compressed.
  """
  cache = cache_path('tfrecord', *file_key(path))
  table = load_cached(cache)
  if table is not None and table.ndim == 2 and table.shape[1] == 2 and table.dtype == np.int64:
    return table
  table = _walk_lengths(path)
  save_cached(cache, table)
  return table


def _walk_lengths(path: str) -> np.ndarray:
  rows: list[tuple[int, int]] = []
  size = os.path.getsize(path)
  if not size:
    return np.zeros((0, 2), np.int64)
  with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
    position = 0
    while position + _HEADER <= size:
      (length,) = struct.unpack_from('<Q', view, position)
      start = position + _HEADER
      position = start + length + _FOOTER
      rows.append((start, length))
  if position != size:
    raise ValueError(
      f'{path} is not a whole TFRecord file: record {len(rows) - 1} would end at byte {position} '
      f'of {size}; prepare the data set again.'
    )
  return np.array(rows, np.int64)


class _File:
  """An open file that closes itself when the last thread that reads from it is done."""

  def __init__(self, path: str):
    self.number = os.open(path, os.O_RDONLY)

  def __del__(self) -> None:
    with contextlib.suppress(AttributeError, OSError):
      os.close(self.number)


@functools.lru_cache(_OPEN_FILES)
def _open_file(path: str, process: int) -> _File:
  del process  # A forked child must not share the parent's cache entries.
  return _File(path)


def tfrecord_reader(paths: Sequence[str]) -> tuple[list[int], Callable[[int, int], bytes]]:
  """Opens TFRecord files for random access.

  Args:
    paths: the shards.

  Returns:
    The number of records in each shard, and a thread-safe function (shard, row) -> bytes.

  Raises:
    ValueError: a shard is missing or damaged.
  """
  for path in paths:
    if not os.path.isfile(path):
      raise ValueError(f'the record file {path} is missing: prepare the data set again.')
  tables = [tfrecord_offsets(path) for path in paths]

  def read(shard: int, row: int) -> bytes:
    offset, length = tables[shard][row]
    # Held while it is read: it may leave the cache, or never have entered it, in the meantime.
    file = _open_file(paths[shard], os.getpid())
    data = os.pread(file.number, int(length), int(offset))
    if len(data) != length:
      raise OSError(f'{paths[shard]} ends inside record {row}')
    return data

  return [len(table) for table in tables], read


def array_record_reader(paths: Sequence[str]) -> tuple[list[int], Callable[[int, int], bytes]]:
  """Opens ArrayRecord files for random access; see `tfrecord_reader`.

  Raises:
    ValueError: `array_record` is not installed, or a shard is missing or damaged.
  """
  try:
    module: Any = importlib.import_module('array_record.python.array_record_module')
  except ImportError as error:
    raise ValueError(
      "the data set is prepared as ArrayRecord, which needs 'pip install array-record' "
      "(or prepare it as TFRecord: file_format='tfrecord')."
    ) from error

  @functools.lru_cache(_OPEN_FILES)
  def shard_reader(path: str, process: int) -> Any:
    del process
    # Random access: read-ahead would fetch the neighbors that nobody asked for.
    options = 'readahead_buffer_size:0,max_parallelism:0'
    return module.ArrayRecordReader(path, options=options)

  counts = []
  for path in paths:
    try:
      counts.append(shard_reader(path, os.getpid()).num_records())
    except (OSError, RuntimeError, ValueError) as error:
      raise ValueError(f'{path} cannot be read as ArrayRecord: {error}.') from error

  def read(shard: int, row: int) -> bytes:
    return shard_reader(paths[shard], os.getpid()).read([row])[0]

  return counts, read
