"""Whole images at their own sizes, for evaluations of outputs at every pixel.

Shapes must be few for compiled programs, so images are filled up below and to the right: to the
next multiples of a number of pixels, which are a function of the image alone. Images that are
filled up alike share batches. What an image looks like to a network, which sees that border, hence
depends neither on the images beside it nor on the size of a batch or the number of devices.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from byoljax.data.batches import aligned, order
from byoljax.data.batches.ahead import Batch, Batches, ThreadBatches
from byoljax.data.fields import Field
from byoljax.data.sources import field_file, image_file, pixels
from byoljax.data.sources.source import Source

# Examples whose headers are read at once.
_LOOKED_AT = 256


class Group(NamedTuple):
  """Images of one filled-up size.

  Attributes:
    height: in pixels, of all of them.
    width: in pixels.
    index: which, int64 [n], ascending.
  """

  height: int
  width: int
  index: np.ndarray


def groups(source: Source, *, multiple: int, least: int = 1) -> list[Group]:
  """All images that can be read, by the size that they are filled up to.

  Args:
    source: the images.
    multiple: sides are filled up to multiples of so many pixels.
    least: smallest side.
  """
  if multiple < 1:
    raise ValueError(f'multiple is {multiple}, but sides are multiples of at least one pixel.')
  index, sizes = _sizes(source)
  filled = -(-np.maximum(sizes, least) // multiple) * multiple
  found, group = np.unique(filled, axis=0, return_inverse=True)
  group = group.reshape(-1)
  return [
    Group(int(height), int(width), index[group == number])
    for number, (height, width) in enumerate(found)
  ]


def whole_batches(
  source: Source,
  members: Sequence[Group],
  *,
  batch_size: int,
  fields: Sequence[str] = (),
  process_index: int = 0,
  process_count: int = 1,
) -> Batches:
  """Every image of some groups once, group by group.

  Args:
    source: the data.
    members: of `groups`.
    batch_size: global batch B, a multiple of process_count; the last one of each group is padded.
    fields: names of further fields with pixels.
    process_index: this process.
    process_count: number of processes P.

  Returns:
    Dicts of b = B / P rows: 'image' uint8 [b, H, W, C] of a group's size, 'inside' bool [b, H, W],
    True on the image itself, 'index' int32 [b], 'size' int32 [b, 2], 'valid' bool [b], False for
    padding and for what cannot be decoded; and the further fields [b, H, W, C], 0 outside.

  Raises:
    ValueError: an argument out of range, or no such field.
  """
  order.check_processes(batch_size, process_index, process_count)
  further = aligned.further(source, fields)
  if wrong := [field.name for field in further if not field.has_pixels]:
    raise ValueError(f'the field {wrong[0]!r} of {source.name} has no value at every pixel.')
  rows = batch_size // process_count
  parts = [
    (group, group.index[start + process_index * rows :][:rows])
    for group in members
    for start in range(0, len(group.index), batch_size)
  ]

  def make(step: int) -> Batch:
    group, index = parts[step]
    return _filled_up(source, further, group, index, rows)

  return ThreadBatches(range(len(parts)), make)


def _filled_up(
  source: Source, further: Sequence[Field], group: Group, index: np.ndarray, rows: int
) -> Batch:
  """One batch; rows beyond the index are padding."""
  every = (source.field('image'), *further)
  shape = (rows, group.height, group.width)
  arrays = [np.zeros((*shape, field.channels), field.dtype) for field in every]
  batch: Batch = {
    'inside': np.zeros(shape, bool),
    'index': np.full(rows, -1, np.int32),
    'size': np.zeros((rows, 2), np.int32),
    'valid': np.zeros(rows, bool),
  }
  read = source.read(index, [field.name for field in every]) if len(index) else ()
  for row, number in enumerate(index):
    found = _decoded(source, every, int(number), [values[row] for values in read])
    if found is None:
      continue
    height, width = found[0].shape[:2]
    for array, value in zip(arrays, found, strict=True):
      array[row, :height, :width] = value
    batch['inside'][row, :height, :width] = True
    batch['index'][row], batch['valid'][row], batch['size'][row] = number, True, (height, width)
  names = [field.name for field in every]
  return dict(zip(names, arrays, strict=True)) | batch


def _decoded(
  source: Source, every: Sequence[Field], number: int, values: Sequence[object]
) -> list[np.ndarray] | None:
  """The image and its fields as arrays; None, and noted, where one cannot be read."""
  if not source.encoded:
    return [np.asarray(value) for value in values]
  try:
    image = pixels.decode(values[0], source.field('image'))  # type: ignore[arg-type]
    size = (image.shape[0], image.shape[1])
    rest = [
      field_file.decode(field, value, size)
      for field, value in zip(every[1:], values[1:], strict=True)
    ]
    return [image, *rest]
  except image_file.UnreadableImageError as error:
    source.unreadable.add(source.locate(number), str(error))
    return None


def _sizes(source: Source) -> tuple[np.ndarray, np.ndarray]:
  """The images whose headers can be read, int64 [n], and their heights and widths, int [n, 2]."""
  if source.image_shape is not None and not source.encoded:
    return np.arange(source.size), np.tile(np.array(source.image_shape), (source.size, 1))
  index, sizes = [], []
  for start in range(0, source.size, _LOOKED_AT):
    rows = np.arange(start, min(start + _LOOKED_AT, source.size))
    for number, file in zip(rows, *source.read(rows, ('image',)), strict=True):
      try:
        _, height, width = pixels.inspect(file, source.field('image'))
      except image_file.UnreadableImageError as error:
        source.unreadable.add(source.locate(int(number)), str(error))
        continue
      index.append(number)
      sizes.append((height, width))
  if not index:
    raise ValueError(f'no image of {source.name} can be read.')
  return np.array(index, np.int64), np.array(sizes, np.int64)
