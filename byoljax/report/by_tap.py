"""Evaluations that have a row for every tap of a run: tables, and the spectra as a picture."""

from collections.abc import Mapping, Sequence
import contextlib
import pathlib
from typing import Any

import numpy as np

from byoljax.report import evaluations, figures, table
from byoljax.report.curves import look

# Task -> (field of a row, heading, format), in the order of the columns.
SHOWN: dict[str, tuple[tuple[str, str, str], ...]] = {
  'layers': (
    ('tap', 'tap', ''),
    ('dimensions', 'dimensions', '{:,}'),
    ('knn_top1', 'k-NN top-1', '{:.1%}'),
    ('knn_balanced', 'k-NN balanced', '{:.1%}'),
    ('logistic_top1', 'logistic top-1', '{:.1%}'),
    ('logistic_balanced', 'logistic balanced', '{:.1%}'),
    ('linear_top1', 'linear top-1', '{:.1%}'),
    ('linear_balanced', 'linear balanced', '{:.1%}'),
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
    ('centered_rank', 'centered rank', '{:.1f}'),
    ('mean_cosine', 'mean cosine', '{:.3f}'),
    ('dead', 'dead', '{:,.4g}'),
    ('verdict', 'verdict', ''),
  ),
}
TITLES = {
  'layers': 'Layer by layer',
  'hypersphere': 'Alignment and uniformity',
  'collapse': 'Collapse',
}
# Below this share of the largest, singular values are rounding of float32 features.
_FLOOR = 1e-7


def format_rows(task: str, rows: Sequence[Mapping[str, Any]], style: str | None = None) -> str:
  """The table of a task's rows, for the terminal or for Markdown; fields before them stay."""
  own = {name: heading for name, heading, _ in SHOWN[task]}
  names = [name for row in rows for name in row if name in own or name == 'encoder']
  shown = [{own.get(name, name): row[name] for name in row if name in names} for row in rows]
  columns = [name for name in ('encoder', *own) if name in names]
  headings = [own.get(name, name) for name in columns]
  formats = {heading: form for _, heading, form in SHOWN[task] if form and heading in headings}
  return table.format_table(shown, headings, formats=formats, style=style)


def newest(run: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
  """Task -> rows of the online network of the last evaluated checkpoint, on the run's own data.

  Layers by k-NN and by a linear probe are two evaluations: those of one checkpoint share rows.
  """
  made: dict[str, tuple[int, list[dict[str, Any]]]] = {}
  for each in _stored(run):
    config, step = each['config'], each['step']
    if (
      config.get('network') != 'online'
      or not evaluations.is_of_own_data(config)
      or not step.isdecimal()
    ):
      continue
    task, rows = config['task'], each['result']['rows']
    at, known = made.get(task, (-1, []))
    if int(step) == at:
      more = {row.get('tap'): row for row in rows}
      same = [row | more.pop(row.get('tap'), {}) for row in known]
      rows = [*same, *more.values()]
    if int(step) >= at:
      made[task] = int(step), rows
  return {task: rows for task, (_, rows) in made.items()}


def tables(run: pathlib.Path) -> dict[str, list[dict[str, str]]]:
  """Heading -> rows of text, for the report's page; what is not as expected is left out."""
  made = {}
  for each in _stored(run):
    config = each['config']
    task = config['task']
    heading = f'{TITLES[task]}, {config.get("network", "")} network, step {each["step"]}'
    heading += ', linear probe' if config.get('probe') == 'linear' else ''
    if not evaluations.is_of_own_data(config):
      heading += f', on {evaluations.evaluated_on(config)}'
    if heading in made:  # Another folder of the same name.
      heading += f' ({config.get("data", {}).get("dir", "")})'
    with contextlib.suppress(*evaluations.ODD):
      made[heading] = [
        {
          title: form.format(row[name]) if form else str(row[name])
          for name, title, form in SHOWN[task]
          if name in row
        }
        for row in each['result']['rows']
      ]
  return made


def _stored(run: pathlib.Path) -> list[dict[str, Any]]:
  """These among `evaluations.stored`."""
  found = [each for each in evaluations.stored(run) if each['config'].get('task') in SHOWN]
  return [each for each in found if 'rows' in each['result']]


def plot(rows: Mapping[str, Mapping[str, Any]], path: pathlib.Path) -> pathlib.Path:
  """Writes a PNG: singular values on a logarithmic axis, and the spread of every dimension.

  Args:
    rows: tap -> what `evals.spectrum.measure` says.
    path: the file.
  """
  figure = figures.figure(11, 4.2)
  left, right = figure.subplots(1, 2)
  for number, (tap, row) in enumerate(rows.items()):
    color, _, dash = look(number)
    style: dict[str, Any] = {'color': color, 'linestyle': dash, 'linewidth': 1.6}
    singular = np.array(row['spectrum'])
    if singular[0] > 0:
      shares = np.maximum(singular / singular[0], _FLOOR)
      label = f'{tap}: rank {row["centered_rank"]:.1f} of {row["dimensions"]:,}'
      left.plot(np.arange(1, len(shares) + 1), shares, label=label, **style)
    spread = np.array(row['std_by_dimension'])
    places = (np.arange(len(spread)) + 0.5) / len(spread)
    right.plot(places, spread, label=f'{tap}: {row["std"]:.2f}', **style)
  left.set_yscale('log')
  left.set_xscale('log')
  left.set_title('singular values of the centered features, largest = 1', fontsize=11)
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
    figures.open_above(panel)
  figures.save(figure, path, dpi=120)
  return path
