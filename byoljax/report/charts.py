"""Line charts as SVG that follow the page's colors, with values under the pointer.

The curves are those of `curves.png`. Text and lines take their colors from the page's style sheet,
so they are right in a light and in a dark page; a script of the page reads the values.
"""

from collections.abc import Mapping, Sequence
import html
import json
import math
import re
from typing import Any

import numpy as np

from byoljax.report import curves

WIDTH, HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 24
_MOST_POINTS = 300
_LINE = 10  # height of a line of text


def line_charts(
  rows: Sequence[Mapping[str, Any]], known: Sequence[curves.Reference] = ()
) -> list[str]:
  """One figure for each panel that the record has curves for.

  Args:
    rows: of `metrics.jsonl`.
    known: lines to compare with; see `curves.references`.

  Returns:
    HTML, `<figure>` elements.
  """
  made = []
  for panel in curves.PANELS:
    for right, label in ((False, panel.left), (True, panel.right)):
      lines = [curve for curve in panel.curves if curve.right == right]
      drawn = [(curve.label, *thinned(*curves.points(rows, curve))) for curve in lines]
      drawn = [line for line in drawn if len(line[1])]
      if drawn:
        unit = re.search(r'\[(.+)\]$', label)
        title = drawn[0][0].capitalize() if right else panel.title
        title += f', {unit.group(1)}' if unit else ''
        least = 0.0 if right else panel.limits[0]
        lines = [] if right else [one for one in known if one.panel == panel.title]
        made.append(_figure(title, label, drawn, panel.log, least, lines))
  return made


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """At most some hundred points, each the mean of its neighbors."""
  if len(x) <= _MOST_POINTS:
    return x, y
  parts = np.array_split(np.arange(len(x)), _MOST_POINTS)
  return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])


def _figure(
  title: str,
  label: str,
  lines: Sequence[tuple[str, np.ndarray, np.ndarray]],
  log: bool,
  least: float | None,
  known: Sequence[curves.Reference],
) -> str:
  every = np.concatenate([y for _, _, y in lines])
  log = log and bool((every > 0).all())
  lines = [(name, x, np.log10(y) if log else y) for name, x, y in lines]
  shown = [y for _, _, y in lines] + ([] if least is None or log else [np.array([least])])
  shown += [] if log else [np.array([one.value]) for one in known]
  low, high, ticks = (_decades if log else _scale)(np.concatenate(shown))
  last = max(x.max() for _, x, _ in lines) or 1.0
  texts = [_number(10**tick if log else tick) for tick in ticks]
  left = max(_LEFT, 12 + round(6.2 * max(map(len, texts))))  # No label is cut off.

  def across(x: np.ndarray | float) -> Any:
    return left + (WIDTH - left - _RIGHT) * np.asarray(x) / last

  def down(y: np.ndarray | float) -> Any:
    return _TOP + (HEIGHT - _TOP - _BOTTOM) * (high - np.asarray(y)) / (high - low)

  parts = []
  for tick, text in zip(ticks, texts, strict=True):
    parts.append(
      f'<line class="grid" x1="{left}" x2="{WIDTH - _RIGHT}" y1="{down(tick):.1f}" '
      f'y2="{down(tick):.1f}"/><text x="{left - 6}" y="{down(tick) + 3.5:.1f}" '
      f'text-anchor="end">{text}</text>'
    )
  for tick in _scale(np.array([0.0, last]))[2]:
    if tick <= last * 1.001:
      anchor = 'end' if across(tick) > WIDTH - 3 * _RIGHT else 'middle'
      parts.append(
        f'<text x="{across(tick):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{_number(tick)}'
        '</text>'
      )
  above = -math.inf
  for one in sorted(known, key=lambda one: -one.value):
    height = down(np.log10(one.value) if log else one.value)
    # Above its line, but for one that would cover the name of the line before.
    place = height - 4 if height - above > _LINE else height + _LINE
    above = height
    parts.append(
      f'<line class="known" x1="{left}" x2="{WIDTH - _RIGHT}" y1="{height:.1f}" '
      f'y2="{height:.1f}"/><text x="{WIDTH - _RIGHT}" y="{place:.1f}" text-anchor="end">'
      f'{html.escape(one.label)}</text>'
    )
  for number, (_, x, y) in enumerate(lines):
    path = ' '.join(f'{a:.1f},{b:.1f}' for a, b in zip(across(x), down(y), strict=True))
    parts.append(f'<polyline class="line c{number % 5}" points="{path}"/>')
    if len(x) <= 40:
      parts += [
        f'<circle class="dot c{number % 5}" cx="{a:.1f}" cy="{b:.1f}" r="2.4"/>'
        for a, b in zip(across(x), down(y), strict=True)
      ]
  data = [
    {
      'name': name,
      'px': np.round(across(x), 1).tolist(),
      'x': x.tolist(),
      'y': [float(f'{value:.5g}') for value in (10**y if log else y)],
    }
    for name, x, y in lines
  ]
  legend = ''.join(
    f'<span class="key"><i class="c{number % 5}"></i>{html.escape(name)}</span>'
    for number, (name, _, _) in enumerate(lines)
  )
  return (
    f'<figure class="chart"><figcaption>{html.escape(title)}</figcaption>'
    f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}: '
    f'{html.escape(label)} by step" data-lines="{html.escape(json.dumps(data))}">'
    + ''.join(parts)
    + f'<line class="cursor" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/></svg>'
    f'<div class="legend">{legend}<output></output></div></figure>'
  )


def _scale(values: np.ndarray) -> tuple[float, float, list[float]]:
  """(low, high, ticks inside) of an axis that shows all values."""
  from matplotlib.ticker import MaxNLocator

  low, high = float(values.min()), float(values.max())
  if high - low < 1e-9 * max(1.0, abs(high)):
    low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
  ticks = [float(tick) for tick in MaxNLocator(4).tick_values(low, high)]
  low, high = min(low, ticks[0]), max(high, ticks[-1])
  return low, high, ticks


def _decades(logs: np.ndarray) -> tuple[float, float, list[float]]:
  """`_scale` of logarithms to base 10: ticks at 1, 2 and 5, or at powers of ten where many."""
  low, high = float(logs.min()), float(logs.max())
  low, high = (low - 0.1, high + 0.1) if high - low < 0.2 else (low, high)
  steps = (0.0,) if high - low > 2 else np.log10([1, 2, 5])
  every = [power + step for power in range(math.floor(low) - 1, math.ceil(high) + 1)
           for step in steps]  # fmt: skip
  below, above = max(t for t in every if t <= low + 1e-9), min(t for t in every if t >= high - 1e-9)
  return below, above, [float(tick) for tick in every if below <= tick <= above]


def _number(value: float) -> str:
  """'3.75k', '0.002', '2e-05'."""
  if abs(value) >= 1e6:
    return f'{value / 1e6:.4g}M'
  if abs(value) >= 1e4:
    return f'{value / 1e3:.4g}k'
  return f'{value:.4g}'
