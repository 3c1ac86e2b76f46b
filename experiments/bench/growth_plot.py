"""The picture of the part `growth`: time and memory by size, on logarithmic axes."""

from collections.abc import Callable
import math
import pathlib
from typing import Any

import formats
import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib import ticker  # noqa: E402
import sections  # noqa: E402

_COLORS = ('#00796b', '#d81b60')
# panel -> curves in it
_PANELS = ('batch', 'image', 'queue', 'NT-Xent', 'data set', 'devices')
_AXES = {'seconds': ('time', formats.seconds), 'bytes': ('memory', formats.bytes_)}


def draw(curves: dict[str, Any], path: pathlib.Path) -> None:
  """Writes a PNG: a column for each kind of size, time above memory, with slopes."""
  panels = {panel: [name for name in curves if name.startswith(panel)] for panel in _PANELS}
  panels = {panel: names for panel, names in panels.items() if names}
  figure, grid = plt.subplots(
    2, len(panels), figsize=(2.9 * len(panels), 5.6), squeeze=False, layout='constrained'
  )
  for column, (panel, names) in enumerate(panels.items()):
    for row, (key, (label, shown)) in enumerate(_AXES.items()):
      axes = grid[row][column]
      for name, color in zip(names, _COLORS, strict=False):
        pairs = sections.growth_series(curves[name]['points'])[key]
        what = name.removeprefix(panel).lstrip(', ') or panel
        axes.plot(
          *zip(*pairs, strict=True),
          'o-',
          color=color,
          markersize=4,
          label=f'{what}: slope {formats.slope(pairs):.2f}',
        )
      axes.set(xscale='log', yscale='log')
      _ticks(axes, sorted({x for name in names for x in _sizes(curves[name])}), shown)
      axes.legend(fontsize=7, frameon=False, loc='upper left')
      if row == 0:
        axes.set_title(panel, fontsize=10)
      else:
        axes.set_xlabel(curves[names[0]]['unit'], fontsize=8)
      if column == 0:
        axes.set_ylabel(label, fontsize=9)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def _sizes(curve: dict[str, Any]) -> list[int]:
  return [point['x'] for point in curve['points']]


def _ticks(axes: Any, sizes: list[int], shown: Callable[[float], str]) -> None:
  """The measured sizes below; at least two decades on the left, and room for the legend."""
  kept = sizes[:: -(-len(sizes) // 5)]
  axes.xaxis.set_major_locator(ticker.FixedLocator(kept))
  axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: _short(x)))
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  low, high = axes.get_ylim()
  middle = math.sqrt(low * high)
  axes.set_ylim(min(low, middle / 10), max(high, middle * 10) * 4)
  axes.yaxis.set_major_locator(ticker.LogLocator(10))
  axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: shown(y)))
  axes.yaxis.set_minor_formatter(ticker.NullFormatter())
  axes.grid(True, which='major', alpha=0.3)
  axes.tick_params(labelsize=7)


def _short(size: float) -> str:
  for unit, name in ((1_000_000, 'M'), (10_000, 'k')):
    if size >= unit:
      return f'{size / (unit if name == "M" else 1000):.3g}{name}'
  return f'{size:.0f}'
