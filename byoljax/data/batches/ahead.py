"""Prefetched batches: the iterator that the training loop and the evaluations see."""

import abc
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, Self

Batch = dict[str, Any]
# Batches that are prefetched while one is used: bounds the memory.
AHEAD = 2


class Batches(Iterator[Batch], abc.ABC):
  """The batches of consecutive steps, prefetched.

  Prefetching starts in the constructor, not at the first `next`: while the train step is being
  compiled.
  """

  def __init__(self, steps: range):
    """Begins.

    Args:
      steps: which steps.
    """
    self._steps = iter(steps)

  @abc.abstractmethod
  def _at(self, step: int) -> Batch:
    """The batch of a step; called for one step after the other."""

  @abc.abstractmethod
  def _stop(self) -> None:
    """Stops prefetching; idempotent."""

  def __iter__(self) -> Self:
    """Itself."""
    return self

  def __next__(self) -> Batch:
    """The next batch; closes after the last one, or when making a batch failed."""
    step = next(self._steps, None)
    if step is None:
      self.close()
      raise StopIteration
    try:
      return self._at(step)
    except BaseException:
      self.close()
      raise

  def close(self) -> None:
    """Stops prefetching and waits for the batch in progress; the iterator is exhausted."""
    self._steps = iter(())
    self._stop()


class ThreadBatches(Batches):
  """Made by one thread: copying rows of arrays is bound by memory, not by cores."""

  def __init__(self, steps: range, make: Callable[[int], Batch]):
    """Starts the thread.

    Args:
      steps: which steps.
      make: step -> its batch.
    """
    super().__init__(steps)
    self._make = make
    self._ahead = iter(steps)
    self._pool = futures.ThreadPoolExecutor(1, thread_name_prefix='batches')
    self._waiting: deque[futures.Future[Batch]] = deque()
    self._fill()

  def _fill(self) -> None:
    while len(self._waiting) <= AHEAD:
      step = next(self._ahead, None)
      if step is None:
        return
      self._waiting.append(self._pool.submit(self._make, step))

  def _at(self, step: int) -> Batch:
    del step  # They come in this order.
    batch = self._waiting.popleft().result()
    self._fill()
    return batch

  def _stop(self) -> None:
    self._waiting.clear()
    self._pool.shutdown(wait=True, cancel_futures=True)
