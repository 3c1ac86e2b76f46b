"""Trains every pretext task, and BYOL, for the same CPU time, and evaluates every layer.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=. python experiments/pretext.py \
      --seeds 0 1 2 --seconds 60 --out experiments/shapes_pretext

Each task is its recipe, trained as `equal_time.py` says, beside a random encoder, a rescaled random
one and raw pixels. Written are results.json, after every run, so that it can be stopped and started
again, and table.md. `--scale cifar10_small -- data.name=npz data.dir=cifar10.npz` does the same on
CIFAR-10.
"""

import argparse
import statistics
from typing import Any

import equal_time

from byoljax.encoders.encoder import EMBEDDING

TASKS = (
  'rotation', 'byol', 'counting', 'jigsaw', 'relative_patch_location', 'exemplar', 'geometric',
  'augmentation_prediction', 'multi_task', 'multi_task,rotation,relative_patch_location',
)  # fmt: skip
BASELINES = ('random', 'random_rescaled', 'pixels')
NAMES = {'random': 'random encoder', 'random_rescaled': 'random, rescaled', 'pixels': 'raw pixels'}


def one(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
  """A task or a baseline: what its layers are worth."""
  recipe = equal_time.recipe_of('rotation' if name in BASELINES else name, options.scale)
  if name in BASELINES:
    encoder = equal_time.baseline(name, seed, options.override, recipe)
    config, facts = equal_time.configuration(recipe, seed, options.override), {}
  else:
    trained = equal_time.train(recipe, seed, options)
    encoder, config, facts = trained.encoder, trained.config, trained.facts
  return facts | {'layers': equal_time.layers(encoder, equal_time.data_of(encoder, config))}


def table(runs: list[dict[str, Any]]) -> str:
  """Mean ± standard deviation over seeds, in per cent; best linear of the best layer first."""
  by_name: dict[str, list[dict[str, Any]]] = {}
  for run in runs:
    by_name.setdefault(run['name'], []).append(run)
  lines = [
    '| task | pretext accuracy | best layer | k-NN there | linear there | k-NN, last layer '
    '| linear, last layer | steps | seeds |',
    '|---|---|---|---|---|---|---|---|---|',
  ]
  rows = []
  for name, each in by_name.items():
    taps = list(each[0]['layers'])
    best = max(taps, key=lambda tap: equal_time.mean(each, tap, 'linear'))
    cells = [NAMES.get(name, name)]
    told = [100 * run['pretext_accuracy'] for run in each if 'pretext_accuracy' in run]
    cells += [equal_time.spread(told), best]
    for tap in (best, EMBEDDING):
      for score in ('knn', 'linear'):
        cells.append(equal_time.spread([100 * run['layers'][tap][score] for run in each]))
    steps = [run['steps'] for run in each if 'steps' in run]
    cells += [f'{statistics.mean(steps):.0f}' if steps else '', str(len(each))]
    rows.append((equal_time.mean(each, best, 'linear'), '| ' + ' | '.join(cells) + ' |'))
  return '\n'.join(lines + [row for _, row in sorted(rows, reverse=True)]) + '\n'


def main() -> None:
  """Runs what is missing."""
  options = equal_time.parser(__doc__, 'tasks', [*BASELINES, *TASKS]).parse_args()
  equal_time.run_missing(options, one, table)


if __name__ == '__main__':
  main()
