"""What a cheaper training costs in accuracy: smaller views first, fewer patches, or fewer epochs.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=. python experiments/cheaper.py \
      --epochs 5 --out experiments/cheaper -- data.name=npz data.dir=cifar10.npz

Every way to spend less (`train.progressive`, `train.keep_tokens`) stands beside the whole training
and beside one that is as much shorter, its schedules shortened with it. Each run is one process on
one core; the CPU seconds are those of its steps, without those that compiled a program. Features of
all images are compared by k-NN and logistic regression, as in `peer_parity.py`.

Written are results.json, after every run, so that it can be stopped and started again, table.md
and curve.png.
"""

import argparse
import json
import pathlib
import statistics
import time
from typing import Any, NamedTuple

import beside_torch
import equal_time
import jax
import numpy as np
import peer_parity

from byoljax import config as config_lib
from byoljax.encoders import load
from byoljax.tasks import data as data_lib
from byoljax.train import assemble, loop
from byoljax.train.run import Run
from byoljax.workdir.clock import Clock

TOGETHER = 10  # Steps between two looks at the clock.
WHOLE = 'whole'


class Way(NamedTuple):
  """A training.

  Attributes:
    family: the recipe, 'simclr' or 'moco_v3,vit': what it is compared with.
    title: for the table.
    fields: of the configuration.
    share: of the epochs.
  """

  family: str
  title: str
  fields: dict[str, str]
  share: float = 1.0


RAMP = {'train.progressive': '0.5 until 40 %, 0.75 until 70 %'}
WAYS = {
  'simclr': Way('simclr', WHOLE, {}),
  'simclr_progressive': Way('simclr', 'half size until 40 %, three quarters until 70 %', RAMP),
  'simclr_short': Way('simclr', '60 % of the epochs', {}, 0.6),
  'byol': Way('byol', WHOLE, {}),
  'byol_progressive': Way('byol', 'half size until 40 %, three quarters until 70 %', RAMP),
  'byol_short': Way('byol', '60 % of the epochs', {}, 0.6),
  'vit': Way('moco_v3,vit', WHOLE, {}),
  'vit_half': Way('moco_v3,vit', 'half of the patches', {'train.keep_tokens': '0.5'}),
  'vit_short': Way('moco_v3,vit', '60 % of the epochs', {}, 0.6),
  'vit_quarter': Way('moco_v3,vit', 'a quarter of the patches', {'train.keep_tokens': '0.25'}),
}


def trained(run: Run) -> tuple[Any, dict[str, Any]]:
  """The state at the end, and what the steps took.

  Steps of a group in which a program was compiled count as the median of their stage's others.
  """
  state: Any = run.layout.place(run.create())
  clock = Clock(run.length.total_steps, run.length.batch_size)
  groups: dict[int, list[tuple[int, float]]] = {}  # View size -> (steps, CPU seconds).
  before, since, told = 0, time.process_time(), []
  steps = loop.training(run, state, 0, clock, lambda done: done + TOGETHER)
  for done, state, metrics in steps:
    if done % TOGETHER and done != run.length.total_steps:
      continue
    jax.block_until_ready(state)
    now = time.process_time()
    size = run.at(done - 1).specs[0].size
    groups.setdefault(size, []).append((done - before, now - since))
    before, since, told = done, now, [*told[-4:], float(metrics['loss'])]
  spent = 0.0
  for each in groups.values():
    # The first group of a stage has compiled, and what the one before it left may be in the second.
    step = statistics.median(seconds / count for count, seconds in each[2:] or each)
    spent += step * sum(count for count, _ in each)
  return run.layout.gather(state), {'cpu_s': spent, 'loss': float(np.mean(told)), 'steps': done}


def one(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
  """Trains and scores."""
  way = WAYS[name]
  recipe, _, variant = way.family.partition(',')
  given = dict(text.split('=', 1) for text in options.override)
  fields = {
    'seed': str(seed),
    'train.length': f'{way.share * options.epochs:g} epochs',
    'optim.warmup': '10 %',
    'probe.online': 'false',
    'train.batch_size': str(options.batch_size),
  }
  arguments = ','.join(filter(None, (options.scale, variant)))
  config = config_lib.load(
    f'configs/{recipe}.py:{arguments}', [*fields.items(), *way.fields.items(), *given.items()]
  )
  run = assemble.from_config(config, data_lib.open_split(config, 'pretrain', None))
  state, facts = trained(run)
  encoder = load.of_state(
    run.method.net, state, load.preprocessing_of(config), fields=config.encoder
  )
  images, labels = peer_parity.images_and_labels(config)
  return facts | {'scores': peer_parity.scores(peer_parity.embedded(encoder, images), labels)}


def points(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
  """{way: {'knn', 'linear': per cent, 'cpu_s', 'of_whole': seconds as a share of the whole's}}."""
  whole = {
    (WAYS[run['name']].family, run['seed']): run['cpu_s']
    for run in runs
    if WAYS[run['name']].title == WHOLE
  }
  found: dict[str, dict[str, list[float]]] = {}
  for name in (name for name in WAYS if any(run['name'] == name for run in runs)):
    each = [run for run in runs if run['name'] == name]
    found[name] = {
      score: [100 * run['scores'][score] for run in each] for score in peer_parity.SCORES
    }
    found[name]['cpu_s'] = [run['cpu_s'] for run in each]
    pairs = [(run['cpu_s'], whole.get((WAYS[name].family, run['seed']))) for run in each]
    found[name]['of_whole'] = [spent / all_ for spent, all_ in pairs if all_]
  return found


def table(runs: list[dict[str, Any]]) -> str:
  """Means and deviations over seeds, as Markdown."""
  lines = ['| recipe | training | CPU s | of the whole | k-NN | linear | seeds |', '|' + '---|' * 7]
  for name, found in points(runs).items():
    way = WAYS[name]
    share = f'{100 * statistics.median(found["of_whole"]):.0f} %' if found['of_whole'] else ''
    cells = [
      way.family, way.title, f'{statistics.median(found["cpu_s"]):.0f}', share,
      *(equal_time.spread(found[score]) for score in peer_parity.SCORES), str(len(found['knn'])),
    ]  # fmt: skip
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def plot(runs: list[dict[str, Any]], path: pathlib.Path) -> None:
  """Accuracy over CPU seconds: a panel for every recipe, two points for every way."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  found = points(runs)
  families = list(dict.fromkeys(WAYS[name].family for name in found))
  figure = Figure(figsize=(4.8 * len(families), 4.4), layout='constrained')
  FigureCanvasAgg(figure)
  panels = figure.subplots(1, len(families), squeeze=False)[0]
  for panel, family in zip(panels, families, strict=True):
    for name, each in found.items():
      if WAYS[name].family != family:
        continue
      color = None
      for score, mark, label in (('linear', 'o', WAYS[name].title), ('knn', 's', None)):
        x, y = statistics.mean(each['cpu_s']), statistics.mean(each[score])
        error = statistics.stdev(each[score]) if len(each[score]) > 1 else None
        drawn = panel.errorbar(x, y, error, fmt=mark, color=color, capsize=3, label=label)
        color = drawn.lines[0].get_color()
    panel.set_title(family, fontsize=11)
    panel.set_xlabel('CPU seconds of the steps')
    panel.set_ylabel('top-1, %: linear (dots), k-NN (squares)')
    panel.set_xlim(left=0)
    panel.margins(y=0.25)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8, loc='upper center', bbox_to_anchor=(0.5, -0.2), frameon=False)
  figure.savefig(path, dpi=120)


def main() -> None:
  """Runs what is missing."""
  beside_torch.one_core()
  parser = equal_time.parser(__doc__, 'ways', list(WAYS), timed=False)
  parser.set_defaults(scale='cifar10_small')
  parser.add_argument('--epochs', type=float, default=5)
  parser.add_argument('--batch_size', type=int, default=128)
  options = parser.parse_args()
  about = {'epochs': options.epochs, 'batch_size': options.batch_size}
  equal_time.run_missing(options, one, table, **about)
  stored = json.loads((options.out / 'results.json').read_text())
  plot(stored['runs'], options.out / 'curve.png')


if __name__ == '__main__':
  main()
