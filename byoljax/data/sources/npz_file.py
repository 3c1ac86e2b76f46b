"""The members of an `.npz` file: mapped where they are stored as they are, else loaded."""

from collections.abc import Collection
import os
import tokenize
import zipfile
import zlib

import numpy as np

# What zipfile and NumPy raise about a damaged file. RuntimeError: encrypted, or compressed in a way
# that is not known.
_DAMAGED = (
  *(OSError, ValueError, EOFError, SyntaxError, RuntimeError),
  *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


def read(file: str, wanted: Collection[str]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
  """Those members of an `.npz` file that are wanted and there, and their checksums.

  Raises:
    ValueError: there is no such file, or it cannot be read.
  """
  if not os.path.exists(file):
    raise ValueError(f'there is no file {file}: set config.data.dir to the .npz file.')
  try:
    members, checksums = {}, {}
    with zipfile.ZipFile(file) as archive:
      for info in archive.infolist():
        key = info.filename.removesuffix('.npy')
        if key in wanted:
          members[key] = _map(file, info) if _is_stored(info) else _load(file, key)
          checksums[key] = info.CRC
  except _DAMAGED as error:
    what = str(error) or 'it ends too early'  # An EOFError may say nothing.
    raise ValueError(f'{file} cannot be read as an .npz of plain arrays: {what}.') from error
  return members, checksums


def listed(file: str) -> str:
  """The names of the members of a file that `read` has read, for a message."""
  with zipfile.ZipFile(file) as archive:
    names = sorted(name.removesuffix('.npy') for name in archive.namelist())
  return f'{", ".join(names[:10])}{" ..." if len(names) > 10 else ""}' or 'nothing'


def _is_stored(info: zipfile.ZipInfo) -> bool:
  return info.compress_type == zipfile.ZIP_STORED and info.file_size > 1 << 20


def _load(file: str, key: str) -> np.ndarray:
  with np.load(file, allow_pickle=False) as archive:
    return archive[key]


def _map(file: str, info: zipfile.ZipInfo) -> np.ndarray:
  """Maps a stored member: `np.load` ignores mmap_mode for archives."""
  with open(file, 'rb') as raw:
    raw.seek(info.header_offset)
    header = raw.read(30)
    if header[:4] != b'PK\x03\x04':
      raise ValueError('a member has no local header')
    # The local header's own name and extra lengths: the central ones may differ.
    raw.seek(int.from_bytes(header[26:28], 'little') + int.from_bytes(header[28:30], 'little'), 1)
    version = np.lib.format.read_magic(raw)
    read = {
      (1, 0): np.lib.format.read_array_header_1_0,
      (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
      raise ValueError(f'array format {version} is unknown')
    shape, fortran, dtype = read[version](raw)
    if dtype.hasobject:
      raise ValueError('a member holds Python objects')
    offset = raw.tell()
  order = 'F' if fortran else 'C'
  return np.memmap(file, dtype, 'r', offset, shape, order)
