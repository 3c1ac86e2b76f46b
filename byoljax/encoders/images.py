"""The images that an encoder is called with: right, or one sentence about what they are.

Integers other than uint8 might be 0 to 255, 0 to 65,535 or anything; floats might be 0 to 255, or
normalized already. Taken for what they are not, they would give features that look like any others.
An encoder of images of more than 8 bits knows which whole numbers are black and white, and takes
them as they are in the files.
"""

from typing import Any

import jax
from jax.core import Tracer
import numpy as np

from byoljax.data.sources import pixels
from byoljax.wording import counted

# By so much rounding may exceed the range of floats.
_SLACK = 1e-3


def checked(images: Any, channels: int, range_: str = '') -> Any:
  """Images uint8 or float32 [b, H, W, C], as they were given or as an array of NumPy's.

  Args:
    images: an array of any library, or nested sequences.
    channels: C, as the encoder takes them.
    range_: which whole numbers are black and white, see `data.sources.pixels`; '' of 8-bit images.

  Raises:
    ValueError: another shape or type, or floats outside of [0, 1]. What only a compiled function
      will know, the values of tracers, is not looked at.
  """
  if not isinstance(images, jax.Array | np.ndarray):
    images = _array(images, channels)
  shape = tuple(images.shape)
  if len(shape) != 4 or shape[-1] != channels:
    raise ValueError(_about_shape(shape, channels))
  if not shape[0]:
    raise ValueError('images are [b, S, S, C] with at least one image, got none.')
  if range_ and np.issubdtype(images.dtype, np.integer):
    return _scaled(images, range_)
  if images.dtype == np.uint8:
    return images
  if not jax.numpy.issubdtype(images.dtype, np.floating):
    raise ValueError(
      f'images have type {images.dtype}: an encoder takes uint8, 0 to 255, or floats in [0, 1]. '
      'Where these are 0 to 255, use images.astype(np.uint8); divide others by the largest value '
      'that they may have.'
    )
  if not isinstance(images, Tracer):
    _check_range(images)
  return images


def _scaled(images: Any, range_: str) -> Any:
  """Whole numbers as float32 in [0, 1]."""
  if isinstance(images, Tracer):
    raise ValueError(
      f'images have type {images.dtype}: within a compiled function an encoder takes floats in '
      '[0, 1]; scale them before.'
    )
  array = np.asarray(images)
  try:
    pixels.check_array(array, range_)
  except ValueError as error:
    raise ValueError(f'images have {error}.') from error
  return pixels.rows_to_unit(array, range_)


def _array(images: Any, channels: int) -> np.ndarray:
  try:
    made = np.asarray(images)
  except ValueError:  # NumPy's sentence speaks of an inhomogeneous shape.
    made = np.empty(0, object)
  if made.dtype == object or made.dtype.kind in 'USM':
    raise ValueError(
      f'images are one array [b, S, S, {channels}]: those of a list must be arrays of one size, '
      f'got {type(images).__name__}.'
    )
  return made


def _about_shape(shape: tuple[int, ...], channels: int) -> str:
  wanted = f'images are [b, S, S, {channels}], got {list(shape)}'
  if len(shape) == 4 and shape[1] == channels:
    return f'{wanted}: the channels come first here, so transpose with (0, 2, 3, 1).'
  if shape[-1:] == (channels,) and len(shape) == 3:
    return f'{wanted}: one image needs a first axis of 1, images[None].'
  if len(shape) == 3 and channels == 1:
    return f'{wanted}: gray images need a last axis of 1, images[..., None].'
  if len(shape) == 4:
    return f'{wanted}: this encoder was trained on images of {counted(channels, "channel")}.'
  return f'{wanted}.'


def _check_range(images: Any) -> None:
  library = np if isinstance(images, np.ndarray) else jax.numpy
  low, high = float(library.min(images)), float(library.max(images))
  if low >= -_SLACK and high <= 1 + _SLACK:  # False for NaN, too.
    return
  meant = 'they are not finite'
  if np.isfinite(low) and np.isfinite(high):
    meant = 'divide by 255, or give uint8'
    if low < 0:
      meant = 'give images as they are, before any normalization, which the encoder does itself'
  raise ValueError(f'images are floats from {low:.4g} to {high:.4g}, not in [0, 1]: {meant}.')
