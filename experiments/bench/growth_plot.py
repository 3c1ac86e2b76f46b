"""The picture of the part `growth`: time and memory by size, on logarithmic axes."""

import pathlib
from typing import Any

import matplotlib
import render

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402

_COLOURS = ('#00796b', '#d81b60')
# panel -> curves in it
_PANELS = ('batch', 'image', 'queue', 'NT-Xent', 'data set', 'devices')
_AXES = {'seconds': ('seconds', 1.0), 'bytes': ('MB of temporaries', 1e6)}


def draw(curves: dict[str, Any], path: pathlib.Path) -> None:
  """Writes a PNG: a column for each kind of size, time above memory, with slopes."""
  panels = {panel: [name for name in curves if name.startswith(panel)] for panel in _PANELS}
  panels = {panel: names for panel, names in panels.items() if names}
  figure, grid = plt.subplots(
    2, len(panels), figsize=(3.1 * len(panels), 5.6), squeeze=False, layout='constrained'
  )
  for column, (panel, names) in enumerate(panels.items()):
    for row, (key, (label, unit)) in enumerate(_AXES.items()):
      axes = grid[row][column]
      for name, colour in zip(names, _COLOURS, strict=False):
        pairs = render.growth_series(curves[name]['points'])[key]
        found = render.slope(pairs)
        what = name.removeprefix(panel).lstrip(', ') or panel
        axes.plot(
          [x for x, _ in pairs],
          [y / unit for _, y in pairs],
          'o-',
          color=colour,
          markersize=4,
          label=f'{what}: slope {found:.2f}',
        )
      axes.set(xscale='log', yscale='log')
      axes.grid(True, which='major', alpha=0.3)
      axes.tick_params(labelsize=8)
      axes.legend(fontsize=7, frameon=False, loc='best')
      if row == 0:
        axes.set_title(panel, fontsize=10)
      else:
        axes.set_xlabel(curves[names[0]]['unit'], fontsize=8)
      if column == 0:
        axes.set_ylabel(label, fontsize=9)
  figure.savefig(path, dpi=110)
  plt.close(figure)
