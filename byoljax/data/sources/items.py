"""One example of somebody else's data set: which part is the image, which the label, and as what.

An example is an image, a pair (image, label) or a mapping with such names. An image is an array
[H, W, C] or [H, W], uint8, uint16 or float in [0, 1]; a tensor of PyTorch's, [C, H, W]; an image of
Pillow's; a file's path or its bytes. PyTorch and Pillow's callers are not imported: their objects
are known by what they can do.
"""

from collections.abc import Mapping, Sequence
import io
import os
from typing import Any

import numpy as np
from PIL import Image

from byoljax.data.sources import image_file, pixels, source

IMAGE_NAMES = ('image', 'img', 'images', 'pixel_values', 'x', 'jpg', 'png', 'webp')
LABEL_NAMES = ('label', 'labels', 'fine_label', 'target', 'class', 'cls', 'y')
_CHANNELS_FIRST = (1, 3)
# Floats that are all so near to a 255th were bytes before somebody divided them.
_OF_A_LEVEL = 1e-3


def split(example: Any) -> tuple[Any, Any]:
  """(image, label) of an example, the label as it is; None where it has none.

  Raises:
    ValueError: a mapping without an image.
  """
  if isinstance(example, Mapping) and not _is_file(example):
    name = next((name for name in IMAGE_NAMES if name in example), None)
    if name is None:
      raise ValueError(
        f'an example has {", ".join(map(str, example))}, but its image is looked for as '
        f'{", ".join(IMAGE_NAMES)}.'
      )
    known = [example[name] for name in LABEL_NAMES if example.get(name) is not None]
    return example[name], next(filter(_is_number, known), known[0] if known else None)
  if isinstance(example, tuple | list) and len(example) >= 2:
    return example[0], example[1]
  if isinstance(example, tuple | list) and len(example) == 1:
    return example[0], None
  return example, None


def class_number(label: Any) -> int | None:
  """The number of a class: a whole number of any library; None for None.

  Raises:
    ValueError: it is something else.
  """
  if label is None:
    return None
  if not _is_number(label):
    shown = ' '.join(repr(label).split())[:60]
    raise ValueError(
      f'an example has the label {shown}: labels are whole numbers, -1 for none. Give labels=, '
      'whole numbers [N], which are taken in place of those of the examples.'
    )
  return int(np.asarray(label).reshape(()))


def _is_number(value: Any) -> bool:
  if getattr(value, 'shape', None) in ((), (1,)):
    return np.asarray(value).dtype.kind in 'biu'
  return isinstance(value, int)


def file_of(image: Any) -> bytes | None:
  """An image's file as it is: bytes, a path, or a mapping with one of them; None for pixels."""
  if isinstance(image, bytes):
    return image
  if isinstance(image, str | os.PathLike):
    return source.bytes_of(os.fspath(image))
  if isinstance(image, Mapping) and _is_file(image):
    return image.get('bytes') or source.bytes_of(image['path'])
  return None


def _is_file(image: Mapping[str, Any]) -> bool:
  """Whether this is a file as Hugging Face's `datasets` hands it out undecoded."""
  return set(image) == {'bytes', 'path'}


def pixels_of(image: Any) -> np.ndarray:
  """An image's pixels [H, W, C], uint8 or float32 in [0, 1].

  Raises:
    ValueError: it is none of those that the module names.
  """
  array = array_of(image)
  if array.dtype == np.uint16:  # However dark: a single image does not tell its set's range.
    return pixels.rows_to_unit(array, pixels.FILE)
  return checked_numbers(array, 'an image')


def array_of(image: Any) -> np.ndarray:
  """An image [H, W, C] of the numbers that it has.

  Raises:
    ValueError: it is none of those that the module names.
  """
  file = file_of(image)
  if file is not None:
    return image_file.decode(file)
  if hasattr(image, 'convert') and hasattr(image, 'getexif'):
    return image_file.of_pillow(image)
  if type(image).__module__.split('.')[0] == 'torch':
    array = image.detach().cpu().numpy()
    array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
  else:
    array = np.asarray(image)
  if array.ndim == 2:
    array = array[..., None]
  if array.ndim != 3 or array.dtype.kind not in 'uif' or not array.size:
    raise ValueError(
      f'an image is {type(image).__name__} of type {array.dtype}, shape {list(array.shape)}: '
      'expected are arrays [H, W, C] or [H, W], images of Pillow, paths or files.'
    )
  if array.shape[0] in _CHANNELS_FIRST and array.shape[2] > 16:
    raise ValueError(
      f'an image has shape {list(array.shape)}: the channels come first here, so transpose it with '
      '(1, 2, 0).'
    )
  return array


def checked_numbers(images: np.ndarray, what: str) -> np.ndarray:
  """`checked_alike` of images in one array."""
  return checked_alike([images], what)[0]


def checked_alike(images: Sequence[np.ndarray], what: str) -> list[np.ndarray]:
  """Images as uint8, or as float32 in [0, 1]: uint16 as a share of 65,535, and most floats.

  Floats that are 255ths, and whole numbers of 32 bits and more that are 0 to 255, become bytes. All
  images of a type decide together: a white one among floats is one of floats.

  Raises:
    ValueError: they are something else; `what` begins the sentence.
  """
  types = {image.dtype for image in images}
  if len(types) > 1:
    made = {t: iter(checked_alike([x for x in images if x.dtype == t], what)) for t in types}
    return [next(made[image.dtype]) for image in images]
  dtype, filled = images[0].dtype, [image for image in images if image.size]
  if dtype == np.uint8:
    return list(images)
  low = float(np.min([image.min() for image in filled])) if filled else 0.0
  high = float(np.max([image.max() for image in filled])) if filled else 0.0
  if dtype.kind == 'f' and low >= 0 and high <= 1:
    if all(_are_bytes(image) for image in images):
      return [np.round(image * 255).astype(np.uint8) for image in images]
    return [image.astype(np.float32, copy=False) for image in images]
  if dtype == np.uint16 and high > 255:
    return [pixels.rows_to_unit(image, pixels.FILE) for image in images]
  if dtype.kind in 'iu' and dtype.itemsize > 2 and low >= 0 and high <= 255:
    return [image.astype(np.uint8) for image in images]
  raise ValueError(
    f'{what} has type {dtype} and numbers from {low:g} to {high:g}: images are uint8, 0 to 255, '
    'uint16 beyond that, or floats in [0, 1], before any normalization; of others data.range says '
    'which are black and white.'
  )


def _are_bytes(image: np.ndarray) -> bool:
  levels = image * 255
  return bool(np.all(np.abs(levels - np.round(levels)) < _OF_A_LEVEL))


def as_file(image: Any, range_: str = '') -> bytes:
  """An image as a file: as it is, bytes as a PNG that is not compressed, else as `.npy`.

  Args:
    image: see the module.
    range_: by which the file will be read, see `pixels`; '' checks the numbers, and scales them.

  Raises:
    ValueError: it is no image.
  """
  file = file_of(image)
  if file is not None:
    return file
  array, written = array_of(image) if range_ else pixels_of(image), io.BytesIO()
  if array.dtype == np.uint8 and array.shape[2] in (1, 3):
    shown = array[..., 0] if array.shape[2] == 1 else array
    Image.fromarray(shown).save(written, 'PNG', compress_level=0)
  else:
    np.save(written, array)
  return written.getvalue()
