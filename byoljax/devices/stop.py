"""Stop requests: SIGTERM and SIGINT end a run after the current step, saved and resumable.

A signal that arrives after the last query, while the last checkpoint is written, takes its usual
effect once that is done.

With several processes, JAX's preemption service receives SIGTERM on any of them and makes all agree
on one step to stop at; a handler of our own would hide the signal from it.
"""

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopRequest:
  """Context manager that records a signal; a second SIGINT raises KeyboardInterrupt."""

  def __init__(self) -> None:
    self._received = 0
    self._reported = False
    self._calls = 0
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> 'StopRequest':
    # Only the main thread may install handlers; in other threads no request is ever recorded.
    if threading.current_thread() is threading.main_thread():
      several = jax.process_count() > 1
      for number in (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM):
        self._previous[number] = signal.signal(number, self._receive)
    return self

  def __exit__(self, kind: object, *unused: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)
    self._previous = {}
    if self._received and not self._reported and kind is None:
      signal.raise_signal(self._received)

  def requested(self) -> bool:
    """Whether to stop now. All processes call it equally often and get the same answer.

    JAX makes them agree on the number of a call. Calls are counted here, because step numbers have
    gaps if one call runs several steps.
    """
    self._calls += 1
    if jax.process_count() == 1:
      self._reported |= bool(self._received)
      return self._reported
    self._reported = multihost_utils.reached_preemption_sync_point(self._calls)
    return self._reported

  def _receive(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self._received and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._received = number
