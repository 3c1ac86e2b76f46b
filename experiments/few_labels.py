"""Fine-tunes a pretrained encoder with few labels, beside the same network from scratch.

    PYTHONPATH=. python experiments/few_labels.py --run runs/cifar10_small --workers 2 \
      --out experiments/cifar10_few_labels \
      --lengths '1 %=60 epochs' '10 %=30 epochs' '100 %=5 epochs'

The learning rate of every share and start is chosen with the first seed, on held-out labelled
images; the other seeds take it over, draw other labelled images and other classifiers, and train
from other random networks. What is finished is not repeated. Written are results.json, table.md and
scores.png.
"""

import argparse
from collections.abc import Sequence
import json
import pathlib
import statistics
import sys
from typing import NamedTuple

from collect import processor
import runner

STARTS = {'online': 'pretrained', 'random': 'from scratch'}


class Cell(NamedTuple):
  """One training: which labels, from which start, with which seed, and at which rate."""

  labels: str
  length: str
  start: str
  seed: int
  base_lr: float | None
  options: argparse.Namespace

  @property
  def home(self) -> pathlib.Path:
    """Its workdir."""
    share = self.labels.replace(' ', '').replace('%', 'pc')
    return self.options.runs / f'{self.options.out.name}-{share}-{self.start}-{self.seed}'

  def command(self) -> list[str]:
    """The command line, with this interpreter."""
    chosen = () if self.base_lr is None else (
      '--config.finetune.sweep.base_lr=()', f'--config.finetune.optim.base_lr={self.base_lr}'
    )  # fmt: skip
    return [
      sys.executable, '-m', 'byoljax.main', '--config=configs/finetune.py:small',
      f'--workdir={self.home}', f'--config.pretrained={self.options.run}',
      f'--config.network={self.start}', '--config.scratch=false',
      f'--config.labels={self.labels}', f'--config.finetune.length={self.length}',
      f'--config.split_seed={self.seed}', f'--config.finetune.seed={self.seed}', *chosen,
      *self.options.override,
    ]  # fmt: skip


def train(cell: Cell, cores: Sequence[int]) -> dict | None:
  """Runs a cell unless it is done; its result with the CPU time, or None where it failed."""
  done = cell.home / 'done.json'
  if not done.exists():
    log = cell.home.parent / f'{cell.home.name}.log'
    print(cell.home.name, flush=True)
    status, cpu_s = runner.measured(cell.command(), cores, log)
    if status:
      print(f'{cell.home.name} failed: see {log}', flush=True)
      return None
    stored = json.loads((cell.home / 'result.json').read_text())
    protocol = stored['config']['finetune']
    done.write_text(
      json.dumps(
        {
          'labels': cell.labels,
          'start': STARTS[cell.start],
          'seed': cell.seed,
          **stored['result'][cell.start],
          'cpu_minutes': cpu_s / 60,
          'protocol': protocol,
          'versions': stored['versions'],
        }
      )
    )
  return json.loads(done.read_text())


def run(options: argparse.Namespace) -> list[dict]:
  """All results, those of the first seed first."""
  lengths = dict(entry.split('=') for entry in options.lengths)
  first, *others = options.seeds
  found: list[dict] = []
  rates: dict[tuple[str, str], float] = {}
  for seeds in ([first], others):
    cells = [
      Cell(labels, length, start, seed, rates.get((labels, STARTS[start])), options)
      for seed in seeds
      for labels, length in lengths.items()
      for start in STARTS
    ]
    results = [r for r in runner.on_shares(train, cells, options.workers) if r is not None]
    found += results
    if seeds == [first]:
      rates = {(r['labels'], r['start']): r['base_lr'] for r in results}
  return found


def summary(results: list[dict]) -> list[dict]:
  """Mean and standard deviation over seeds, for every share and start, in per cent."""
  rows = []
  for labels in dict.fromkeys(r['labels'] for r in results):
    for start in STARTS.values():
      own = [r for r in results if r['labels'] == labels and r['start'] == start]
      top1 = [100 * r['top1'] for r in own]
      if top1:
        rows.append(
          {
            'labels': labels,
            'images': own[0]['train_examples'],
            'start': start,
            'mean': statistics.mean(top1),
            'sd': statistics.stdev(top1) if len(top1) > 1 else None,
            'seeds': len(top1),
            'base_lr': own[0]['base_lr'],
            'length': own[0]['length'],
          }
        )
  return rows


def table(rows: list[dict]) -> str:
  """The summary as Markdown."""
  lines = [
    '| labels | images | start | top-1 | rate | length | seeds |',
    '|---|---:|---|---:|---:|---|---:|',
  ]
  for row in rows:
    spread = '' if row['sd'] is None else f' ± {row["sd"]:.1f}'
    lines.append(
      f'| {row["labels"]} | {row["images"]:,} | {row["start"]} | {row["mean"]:.1f}{spread} | '
      f'{row["base_lr"]:g} | {row["length"]} | {row["seeds"]} |'
    )
  return '\n'.join(lines)


def plot(rows: list[dict], path: pathlib.Path) -> None:
  """Accuracy over the number of labelled images, a line for each start."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(figsize=(6, 4), layout='constrained')
  for start, color, marker in zip(STARTS.values(), ('#1f6f8b', '#b5532a'), 'os', strict=True):
    own = [row for row in rows if row['start'] == start]
    axes.errorbar(
      [row['images'] for row in own], [row['mean'] for row in own],
      yerr=[row['sd'] or 0.0 for row in own], color=color, marker=marker, capsize=3, label=start,
    )  # fmt: skip
  axes.set_xscale('log')
  ticks = {row['images']: row['labels'] for row in rows}
  axes.set_xticks(list(ticks), [f'{count:,}\n{labels}' for count, labels in ticks.items()])
  axes.minorticks_off()
  axes.set(xlabel='labelled images', ylabel='top-1 on the test set, %')
  axes.grid(alpha=0.3)
  axes.legend(frameon=False)
  figure.savefig(path, dpi=150)


def main() -> None:
  """Trains, and writes results, table and plot."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--run', type=pathlib.Path, required=True, help='the pretrained run')
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--runs', type=pathlib.Path, default=pathlib.Path('runs/few_labels'))
  parser.add_argument('--lengths', nargs='+', required=True, metavar="'1 %=60 epochs'")
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--workers', type=int, default=1)
  parser.add_argument('override', nargs='*', help='further flags, after --')
  options = parser.parse_args()
  results = run(options)
  rows = summary(results)
  options.out.mkdir(parents=True, exist_ok=True)
  record = {'results': results, 'summary': rows, 'processor': processor()}
  (options.out / 'results.json').write_text(json.dumps(record, indent=1) + '\n')
  (options.out / 'table.md').write_text(table(rows) + '\n')
  plot(rows, options.out / 'scores.png')
  print(table(rows))


if __name__ == '__main__':
  main()
