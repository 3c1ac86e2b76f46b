"""CRC-32C (Castagnoli), the checksum of TensorFlow's files, in NumPy.

A checksum is linear over bits: that of a long text is put together from those of its pieces, which
are run over side by side.
"""

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78
_PIECES = 4096


@functools.cache
def _table() -> np.ndarray:
  """What one byte does to the register: uint32 [256]."""
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
  return table


def checksum(content: bytes | memoryview | np.ndarray) -> int:
  """The CRC-32C of bytes."""
  data = np.frombuffer(content, np.uint8)
  length = len(data) // _PIECES
  register = np.uint32(0xFFFFFFFF)
  if length:
    pieces = data[: length * _PIECES].reshape(_PIECES, length).T.copy()
    after = np.zeros(_PIECES, np.uint32)
    table = _table()
    for column in pieces:
      after = table[(after ^ column) & 0xFF] ^ (after >> 8)
    pass_over = _zeros(length)
    for piece in after.tolist():
      # Register after a piece = register after as many zeros, plus (xor) the piece's own.
      register = np.uint32(_apply(pass_over, int(register)) ^ piece)
  value, steps = int(register), _table().tolist()
  for byte in data[length * _PIECES :].tolist():
    value = steps[(value ^ byte) & 0xFF] ^ (value >> 8)
  return value ^ 0xFFFFFFFF


def masked(value: int) -> int:
  """A checksum as TensorFlow stores it beside the bytes: masked, so that it can be summed."""
  return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _apply(matrix: tuple[tuple[int, ...], ...], register: int) -> int:
  """The product over GF(2); `matrix` holds its value for each of the four bytes."""
  return (
    matrix[0][register & 0xFF]
    ^ matrix[1][register >> 8 & 0xFF]
    ^ matrix[2][register >> 16 & 0xFF]
    ^ matrix[3][register >> 24]
  )


@functools.lru_cache(64)
def _zeros(count: int) -> tuple[tuple[int, ...], ...]:
  """What `count` bytes of zeros do to the register: for each byte of it, its 256 values."""
  if count == 1:
    table = _table()
    registers = [np.arange(256, dtype=np.uint32) << shift for shift in (0, 8, 16, 24)]
    return tuple(tuple((table[x & 0xFF] ^ (x >> 8)).tolist()) for x in registers)
  half = _zeros(count // 2)
  both = tuple(tuple(_apply(half, value) for value in row) for row in half)
  if count % 2 == 0:
    return both
  return tuple(tuple(_apply(_zeros(1), value) for value in row) for row in both)
