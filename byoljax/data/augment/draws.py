"""Random numbers that are a pure function of (seed, epoch, example index, view).

The generator is Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and Shaw, "Parallel Random
Numbers: As Easy as 1, 2, 3", SC 2011). It keeps no state: key and counter go in, two uniform
32-bit words come out. The key holds (seed, epoch), the counter (example index, view and block), so
two different inputs never share a counter, and an example's numbers do not depend on the batch, the
host or the step it is drawn in.

Written once over an array namespace `xp`: numpy, jax.numpy, or tf.experimental.numpy inside a
tf.data graph. All three give the same bits. `jax.random` is not used because the host has to draw
the same numbers without JAX, and its key derivation is not part of its contract. Shifts are written
as products and quotients by powers of two: the TensorFlow namespace has no shifts, and XLA turns
them back into shifts.
"""

from typing import Any

import numpy as np

_PARITY = 0x1BD11BDA
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_MAX_VIEWS = 1 << 16


def _rotate_left(x, bits: int):
  return x * np.uint32(1 << bits) | x // np.uint32(1 << (32 - bits))


def threefry2x32(key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Any, Any]:
  """Threefry-2x32 with 20 rounds: encrypts a counter under a key (Salmon et al. 2011, section 4.2).

  Args:
    key: two uint32 arrays of one or more dimensions; numpy scalars would warn where arrays wrap.
    counter: two uint32 arrays that broadcast against the key.

  Returns:
    Two uint32 arrays of the broadcast shape, uniform over all 32-bit words.
  """
  schedule = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(_PARITY))
  x, y = counter[0] + schedule[0], counter[1] + schedule[1]
  for group in range(5):
    for bits in _ROTATIONS[group % 2]:
      x = x + y
      y = _rotate_left(y, bits) ^ x
    x = x + schedule[(group + 1) % 3]
    y = y + schedule[(group + 2) % 3] + np.uint32(group + 1)
  return x, y


def uniforms(xp: Any, seed: int, epoch: Any, index: Any, view: int, count: int) -> Any:
  """Uniform numbers for one view of each example: u = floor(word / 2^8) / 2^24.

  Column j of the result depends on (seed, epoch, index, view, j) alone, so a larger `count` only
  adds columns.

  Args:
    xp: array namespace: numpy, jax.numpy or tf.experimental.numpy.
    seed: run seed, 0 <= seed < 2^32; a Python int.
    epoch: integer >= 0, or an integer array, scalar or [b]; may be traced.
    index: position of each example in its data set, integer [b].
    view: which view of the example, 0 <= view < 65536; a Python int.
    count: how many numbers each example needs; a Python int.

  Returns:
    float32 [b, count] in [0, 1): multiples of 2^-24, the same bits in every namespace.

  Raises:
    ValueError: seed, view or count is out of range.
  """
  if not 0 <= seed < 1 << 32:
    raise ValueError(f'seed is {seed}, but it must lie in [0, 2**32): it keys a 32-bit generator.')
  if not 0 <= view < _MAX_VIEWS:
    raise ValueError(f'view is {view}, but it must lie in [0, {_MAX_VIEWS}).')
  if not 0 < count <= 2 * _MAX_VIEWS:
    raise ValueError(f'count is {count}, but it must lie in [1, {2 * _MAX_VIEWS}].')
  blocks = (count + 1) // 2
  key = (
    np.full((1, 1), seed, np.uint32),
    xp.reshape(xp.asarray(epoch, dtype=np.uint32), (-1, 1)),
  )
  counter = (
    xp.reshape(xp.asarray(index, dtype=np.uint32), (-1, 1)),
    (np.arange(blocks, dtype=np.uint32) + np.uint32(view * _MAX_VIEWS))[None],
  )
  words = xp.stack(threefry2x32(key, counter), axis=-1)
  bits = xp.reshape(words, (-1, 2 * blocks))[:, :count] // np.uint32(1 << 8)
  return xp.asarray(bits, dtype=np.float32) * np.float32(2.0**-24)
