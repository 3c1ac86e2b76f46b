"""The spectra of a run's features as a picture, and what tables show of evaluations by tap."""

from collections.abc import Mapping
import pathlib
from typing import Any

import numpy as np

# Task -> (field of a row, heading, format), in the order of the columns.
SHOWN: dict[str, tuple[tuple[str, str, str], ...]] = {
  'layers': (
    ('tap', 'tap', ''),
    ('dimensions', 'dimensions', '{:,}'),
    ('knn_top1', 'k-NN top-1', '{:.1%}'),
    ('logistic_top1', 'logistic top-1', '{:.1%}'),
  ),
  'hypersphere': (
    ('tap', 'tap', ''),
    ('alignment', 'alignment', '{:.3f}'),
    ('uniformity', 'uniformity', '{:.3f}'),
    ('uniformity_clean', 'un-augmented', '{:.3f}'),
  ),
  'collapse': (
    ('tap', 'tap', ''),
    ('dimensions', 'dimensions', '{:,}'),
    ('std', 'spread', '{:.3f}'),
    ('effective_rank', 'rank', '{:.1f}'),
    ('centred_rank', 'centred rank', '{:.1f}'),
    ('mean_cosine', 'mean cosine', '{:.3f}'),
    ('dead', 'dead', '{:,}'),
    ('verdict', 'verdict', ''),
  ),
}
_COLOURS = ('#1f5fa8', '#d9730d', '#2e8b57', '#8e44ad', '#b03a3a', '#7f6000', '#4c4c4c', '#008b8b')
# Below this share of the largest, singular values are rounding of float32 features.
_FLOOR = 1e-7


def plot(rows: Mapping[str, Mapping[str, Any]], path: pathlib.Path) -> pathlib.Path:
  """Writes a PNG: singular values on a logarithmic axis, and the spread of every dimension.

  Args:
    rows: tap -> what `evals.spectrum.measure` says.
    path: the file.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(11, 4.2), layout='constrained')
  FigureCanvasAgg(figure)
  left, right = figure.subplots(1, 2)
  for number, (tap, row) in enumerate(rows.items()):
    colour = _COLOURS[number % len(_COLOURS)]
    singular = np.array(row['spectrum'])
    if singular[0] > 0:
      shares = np.maximum(singular / singular[0], _FLOOR)
      label = f'{tap}: rank {row["centred_rank"]:.1f} of {row["dimensions"]:,}'
      left.plot(np.arange(1, len(shares) + 1), shares, color=colour, label=label, linewidth=1.6)
    spread = np.array(row['std_by_dimension'])
    places = (np.arange(len(spread)) + 0.5) / len(spread)
    right.plot(places, spread, color=colour, label=f'{tap}: {row["std"]:.2f}', linewidth=1.6)
  left.set_yscale('log')
  left.set_xscale('log')
  left.set_title('singular values of the centred features, largest = 1', fontsize=11)
  left.set_xlabel('number')
  right.axhline(1.0, color='#9a9a9a', linestyle=':', linewidth=1)
  right.set_title('spread of the dimensions, isotropic = 1', fontsize=11)
  right.set_xlabel('share of the dimensions, largest first')
  right.set_xlim(0, 1)
  right.set_ylim(0, None)
  for panel in (left, right):
    panel.grid(alpha=0.3)
    if panel.get_legend_handles_labels()[0]:
      panel.legend(frameon=False, fontsize=9)
    for side in ('top', 'right'):
      panel.spines[side].set_visible(False)
  figure.savefig(path, dpi=120)
  return path
