"""Which examples a step consists of: a pure function of the step. NumPy only.

Step t of an `Order` belongs to epoch t // (N // B); the epoch's permutation of the N examples is
`numpy.random.default_rng((seed, streams.ORDER, epoch)).permutation(N)`, and process p of P takes
its b = B / P positions of the t-th stretch of B. What is left over at the end of an epoch is
dropped; the next permutation brings it back. No state is carried from step to step, so a run
resumes at any step at once, and P changes only who reads which examples.

A `MixedOrder` takes fixed shares of every batch from the parts of a joined source
(`sources.joined`): labelled and unlabelled images, say. Each part has epochs of its own.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Protocol

import numpy as np

from byoljax import streams
from byoljax.length import steps_per_epoch
from byoljax.wording import counted


class AnyOrder(Protocol):
  """What the pipeline asks an order for: `Order` and `MixedOrder` are two, yours may be another.

  Attributes:
    batch_size: global batch B.
    local_size: examples b of one batch that this process reads.
    steps_per_epoch: steps in one pass over the data.
  """

  @property
  def batch_size(self) -> int:
    """Global batch B."""
    ...

  @property
  def local_size(self) -> int:
    """Examples b of one batch that this process reads."""
    ...

  @property
  def steps_per_epoch(self) -> int:
    """Steps in one pass over the data."""
    ...

  def at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The examples of a step in this process: their epochs int32 [b], their indices int64 [b].

    A pure function of the step. An example's epoch and index decide its augmentation, so no pair of
    the two should come twice.
    """
    ...


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
    return steps_per_epoch(self.size, self.batch_size)

  @property
  def local_size(self) -> int:
    """Examples that this process reads per step."""
    return self.batch_size // self.process_count

  def at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The examples that this process reads in a step: epochs int32 [b], indices int64 [b]."""
    epoch, place = divmod(step, self.steps_per_epoch)
    start = place * self.batch_size + self.process_index * self.local_size
    order = _permutation(self.size, (self.seed, streams.ORDER, epoch))
    return np.full(self.local_size, epoch, np.int32), order[start : start + self.local_size]


@functools.lru_cache(maxsize=8)  # Prefetching reaches into the next epoch, of every part.
def _permutation(size: int, seed: tuple[int, ...]) -> np.ndarray:
  return np.random.default_rng(seed).permutation(size)


class MixedOrder:
  """Fixed shares of several parts: every device and every micro-batch gets equal numbers of each.

  A micro-batch is made of units of S = sum(shares) rows: shares[0] rows of the first part, then
  shares[1] rows of the second, and so on, where `shares` are the parts' batch sizes without their
  common factor. So with one labelled and seven unlabelled images in a unit, `z.reshape(-1, 8, D)`
  has the labelled rows in [:, 0], whatever the number of devices and of micro-batches.

  Each part counts its own epochs, example by example: its permutations, of
  `default_rng((seed, streams.MIXED_ORDER, part, epoch))`, follow one another without a gap, so a
  part may be smaller than its share of a batch, and an image that comes back is augmented anew. An
  example's position in the global batch does not depend on the number of devices or processes.
  """

  def __init__(
    self,
    sizes: Sequence[int],
    batch_sizes: Sequence[int],
    seed: int,
    *,
    num_devices: int = 1,
    accumulate: int = 1,
    process_index: int = 0,
    process_count: int = 1,
  ):
    """Checks the shares against the devices.

    Args:
      sizes: number of examples of each part, in the order in which they are joined.
      batch_sizes: examples of each part in a global batch; their sum is B.
      seed: of the permutations.
      num_devices: devices D of all processes together, a multiple of `process_count`.
      accumulate: micro-batches A per step; micro-batch i holds the rows of a device whose position
        is i modulo A.
      process_index: this process.
      process_count: number of processes P.

    Raises:
      ValueError: a part is empty, or its rows of a batch are no multiple of D * A.
    """
    if not sizes or len(sizes) != len(batch_sizes):
      raise ValueError(
        f'a mixed order needs one batch size per part, got {len(batch_sizes)} for {len(sizes)} '
        'parts.'
      )
    if num_devices < 1 or accumulate < 1 or num_devices % max(process_count, 1):
      raise ValueError(
        f'num_devices {num_devices} must be a multiple of {process_count} processes, and '
        f'accumulate {accumulate} at least 1.'
      )
    if min(sizes) < 1:
      raise ValueError(f'the parts have {list(sizes)} examples, but each needs at least one.')
    check_processes(sum(batch_sizes), process_index, process_count)
    unit = num_devices * accumulate
    for part, rows in enumerate(batch_sizes):
      if rows < 1 or rows % unit:
        low = max(unit, rows - rows % unit)
        raise ValueError(
          f'part {part} has {rows} rows of each batch, which is no multiple of '
          f'{counted(num_devices, "device")} x '
          f'{counted(accumulate, "micro-batch", "micro-batches")}: use {low} or {low + unit}.'
        )
    self.sizes, self.batch_sizes = tuple(sizes), tuple(batch_sizes)
    factor = math.gcd(*batch_sizes)
    self.shares = tuple(rows // factor for rows in batch_sizes)
    self.accumulate, self._seed = accumulate, seed
    self._process, self._processes = process_index, process_count

  @property
  def size(self) -> int:
    """Examples of all parts together."""
    return sum(self.sizes)

  @property
  def batch_size(self) -> int:
    """Global batch B, of all parts together."""
    return sum(self.batch_sizes)

  @property
  def local_size(self) -> int:
    """Examples that this process reads per step."""
    return self.batch_size // self._processes

  @property
  def steps_per_epoch(self) -> int:
    """Whole batches in one pass over the part that takes longest."""
    return max(1, *map(steps_per_epoch, self.sizes, self.batch_sizes))

  def at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The examples that this process reads in a step: epochs int32 [b], indices int64 [b]."""
    epochs, indices = [], []
    offset = 0
    for part, (size, share) in enumerate(zip(self.sizes, self.shares, strict=True)):
      epoch, index = self._of_part(part, step)
      # The units of all micro-batches interleaved: each place of a unit is `accumulate` rows.
      epochs.append(epoch.reshape(-1, share * self.accumulate))
      indices.append(index.reshape(-1, share * self.accumulate) + offset)
      offset += size
    return np.concatenate(epochs, 1).ravel(), np.concatenate(indices, 1).ravel()

  def _of_part(self, part: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and indices, within the part, of its examples in this process."""
    size, rows = self.sizes[part], self.batch_sizes[part]
    local = rows // self._processes
    epoch, place = np.divmod(step * rows + self._process * local + np.arange(local), size)
    index = np.empty(local, np.int64)
    for number in np.unique(epoch):
      here = epoch == number
      index[here] = _permutation(size, (self._seed, streams.MIXED_ORDER, part, int(number)))[
        place[here]
      ]
    return epoch.astype(np.int32), index


def shares_of(order: AnyOrder) -> tuple[int, ...]:
  """Rows of each part in a unit of a batch; (1,) where all are of one part."""
  return order.shares if isinstance(order, MixedOrder) else (1,)


def check_order(
  order: AnyOrder, size: int, batch_size: int, num_devices: int, accumulate: int
) -> None:
  """Checks an order against the run that it is for.

  Args:
    order: see `AnyOrder`.
    size: examples of the source.
    batch_size: of the run's length, global.
    num_devices: that share a batch.
    accumulate: micro-batches per step.

  Raises:
    ValueError: they do not fit.
  """
  if order.batch_size != batch_size:
    raise ValueError(
      f'the order has batches of {order.batch_size} images, but the length counts batches of '
      f'{batch_size}: pass batch_size={order.batch_size} to make_length.'
    )
  ordered = order.size if isinstance(order, Order | MixedOrder) else int(order.at(0)[1].max()) + 1
  if ordered > size:
    raise ValueError(
      f'the order covers {ordered:,} examples, but the source has {size:,}: make it with the '
      "source's size or, if that is joined, with the sizes of its parts."
    )
  if isinstance(order, MixedOrder) and (
    order.accumulate != accumulate
    or any(rows % (num_devices * accumulate) for rows in order.batch_sizes)
  ):
    raise ValueError(
      f'the order was not made for num_devices={num_devices}, accumulate={accumulate}: pass '
      f'num_devices={num_devices}, accumulate={accumulate} to MixedOrder.'
    )


def check_processes(batch_size: int, process_index: int, process_count: int) -> None:
  """Raises ValueError where a global batch cannot be divided among the processes."""
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


def eval_indices(
  size: int, batch_size: int, process_index: int, process_count: int, step: int
) -> np.ndarray:
  """The examples of an evaluation batch in this process, int64 [b]; -1 beyond the last one."""
  local = batch_size // process_count
  index = step * batch_size + process_index * local + np.arange(local)
  return np.where(index < size, index, -1)
