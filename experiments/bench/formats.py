"""Numbers as text: medians, quartiles, slopes, units, and tables of them in Markdown."""

from collections.abc import Iterable, Sequence
import math
import statistics


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A Markdown table; columns but the first are right-aligned."""
  lines = [header, ['---', *['---:'] * (len(header) - 1)], *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
  """Lower quartile, median, upper quartile; of a single sample it is all three."""
  if len(samples) == 1:
    return samples[0], samples[0], samples[0]
  low, middle, high = statistics.quantiles(samples, n=4, method='inclusive')
  return low, middle, high


def number(value: float) -> str:
  """Three significant digits, below 1 three decimals; whole numbers from 100 on."""
  rounded = abs(float(f'{value:.3g}'))  # First: 99.96 is a number of three digits.
  digits = 3 if rounded < 1 else max(0, 3 - len(str(int(rounded))))
  return f'{value:,.{digits}f}'


def spread(samples: Sequence[float]) -> str:
  """Median and, in brackets, the quartiles."""
  low, middle, high = quartiles(samples)
  return f'{number(middle)} [{number(low)}, {number(high)}]'


def seconds(value: float) -> str:
  """Three digits in s, ms or µs."""
  for unit, size in (('s', 1), ('ms', 1e-3)):
    if value >= size:
      return f'{number(value / size)} {unit}'
  return f'{number(value / 1e-6)} µs'


def bytes_(value: float) -> str:
  """Three digits in GB, MB or kB."""
  for unit, size in (('GB', 1e9), ('MB', 1e6)):
    if value >= size:
      return f'{number(value / size)} {unit}'
  return f'{number(value / 1e3)} kB'


def slope(points: Sequence[tuple[float, float]]) -> float:
  """Least-squares slope of log y over log x; NaN of fewer than two points or where y is 0.

  Examples:
    >>> round(slope([(1, 3), (2, 12), (4, 48)]), 6)
    2.0
  """
  if len(points) < 2 or any(y <= 0 for _, y in points):
    return math.nan
  logs = [(math.log(x), math.log(y)) for x, y in points]
  middle = statistics.fmean(x for x, _ in logs)
  spread_x = sum((x - middle) ** 2 for x, _ in logs)
  return sum((x - middle) * y for x, y in logs) / spread_x
