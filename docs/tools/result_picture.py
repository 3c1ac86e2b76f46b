"""Draws docs/result.png, the README's picture of a finished run: views, curves, final accuracies.

python docs/tools/result_picture.py runs/byol docs/result.png
"""

import json
import pathlib
import sys
from typing import Any

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

# Where `views.png` has its tiles: size, first corner, distance, and that of blocks of rows standing
# side by side; in pixels.
_TILE, _LEFT, _TOP, _PITCH, _BLOCK = 96, 6, 22, 102, 336
_SHOWN = 5
_BLUE, _ORANGE, _GRAY = '#1f5fa8', '#d9720d', '#9aa0a6'


def main(run: pathlib.Path, out: pathlib.Path) -> None:
  """Draws the picture of one run.

  Args:
    run: a finished run's directory, with views.png, metrics.jsonl and results.json.
    out: the PNG to write.
  """
  rows = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  result = json.loads((run / 'results.json').read_text())['result']
  plt.rcParams.update({'font.size': 9, 'axes.titlesize': 10, 'axes.titleweight': 'bold'})
  figure = plt.figure(figsize=(11, 3.3), dpi=120)
  grid = figure.add_gridspec(1, 4, width_ratios=(1.0, 1.5, 1.5, 1.5), wspace=0.28)
  _draw_views(figure.add_subplot(grid[0]), plt.imread(run / 'views.png'))
  accuracy, spread, bars = (figure.add_subplot(grid[i]) for i in (1, 2, 3))
  _draw_line(accuracy, rows, 'probe/top1', 100, 'online probe', _ORANGE)
  _draw_line(accuracy, rows, 'knn/top1', 100, 'k-NN', _BLUE, marker='o')
  accuracy.set(title='Top-1 while training [%]', xlabel='epoch', ylim=(0, None))
  _draw_line(spread, rows, 'collapse/online_target_cosine', 1, 'online-target cosine', _ORANGE)
  _draw_line(spread, rows, 'collapse/std', 1, 'std × √D (0: collapsed)', _BLUE)
  spread.set(title='Collapse metrics', xlabel='epoch', ylim=(0, 1.05))
  for axes in (accuracy, spread):
    axes.legend(frameon=False, fontsize=8, loc='lower right')
  _draw_bars(bars, result)
  for axes in (accuracy, spread, bars):
    axes.spines[['top', 'right']].set_visible(False)
  figure.savefig(out, bbox_inches='tight', pad_inches=0.08, facecolor='white')


def _draw_views(axes: Any, sheet: np.ndarray) -> None:
  """The first images of the sheet, one a row, each with its two views."""
  axes.set_axis_off()
  axes.set_title('Image and two views')
  for row in range(_SHOWN):
    for column in range(3):
      side, place = divmod(row, (len(sheet) - _TOP) // _PITCH)
      x, y = _LEFT + side * _BLOCK + column * _PITCH, _TOP + place * _PITCH
      tile = sheet[y : y + _TILE, x : x + _TILE]
      extent = (1.06 * column, 1.06 * column + 1, -1.06 * row - 1, -1.06 * row)
      axes.imshow(tile, extent=extent, interpolation='nearest')
  axes.set_xlim(0, 3.12)
  axes.set_ylim(-1.06 * _SHOWN, 0)


def _draw_line(
  axes: Any, rows: list[dict], name: str, factor: float, label: str, color: str, **style: Any
) -> None:
  points = [(row['epoch'], factor * row[name]) for row in rows if name in row]
  epochs, values = np.array(points).T
  axes.plot(epochs, _smoothed(values), label=label, color=color, linewidth=1.4, **style)


def _smoothed(values: np.ndarray, width: int = 7) -> np.ndarray:
  """A centered running mean of series that are long enough for one."""
  if len(values) < 4 * width:
    return values
  padded = np.pad(values, width // 2, mode='edge')
  return np.convolve(padded, np.full(width, 1 / width), mode='valid')


def _draw_bars(axes: Any, result: dict[str, Any]) -> None:
  """k-NN and linear top-1 on the test set, the encoder beside its baselines."""
  names = list(result)
  for offset, protocol, color in ((-0.2, 'knn', _BLUE), (0.2, 'linear', _ORANGE)):
    heights = [100 * result[name][protocol]['top1'] for name in names]
    label = {'knn': 'k-NN', 'linear': 'linear'}[protocol]
    drawn = axes.bar(np.arange(len(names)) + offset, heights, 0.38, label=label, color=color)
    axes.bar_label(drawn, fmt='%.0f', fontsize=8)
  axes.set_xticks(range(len(names)), [_short(name) for name in names])
  axes.set_title('Test top-1 [%]')
  axes.legend(frameon=False, fontsize=8)


def _short(name: str) -> str:
  """An encoder's name on at most two short lines."""
  return (
    name.replace('byol', 'BYOL')
    .replace(' initialization', '\nencoder')
    .replace('raw pixels', 'raw\npixels')
  )


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
