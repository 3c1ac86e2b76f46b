"""Any number of runs in one table and one plot.

    byoljax compare runs/byol runs/simclr runs/byol-seed1 --out comparison

Runs that differ in nothing but the seed are one row, mean ± standard deviation. A row is named by
its method, by its recipe where that differs, and by the settings in which it differs from the
others. Runs on different data stand apart, each beside the baselines that were evaluated on the
same data. Numbers are those of the newest step that was evaluated, from each run's `results.json`
or by evaluations afterwards; where protocols differ or a newer checkpoint is there, that is said.
Evaluations by tap (`byoljax layers`, `hypersphere`, `collapse`), of the last step that was
evaluated, and fine-tuning follow where runs have them.
"""

from collections.abc import Mapping, Sequence
import csv
import json
import pathlib
import statistics
from typing import Any

from byoljax.config import expanded
from byoljax.report import by_tap, compare_plot, final_table, table
from byoljax.report.finished import PIXELS, Run, load, training_seconds
from byoljax.workdir import files, places

Groups = dict[str, list[Run]]
SCORES = (('k-NN top-1', 'knn'), ('linear top-1', 'linear'))  # of the plot; the table has more
# What may differ between runs that count as seeds of one another.
_FREE = ('seed', 'log.', 'checkpoint.', 'profile.', 'data.dir', 'data.threads', 'evals.baselines',
         'evals.batch_size', 'bench.')  # fmt: skip
# Which differences tell most, in this order; all others follow, evaluations last.
_TELLING = ('encoder.name', 'encoder.', 'train.length', 'train.', 'method.', 'optim.', 'views.')
_MOST_FIELDS = 3
# Columns of fine-tuning, and the scores there, of images with one label or several.
_TUNED = (('top-1', 'top1'), ('11-point mAP', 'map11'), ('balanced', 'mean_per_class'))
_LARGEST = 'largest class'
_SAME_TUNING = ('labels', 'on', 'protocol', 'start')
# What the numbers of raw pixels depend on; all other options are those of layers.
_OF_PIXELS = ('encoder.input',)


def by_data(runs: Sequence[Run]) -> dict[str, list[Run]]:
  """Runs by what they were trained on; sets of one name that are not the same are numbered."""
  marks: dict[str, list[str]] = {}
  found: dict[str, list[Run]] = {}
  for run in runs:
    known = marks.setdefault(run.data, [])
    if run.fingerprint not in known:
      known.append(run.fingerprint)
    number = known.index(run.fingerprint) + 1
    found.setdefault(run.data if number == 1 else f'{run.data} {number}', []).append(run)
  return found


def grouped(runs: Sequence[Run]) -> Groups:
  """Runs on the same data, seeds of one another together, by a name that tells them apart."""
  groups: dict[str, list[Run]] = {}
  for run in runs:
    same = {key: value for key, value in run.fields.items() if not key.startswith(_FREE)}
    groups.setdefault(json.dumps(same, sort_keys=True), []).append(run)
  members = list(groups.values())
  named: Groups = {}
  for group in members:
    name = _named(group[0], [other[0] for other in members])
    marks = (group[0].name, *range(1, len(members)))
    choices = (name, *(f'{name} [{mark}]' for mark in marks))
    named[next(each for each in choices if each not in named)] = group
  return named


def _named(run: Run, others: Sequence[Run]) -> str:
  """'byol', 'byol:folder_small' or 'byol (batch_size=32)': what tells it from the others."""
  alike = [other for other in others if other.method == run.method]
  name = run.method
  if len({other.recipe for other in alike}) > 1 and run.recipe:
    name = run.recipe
    alike = [other for other in alike if other.recipe == run.recipe]
  every = [other.fields for other in alike]
  return f'{name} ({_differences(run.fields, every)})' if len(alike) > 1 else name


def _differing(others: Sequence[Mapping[str, Any]], within: tuple[str, ...]) -> list[str]:
  """Fields in which the others differ, but for those that seeds may differ in."""
  names = {name for other in others for name in other if name.startswith(within)}
  return [
    name
    for name in names
    if not name.startswith(_FREE) and len({json.dumps(other.get(name)) for other in others}) > 1
  ]


def _differences(
  fields: Mapping[str, Any],
  others: Sequence[Mapping[str, Any]],
  within: tuple[str, ...] = ('',),
) -> str:
  """'batch_size=32, ...': the fields in which the others differ, the most telling first.

  `within` are beginnings of the fields' names, of which the others are left out.
  """
  differing = _differing(others, within)

  def rank(name: str) -> tuple[int, str]:
    told = next((i for i, start in enumerate(_TELLING) if name.startswith(start)), len(_TELLING))
    return (told + name.startswith('evals.'), name)

  differing.sort(key=rank)
  last = [name.rpartition('.')[2] for name in differing]
  shown = [
    f'{short if last.count(short) == 1 else name}={fields.get(name)}'
    for name, short in zip(differing[:_MOST_FIELDS], last, strict=False)
  ]
  more = len(differing) - _MOST_FIELDS
  return ', '.join(shown) + (f' and {more} more' if more > 0 else '')


def protocols(runs: Sequence[Run]) -> list[str]:
  """Sentences about what makes the runs' numbers hard to compare; none if nothing does."""
  said = []
  for name in sorted({name for run in runs for name in run.protocol}):
    values = {json.dumps(run.protocol[name]) for run in runs if name in run.protocol}
    if len(values) > 1:
      said.append(f'{name} differs: {", ".join(sorted(values))}')
  for run in runs:
    for kind, step in run.older.items():
      said.append(f"{kind} of '{run.name}' is of step {step:,}, and it has a newer checkpoint")
  return said


def repeated(groups: Groups) -> list[str]:
  """Sentences about runs of one row that have the same seed, as copies have: they are no sample."""
  said = []
  for group in groups.values():
    seeds = [run.fields['seed'] for run in group]
    for seed in dict.fromkeys(seed for seed in seeds if seeds.count(seed) > 1):
      names = [f"'{run.name}'" for run in group if run.fields['seed'] == seed]
      said.append(f'{", ".join(names)} have the same seed {seed}, so that ± means little')
  return said


def rows(groups: Mapping[str, Sequence[Run]]) -> list[dict[str, Any]]:
  """One row a group, best linear accuracy first, then the baselines; all of them of the same data.

  Returns:
    {'encoder', score name: mean in per cent, score name + ' sd' (from 2 runs on), 'runs', 'epochs',
    'minutes'}; a score that no run has is absent. The last row is always naming the largest class.
  """
  made = [
    _row(name, [run.results[run.method] for run in group], group) for name, group in groups.items()
  ]
  made.sort(key=lambda row: [-row.get(title, -1.0) for title, _ in reversed(SCORES)])
  every = [run for group in groups.values() for run in group]
  return [*made, *_baselines(every)] + [
    {name: 100 * value if isinstance(value, float) else value for name, value in row.items()}
    for row in final_table.rows(every[0].results)
    if row['encoder'] == final_table.MAJORITY
  ]


def _baselines(every: Sequence[Run]) -> list[dict[str, Any]]:
  """A row for each baseline; of networks one for each encoder, named by what tells them apart."""
  names = dict.fromkeys(name for run in every for name in run.results if name != run.method)
  made = []
  for name in names:
    within = _OF_PIXELS if name == PIXELS else ('encoder.',)
    groups: dict[str, list[Run]] = {}
    for run in every:
      if name in run.results:
        own = {key: value for key, value in run.fields.items() if key.startswith(within)}
        groups.setdefault(json.dumps(own, sort_keys=True), []).append(run)
    firsts = [group[0].fields for group in groups.values()]
    for group in groups.values():
      told = f' ({_differences(group[0].fields, firsts, within)})' if len(groups) > 1 else ''
      # The same encoder of the same seed was evaluated beside every run: it counts once.
      found = {run.fields['seed']: run.results[name] for run in group}
      made.append(_row(f'{name}{told}', list(found.values()), ()))
  return made


def _row(name: str, results: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> dict[str, Any]:
  row: dict[str, Any] = {'encoder': name}
  for title, (kind, score) in final_table.COLUMNS.items():
    values = [100 * result[kind][score] for result in results if score in result.get(kind, {})]
    if values:
      row[title] = statistics.mean(values)
    if len(values) > 1:
      row[f'{title} sd'] = statistics.stdev(values)
  row['runs'] = len(results)
  last = [run.rows[-1] for run in runs if run.rows]
  if last:
    row['epochs'] = round(statistics.mean(each['epoch'] for each in last), 2)
  seconds = [known for run in runs if (known := training_seconds(run.rows)) is not None]
  if seconds:
    row['minutes'] = statistics.median(seconds) / 60
  return row


def as_table(made: Sequence[Mapping[str, Any]], style: str | None = None) -> str:
  """For the terminal or for Markdown: '51.2 ± 0.4'."""
  cells = []
  for row in made:
    cell: dict[str, Any] = {'encoder': row['encoder']}
    for title in final_table.COLUMNS:
      spread = row.get(f'{title} sd')
      mark = '+-' if style == 'ascii' else '±'
      if title in row:
        cell[title] = f'{row[title]:.1f}' + (f' {mark} {spread:.1f}' if spread is not None else '')
    cells.append(cell | {name: row.get(name) for name in ('runs', 'epochs', 'minutes')})
  columns = ['encoder', *final_table.columns(made), 'runs', 'epochs', 'minutes']
  return table.format_table(cells, columns, formats={'minutes': '{:.1f}'}, style=style)


def finetune_table(groups: Mapping[str, Sequence[Run]], style: str | None = None) -> str:
  """Fine-tuning of the runs that have it, mean ± standard deviation in per cent; '' without any.

  Results are averaged that differ in nothing but seeds; a protocol is named with the settings in
  which others of its name differ.
  """
  every = [
    (name, row)
    for name, group in groups.items()
    for run in group
    for row in run.finetuned
    if 'top1' in row or 'map11' in row
  ]
  found: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
  for name, row in every:
    alike = [other['settings'] for _, other in every if other['protocol'] == row['protocol']]
    kind = {'encoder': name} | {key: row[key] for key in _SAME_TUNING}
    differing = _differing(alike, ('',))
    if differing:
      kind['protocol'] += f' ({_differences(row["settings"], alike)})'
    key = json.dumps([kind, {name: row['settings'].get(name) for name in sorted(differing)}])
    found.setdefault(key, (kind, []))[1].append(row)
  rows: list[dict[str, Any]] = []
  mark = '+-' if style == 'ascii' else '±'
  for kind, own in found.values():
    shown = {
      title: _spread([100 * row[score] for row in own if score in row], mark)
      for title, score in _TUNED
    }
    largest = {_LARGEST: f'{100 * own[0]["majority"]:.1f}'} if 'majority' in own[0] else {}
    rows.append(
      kind
      | {title: text for title, text in shown.items() if text}
      | {**largest, 'results': len(own)}
    )
  order = ('encoder', *_SAME_TUNING, *(title for title, _ in _TUNED), _LARGEST, 'results')
  columns = [name for name in order if any(name in row for row in rows)]
  return table.format_table(rows, columns, style=style) if rows else ''


def _spread(values: Sequence[float], mark: str) -> str:
  """'51.2 ± 0.4'; '' of nothing."""
  spread = f' {mark} {statistics.stdev(values):.1f}' if len(values) > 1 else ''
  return f'{statistics.mean(values):.1f}{spread}' if values else ''


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
  """All columns, unrounded, in UTF-8."""
  columns = list(dict.fromkeys(name for row in made for name in row))
  with files.replacing(path, 'w') as file:
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows(made)


def _sections(data: Mapping[str, Groups], style: str | None = None) -> list[tuple[str, str]]:
  """(heading, table) of everything; headings name the data where there are several."""
  made = []
  for name, groups in data.items():
    on = f', {name}' if len(data) > 1 else ''
    made.append((name if on else '', as_table(rows(groups), style)))
    made += [(f'{title}{on}', text) for title, text in _further(groups, style).items()]
  return made


def run(workdirs: Sequence[str], out: str = '') -> None:
  """Prints the table and, if a folder is named, writes table.md, table.csv and scores.png there.

  Raises:
    ValueError: a run without results, a folder that cannot be written, or '~' without a home.
    OSError: the folder cannot be written.
  """
  if out:
    places.require_folder(out, '--out')
  # Globs may name a run twice.
  runs = [load(path) for path in dict.fromkeys(expanded(name).resolve() for name in workdirs)]
  data = {name: grouped(own) for name, own in by_data(runs).items()}
  print('\n\n'.join(f'{title}\n{text}'.lstrip('\n') for title, text in _sections(data)))
  for name, groups in data.items():
    every = [run for group in groups.values() for run in group]
    for sentence in [*protocols(every), *repeated(groups)]:
      print(f'Careful{f", {name}" if len(data) > 1 else ""}: {sentence}.')
  if out:
    folder = expanded(out)
    folder.mkdir(parents=True, exist_ok=True)
    texts = [
      f'## {title}\n\n{text}' if title else text for title, text in _sections(data, 'markdown')
    ]
    with files.replacing(folder / 'table.md', 'w') as file:
      file.write('\n\n'.join(texts) + '\n')
    first = (lambda name: {'data': name}) if len(data) > 1 else (lambda name: {})
    made = {name: rows(groups) for name, groups in data.items()}
    every = [first(name) | row for name, own in made.items() for row in own]
    write_csv(every, folder / 'table.csv')
    compare_plot.write(data, made, SCORES, folder / 'scores.png')
    print(f'written  {folder}')
