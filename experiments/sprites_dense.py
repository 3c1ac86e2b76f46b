"""Masks, depth and boxes of `sprites` with an encoder pretrained by BYOL, and from scratch.

    PYTHONPATH=. python experiments/sprites_dense.py --out experiments/sprites_dense --workers 2

For each seed an encoder is pretrained without labels on the training images (`byol:shapes`), and
then every task's small protocol is run on it, frozen and fine-tuned, and from a random start, with
so many training images. What is finished is not repeated. Written are results.json and table.md,
and the pictures of the first seed.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import json
import pathlib
import shlex
import shutil
import statistics
import sys
from typing import Any, NamedTuple

from collect import processor
import runner

Rows = list[dict[str, Any]]
STARTS = {'online': 'BYOL', 'random': 'scratch'}


class Task(NamedTuple):
  """One column of the table.

  Attributes:
    title: of the column.
    recipe: the recipe and its options.
    metric: of its result.
    scale: what it is multiplied by.
    each: overrides of each command that it takes.
    rows: a command's result -> rows with 'start', 'mode' and the metric.
  """

  title: str
  recipe: str
  metric: str
  scale: float
  each: Mapping[str, Sequence[str]]
  rows: Callable[[Any], Rows]


def _as_they_are(result: Any) -> Rows:
  return result['rows']


def _by_start(result: Any) -> Rows:
  """Of a command that trains in one mode at a time."""
  return [
    {'start': start, 'mode': 'frozen' if each['frozen'] else 'finetuned', **each}
    for start, each in result.items()
  ]


TASKS = {
  'segment': Task('mean IoU, %', 'segment:small', 'mean_iou', 100.0, {'': ()}, _as_they_are),
  'depth': Task('depth, rms', 'depth:small', 'rms', 1.0, {'': ()}, _as_they_are),
  'detect': Task(
    'boxes, AP50, %',
    'detect:small',
    'ap50',
    100.0,
    # A random encoder that stays as it is would be trained by this command all the same.
    {'-tuned': (), '-frozen': ('--config.detect.frozen=true', '--config.scratch=false')},
    _by_start,
  ),
}


class Cell(NamedTuple):
  """One command on one encoder."""

  task: str
  part: str
  seed: int
  images: int
  pretrained: pathlib.Path
  home: pathlib.Path
  overrides: tuple[str, ...]

  def command(self) -> list[str]:
    """The command line, with this interpreter."""
    name, _, options = TASKS[self.task].recipe.partition(':')
    split = () if self.task == 'detect' else (f'--config.split_seed={self.seed}',)
    return [
      sys.executable, '-m', 'byoljax.main', f'--config=configs/{name}.py:{options}',
      f'--workdir={self.home}', f'--config.pretrained={self.pretrained}',
      '--config.data.name=sprites', f'--config.images={self.images}',
      f'--config.{self.task}.seed={self.seed}', *split, *TASKS[self.task].each[self.part],
      *(flag for flag in self.overrides if self._meant(flag)),
    ]  # fmt: skip

  def _meant(self, flag: str) -> bool:
    """Whether a flag is for this task: for all, or a field of its own protocol."""
    return not any(flag.startswith(f'--config.{name}.') for name in TASKS if name != self.task)


def train(cell: Cell, cores: Sequence[int]) -> Rows:
  """Runs a cell unless it is done; its rows with the CPU time, none where it failed."""
  done = cell.home / 'done.json'
  if not done.exists():
    log = cell.home.parent / f'{cell.home.name}.log'
    print(cell.home.name, flush=True)
    status, cpu_s = runner.measured(cell.command(), cores, log)
    if status:
      print(f'{cell.home.name} failed: see {log}', flush=True)
      return []
    stored = json.loads((cell.home / 'result.json').read_text())
    shared = {'task': cell.task, 'seed': cell.seed, 'images': cell.images,
              'cpu_minutes': cpu_s / 60, 'protocol': stored['config'][cell.task],
              'versions': stored.get('versions')}  # fmt: skip
    done.write_text(json.dumps([row | shared for row in TASKS[cell.task].rows(stored['result'])]))
  return json.loads(done.read_text())


def pretrain(options: argparse.Namespace) -> dict[int, pathlib.Path]:
  """The run of each seed whose pretraining did not fail."""
  jobs = [
    runner.Job(
      'byol:shapes',
      options.runs / f'byol-{seed}',
      (f'--config.seed={seed}', '--config.data.name=sprites', *shlex.split(options.pretraining)),
    )
    for seed in options.seeds
  ]
  found = runner.run_all(jobs, options.workers)
  return {
    seed: job.workdir
    for seed, job, result in zip(options.seeds, jobs, found, strict=True)
    if result is not None
  }


def summary(rows: Rows) -> Rows:
  """Mean and standard deviation over the seeds, for every task, number of images and start."""
  cells: dict[tuple[Any, ...], list[float]] = {}
  for row in rows:
    key = (row['images'], row['start'], row['mode'], row['task'])
    task = TASKS[row['task']]
    cells.setdefault(key, []).append(task.scale * row[task.metric])
  return [
    dict(zip(('images', 'start', 'mode', 'task'), key, strict=True))
    | {
      'mean': statistics.mean(values),
      'sd': statistics.stdev(values) if len(values) > 1 else None,
      'seeds': len(values),
    }
    for key, values in sorted(cells.items(), key=lambda cell: cell[0])
  ]


def table(found: Rows) -> str:
  """The summary as Markdown: a row for every number of images, start and mode."""
  names = [name for name in TASKS if any(row['task'] == name for row in found)]
  lines = [
    '| images | start | encoder | ' + ' | '.join(TASKS[name].title for name in names) + ' |',
    '|---:|---|---|' + '---:|' * len(names),
  ]
  for images, start, mode in sorted({(r['images'], r['start'], r['mode']) for r in found}):
    shown = []
    for name in names:
      own = [row for row in found if (row['images'], row['start'], row['mode'], row['task'])
             == (images, start, mode, name)]  # fmt: skip
      digits = 1 if TASKS[name].scale > 1 else 3
      spread = f' ± {own[0]["sd"]:.{digits}f}' if own and own[0]['sd'] is not None else ''
      shown.append(f'{own[0]["mean"]:.{digits}f}{spread}' if own else '')
    lines.append(
      f'| {images or "all"} | {STARTS.get(start, start)} | {mode} | ' + ' | '.join(shown) + ' |'
    )
  return '\n'.join(lines)


def main() -> None:
  """Pretrains, evaluates, and writes results, table and pictures."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--runs', type=pathlib.Path, default=pathlib.Path('runs/sprites_dense'))
  parser.add_argument('--tasks', nargs='+', choices=list(TASKS), default=list(TASKS))
  parser.add_argument('--images', type=int, nargs='+', default=[500, 0], help='0: all')
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--workers', type=int, default=1)
  parser.add_argument('--pretraining', default='', help='further flags of it, in one argument')
  parser.add_argument('override', nargs='*', help='further flags of the tasks, after --')
  options = parser.parse_args()
  runs = pretrain(options)
  cells = [
    Cell(task, part, seed, images, run, options.runs / f'{task}{part}-{images}-{seed}',
         tuple(options.override))
    for seed, run in runs.items()
    for images in options.images
    for task in options.tasks
    for part in TASKS[task].each
  ]  # fmt: skip
  rows = [row for found in runner.on_shares(train, cells, options.workers) for row in found]
  found = summary(rows)
  options.out.mkdir(parents=True, exist_ok=True)
  record = {'results': rows, 'summary': found, 'processor': processor()}
  (options.out / 'results.json').write_text(json.dumps(record, indent=1) + '\n')
  (options.out / 'table.md').write_text(table(found) + '\n')
  for cell in cells:
    picture = cell.home / 'predictions.png'
    if cell.seed == options.seeds[0] and picture.exists():
      shutil.copy(picture, options.out / f'{cell.task}-{cell.images or "all"}.png')
  print(table(found))


if __name__ == '__main__':
  main()
