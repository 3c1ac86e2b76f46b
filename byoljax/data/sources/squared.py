"""Images filled up to squares, which are seen undistorted by what looks at squares; and back.

    squared(source)     black below or on the right of each image; boxes stay on what they are about
    restored(rows, ..)  boxes in fractions of the square, in fractions of the image

Pixels keep their places: only what is beyond the image is new. Files are filled up as they are
decoded, which TensorFlow then leaves to Pillow.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from byoljax.data.fields import Field
from byoljax.data.sources import field_file, image_file, pixels
from byoljax.data.sources.source import Source, fingerprint

Fetch = Callable[[np.ndarray, Sequence[str]], tuple[np.ndarray, ...]]


def squared(source: Source) -> Source:
  """The source with square images; itself where they are.

  Raises:
    ValueError: files with further fields of pixels.
  """
  shape = source.image_shape
  if shape is not None and shape[0] == shape[1]:
    return source
  if source.encoded and (wrong := [f.name for f in source.fields[1:] if f.has_pixels]):
    raise ValueError(f'{source.name}: files are filled up to squares without {wrong[0]!r}.')
  whole = source.decode
  image = source.field('image')
  fetch = _of_files(source) if source.encoded else _of_arrays(source)
  return dataclasses.replace(
    source,
    image_shape=None if shape is None else (max(shape), max(shape)),
    fingerprint=fingerprint(source.fingerprint, 'squared'),
    fetch=fetch,
    fields=tuple(
      dataclasses.replace(field, square=source.encoded) if field is image else field
      for field in source.fields
    ),
    decode=None if whole is None else functools.cache(lambda: squared(whole())),
  )


def restored(rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Boxes in a square as boxes in its image: clipped, and class -1 where nothing is left.

  Args:
    rows: [..., 5 or more], (y_min, x_min, y_max, x_max, class, ...), fractions of the square.
    size: (H, W) of the image.
  """
  made = _scaled(rows, size, back=True)
  made[..., :4] = np.clip(made[..., :4], 0, 1)
  gone = np.any(made[..., 2:4] <= made[..., :2], axis=-1)
  made[gone, :4], made[gone, 4] = 0, -1
  return made


def _scaled(rows: np.ndarray, size: tuple[int, int], *, back: bool = False) -> np.ndarray:
  """Boxes in fractions of the square in place of the image, or back."""
  share = np.array([*size, *size], np.float32) / max(size)
  made = np.array(rows, np.float32)
  made[..., :4] = made[..., :4] / share if back else made[..., :4] * share
  return made


def _of_arrays(source: Source) -> Fetch:
  assert source.image_shape is not None
  size = source.image_shape

  def value(name: str, values: np.ndarray) -> np.ndarray:
    kind = 'label' if name == 'label' else source.field(name).kind
    if kind == 'boxes':
      return _scaled(values, size)
    return values if kind == 'label' else pixels.filled_up(values)

  def fetch(rows: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    read = source.fetch(rows, names)
    return tuple(value(name, values) for name, values in zip(names, read, strict=True))

  return fetch


def _of_files(source: Source) -> Fetch:
  image = source.field('image')
  boxes = {field.name for field in source.fields if field.kind == 'boxes'}

  def scaled(field: Field, file: bytes, value: Any) -> Any:
    try:
      size = pixels.inspect(file, image)[1:]
      return _scaled(field_file.decode(field, value, size), size)
    except image_file.UnreadableImageError:
      return value  # Told of when it is needed.

  def fetch(rows: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    if not boxes.intersection(names):
      return source.fetch(rows, names)
    *read, files = source.fetch(rows, [*names, 'image'])
    for place, name in enumerate(names):
      if name in boxes:
        made = np.empty(len(rows), object)
        for row, (file, value) in enumerate(zip(files, read[place], strict=True)):
          made[row] = scaled(source.field(name), file, value)
        read[place] = made
    return tuple(read)

  return fetch
