"""Ten crops of a larger image, for evaluation: the corners and the center, each mirrored, too.

Krizhevsky et al. 2012, section 4.1; a classifier's scores are averaged over them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

COUNT = 10


def larger(size: int) -> int:
  """The side of the images that crops of this size are cut from: 256 for 224."""
  return round(size * 256 / 224)


def ten_crops(images: jax.Array, size: int) -> jax.Array:
  """[10, b, size, size, C] of [b, S, S, C], S >= size: the corners, the center, and their mirrors.

  Raises:
    ValueError: when traced: the images are smaller.
  """
  side = images.shape[1]
  if side < size:
    raise ValueError(f'images of {side} pixels have no crops of {size}.')
  last, middle = side - size, (side - size) // 2
  corners = [(0, 0), (0, last), (last, 0), (last, last), (middle, middle)]
  plain = jnp.stack([images[:, y : y + size, x : x + size] for y, x in corners])
  return jnp.concatenate([plain, plain[:, :, :, ::-1]])


def averaged(read: Callable[[jax.Array], jax.Array], images: jax.Array, size: int) -> jax.Array:
  """The mean of `read` over the ten crops of each image; one crop after the other."""
  return jax.lax.map(read, ten_crops(images, size)).mean(0)
