"""Plans of groups of examples: which examples, their files, and the crop windows of the views.

A plan is a function of (seed, epochs, indices) and the data. It needs only the images' headers: the
region of an image that is decoded, and the window of each view, are known before decoding.

In training an example that cannot be read is replaced by the next readable one of the data set,
with its index, label and crops. The replacement depends on the data alone, not on what the run has
read before, so a resumed run sees the same batches. Evaluations skip the example.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from byoljax.data.augment import crop, draws, views
from byoljax.data.batches import decode
from byoljax.data.batches.aligned import Aligned
from byoljax.data.sources import field_file, image_file, image_header, pixels
from byoljax.data.sources.source import Source

# More unreadable files in succession mean a wrong folder, and each of them costs a read.
_MAX_UNREADABLE_IN_A_ROW = 1000


class Geometry(NamedTuple):
  """The windows of the views in their images.

  Attributes:
    boxes: crop of each view, int32 [n, V, 4] (y, x, h, w).
    flips: whether to mirror each view, bool [n, V].
  """

  boxes: np.ndarray
  flips: np.ndarray


# (index int64 [n], epoch int32 [n], height and width int32 [n]) -> the geometry of n examples.
GeometryOf = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Geometry]


def random_geometry(specs: Sequence[views.ViewSpec], seed: int) -> GeometryOf:
  """Random-resized crops and mirrors: functions of (seed, epoch, example, view).

  A view that shares the geometry of another has the same crop and mirror.
  """

  def geometry(
    index: np.ndarray, epoch: np.ndarray, height: np.ndarray, width: np.ndarray
  ) -> Geometry:
    of = [views.geometry_of(specs, view) for view in range(len(specs))]
    pairs = [
      (draws.uniforms(np, seed, epoch, index, view, views.FLIP + 1), specs[view]) for view in of
    ]
    return Geometry(
      np.stack([crop.crop_box(np, u, height, width, spec) for u, spec in pairs], 1),
      np.stack([crop.flips(u, spec) for u, spec in pairs], 1),
    )

  return geometry


def center_geometry(size: int) -> GeometryOf:
  """The evaluation crop: one view, nothing random."""

  def geometry(
    index: np.ndarray, epoch: np.ndarray, height: np.ndarray, width: np.ndarray
  ) -> Geometry:
    del epoch
    boxes = crop.center_crop_box(np, height, width, size)[:, None]
    return Geometry(boxes, np.zeros((len(index), 1), bool))

  return geometry


def whole_geometry(
  index: np.ndarray, epoch: np.ndarray, height: np.ndarray, width: np.ndarray
) -> Geometry:
  """Whole images: one view, into which each is stretched."""
  del epoch
  nothing = np.zeros_like(height)
  boxes = np.stack([nothing, nothing, height, width], 1).astype(np.int32)
  return Geometry(boxes[:, None], np.zeros((len(index), 1), bool))


class Plan(NamedTuple):
  """Everything that is needed to make a group of n examples, m of which can be read.

  Attributes:
    index: number of each example in its source, int32 [n]; -1: padding or unreadable.
    label: int32 [n, *label_shape]; -1: none.
    row: row of the group that each file belongs to, int32 [m].
    files: image files, object [m] of bytes.
    kind: which decoder reads them, int32 [m] (`image_header`).
    part: region of each image that is decoded, int32 [m, 4] (y, x, h, w).
    boxes, flips: as in `Geometry`, of the m examples.
    further: fields beside the views, of the m examples, as `Planner` was asked for them.
  """

  index: np.ndarray
  label: np.ndarray
  row: np.ndarray
  files: np.ndarray
  kind: np.ndarray
  part: np.ndarray
  boxes: np.ndarray
  flips: np.ndarray
  further: tuple[np.ndarray, ...] = ()

  def only(self, position: int) -> 'Plan':
    """The same with one of the m files."""
    one = slice(position, position + 1)
    further = tuple(array[one] for array in self.further)
    changed = {name: getattr(self, name)[one] for name in self._fields[2:-1]}
    return self._replace(**changed, further=further)


class Planner:
  """Plans the groups of one run or evaluation; several threads may do so at once."""

  def __init__(
    self,
    source: Source,
    geometry_of: GeometryOf,
    *,
    replace: bool,
    wanted: Sequence[Aligned] = (),
  ):
    """Plans for one source.

    Args:
      source: encoded.
      geometry_of: where the views lie.
      replace: whether the next readable example takes the place of an unreadable one.
      wanted: what is to be made of further fields.
    """
    self._source = source
    self._geometry_of = geometry_of
    self._replace = replace
    self._wanted = tuple(wanted)
    self._fields = tuple({one.name: one.field for one in wanted if one.field}.values())
    self._names = ('image', 'label', *(field.name for field in self._fields))
    # Examples with a valid header that cannot be decoded, and in which epoch (None: in all). In a
    # damaged JPEG a crop above the damage can still be decoded: if such an example were excluded
    # from all epochs, batches would depend on whether the run had read it before.
    self._broken: set[tuple[int, int | None]] = set()

  @property
  def label_shape(self) -> tuple[int, ...]:
    """See `Source.label_shape`."""
    return self._source.label_shape

  def plan(self, index: np.ndarray, epoch: np.ndarray) -> Plan:
    """The plan of a group.

    Args:
      index: the examples, int64 [n], n >= 1; -1: padding.
      epoch: the epoch of each, int32 [n].

    Raises:
      ValueError: very many examples in a row cannot be read.
    """
    index, label = index.copy(), np.full((len(index), *self.label_shape), -1, np.int32)
    files, headers = np.full(len(index), b'', object), np.zeros((len(index), 3), np.int32)
    values: dict[int, tuple[np.ndarray, ...]] = {}
    there = np.flatnonzero(index >= 0)
    read = self._source.read(index[there], self._names) if len(there) else ()
    for position, row in enumerate(map(int, there)):
      found = _Example(int(index[row]), *(value[position] for value in read))
      looked = self._look(found, int(epoch[row]))
      if looked is None and self._replace:
        found, looked = self._next(found.index, int(epoch[row]))
      if looked is None:
        index[row] = -1
      else:
        index[row], files[row], label[row] = found.index, found.file, found.label
        headers[row], values[row] = looked
    row = np.flatnonzero(index >= 0)
    kind, height, width = headers[row].T
    geometry = self._geometry_of(index[row], epoch[row], height, width)
    part = decode.parts(kind, headers[row, 1:], geometry.boxes, self._source.image_shape)
    whole = {name: [values[int(i)][k] for i in row] for k, name in enumerate(self._names[2:])}
    further = tuple(
      one.cut(whole.get(one.name, ()), *geometry, headers[row, 1:]) for one in self._wanted
    )
    numbers = index.astype(np.int32)
    return Plan(numbers, label, row.astype(np.int32), files[row], kind, part, *geometry, further)

  def reject(self, plan: Plan, position: int, epoch: np.ndarray) -> None:
    """Notes that the file at `position` cannot be decoded: plans will do without the example.

    Args:
      plan: of a group.
      position: among the m files of the plan.
      epoch: of the group's examples, int32 [n].
    """
    row, kind = plan.row[position], plan.kind[position]
    index = int(plan.index[row])
    self._broken.add((index, int(epoch[row]) if kind == image_header.JPEG else None))
    reason = 'the image data are damaged'
    if kind == image_header.PILLOW:
      try:
        pixels.decode(plan.files[position], self._source.field('image'))
      except image_file.UnreadableImageError as error:
        reason = str(error)
    self._source.unreadable.add(self._source.locate(index), reason)

  def _look(self, example: '_Example', epoch: int) -> '_Looked | None':
    """Header and further fields; None, and a note, where the example cannot be used."""
    index = example.index
    if (index, None) in self._broken or (index, epoch) in self._broken:
      return None
    due = self._source.image_shape
    try:
      kind, height, width = pixels.inspect(example.file, self._source.field('image'))
      if due is not None and due != (height, width):
        raise image_file.UnreadableImageError(
          f'the image is {height} x {width}, not {due[0]} x {due[1]}'
        )
      values = tuple(
        field_file.decode(field, value, (height, width))
        for field, value in zip(self._fields, example.further, strict=True)
      )
    except image_file.UnreadableImageError as error:
      self._source.unreadable.add(self._source.locate(index), str(error))
      return None
    return (kind, height, width), values

  def _next(self, index: int, epoch: int) -> tuple['_Example', '_Looked']:
    """The first example after `index` that can be used, around the end of its part of the set."""
    part = self._source.part_of(index)
    limit = min(len(part) - 1, _MAX_UNREADABLE_IN_A_ROW)
    for step in range(1, limit + 1):
      candidate = part[(index - part.start + step) % len(part)]
      read = self._source.read(np.array([candidate]), self._names)
      found = _Example(candidate, *(value[0] for value in read))
      looked = self._look(found, epoch)
      if looked is not None:
        return found, looked
    name = self._source.locate(index)
    raise ValueError(
      f'{limit + 1} examples of {self._source.name} in a row cannot be read; the first is {name}: '
      f'{self._source.unreadable.names[name]}.'
    )


# (kind, height, width) of an image, and the values of the further fields.
_Looked = tuple[tuple[int, int, int], tuple[np.ndarray, ...]]


class _Example:
  """One example as its source gives it."""

  def __init__(self, index: int, file: bytes, label: np.ndarray, *further: Any):
    self.index, self.file, self.label, self.further = index, file, label, further
