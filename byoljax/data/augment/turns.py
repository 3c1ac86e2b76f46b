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
  return bilinear(images, *source).astype(images.dtype)


def bilinear(images: jax.Array, y: jax.Array | np.ndarray, x: jax.Array | np.ndarray) -> jax.Array:
  """Images [..., H, W, C] at places between their pixels: [..., h, w, C].

  Args:
    images: float.
    y: [h, w] in [0, H - 1], 0 is the center of the first pixel.
    x: [h, w] in [0, W - 1].
  """
  height, width = images.shape[-3:-1]
  top, left = y.astype(np.int32).clip(max=height - 2), x.astype(np.int32).clip(max=width - 2)
  shape = (*(1,) * (images.ndim - 3), *y.shape, 1)
  below, right = (rest.astype(np.float32).reshape(shape) for rest in (y - top, x - left))
  upper = images[..., top, left, :] * (1 - right) + images[..., top, left + 1, :] * right
  lower = images[..., top + 1, left, :] * (1 - right) + images[..., top + 1, left + 1, :] * right
  return upper * (1 - below) + lower * below
