"""Image files turned into views: reading, looking, decoding, and what to do when that fails.

A group of examples is made as a whole by one thread. Ordinary JPEG and PNG files go through one
call into TensorFlow; the others are decoded by Pillow, one by one. Which part of an image is
decoded, and where each view is cut from it, is known before, from the header.

An example that cannot be read is replaced by the next one in the data set that can, with everything
that belongs to it: index, label, crops, draws. That depends on the data alone, not on what the run
has met before, so a resumed run still sees the same batches. Evaluations leave the example out.
"""

from collections.abc import Callable, Sequence
import contextlib
from typing import NamedTuple

import numpy as np

from byoljax.data import crop, decode, draws, image_file, views
from byoljax.data.source import Source

# A longer row of unreadable files is not an accident but the wrong folder, and each takes a read.
_MAX_UNREADABLE_IN_A_ROW = 1000


class Geometry(NamedTuple):
  """Where the views lie in their images.

  Attributes:
    boxes: crop of each view, int32 [n, V, 4] (y, x, h, w).
    flips: whether to mirror each view, bool [n, V].
    draws: random numbers of each view, float32 [n, V, NUM_DRAWS]; [n, V, 0] without any.
  """

  boxes: np.ndarray
  flips: np.ndarray
  draws: np.ndarray


# (index int64 [n], height and width int32 [n], epoch) -> the geometry of n examples.
GeometryOf = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Geometry]


class Group(NamedTuple):
  """Finished examples.

  Attributes:
    index: int32 [n]; -1: could not be read.
    label: int32 [n]; -1: none.
    views: uint8 [n, S, S, 3] for each view.
  """

  index: np.ndarray
  label: np.ndarray
  views: tuple[np.ndarray, ...]


_Single = tuple[Geometry, tuple[np.ndarray, ...]]


def empty_group(index: np.ndarray, sizes: Sequence[int]) -> Group:
  """Black images without labels, to be filled in."""
  pixels = tuple(np.zeros((len(index), size, size, 3), np.uint8) for size in sizes)
  return Group(index.astype(np.int32), np.full(len(index), -1, np.int32), pixels)


def joined(groups: Sequence[Group]) -> Group:
  """One group out of several."""
  index, label, pixels = zip(*groups, strict=True)
  return Group(
    np.concatenate(index),
    np.concatenate(label),
    tuple(np.concatenate(view) for view in zip(*pixels, strict=True)),
  )


def random_geometry(specs: Sequence[views.ViewSpec], seed: int) -> GeometryOf:
  """Random-resized crops and mirrors: functions of (seed, epoch, example, view)."""

  def geometry(index: np.ndarray, height: np.ndarray, width: np.ndarray, epoch: int) -> Geometry:
    numbers = [
      draws.uniforms(np, seed, epoch, index, view, views.NUM_DRAWS) for view in range(len(specs))
    ]
    pairs = list(zip(numbers, specs, strict=True))
    return Geometry(
      np.stack([crop.crop_box(np, u, height, width, spec) for u, spec in pairs], 1),
      np.stack([crop.flips(u, spec) for u, spec in pairs], 1),
      np.stack(numbers, 1),
    )

  return geometry


def centre_geometry(size: int) -> GeometryOf:
  """The evaluation crop: one view, nothing random."""

  def geometry(index: np.ndarray, height: np.ndarray, width: np.ndarray, epoch: int) -> Geometry:
    del epoch
    boxes = crop.centre_crop_box(np, height, width, size)[:, None]
    rows = len(index)
    return Geometry(boxes, np.zeros((rows, 1), bool), np.zeros((rows, 1, 0), np.float32))

  return geometry


def make_reader(
  source: Source, geometry_of: GeometryOf, decoder: decode.Decoder, *, replace: bool
) -> Callable[[np.ndarray, int], Group]:
  """Builds `read(index, epoch) -> Group`, which may be called by several threads at once.

  Args:
    source: encoded.
    geometry_of: where the views lie.
    decoder: how to decode and resize.
    replace: whether the next readable example takes the place of an unreadable one.

  Returns:
    A function of the examples' indices, int64 [n] with n >= 1 (-1: padding), and the epoch. It
    raises ValueError when very many examples in a row cannot be read.
  """

  def read(index: np.ndarray, epoch: int) -> Group:
    group = empty_group(index, decoder.sizes)
    there = np.flatnonzero(index >= 0)
    data = np.full(len(index), b'', object)
    if not len(there):
      return group
    data[there], group.label[there] = source.read(index[there])
    headers = _headers(source, data)
    geometry = geometry_of(index, headers[:, 1], headers[:, 2], epoch)
    fast = np.flatnonzero(np.isin(headers[:, 0], (image_file.JPEG, image_file.PNG)))
    done = _decode_fast(decoder, data, headers, geometry, fast, group.views)
    for row in np.setdiff1d(there, done):
      made = one(int(index[row]), bytes(data[row]), epoch)
      if made is None and replace:
        group.index[row], group.label[row], made = next_one(int(index[row]), epoch)
      if made is None:
        group.index[row], group.label[row] = -1, -1
        continue
      geometry.draws[row] = made[0].draws[0]
      for out, view in zip(group.views, made[1], strict=True):
        out[row] = view
    return group._replace(views=decoder.finish(group.views, geometry.draws))

  def one(index: int, data: bytes, epoch: int) -> _Single | None:
    try:
      return _single(source, geometry_of, decoder, index, data, epoch)
    except image_file.UnreadableImageError as error:
      source.unreadable.add(source.locate(index), str(error))
      return None

  def next_one(index: int, epoch: int) -> tuple[int, int, _Single]:
    limit = min(source.size - 1, _MAX_UNREADABLE_IN_A_ROW)
    for step in range(1, limit + 1):
      candidate = (index + step) % source.size
      data, label = source.read(np.array([candidate]))
      made = one(candidate, data[0], epoch)
      if made is not None:
        return candidate, int(label[0]), made
    name = source.locate(index)
    raise ValueError(
      f'{limit + 1} examples of {source.name} in a row cannot be read; the first is {name}: '
      f'{source.unreadable.names[name]}.'
    )

  return read


_NOTHING = -1  # in the place of a kind: nobody can decode the file


def _headers(source: Source, data: np.ndarray) -> np.ndarray:
  """(kind, height, width) of each file, int32 [n, 3]."""
  headers = np.full((len(data), 3), (_NOTHING, 1, 1), np.int32)
  for row, file in enumerate(data):
    with contextlib.suppress(image_file.UnreadableImageError):
      headers[row] = _look(source, file)
  return headers


def _single(
  source: Source,
  geometry_of: GeometryOf,
  decoder: decode.Decoder,
  index: int,
  data: bytes,
  epoch: int,
) -> _Single:
  """One example: where its views lie, and the views, uint8 [S, S, 3] each.

  Raises:
    UnreadableImageError: no image, or a damaged one. What TensorFlow refuses is not given to
      Pillow, which makes a picture of many a damaged file.
  """
  kind, *sides = _look(source, data)
  height, width = np.array(sides, np.int32)[:, None]
  geometry = geometry_of(np.array([index]), height, width, epoch)
  if kind == image_file.PILLOW:
    image = image_file.decode(data)
    return geometry, decoder.resize(image, geometry.boxes[0], geometry.flips[0])
  one = np.array([data], object), np.array([kind], np.int32), np.array([sides], np.int32)
  made = decoder.decode(*one, geometry.boxes, geometry.flips)
  if made is None:
    raise image_file.UnreadableImageError('the image data are damaged')
  return geometry, tuple(view[0] for view in made)


def _decode_fast(
  decoder: decode.Decoder,
  data: np.ndarray,
  headers: np.ndarray,
  geometry: Geometry,
  rows: np.ndarray,
  pixels: tuple[np.ndarray, ...],
) -> np.ndarray:
  """Fills in the views of those of `rows` that TensorFlow can decode, and returns these."""
  if not len(rows):
    return rows
  made = decoder.decode(
    data[rows], headers[rows, 0], headers[rows, 1:], geometry.boxes[rows], geometry.flips[rows]
  )
  if made is None:
    # One of them is damaged; the call does not say which.
    halves = (rows[: len(rows) // 2], rows[len(rows) // 2 :]) if len(rows) > 1 else ()
    parts = [_decode_fast(decoder, data, headers, geometry, half, pixels) for half in halves]
    return np.concatenate([rows[:0], *parts])
  for out, view in zip(pixels, made, strict=True):
    out[rows] = view
  return rows


def _look(source: Source, data: bytes) -> tuple[int, int, int]:
  """`image_file.inspect`, which also refuses an image of another size than the source's own."""
  kind, height, width = image_file.inspect(data)
  due = source.image_shape
  if due is not None and due != (height, width):
    raise image_file.UnreadableImageError(
      f'the image is {height} x {width}, not {due[0]} x {due[1]}'
    )
  return kind, height, width
