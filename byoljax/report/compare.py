"""Any number of runs in one table and one plot.

    byoljax compare runs/byol runs/simclr runs/byol-seed1 --out comparison

Runs that differ in nothing but the seed are one row, mean ± standard deviation. A row is named by
its method and by the settings in which it differs from the others. Baselines that the runs were
evaluated with stand below. Numbers are those of the last step, from each run's `results.json`;
where runs were evaluated by different protocols or on different data, that is said. Evaluations by
tap (`byoljax layers`, `hypersphere`, `collapse`), of the last step that was evaluated, and
fine-tuning follow where runs have them.
"""

from collections.abc import Mapping, Sequence
import csv
import json
import pathlib
import statistics
from typing import Any, NamedTuple

import numpy as np

from byoljax.report import by_tap, evaluations, table
from byoljax.workdir import metrics

SCORES = (('k-NN top-1', 'knn'), ('linear top-1', 'linear'))
# What may differ between runs that count as seeds of one another.
_FREE = ('seed', 'log.', 'checkpoint.', 'profile.', 'data.dir', 'data.threads', 'evals.baselines',
         'evals.batch_size')  # fmt: skip
# What results depend on although it is not the training's.
_PROTOCOL = (
  'evals.knn.k',
  'evals.knn.temperature',
  'evals.linear.',
  'evals.image_size',
  'data.name',
)
_MOST_FIELDS = 4
_COLORS = ('#1f5fa8', '#d9730d', '#2e8b57', '#8e44ad', '#b03a3a', '#7f6000', '#4c4c4c', '#008b8b')


class Run(NamedTuple):
  """A finished run.

  Attributes:
    name: its directory's name.
    fields: its configuration, by dotted name.
    results: encoder -> {'knn': {'top1', ...}, 'linear': {'top1', ...}}.
    rows: its metrics.
    taps: task -> rows of its evaluations by tap, where there are any.
    finetuned: results of fine-tuning, where there are any; see `evaluations.finetuned`.
  """

  name: str
  fields: dict[str, Any]
  results: dict[str, Any]
  rows: list[dict[str, float]]
  taps: dict[str, list[dict[str, Any]]]
  finetuned: list[dict[str, Any]]

  @property
  def method(self) -> str:
    """The name under which the trained encoder's results stand."""
    return self.fields['method.name']


def load(workdir: pathlib.Path) -> Run:
  """Reads a run.

  Raises:
    ValueError: it has no final results.
  """
  try:
    stored = json.loads((workdir / 'results.json').read_text())
    fields = _flat(json.loads((workdir / 'config.json').read_text())['config'])
    results = stored['result']
    assert fields['method.name'] in results
  except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
    raise ValueError(
      f"'{workdir}' has no final results: they are in results.json when a run with "
      f'evals.final=true is complete.'
    ) from error
  return Run(
    workdir.name,
    fields,
    results,
    metrics.read(workdir),
    by_tap.newest(workdir),
    evaluations.finetuned(workdir),
  )


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
  """Runs that are seeds of one another, by a name that tells them from the rest."""
  groups: dict[str, list[Run]] = {}
  for run in runs:
    same = {key: value for key, value in run.fields.items() if not key.startswith(_FREE)}
    groups.setdefault(json.dumps(same, sort_keys=True), []).append(run)
  members = list(groups.values())
  named: dict[str, list[Run]] = {}
  for group in members:
    alike = [other for other in members if other[0].method == group[0].method]
    name = group[0].method
    if len(alike) > 1:
      name += f' ({_differences(group[0], [other[0] for other in alike])})'
    named[name if name not in named else f'{name} [{group[0].name}]'] = group
  return named


def _differences(run: Run, others: Sequence[Run]) -> str:
  """'train.batch_size=32, ...': the run's fields in which the others differ."""
  names = sorted({name for other in others for name in other.fields})
  differing = [
    name
    for name in names
    if not name.startswith(_FREE)
    and len({json.dumps(other.fields.get(name)) for other in others}) > 1
  ]
  shown = [f'{name}={run.fields.get(name)}' for name in differing[:_MOST_FIELDS]]
  more = len(differing) - _MOST_FIELDS
  return ', '.join(shown) + (f' and {more} more' if more > 0 else '')


def protocols(runs: Sequence[Run]) -> list[str]:
  """Sentences about what makes the runs' numbers hard to compare; none if nothing does."""
  said = []
  for name in sorted({name for run in runs for name in run.fields}):
    values = {json.dumps(run.fields.get(name)) for run in runs}
    if name.startswith(_PROTOCOL) and len(values) > 1:
      said.append(f'{name} differs: {", ".join(sorted(values))}')
  return said


def rows(groups: Mapping[str, Sequence[Run]]) -> list[dict[str, Any]]:
  """One row a group, best linear accuracy first, then the baselines.

  Returns:
    {'encoder', score name: mean in per cent, score name + ' sd' (from 2 runs on), 'runs', 'epochs',
    'minutes'}.
  """
  made = [
    _row(name, [run.results[run.method] for run in group], group) for name, group in groups.items()
  ]
  made.sort(key=lambda row: -row[SCORES[-1][0]])
  every = [run for group in groups.values() for run in group]
  baselines = dict.fromkeys(
    name for run in every for name in run.results if name != run.method
  )  # in order, each once
  for name in baselines:
    # The same encoder of the same seed was evaluated beside every run: it counts once.
    found = {run.fields['seed']: run.results[name] for run in every if name in run.results}
    made.append(_row(name, list(found.values()), ()))
  return made


def _row(name: str, results: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> dict[str, Any]:
  row: dict[str, Any] = {'encoder': name}
  for title, key in SCORES:
    values = [100 * result[key]['top1'] for result in results]
    row[title] = statistics.mean(values)
    if len(values) > 1:
      row[f'{title} sd'] = statistics.stdev(values)
  row['runs'] = len(results)
  last = [run.rows[-1] for run in runs if run.rows]
  if last:
    row['epochs'] = round(statistics.mean(each['epoch'] for each in last), 2)
    row['minutes'] = statistics.median(each['time/elapsed_s'] for each in last) / 60
  return row


def as_table(made: Sequence[Mapping[str, Any]], style: str | None = None) -> str:
  """For the terminal or for Markdown: '51.2 ± 0.4'."""
  cells = []
  for row in made:
    cell: dict[str, Any] = {'encoder': row['encoder']}
    for title, _ in SCORES:
      spread = row.get(f'{title} sd')
      mark = '+-' if style == 'ascii' else '±'
      cell[title] = f'{row[title]:.1f}' + (f' {mark} {spread:.1f}' if spread is not None else '')
    cells.append(cell | {name: row.get(name) for name in ('runs', 'epochs', 'minutes')})
  columns = ['encoder', *(title for title, _ in SCORES), 'runs', 'epochs', 'minutes']
  return table.format_table(cells, columns, formats={'minutes': '{:.1f}'}, style=style)


def finetune_table(groups: Mapping[str, Sequence[Run]], style: str | None = None) -> str:
  """Fine-tuning of the runs that have it, mean ± standard deviation in per cent; '' without any."""
  rows: list[dict[str, Any]] = []
  mark = '+-' if style == 'ascii' else '±'
  for name, group in groups.items():
    every = [row for run in group for row in run.finetuned if 'top1' in row]
    for labels, start in dict.fromkeys((row['labels'], row['start']) for row in every):
      own = [100 * row['top1'] for row in every if (row['labels'], row['start']) == (labels, start)]
      spread = f' {mark} {statistics.stdev(own):.1f}' if len(own) > 1 else ''
      shown = f'{statistics.mean(own):.1f}{spread}'
      rows.append(
        {'encoder': name, 'labels': labels, 'start': start, 'top-1': shown, 'results': len(own)}
      )
  return table.format_table(rows, list(rows[0]), style=style) if rows else ''


def tap_tables(groups: Mapping[str, Sequence[Run]], style: str | None = None) -> dict[str, str]:
  """Heading -> table of the evaluations by tap that the runs have; numbers are means over seeds."""
  made = {}
  for task, title in by_tap.TITLES.items():
    shown = []
    for name, group in groups.items():
      every = [row for run in group for row in run.taps.get(task, ())]
      for tap in dict.fromkeys(row['tap'] for row in every):
        alike = [row for row in every if row['tap'] == tap]
        shown.append({'encoder': name} | _mean(alike))
    if shown:
      made[title] = by_tap.format_rows(task, shown, style)
  return made


def _further(groups: Mapping[str, Sequence[Run]], style: str | None = None) -> dict[str, str]:
  finetuned = finetune_table(groups, style)
  return ({'Fine-tuning': finetuned} if finetuned else {}) | tap_tables(groups, style)


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Field by field: numbers are averaged, texts listed, each once."""
  made: dict[str, Any] = {}
  for name, value in rows[0].items():
    values = [row[name] for row in rows if name in row]
    if isinstance(value, str):
      made[name] = ', '.join(dict.fromkeys(values))
    elif isinstance(value, int | float):
      same = len(set(values)) == 1  # Counts stay whole.
      made[name] = value if same else statistics.mean(values)
  return made


def write_csv(made: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
  """All columns, unrounded."""
  columns = list(dict.fromkeys(name for row in made for name in row))
  with path.open('w', newline='') as file:
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows(made)


def plot(groups: Mapping[str, Sequence[Run]], path: pathlib.Path) -> None:
  """Final scores as bars with a dot a run, and k-NN while training as curves."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  made = rows(groups)
  trained = [row for row in made if row['encoder'] in groups][::-1]
  colors = {row['encoder']: _COLORS[i % len(_COLORS)] for i, row in enumerate(reversed(trained))}
  figure = Figure(figsize=(12, max(3.2, 0.45 * len(trained) + 1.6)), layout='constrained')
  FigureCanvasAgg(figure)
  *bars, curves = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
  for panel, (title, key) in zip(bars, SCORES, strict=True):
    for place, row in enumerate(trained):
      panel.barh(place, row[title], color=colors[row['encoder']], alpha=0.45, height=0.6)
      values = [100 * run.results[run.method][key]['top1'] for run in groups[row['encoder']]]
      panel.plot(values, [place] * len(values), 'o', color=colors[row['encoder']], markersize=4)
    for row, line in zip(
      (row for row in made if row['encoder'] not in groups), ('--', ':'), strict=False
    ):
      panel.axvline(row[title], color='#636363', linestyle=line, linewidth=1, label=row['encoder'])
    panel.set_title(f'{title}, %', fontsize=11)
    panel.set_yticks(range(len(trained)), [row['encoder'] for row in trained], fontsize=9)
    if panel is not bars[0]:
      panel.tick_params(labelleft=False)
  handles, names = bars[0].get_legend_handles_labels()
  if names:
    figure.legend(handles, names, frameon=False, fontsize=9, ncols=2, loc='outside lower left')
  for name, group in groups.items():
    for number, run in enumerate(group):
      points = [(row['epoch'], 100 * row['knn/top1']) for row in run.rows if 'knn/top1' in row]
      if points:
        label = name if number == 0 else None
        curves.plot(*np.array(points).T, 'o-', markersize=3, color=colors[name], label=label)
  curves.set_title('k-NN on held-out training images, %', fontsize=11)
  curves.set_xlabel('epoch')
  for panel in (*bars, curves):
    panel.grid(axis='both' if panel is curves else 'x', alpha=0.3)
    for side in ('top', 'right'):
      panel.spines[side].set_visible(False)
  figure.savefig(path, dpi=120)


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat |= _flat(value, f'{prefix}{name}.')
    else:
      flat[f'{prefix}{name}'] = value
  return flat


def run(workdirs: Sequence[str], out: str = '') -> None:
  """Prints the table and, if a folder is named, writes table.md, table.csv and scores.png there.

  Raises:
    ValueError: a run without results.
    OSError: the folder cannot be written.
  """
  runs = [load(pathlib.Path(name)) for name in workdirs]
  groups = grouped(runs)
  made = rows(groups)
  print(as_table(made))
  for title, text in _further(groups).items():
    print(f'\n{title}\n{text}')
  for sentence in protocols(runs):
    print(f'Careful: {sentence}.')
  if out:
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    more = [f'## {title}\n\n{text}' for title, text in _further(groups, 'markdown').items()]
    (folder / 'table.md').write_text('\n\n'.join([as_table(made, 'markdown'), *more]) + '\n')
    write_csv(made, folder / 'table.csv')
    plot(groups, folder / 'scores.png')
    print(f'written  {folder}')
