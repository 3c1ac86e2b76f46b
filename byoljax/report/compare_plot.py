"""The plot of a comparison: final scores as bars, k-NN while training as curves."""

from collections.abc import Mapping, Sequence
import itertools
import pathlib
import textwrap
from typing import Any

import numpy as np

from byoljax.report import figures, fonts
from byoljax.report.curves import look
from byoljax.report.finished import Run

_WIDE = 30  # Characters of a label in one line.
_GRAYS, _DASHES = ('#636363', '#b0b0b0', '#202020'), ('--', ':', '-.', (0, (8, 2)), (0, (1, 4)))


def write(
  data: Mapping[str, Mapping[str, Sequence[Run]]],
  made: Mapping[str, Sequence[Mapping[str, Any]]],
  scores: Sequence[tuple[str, str]],
  path: pathlib.Path,
) -> None:
  """One line of panels for each data set: a bar a group with a dot a run, and the curves.

  Args:
    data: data set -> name -> runs that are seeds of one another.
    made: data set -> what `compare.rows` says of them.
    scores: (heading, name in the results).
    path: the PNG.
  """
  heights = [1.5 + sum(0.2 + 0.2 * _label(name).count('\n') + 0.25 for name in groups)
             for groups in data.values()]  # fmt: skip
  heights = [max(2.9, height) for height in heights]
  figure = figures.figure(13, sum(heights))
  lines = figure.subfigures(len(data), 1, squeeze=False, height_ratios=heights)[:, 0]
  for part, (name, groups) in zip(lines, data.items(), strict=True):
    if len(data) > 1:
      part.suptitle(fonts.plain(name), fontsize=12, fontweight='bold', x=0.01, ha='left')
    _line(part, groups, made[name], scores)
  figures.save(figure, path, dpi=120)


def _label(name: str) -> str:
  return fonts.plain('\n'.join(textwrap.wrap(name, _WIDE)))


def _line(
  part: Any,
  groups: Mapping[str, Sequence[Run]],
  made: Sequence[Mapping[str, Any]],
  scores: Sequence[tuple[str, str]],
) -> None:
  trained = [row for row in made if row['encoder'] in groups][::-1]
  looks = {row['encoder']: look(number) for number, row in enumerate(reversed(trained))}
  *bars, curves = part.subplots(1, len(scores) + 1, width_ratios=(*[1] * len(scores), 1.2))
  for panel, (title, key) in zip(bars, scores, strict=True):
    for place, row in enumerate(trained):
      values = [
        100 * run.results[run.method][key]['top1']
        for run in groups[row['encoder']]
        if 'top1' in run.results[run.method].get(key, {})
      ]
      color, marker, _ = looks[row['encoder']]
      panel.barh(place, row.get(title, 0.0), color=color, alpha=0.45, height=0.6)
      panel.plot(values, [place] * len(values), marker, color=color, markersize=4)
      if not values:
        panel.text(0, place, ' not evaluated', va='center', fontsize=9, color='#636363')
    baselines = (row for row in made if row['encoder'] not in groups and title in row)
    styles = itertools.cycle(itertools.product(_GRAYS, _DASHES))
    for row, (gray, dash) in zip(baselines, styles, strict=False):
      panel.axvline(row[title], color=gray, linestyle=dash, linewidth=1,
                    label=fonts.plain(row['encoder']))  # fmt: skip
    panel.set_title(f'{title}, %', fontsize=11)
    panel.set_xlim(left=0)
    panel.set_ylim(-0.6, len(trained) - 0.4)
    panel.set_yticks(range(len(trained)), [_label(row['encoder']) for row in trained], fontsize=9)
    if panel is not bars[0]:
      panel.tick_params(labelleft=False)
  handles, names = max(
    (panel.get_legend_handles_labels() for panel in bars), key=lambda x: len(x[1])
  )
  if names:
    part.legend(handles, names, frameon=False, fontsize=9, ncols=2, loc='outside lower left')
  for name, group in groups.items():
    for run in group:
      points = [(row['epoch'], 100 * row['knn/top1']) for row in run.rows if 'knn/top1' in row]
      if points:
        curves.plot(*np.array(points).T, markersize=3, **looks[name]._asdict())
  curves.set_title('k-NN on held-out training images, %', fontsize=11)
  curves.set_xlabel('epoch')
  if not curves.lines:
    curves.text(0.5, 0.5, 'not evaluated while training', ha='center', fontsize=9, color='#636363',
                transform=curves.transAxes)  # fmt: skip
    curves.set_xticks([])
    curves.set_yticks([])
  for panel in (*bars, curves):
    panel.grid(axis='both' if panel is curves else 'x', alpha=0.3)
    figures.open_above(panel)
