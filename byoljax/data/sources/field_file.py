"""Fields that are stored in files of their own: maps, masks, boxes, further images. NumPy, Pillow.

An image is decoded as every image is (`image_file`). Of a map or mask the numbers count, not what
they look like: gray of 8 or 16 bits as it is, the colors of a palette as their numbers (as in VOC's
masks), several channels one by one, and `.npy` files as the arrays that they hold: [H, W] or
[H, W, C], boxes [n, 5], labels [] or [C].
"""

import dataclasses
import io
from typing import Any

import numpy as np

from byoljax.data.fields import IMAGE, Field, cast, dtype_of
from byoljax.data.sources import image_file, pixels
from byoljax.data.sources.image_file import UnreadableImageError

NPY = '.npy'
_NPY_MAGIC = b'\x93NUMPY'


def decode(field: Field, value: Any, size: tuple[int, int]) -> np.ndarray:
  """One example's value of a field, with the shape and type that the field says.

  Args:
    field: with channels and type.
    value: a file's bytes, or the array itself where the source stores one.
    size: (H, W) of the image.

  Returns:
    [H, W, C], or boxes [n, 5], filled up with rows of class -1, or a label.

  Raises:
    UnreadableImageError: damaged, or of another size, another number of channels or type; or it
      holds numbers of more than 32 bits.
  """
  array = _array(field, value)
  due = field.shape(*size)
  if field.kind == 'boxes' and array.ndim == 2 and array.shape[1] == 5 and len(array) <= due[0]:
    filled = np.zeros(due, np.float32)
    filled[:, 4] = -1
    filled[: len(array)] = array
    array = filled
  if array.shape != due:
    raise UnreadableImageError(f'{field.name} is {_text(array.shape)}, not {_text(due)}')
  if not np.can_cast(_dtype(field, array), field.dtype):
    raise UnreadableImageError(f'{field.name} has type {array.dtype}, not {field.dtype}')
  try:
    return cast(array, field.dtype)
  except ValueError as error:
    raise UnreadableImageError(f'{field.name} has {error}') from error


def like(field: Field, value: Any) -> Field:
  """The field with channels and type as in this example, the first of a source.

  Raises:
    UnreadableImageError: it cannot be decoded, or has a type that the kind cannot have.
  """
  array = _array(field, value)
  dtype = _dtype(field, array)
  if field.kind == 'boxes':
    if not field.channels:
      raise ValueError(
        f'field {field.name!r} needs a number of boxes: give the most that an image has, as in '
        f"Field({field.name!r}, 'boxes', 100)."
      )
    return dataclasses.replace(field, dtype=dtype)
  channels = array.shape[-1] if array.ndim in (1, 3) else 0
  return dataclasses.replace(field, channels=channels, dtype=dtype)


def _array(field: Field, value: Any) -> np.ndarray:
  if not isinstance(value, bytes):
    array = np.asarray(value)
  elif field.kind == 'image':
    return pixels.decode(value, field if field.dtype else IMAGE)
  elif value[: len(_NPY_MAGIC)] == _NPY_MAGIC:
    try:
      array = np.load(io.BytesIO(value), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
      raise UnreadableImageError(f'{field.name}: {error}') from error
  else:
    array = image_file.decode_numbers(value)
  return array[..., None] if field.has_pixels and array.ndim == 2 else array


def _dtype(field: Field, array: np.ndarray) -> str:
  if field.kind == 'image' and field.dtype:
    return field.dtype
  try:
    return dtype_of(field.kind, array.dtype)
  except ValueError as error:
    raise UnreadableImageError(f'{field.name} has {error}') from error


def _text(shape: tuple[int, ...]) -> str:
  return ' x '.join(map(str, shape)) or 'one number'
