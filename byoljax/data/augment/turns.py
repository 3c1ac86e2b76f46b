"""Turns of square images about their center, by multiples of 45 degrees.

Quarter turns move pixels and nothing else. Half of one needs interpolation, which blurs a little,
and corners that the image does not have: it is bilinear, and whoever compares such turns hides the
corners of all of them (`inscribed_disc`).
"""

import jax
import jax.numpy as jnp
import numpy as np


def turn(images: jax.Array, degrees: int) -> jax.Array:
  """Images turned counterclockwise; multiples of 90 degrees are exact.

  Args:
    images: [b, S, S, C], any type; float where interpolation is needed.
    degrees: a multiple of 45. For odd multiples, pixels outside of the inscribed disc are taken
      from the border.

  Returns:
    [b, S, S, C], the images' type.

  Raises:
    ValueError: another angle, or images that are not square.
  """
  if images.ndim != 4 or images.shape[1] != images.shape[2]:
    raise ValueError(f'only square images [b, S, S, C] can be turned, got {images.shape}')
  if degrees % 45:
    raise ValueError(f'a turn by {degrees} degrees is not a multiple of 45')
  quarters, rest = divmod(degrees, 90)
  turned = jnp.rot90(images, quarters % 4, axes=(1, 2))
  return _eighth(turned) if rest else turned


def inscribed_disc(size: int) -> np.ndarray:
  """1 where a pixel's center is in the disc inside a square image, else 0: float32 [1,S,S,1]."""
  place = np.arange(size) - (size - 1) / 2
  inside = np.hypot(place[:, None], place[None]) <= size / 2
  return inside[None, ..., None].astype(np.float32)


def _eighth(images: jax.Array) -> jax.Array:
  """Turned by 45 degrees, bilinear."""
  size = images.shape[1]
  place = np.arange(size) - (size - 1) / 2
  down, across = np.meshgrid(place, place, indexing='ij')
  # Where each pixel of the result comes from: the same turn, backwards; y points down.
  half = np.sqrt(0.5)
  source = np.stack([half * down + half * across, half * across - half * down])
  source = np.clip(source + (size - 1) / 2, 0, size - 1)
  low = np.minimum(source.astype(np.int32), size - 2)
  rest = (source - low).astype(np.float32)[:, None, ..., None]
  (y, x), (wy, wx) = low, rest
  top = images[:, y, x] * (1 - wx) + images[:, y, x + 1] * wx
  bottom = images[:, y + 1, x] * (1 - wx) + images[:, y + 1, x + 1] * wx
  return (top * (1 - wy) + bottom * wy).astype(images.dtype)
