"""The 72 geometric transforms of GEOM: mirrored or not, moved by a quarter or not, turned.

Golan and El-Yaniv 2018 (arXiv 1805.10917), section 4.1 and their code: the order of the three
steps, the shift of 8 of 32 pixels, and the fill by reflection with the border pixel repeated are
theirs. So is the order of the transforms, but that here up comes before down and left before right.
Each transform moves pixels and computes none, so a transform is a table of where its pixels come
from.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

FLIPS, SHIFTS, QUARTERS = (False, True), (0, -1, 1), (0, 1, 2, 3)
COUNT = len(FLIPS) * len(SHIFTS) ** 2 * len(QUARTERS)


def names() -> tuple[str, ...]:
  """What each transform does, by its number: 'mirrored, down, left, 90'; the first does nothing."""
  made = []
  for flip, down, right, quarter in itertools.product(FLIPS, SHIFTS, SHIFTS, QUARTERS):
    steps = ['mirrored'] * flip + [('', 'down', 'up')[down], ('', 'right', 'left')[right]]
    made.append(', '.join([*filter(None, steps), f'{90 * quarter}']))
  return tuple(made)


def index_maps(size: int, shift: int) -> np.ndarray:
  """Where each pixel of a transformed image comes from: int32 [72, size * size].

  Args:
    size: S, the side of the images.
    shift: pixels, in (0, S).

  Raises:
    ValueError: a shift out of range.
  """
  if not 0 < shift < size:
    raise ValueError(f'a shift of {shift} pixels does not fit images of {size} pixels.')
  whole = np.arange(size * size, dtype=np.int32).reshape(size, size)
  made = []
  for flip, down, right, quarter in itertools.product(FLIPS, SHIFTS, SHIFTS, QUARTERS):
    image = whole[:, ::-1] if flip else whole
    padded = np.pad(image, shift, mode='symmetric')
    top, left = shift - down * shift, shift - right * shift
    moved = padded[top : top + size, left : left + size]
    made.append(np.rot90(moved, quarter).reshape(-1))
  return np.stack(made)


def apply(images: jax.Array, maps: np.ndarray, which: jax.Array) -> jax.Array:
  """Transforms each image by one of the maps.

  Args:
    images: [b, S, S, C], any type.
    maps: int32 [K, S * S], see `index_maps`.
    which: int32 [b] in [0, K), or a scalar for all.

  Returns:
    [b, S, S, C], pixels of the images.
  """
  pixels = images.reshape(len(images), -1, images.shape[-1])
  sources = jnp.asarray(maps)[jnp.broadcast_to(which, (len(images),))]
  return jnp.take_along_axis(pixels, sources[..., None], axis=1).reshape(images.shape)
