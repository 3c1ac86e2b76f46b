"""Where a run's time goes: images per second, waiting for data, compilation, remaining time.

JAX dispatches asynchronously, so a rate is correct only if the host has waited for the device: read
the clock after fetching a metric, and wait for the first step before its tick. The first step is
excluded from the rates, because it compiles.
"""

from collections.abc import Callable, Iterator
import contextlib
import math
import os
import time as time_module
from typing import NamedTuple

import jax


class Clock:
  """Measures a training loop: create it before the first step, tick every step, read when logging.

  ```
  clock = Clock(total_steps, batch_size, start_step=step)
  for step in ...:
    with clock.waiting():
      batch = next(batches)
    state, metrics = train_step(state, batch)
    clock.tick(step + 1)
    if logging:
      writer.write(step + 1, fetch(metrics) | clock.read())
  ```

  Args:
    total_steps: the step at which the run ends.
    images_per_step: images per step, over all devices and processes, regardless of the number of
      views.
    start_step: steps already done by the run that is resumed.
    time: the clock, in seconds.
  """

  def __init__(
    self,
    total_steps: int,
    images_per_step: int,
    *,
    start_step: int = 0,
    time: Callable[[], float] = time_module.perf_counter,
  ) -> None:
    self._total = total_steps
    self._images = images_per_step
    self._time = time
    self._start = time()
    self._step = start_step
    self._waited = 0.0
    self._paused = 0.0
    self._first_step_s = math.nan
    self._first: _Mark | None = None  # The end of the first step.
    self._window: _Mark | None = None  # The last `read`.

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the time in this block as waiting for data."""
    begin = self._time()
    try:
      yield
    finally:
      self._waited += self._time() - begin

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Excludes the time in this block (an evaluation, a checkpoint) from all rates."""
    begin = self._time()
    try:
      yield
    finally:
      self._paused += self._time() - begin

  def tick(self, step: int) -> None:
    """Reports that `step` steps are done. The first call ends the first step, which compiles."""
    self._step = step
    if self._first is None:
      self._first = self._window = self._mark()
      self._first_step_s = self._first.time - self._start - self._waited - self._paused

  def read(self) -> dict[str, float]:
    """The measurements; starts a new window. Values that are not known yet are omitted.

    Returns:
      'time/img_per_s' and 'time/wait' (share of the time spent waiting for data, in [0, 1]) since
      the last `read`; 'time/img_per_s_run' and 'time/wait_run' since the first step;
      'time/left_s', the estimated remaining seconds at the pace since the first step, with pauses;
      'time/first_step_s', the first step with compilation, without waiting for data;
      'time/elapsed_s' since the clock was created.
    """
    now = self._mark()
    rate, wait = self._pace(self._window, now)
    rate_run, wait_run = self._pace(self._first, now)
    if self._first is not None:
      self._window = now
    measured = {
      'time/img_per_s': rate,
      'time/img_per_s_run': rate_run,
      'time/wait': wait,
      'time/wait_run': wait_run,
      'time/left_s': self._left(now),
      'time/first_step_s': self._first_step_s,
      'time/elapsed_s': now.time - self._start,
    }
    return {name: value for name, value in measured.items() if not math.isnan(value)}

  def _mark(self) -> '_Mark':
    return _Mark(self._time(), self._step, self._waited, self._paused)

  def _pace(self, begin: '_Mark | None', end: '_Mark') -> tuple[float, float]:
    """Images per second of training time, and the share of that time spent waiting."""
    if begin is None or end.step == begin.step:
      return math.nan, math.nan
    seconds = (end.time - begin.time) - (end.paused - begin.paused)
    if seconds <= 0:
      return math.nan, math.nan
    images = (end.step - begin.step) * self._images
    return images / seconds, (end.waited - begin.waited) / seconds

  def _left(self, now: '_Mark') -> float:
    if now.step >= self._total:
      return 0.0
    if self._first is None or now.step == self._first.step:
      return math.nan  # After the first step only, whose time is not representative.
    pace = (now.time - self._first.time) / (now.step - self._first.step)
    return pace * (self._total - now.step)


class _Mark(NamedTuple):
  """A point in time: seconds, steps done, and seconds waited and paused so far."""

  time: float
  step: int
  waited: float
  paused: float


class ProfileWindow:
  """Traces a few steps with the JAX profiler; view the result with TensorBoard or Perfetto.

  Args:
    directory: output directory of the trace.
    start: number of steps done when tracing starts; choose it after the first steps, which compile.
    steps: number of steps to trace; 0 disables it.
  """

  def __init__(self, directory: str | os.PathLike[str], *, start: int, steps: int) -> None:
    self._directory = os.fspath(directory)
    self._start = start
    self._stop = start + steps
    self._tracing = False
    self._done = steps <= 0

  def __call__(self, step: int, wait_for: object = None) -> None:
    """Starts or ends the trace if it is due; call it after each step.

    Args:
      step: steps done so far; a run that resumes after `start` traces immediately.
      wait_for: arrays of the step; awaited before the trace ends, so that it is complete.
    """
    if self._done:
      return
    if not self._tracing and step >= self._start:
      self._stop = step + (self._stop - self._start)
      jax.profiler.start_trace(self._directory)
      self._tracing = True
    elif self._tracing and step >= self._stop:
      jax.block_until_ready(wait_for)
      self.close()

  def due(self, step: int) -> float:
    """The next step after `step` at which it has to be called; infinity if there is none."""
    if self._done:
      return math.inf
    return max(self._stop if self._tracing else self._start, step + 1)

  def close(self) -> None:
    """Ends an active trace, for example because the run ends first."""
    if self._tracing:
      jax.profiler.stop_trace()
    self._tracing, self._done = False, True
