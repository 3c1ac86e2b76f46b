"""What a batch consists of, as a pure function of the step: examples, files, crops. NumPy only.

Step t belongs to epoch t // (N // B); the epoch's permutation of the N examples is
`numpy.random.default_rng((seed, epoch)).permutation(N)`, and process p of P takes its b = B / P
positions of the t-th stretch of B. What is left over at the end of an epoch is dropped; the next
permutation brings it back. No state is carried from step to step, so a run resumes at any step at
once, and P changes only who reads which examples.

An example that cannot be read is replaced by the next one in the data set that can, with everything
that belongs to it: index, label, crops, draws. That depends on the data alone, not on what the run
has met before, so a resumed run still sees the same batches. Evaluations leave the example out.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from byoljax.data import crop, draws, image_file, views
from byoljax.data import source as source_lib

# A longer row of unreadable files is not an accident but the wrong folder, and each takes a read.
_MAX_UNREADABLE_IN_A_ROW = 1000
# (index int64 [n], height, width int32 [n], epoch) -> boxes, flips, draws of every view.
Geometry = Callable[[np.ndarray, np.ndarray, np.ndarray, int], tuple[np.ndarray, ...]]


@dataclasses.dataclass(frozen=True)
class Order:
  """The order of the examples in training.

  Attributes:
    size: number of examples N.
    batch_size: global batch B.
    seed: seed of the permutations.
    process_index: this process, in [0, process_count).
    process_count: number of processes P.

  Raises:
    ValueError: B is larger than N or no multiple of P.
  """

  size: int
  batch_size: int
  seed: int
  process_index: int = 0
  process_count: int = 1

  def __post_init__(self):
    """Checks the sizes against each other."""
    check_processes(self.batch_size, self.process_index, self.process_count)
    if self.batch_size > self.size:
      raise ValueError(
        f'batch_size {self.batch_size} is larger than the data set with its {self.size} examples: '
        f'use a batch_size of at most {self.size}.'
      )

  @property
  def steps_per_epoch(self) -> int:
    """Whole batches in one pass over the data."""
    return self.size // self.batch_size

  @property
  def local_size(self) -> int:
    """Examples that this process reads per step."""
    return self.batch_size // self.process_count

  def at(self, step: int) -> tuple[int, np.ndarray]:
    """The epoch of a step and the examples that this process reads in it, int64 [b]."""
    epoch, place = divmod(step, self.steps_per_epoch)
    start = place * self.batch_size + self.process_index * self.local_size
    order = _permutation(self.size, self.seed, epoch)
    return epoch, order[start : start + self.local_size]


@functools.lru_cache(maxsize=3)  # Prefetching reaches into the next epoch.
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
  return np.random.default_rng((seed, epoch)).permutation(size)


def check_processes(batch_size: int, process_index: int, process_count: int) -> None:
  """Raises ValueError where a global batch cannot be shared out among the processes."""
  if batch_size < 1:
    raise ValueError(f'batch_size is {batch_size}, but a batch needs at least one example.')
  if process_count < 1 or not 0 <= process_index < process_count:
    raise ValueError(f'process_index {process_index} is not in [0, {process_count}).')
  if batch_size % process_count:
    near = max(process_count, batch_size - batch_size % process_count)
    raise ValueError(
      f'batch_size {batch_size} is not a multiple of {process_count} processes: use {near} or '
      f'{near + process_count}.'
    )


class Plan(NamedTuple):
  """Everything that is needed to make one batch of b examples, n of which are there.

  Attributes:
    index: number of the example in its source, int32 [b]; -1: nothing there.
    label: int32 [b]; -1: none.
    position: row of the batch that each file belongs to, int32 [n].
    data: image files, object [n] of bytes.
    kind: who may decode them, int32 [n] (`image_file`).
    union: the part of each image that holds all its crops, int32 [n, 4] (y, x, h, w).
    boxes: crop of each view inside of that part, int32 [n, V, 4].
    flips: whether to mirror each view, bool [n, V].
    draws: random numbers of each view, float32 [n, V, NUM_DRAWS], or [n, V, 0] where not needed.
  """

  index: np.ndarray
  label: np.ndarray
  position: np.ndarray
  data: np.ndarray
  kind: np.ndarray
  union: np.ndarray
  boxes: np.ndarray
  flips: np.ndarray
  draws: np.ndarray


def random_geometry(specs: Sequence[views.ViewSpec], seed: int, keep_draws: bool) -> Geometry:
  """Random-resized crops and mirrors: functions of (seed, epoch, example, view)."""

  def geometry(index: np.ndarray, height: np.ndarray, width: np.ndarray, epoch: int):
    u = [
      draws.uniforms(np, seed, epoch, index, view, views.NUM_DRAWS) for view in range(len(specs))
    ]
    pairs = list(zip(u, specs, strict=True))
    boxes = np.stack([crop.crop_box(np, numbers, height, width, s) for numbers, s in pairs], 1)
    flips = np.stack([crop.flips(numbers, s) for numbers, s in pairs], 1)
    return boxes, flips, np.stack(u, 1)[:, :, : None if keep_draws else 0]

  return geometry


def centre_geometry(size: int) -> Geometry:
  """The evaluation crop: one view, nothing random."""

  def geometry(index: np.ndarray, height: np.ndarray, width: np.ndarray, epoch: int):
    del epoch
    boxes = crop.centre_crop_box(np, height, width, size)[:, None]
    return boxes, np.zeros((len(index), 1), bool), np.zeros((len(index), 1, 0), np.float32)

  return geometry


def train_plan(
  source: source_lib.Source, order: Order, geometry: Geometry
) -> Callable[[int], Plan]:
  """The plan of each training step; `source` must be encoded."""

  def plan(step: int) -> Plan:
    epoch, wanted = order.at(step)
    data, labels = (part.copy() for part in source.read(wanted))
    index = wanted.copy()
    headers = np.empty((len(index), 3), np.int32)
    for row in range(len(index)):
      try:
        headers[row] = look(source, data[row])
      except image_file.UnreadableImageError as error:
        note(source, int(index[row]), error)
        found = next_readable(source, int(index[row]), functools.partial(look, source))
        index[row], labels[row], data[row], headers[row] = found
    everyone = np.arange(len(index), dtype=np.int32)
    return _assemble(index, labels, everyone, data, headers, geometry, epoch)

  return plan


def eval_plan(
  source: source_lib.Source,
  geometry: Geometry,
  batch_size: int,
  process_index: int,
  process_count: int,
) -> Callable[[int], Plan]:
  """The plan of each evaluation batch: every example once, in the order of the source."""

  def plan(step: int) -> Plan:
    index = eval_indices(source.size, batch_size, process_index, process_count, step)
    inside = np.flatnonzero(index >= 0)
    data, known = source.read(index[inside])
    labels = np.full(len(index), -1, np.int32)
    labels[inside] = known
    headers, keep = np.empty((len(inside), 3), np.int32), np.zeros(len(inside), bool)
    for row, content in enumerate(data):
      try:
        headers[row] = look(source, content)
        keep[row] = True
      except image_file.UnreadableImageError as error:
        note(source, int(index[inside[row]]), error)
        index[inside[row]], labels[inside[row]] = -1, -1
    rows = inside[keep].astype(np.int32)
    return _assemble(index, labels, rows, data[keep], headers[keep], geometry, 0)

  return plan


def eval_indices(
  size: int, batch_size: int, process_index: int, process_count: int, step: int
) -> np.ndarray:
  """The examples of an evaluation batch in this process, int64 [b]; -1 beyond the last one."""
  local = batch_size // process_count
  index = step * batch_size + process_index * local + np.arange(local)
  return np.where(index < size, index, -1)


def _assemble(
  index: np.ndarray,
  label: np.ndarray,
  position: np.ndarray,
  data: np.ndarray,
  headers: np.ndarray,
  geometry: Geometry,
  epoch: int,
) -> Plan:
  kind, height, width = headers[:, 0], headers[:, 1], headers[:, 2]
  boxes, flips, numbers = geometry(index[position], height, width, epoch)
  union = _union(boxes, height, width)
  boxes = boxes - np.concatenate([union[:, None, :2], np.zeros_like(union[:, None, :2])], 2)
  return Plan(
    index.astype(np.int32),
    label.astype(np.int32),
    position,
    data,
    kind,
    union,
    boxes,
    flips,
    numbers,
  )


def _union(boxes: np.ndarray, height: np.ndarray, width: np.ndarray) -> np.ndarray:
  """The smallest part of each image that holds its crops, int32 [n, 4]; or the whole image.

  One decoding serves all views. Skipping rows and columns costs the JPEG decoder its fast path, so
  from about three quarters of the image on, all of it is cheaper (measured at 144 and 375 px).
  """
  top, left = boxes[:, :, 0].min(1), boxes[:, :, 1].min(1)
  bottom = (boxes[:, :, 0] + boxes[:, :, 2]).max(1)
  right = (boxes[:, :, 1] + boxes[:, :, 3]).max(1)
  part = np.stack([top, left, bottom - top, right - left], 1)
  whole = np.stack([np.zeros_like(height), np.zeros_like(width), height, width], 1)
  # In floating point: the area of a large photograph times four overflows int32.
  large = 4.0 * part[:, 2] * part[:, 3] >= 3.0 * height * width
  return np.where(large[:, None], whole, part).astype(np.int32)


def look(source: source_lib.Source, data: bytes) -> tuple[int, int, int]:
  """`image_file.inspect`, which also refuses an image of another size than the source's own."""
  kind, height, width = image_file.inspect(data)
  due = source.image_shape
  if due is not None and due != (height, width):
    raise image_file.UnreadableImageError(
      f'the image is {height} x {width}, not {due[0]} x {due[1]}'
    )
  return kind, height, width


def note(source: source_lib.Source, index: int, error: Exception) -> None:
  """Puts an example on its source's list of unreadable ones."""
  source.unreadable.add(source.locate(index), str(error))


def next_readable(
  source: source_lib.Source, index: int, read: Callable[[bytes], Any]
) -> tuple[int, int, bytes, Any]:
  """The first example after `index`, in the source's order and around its end, that can be read.

  Args:
    source: an encoded source.
    index: the example that cannot be read.
    read: what has to succeed on a file's bytes, else raises UnreadableImageError.

  Returns:
    The example's index, label and bytes, and what `read` gave.

  Raises:
    ValueError: a thousand in a row, or all there are, cannot be read.
  """
  limit = min(source.size - 1, _MAX_UNREADABLE_IN_A_ROW)
  for step in range(1, limit + 1):
    candidate = (index + step) % source.size
    data, labels = source.read(np.array([candidate]))
    try:
      return candidate, int(labels[0]), data[0], read(data[0])
    except image_file.UnreadableImageError as error:
      note(source, candidate, error)
  reason = source.unreadable.names.get(source.locate(index), 'unreadable')
  raise ValueError(
    f'{limit + 1} examples of {source.name} in a row cannot be read, the first is '
    f'{source.locate(index)}: {reason}.'
  )
