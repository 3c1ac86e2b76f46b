"""Batches made ahead of time: the iterator that the training loop and the evaluations see."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, Self

Batch = dict[str, Any]
# Batches that are made while one is used: bounds the memory.
_AHEAD = 2


class Batches(Iterator[Batch]):
  """The batches of consecutive steps, made ahead of time by threads.

  Making them begins at once, not at the first `next`: while the train step is being compiled.
  """

  def __init__(
    self,
    steps: range,
    submit: Callable[[futures.Executor, int], Callable[[], Batch]],
    threads: int,
  ):
    """Starts the threads.

    Args:
      steps: which steps.
      submit: hands the work of a step to an executor and returns what waits for its batch.
      threads: how many threads.
    """
    self._steps = iter(steps)
    self._submit = submit
    self._pool = futures.ThreadPoolExecutor(threads, thread_name_prefix='batches')
    self._waiting: deque[Callable[[], Batch]] = deque()
    self._fill()

  def _fill(self) -> None:
    while len(self._waiting) <= _AHEAD:
      step = next(self._steps, None)
      if step is None:
        return
      self._waiting.append(self._submit(self._pool, step))

  def __iter__(self) -> Self:
    """Itself."""
    return self

  def __next__(self) -> Batch:
    """The next batch; ends the threads after the last one, or when making a batch failed."""
    if not self._waiting:
      self.close()
      raise StopIteration
    try:
      batch = self._waiting.popleft()()
    except BaseException:
      self.close()
      raise
    self._fill()
    return batch

  def close(self) -> None:
    """Ends the threads, after the groups that they are making; there are no more batches."""
    self._waiting.clear()
    self._steps = iter(())
    self._pool.shutdown(wait=True, cancel_futures=True)
