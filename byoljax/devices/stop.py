"""Requests to stop: while a run trains they end it after the current step, elsewhere at once.

Every signal by which a person, a scheduler or a closed terminal asks a process to end is treated
alike (`SIGNALS`); one that the process was started to ignore (`nohup`, a background job) stays
ignored. Nothing is raised inside of other people's code: a `KeyboardInterrupt` in an import, a
destructor or JAX's hook of the garbage collector is printed as a traceback, or lost.

- `run_program` is for whole processes: a signal ends them at once, as safely as SIGKILL does, with
  one line instead of a traceback.
- `StopRequest` is for the loop: it notes the signal, and the loop saves and raises `Stopped`. One
  that arrives after the last query, while the last checkpoint is written, takes its usual effect
  once that is done. A second Ctrl-C does not wait.

The exit status is 75 (`STATUS`: "try again", EX_TEMPFAIL), for all signals but SIGINT: the same
command resumes. After SIGINT the process ends by that signal, 130 to a shell, so that a shell's
loop over several runs ends as well.

With several processes, JAX's preemption service makes all agree on one step to stop at. It begins
with a SIGTERM on any of them, for which it puts its own handler in the place of ours. That would
hide the signal from all who do not ask the service, an evaluation say: `hear_beside_jax` makes
SIGTERM ours again, and the loop hands every signal on to the service.
"""

from collections.abc import Callable
import contextlib
import ctypes
import os
import signal
import stat
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

STATUS = 75  # Exit status of a process that was asked to stop: starting it again resumes.
INTERRUPTED = 130  # After Ctrl-C.
SIGNALS = tuple(
  getattr(signal, name)
  for name in ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGXCPU')
  if hasattr(signal, name)
)


class Stopped(KeyboardInterrupt):
  """Training was asked to stop, and is saved.

  Args:
    number: of the signal that asked for it; 0: one that arrived in another process.

  Attributes:
    status: exit status of a process that ends with it.
  """

  def __init__(self, number: int = 0) -> None:
    super().__init__(f'stopped by {_name(number)}' if number else 'stopped')
    self.status = _status(number)


def run_program(program: Callable[[], int]) -> NoReturn:
  """Runs a command line as a process of its own, which ends with the status that it returns."""
  end_at_signals()
  status = program()
  if status == INTERRUPTED:
    _end(signal.SIGINT)
  sys.exit(status)


# The handler of JAX's preemption service, once `hear_beside_jax` has found it.
_of_jax: Callable[[int], object] | None = None


def hear_beside_jax() -> None:
  """Takes SIGTERM back from JAX's preemption service, right after that has started.

  The service's handler does nothing but note the signal. Python knows no handlers but its own, so
  the C library is asked.
  """
  global _of_jax
  ours = signal.getsignal(signal.SIGTERM)
  if os.name != 'posix' or ours is None or not _is_main_thread():
    return
  replace = ctypes.CDLL(None).signal
  replace.argtypes, replace.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
  theirs = replace(signal.SIGTERM, None)
  signal.signal(signal.SIGTERM, ours)
  if theirs not in (None, signal.SIG_IGN):  # There is no service where JAX is told so.
    _of_jax = ctypes.CFUNCTYPE(None, ctypes.c_int)(theirs)


def end_at_signals() -> None:
  """Makes signals end this process at once, from now until its very end, without a traceback."""
  for number in _heard():
    signal.signal(number, _receive)


class StopRequest:
  """Context manager that records a signal; a second SIGINT takes its usual effect.

  Attributes:
    received: number of the first signal that arrived; 0: none did in this process.
  """

  def __init__(self) -> None:
    self.received = 0
    self._several = False
    self._reported = False
    self._calls = 0
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> 'StopRequest':
    import jax

    self._several = jax.process_count() > 1
    # Only the main thread may install handlers; in other threads no request is ever recorded.
    if _is_main_thread():
      for number in _heard():
        # Who has joined the processes without `hear_beside_jax` leaves SIGTERM to JAX.
        if not (self._several and number == signal.SIGTERM and _of_jax is None):
          self._previous[number] = signal.signal(number, self._receive)
    return self

  def __exit__(self, kind: object, *unused: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)
    self._previous = {}
    if self.received and not self._reported and kind is None:
      signal.raise_signal(self.received)

  def requested(self) -> bool:
    """Whether to stop now. All processes call it equally often and get the same answer.

    JAX makes them agree on the number of a call. Calls are counted here, because step numbers have
    gaps if one call runs several steps.
    """
    self._calls += 1
    if not self._several:
      self._reported |= bool(self.received)
      return self._reported
    from jax.experimental import multihost_utils

    self._reported = multihost_utils.reached_preemption_sync_point(self._calls)
    return self._reported

  def stopped(self) -> Stopped:
    """What to raise once everything is saved."""
    # One of several processes must not end by a signal: the others would take it for dead.
    return Stopped(0 if self._several else self.received)

  def _receive(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self.received and number == signal.SIGINT:
      signal.signal(number, self._previous[number])
      signal.raise_signal(number)
      return
    _let_go_of_terminal(number)
    if not self.received:
      self.received = number
      _write(f'{_name(number)}: stopping after this step, and saving; Ctrl-C does not wait for it.')
      if self._several:
        (_of_jax or signal.raise_signal)(signal.SIGTERM)


def _is_main_thread() -> bool:
  return threading.current_thread() is threading.main_thread()


def _heard() -> list[int]:
  return [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def _receive(number: int, frame: FrameType | None) -> None:
  del frame
  _let_go_of_terminal(number)
  _write('interrupted' if number == signal.SIGINT else f'stopped by {_name(number)}.')
  _end(number)


def _end(number: int) -> NoReturn:
  """Ends the process: no destructors, no hooks, nothing that would take time or fail."""
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(Exception):  # A signal may arrive in the middle of a print.
      stream.flush()
  if number == signal.SIGINT:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
  os._exit(_status(number))


def _status(number: int) -> int:
  return INTERRUPTED if number == signal.SIGINT else STATUS


def _name(number: int) -> str:
  return signal.Signals(number).name


def _write(text: str) -> None:
  """Prints a line on standard error, past the buffer in which a signal may have interrupted."""
  with contextlib.suppress(OSError):
    os.write(2, (os.linesep * os.isatty(2) + text + os.linesep).encode())


def _let_go_of_terminal(number: int) -> None:
  """Where output went to a terminal that is closed, or a pipe beside it, it goes nowhere now."""
  if number != getattr(signal, 'SIGHUP', None):
    return
  nowhere = os.open(os.devnull, os.O_WRONLY)
  for descriptor in (1, 2):
    with contextlib.suppress(OSError):
      if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.dup2(nowhere, descriptor)
