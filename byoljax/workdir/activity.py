"""What a program is doing, said where nothing else is for a while: no long step is silent.

    with activity.watching():                         # the command line does
      with activity.doing('features', 50_000) as did:
        for batch in batches:
          did(len(batch))

A thread looks at what is being done and, after five seconds without any output, says so on standard
error: redrawn on a terminal, more and more seldom elsewhere. Without `watching` nothing is ever
printed. Other output calls `shown`, which starts the five seconds anew.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import sys
import threading
import time
from typing import Any, TextIO, TypeVar

T = TypeVar('T')
FIRST, AGAIN, REDRAW = 5.0, 10.0, 1.0  # seconds without output
SELDOM = 60.0


class _Step:
  """Something that takes time, and how far it is."""

  def __init__(self, what: str, total: int, unit: str, began: float) -> None:
    self.what, self.total, self.unit, self.began = what, total, unit, began
    self.done, self.first = 0, (began, 0)

  def text(self, now: float) -> str:
    """'features of val: 3,200 of 50,000 images, 1:40 left' or, without a total, '0:15 so far'."""
    elapsed = now - self.began
    if not self.total:
      return f'{self.what}, {_clock(elapsed)} so far'
    far = f'{self.what}: {self.done:,} of {self.total:,} {self.unit}'.rstrip()
    since, before = self.first  # The first part compiles: it says nothing about the others.
    if not before < self.done < self.total:
      return f'{far}, {_clock(elapsed)} so far'
    left = (now - since) * (self.total - self.done) / (self.done - before)
    return f'{far}, {_clock(left)} left'

  def did(self, amount: int) -> None:
    """Counts what has been done since."""
    self.done += amount
    if not self.first[1]:
      self.first = time.monotonic(), self.done


class Watch:
  """Prints the innermost step where nothing was printed for a while.

  Args:
    stream: output stream; None for standard error, whatever that is at the time.
    now: the clock, in seconds.
  """

  def __init__(
    self,
    stream: TextIO | None = None,
    now: Callable[[], float] = time.monotonic,
  ) -> None:
    self._stream, self._now = stream, now
    self._lock = threading.Lock()
    self._due, self._again = now() + FIRST, AGAIN
    self._drawn = 0  # characters of our own line on the terminal
    self._open_line = False  # whether another's line has no end yet

  def look(self) -> None:
    """Prints what is being done, if it is time to."""
    with self._lock:
      now = self._now()
      steps = list(_steps)
      if now < self._due or not steps:
        return
      stream = self._stream or sys.stderr
      text = steps[-1].text(now)
      terminal = stream.isatty()
      if terminal:
        start = '\n' if self._open_line else '\r'
        stream.write(start + text.ljust(self._drawn))
        self._drawn, self._open_line = len(text), False
      else:
        stream.write(f'{text}\n')
      stream.flush()
      self._due = now + (REDRAW if terminal else self._again)
      self._again = min(2 * self._again, SELDOM)

  def shown(self, open_line: bool) -> None:
    """Something else is about to be printed: our own line goes, and the wait begins anew."""
    with self._lock:
      if self._drawn:
        stream = self._stream or sys.stderr
        stream.write('\r' + ' ' * self._drawn + '\r')
        stream.flush()
        self._drawn = 0
      self._open_line = open_line
      self._due, self._again = self._now() + FIRST, AGAIN


_steps: list[_Step] = []
_watch: Watch | None = None


@contextlib.contextmanager
def watching(what: str, look_every: float = 0.5) -> Iterator[None]:
  """Says what is being done for the duration of the block; within another such block as before.

  Args:
    what: the outermost step.
    look_every: seconds between two looks.
  """
  global _watch
  if _watch is not None:
    with doing(what):
      yield
    return
  watch = _watch = Watch()
  over = threading.Event()

  def run() -> None:
    while not over.wait(look_every):
      watch.look()

  thread = threading.Thread(target=run, name='activity', daemon=True)
  thread.start()
  try:
    with doing(what):
      yield
  finally:
    over.set()
    thread.join()
    watch.shown(open_line=False)
    _watch = None


@contextlib.contextmanager
def doing(what: str, total: int = 0, unit: str = '') -> Iterator[Callable[[int], None]]:
  """A step that may take long; yields a function that is told what has been done since.

  Args:
    what: the step, for a person.
    total: how much there is to do; 0: nothing that can be counted.
    unit: of the total, in the plural.
  """
  step = _Step(what, total, unit, time.monotonic())
  _steps.append(step)

  try:
    yield step.did
  finally:
    # A generator may be closed after a step that began later.
    _steps.remove(step)


def counted(items: Iterable[T], what: str, total: int, size: Callable[[T], Any], unit: str) -> Any:
  """Hands on `items`, counting `size(item)` of each as done; closes them at the end.

  Args:
    items: perhaps with `close`.
    what: the step, for a person.
    total: how much there is to do.
    size: how much an item is.
    unit: of the total, in the plural.
  """
  with contextlib.ExitStack() as closing:
    close = getattr(items, 'close', None)
    if close is not None:
      closing.callback(close)
    did = closing.enter_context(doing(what, total, unit))
    for item in items:
      yield item
      did(int(size(item)))


def rows(batch: Mapping[str, Any]) -> int:
  """How many examples a batch for evaluation holds, padding not counted."""
  return int(batch['valid'].sum())


def shown(open_line: bool = False) -> None:
  """To be called before anything else is printed.

  Args:
    open_line: whether it leaves a line without an end.
  """
  if _watch is not None:
    _watch.shown(open_line)


def _clock(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{rest:02}' if hours else f'{minutes}:{rest:02}'
