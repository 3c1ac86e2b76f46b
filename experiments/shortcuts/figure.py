"""Draws the traces and what networks made of them.

python -m experiments.shortcuts.figure RESULTS.json docs/pretext/shortcuts.png
"""

import json
import pathlib
import sys

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt
import numpy as np

from experiments.shortcuts import sets

TITLES = {
  'aberration': 'a lens that magnifies\nred and blue by 8 %',
  'continuity': 'noise that goes on\nacross borders of tiles',
  'brightness': 'brighter to the bottom\nand to the right',
}


def main(results: pathlib.Path, out: pathlib.Path) -> None:
  """One column for each trace: an image above, accuracies with every defense below."""
  found = json.loads(results.read_text())
  widths = [len(found['classifier'][cue]) for cue in TITLES]
  figure, axes = plt.subplots(
    2, len(TITLES), figsize=(9, 5.4), layout='constrained',
    gridspec_kw={'width_ratios': widths, 'height_ratios': (1, 1.1)},
  )  # fmt: skip
  for column, cue in enumerate(TITLES):
    picture, bars = axes[:, column]
    image = sets.images(cue, 1, seed=1)[0]
    picture.imshow(np.clip(0.5 + 0.18 * image, 0, 1), interpolation='nearest')
    picture.set_title(TITLES[cue], fontsize=10)
    picture.set_axis_off()
    names = list(found['classifier'][cue])
    for shift, color, who in ((-0.2, '#2874a6', 'classifier'), (0.2, '#c0392b', 'network')):
      places = [i for i, name in enumerate(names) if name in found[who].get(cue, {})]
      values = [100 * found[who][cue][names[i]] for i in places]
      label = {'classifier': 'a classifier that knows the trace', 'network': 'a network'}[who]
      drawn = bars.bar(np.array(places) + shift, values, color=color, width=0.4, label=label)
      bars.bar_label(drawn, fmt='%.0f', fontsize=8)
    bars.axhline(12.5, color='black', linewidth=0.8, linestyle='--')
    lines = [name.replace(' ', '\n', 1) for name in names]
    bars.set_xticks(range(len(names)), lines, fontsize=8)
    bars.set_ylim(0, 112)
    bars.spines[['top', 'right']].set_visible(False)
    if column:
      bars.set_yticks([])
    else:
      bars.set_ylabel('accuracy [%], chance dashed')
      bars.legend(fontsize=8, frameon=False)
  out.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(out, dpi=110)


if __name__ == '__main__':
  main(*map(pathlib.Path, sys.argv[1:3]))
