"""The progress line of a run: steps done, speed, and remaining time."""

from collections.abc import Callable, Mapping
import math
import shutil
import sys
import time as time_module
from typing import TextIO

from byoljax.devices import hosts
from byoljax.workdir import activity


class Progress:
  """A progress line, redrawn on a terminal, and printed at intervals elsewhere.

  Args:
    total_steps: steps of the whole run.
    stream: output stream; None for standard error.
    steps_per_epoch: to show epochs as well.
    interval: seconds between lines if the stream is not a terminal (a log file).
    quiet: shows nothing; always the case except on the first process.
    width: columns of the terminal; None queries it each time. Fields that do not fit are omitted,
      the least important first.
    prefix: of every line.
    time: the clock, in seconds.
  """

  def __init__(
    self,
    total_steps: int,
    stream: TextIO | None = None,
    *,
    steps_per_epoch: float | None = None,
    interval: float = 10.0,
    quiet: bool = False,
    width: int | None = None,
    prefix: str = '',
    time: Callable[[], float] = time_module.monotonic,
  ) -> None:
    self._total = total_steps
    self._stream = sys.stderr if stream is None else stream
    self._steps_per_epoch = steps_per_epoch
    self._terminal = self._stream.isatty()
    self._interval = 0.1 if self._terminal else interval
    self._quiet = quiet or not hosts.is_first_process()
    self._width = width
    self._prefix = prefix
    self._time = time
    self._next = -math.inf
    self._drawn = ''

  def update(self, step: int, metrics: Mapping[str, float]) -> None:
    """Shows `step` and those metrics of `_FIELDS` that are there.

    Does nothing if the last line is too recent; the last step is always shown.
    """
    now = self._time()
    if self._quiet or (now < self._next and step < self._total):
      return
    self._next = now + self._interval
    if not self._terminal:
      line = '  '.join(text for _, text in self._fields(step, metrics))
      self._write(f'{self._prefix}{line}\n')
      return
    self._draw(self._fit(self._fields(step, metrics)))

  def close(self) -> None:
    """Ends the line, leaving the last one on screen."""
    if self._drawn:
      self._write('\n')
      self._drawn = ''

  def _write(self, text: str) -> None:
    activity.shown(open_line=not text.endswith('\n'))
    self._stream.write(text)
    self._stream.flush()

  def _draw(self, line: str) -> None:
    # Blanks rather than an escape sequence erase the old line on every terminal.
    self._write('\r' + line.ljust(len(self._drawn)))
    self._drawn = line

  def _fields(self, step: int, metrics: Mapping[str, float]) -> list[tuple[int, str]]:
    """(priority, text) of each field in display order; the lowest priority is omitted first."""
    fields = [(9, f'{step:>{len(str(self._total))}}/{self._total}')]
    if self._steps_per_epoch:
      epoch, epochs = step / self._steps_per_epoch, self._total / self._steps_per_epoch
      fields.append((2, f'epoch {epoch:.1f}/{epochs:.4g}'))
    for name, need, form in _FIELDS:
      value = metrics.get(name)
      if value is not None:
        fields.append((need, form(float(value))))
    return fields

  def _fit(self, fields: list[tuple[int, str]]) -> str:
    # The last column stays empty: writing there wraps the line on some terminals.
    width = (self._width or shutil.get_terminal_size().columns) - 1 - len(self._prefix)
    while len(fields) > 1 and sum(len(text) + 2 for _, text in fields) - 2 > width:
      fields.remove(min(fields, key=lambda field: field[0]))
    return self._prefix + '  '.join(text for _, text in fields)[: max(width, 0)]


_FIELDS: tuple[tuple[str, int, Callable[[float], str]], ...] = (
  ('loss', 8, lambda x: f'loss {x:.4f}'),
  ('lr', 4, lambda x: f'lr {x:.3g}'),
  ('tau', 3, lambda x: f'tau {x:.5f}'),
  ('knn/top1', 5, lambda x: f'k-NN {x:.1%}'),
  ('probe/top1', 2, lambda x: f'probe {x:.1%}'),
  ('collapse/std', 4, lambda x: f'spread {x:.2f}'),
  ('collapse/rank', 4, lambda x: f'rank {x:.1f}'),
  ('time/img_per_s', 6, lambda x: f'{x:,.0f} img/s' if x >= 10 else f'{x:.2g} img/s'),
  ('time/wait', 5, lambda x: f'data wait {x:.0%}'),
  ('time/left_s', 7, lambda x: f'{duration(x)} left'),
)


def duration(seconds: float) -> str:
  """Seconds as m:ss, h:mm:ss or days; '?' if unknown (NaN or infinite)."""
  if not math.isfinite(seconds):
    return '?'
  whole = max(round(seconds), 0)
  minutes, hours, days = whole // 60, whole // 3600, whole // 86400
  if days:
    return f'{days} d {hours % 24} h'
  clock = f'{minutes % 60:02}:{whole % 60:02}'
  return f'{hours}:{clock}' if hours else clock.removeprefix('0')
