"""Being asked to stop: SIGTERM and SIGINT end a run after its step, saved and resumable.

A signal that comes too late to be asked for, while the last checkpoint is written, takes its usual
effect when that is done.

On several processes JAX's own preemption service receives SIGTERM on any of them and makes all of
them agree on one step to stop at; a handler of ours would hide the signal from it.
"""

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopRequest:
  """Remembers, as a context manager, that a signal arrived; a second SIGINT interrupts."""

  def __init__(self) -> None:
    self._received = 0
    self._heard = False
    self._asked = 0
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> 'StopRequest':
    # Only the main thread may install handlers; elsewhere (notebooks, tests) there is no request.
    if threading.current_thread() is threading.main_thread():
      several = jax.process_count() > 1
      for number in (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM):
        self._previous[number] = signal.signal(number, self._receive)
    return self

  def __exit__(self, kind: object, *unused: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)
    self._previous = {}
    if self._received and not self._heard and kind is None:
      signal.raise_signal(self._received)

  def requested(self) -> bool:
    """Whether to stop now; all processes ask equally often and get the same answer.

    JAX makes them agree on one call to stop at, by its number: the numbers must have no gaps, as
    those of the steps have where a call makes several.
    """
    self._asked += 1
    if jax.process_count() == 1:
      self._heard |= bool(self._received)
      return self._heard
    self._heard = multihost_utils.reached_preemption_sync_point(self._asked)
    return self._heard

  def _receive(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self._received and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._received = number
