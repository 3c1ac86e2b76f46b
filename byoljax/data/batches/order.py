"""Which examples a step consists of: a pure function of the step. NumPy only.

Step t belongs to epoch t // (N // B); the epoch's permutation of the N examples is
`numpy.random.default_rng((seed, streams.ORDER, epoch)).permutation(N)`, and process p of P takes
its b = B / P positions of the t-th stretch of B. What is left over at the end of an epoch is
dropped; the next permutation brings it back. No state is carried from step to step, so a run
resumes at any step at once, and P changes only who reads which examples.
"""

import dataclasses
import functools

import numpy as np

from byoljax import streams


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
  return np.random.default_rng((seed, streams.ORDER, epoch)).permutation(size)


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


def eval_indices(
  size: int, batch_size: int, process_index: int, process_count: int, step: int
) -> np.ndarray:
  """The examples of an evaluation batch in this process, int64 [b]; -1 beyond the last one."""
  local = batch_size // process_count
  index = step * batch_size + process_index * local + np.arange(local)
  return np.where(index < size, index, -1)
