"""Draws steps.png: k-NN while training, recipe by recipe.

python experiments/shapes_byol/plot.py
"""

import json
import pathlib

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

FOLDER = pathlib.Path(__file__).parent
# label -> (metrics, color, share of the CPU time of an epoch of the recipe before)
CURVES = {
  'the recipe before, version 0.1 (on test images)': ('metrics/before/*.jsonl', '#9aa0a6', 1.0),
  'faster target, normalized projections, views of 24 px': (
    'metrics/without_crops_and_gray.jsonl', '#d9720d', 0.6,
  ),
  'in addition weaker crops and more gray: the recipe': (
    'metrics/seed*.jsonl', '#1f5fa8', 0.6,
  ),
}  # fmt: skip
AXES = (('epochs', 1.0), ('CPU time, in epochs of the recipe before', None))


def points(path: pathlib.Path) -> list[tuple[float, float]]:
  """(epoch, k-NN top-1 in %) of one run."""
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  return [(row['epoch'], 100 * row['knn/top1']) for row in rows if 'knn/top1' in row]


def main() -> None:
  """One panel by epoch, one by cost."""
  figure = Figure(figsize=(10, 4.6), layout='constrained')
  FigureCanvasAgg(figure)
  for panel, (axis, factor) in zip(figure.subplots(1, 2, sharey=True), AXES, strict=True):
    for label, (pattern, color, cost) in CURVES.items():
      for number, path in enumerate(sorted(FOLDER.glob(pattern))):
        epochs, accuracy = zip(*points(path), strict=True)
        x = [epoch * (factor or cost) for epoch in epochs]
        panel.plot(x, accuracy, 'o-', color=color, markersize=4, linewidth=1.4,
                   label=label if number == 0 else None)  # fmt: skip
    panel.set_xlabel(axis)
    panel.grid(alpha=0.3)
    panel.spines[['top', 'right']].set_visible(False)
  figure.axes[0].set_ylabel('k-NN while training, %')
  handles, labels = figure.axes[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside lower center', frameon=False, fontsize=9)
  figure.savefig(FOLDER / 'steps.png', dpi=120)


if __name__ == '__main__':
  main()
