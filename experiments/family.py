"""Trains every joint-embedding method at one scale, with several seeds.

    PYTHONPATH=. python experiments/family.py --scale shapes --epochs 15 --seeds 0 1 2 \
      --out experiments/shapes_family

Runs that are complete are not repeated, so it can be stopped and started again. The encoder, the
data, the batch size, the length and the evaluation are the scale's and the same for every method;
heads, views, rates and what its loss needs are the method's own (configs/<method>.py). Written are
results.json, table.md and scores.png; checkpoints stay in --runs.
"""

import argparse
from collections.abc import Iterable
import json
import pathlib
import statistics
import sys

from collect import processor
from runner import Job, record, run_all

METHODS = (
  'byol', 'simclr', 'moco', 'moco_v3', 'simsiam', 'barlow_twins', 'vicreg', 'w_mse', 'swav', 'dino',
  'nnclr', 'triplet', 'instance_discrimination', 'interclr', 'deepcluster', 'deepcluster_v2',
)  # fmt: skip
SCORES = (('k-NN top-1', 'knn'), ('linear top-1', 'linear'))


def jobs(options: argparse.Namespace) -> list[Job]:
  """Seed by seed, so that there is something of every method early."""
  return [
    Job(
      f'{name}:{options.scale},{options.epochs}',
      options.runs / f'{options.scale}-{name}-{seed}',
      # Random encoder and pixels are the same for every method: once a seed.
      [f'--config.seed={seed}', f'--config.evals.baselines={name == options.methods[0]}',
       '--config.log.tensorboard=false', *options.override],
    )
    for seed in options.seeds
    for name in options.methods
  ]  # fmt: skip


def own(run: dict) -> dict:
  """The trained encoder's results."""
  return run['result'][run['config']['method']['name']]


def randoms(runs: dict[str, list[dict]]) -> dict[int, dict]:
  """The random encoder's results, by seed."""
  return {
    run['config']['seed']: run['result']['random initialization']
    for each in runs.values()
    for run in each
    if 'random initialization' in run['result']
  }


def table(runs: dict[str, list[dict]]) -> str:
  """Mean ± standard deviation over seeds, in per cent, best linear accuracy first, as Markdown."""
  random = randoms(runs)
  lines = [
    '| method | k-NN top-1 | linear top-1 | above random: k-NN | linear | CPU min | seeds |',
    '|---|---|---|---|---|---|---|',
  ]
  for name in sorted(runs, key=lambda name: -_mean(map(own, runs[name]), 'linear')):
    each = runs[name]
    scores = [_spread([100 * own(run)[key]['top1'] for run in each]) for _, key in SCORES]
    gains = [
      _spread(
        [100 * (own(run)[key]['top1'] - random[run['config']['seed']][key]['top1'])
         for run in each]
      )
      for _, key in SCORES
    ]  # fmt: skip
    minutes = statistics.median(run['cpu_minutes'] for run in each)
    cells = [name, *scores, *gains, f'{minutes:.1f}', str(len(each))]
    lines.append('| ' + ' | '.join(cells) + ' |')
  scores = [_spread([100 * result[key]['top1'] for result in random.values()]) for _, key in SCORES]
  lines.append('| ' + ' | '.join(['random encoder', *scores, '', '', '', str(len(random))]) + ' |')
  return '\n'.join(lines) + '\n'


def _mean(results: Iterable[dict], key: str) -> float:
  return statistics.mean(100 * result[key]['top1'] for result in results)


def _spread(values: list[float]) -> str:
  text = f'{statistics.mean(values):.1f}'
  return text + (f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else '')


def plot(runs: dict[str, list[dict]], path: pathlib.Path) -> None:
  """One row a method, best on top: a dot for every seed, a bar for the mean, the random encoder."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  names = sorted(runs, key=lambda name: _mean(map(own, runs[name]), 'linear'))
  figure = Figure(figsize=(9, 0.42 * len(names) + 1.4), layout='constrained')
  FigureCanvasAgg(figure)
  for panel, (title, key) in zip(figure.subplots(1, 2, sharey=True), SCORES, strict=True):
    for row, name in enumerate(names):
      values = [100 * own(run)[key]['top1'] for run in runs[name]]
      panel.barh(row, statistics.mean(values), color='#9ecae1', height=0.62)
      panel.plot(values, [row] * len(values), 'o', color='#08519c', markersize=4)
    random = _mean(randoms(runs).values(), key)
    panel.axvline(random, color='#636363', linestyle='--', linewidth=1)
    panel.text(
      random + 0.6, len(names) - 0.45, 'random encoder', fontsize=8, color='#636363', va='bottom'
    )
    panel.set_title(f'{title}, %', fontsize=11)
    panel.set_yticks(range(len(names)), names)
    panel.grid(axis='x', alpha=0.3)
    for side in ('top', 'right'):
      panel.spines[side].set_visible(False)
  figure.savefig(path, dpi=120)


def main() -> None:
  """Trains what is missing and writes the folder."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--scale', default='shapes')
  parser.add_argument('--epochs', type=int, default=30)
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--methods', nargs='+', default=METHODS, choices=METHODS)
  parser.add_argument('--workers', type=int, default=1, help='runs at a time')
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--runs', type=pathlib.Path, default=pathlib.Path('runs/family'))
  parser.add_argument('override', nargs='*', help='-- --config.data.dir=images.npz ...')
  options = parser.parse_args()
  planned = jobs(options)
  names = [name for _ in options.seeds for name in options.methods]
  runs: dict[str, list[dict]] = {}
  for name, run in zip(names, run_all(planned, options.workers), strict=True):
    if run is not None:
      runs.setdefault(name, []).append(record(run))
  options.out.mkdir(parents=True, exist_ok=True)
  everything = [run for each in runs.values() for run in each]
  # Names alone: where data and interpreter lie on this machine is nobody's business.
  command = [pathlib.Path(word).name if '/' in word else word for word in sys.argv[1:]]
  stored = {'command': command, 'processor': processor(), 'runs': everything}
  (options.out / 'results.json').write_text(json.dumps(stored, indent=1) + '\n')
  (options.out / 'table.md').write_text(table(runs))
  plot(runs, options.out / 'scores.png')
  print(table(runs))


if __name__ == '__main__':
  main()
