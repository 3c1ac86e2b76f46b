"""Trains the same methods with byoljax and with lightly, and scores both with one evaluator.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=. python experiments/peer_parity.py \
      --peer .peers/bin/python --seeds 0 --epochs 4 --out experiments/peer_parity \
      -- data.dir=cifar10.npz

Of every method, alike on both sides: images, their number and the batch; the small encoder and its
first weights; the sizes of the heads; views; AdamW, and its rate and the moving average's weight in
every step. Each side's own are its code: how images are made into views, heads and how they start,
losses, and the order of the images. Features of all images are then compared by the same k-NN and
logistic regression. Each run is one process on one core; CPU seconds are counted behind the first
step, so that compilation is not in them.

Written are results.json, after every run, so that it can be stopped and started again, and
table.md.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time
from typing import Any

import beside_torch
import equal_time
import jax
from ml_collections import ConfigDict
import numpy as np

from byoljax import config as config_lib
from byoljax.encoders import load
from byoljax.encoders.encoder import Encoder
from byoljax.evals import frozen, knn
from byoljax.ops import ema
from byoljax.optim import recipe
from byoljax.tasks import data as data_lib
from byoljax.train import assemble, loop
from byoljax.workdir.clock import Clock
from configs import base

# What makes both sides' networks and losses the same.
SAME: dict[str, dict[str, Any]] = {
  'byol': {'last_bias': True, 'copy_target': True, 'head_init': 'torch'},
  'simclr': {},
  'moco': {'bn_groups': 1, 'head_init': 'torch'},
  'simsiam': {'projector': (512, 512, 512), 'head_init': 'torch'},
  'barlow_twins': {'projector': (512, 512, 128), 'head_init': 'torch'},
  'vicreg': {'head_init': 'torch'},
  'swav': {'head_init': 'torch'},
  'dino': {'projector_norm': True},
}
# Two of these for every method: what both libraries can do in the same way.
VIEW = {
  'size': 32, 'operators': 'torchvision', 'resize': 'bilinear', 'crop_scale': (0.2, 1.0),
  'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4, 'hue': 0.1, 'blur_prob': 0.0,
}  # fmt: skip
SCORES = ('knn', 'linear')


def configuration(name: str, seed: int, options: argparse.Namespace) -> ConfigDict:
  """The recipe of a method for the small encoder, with what both sides share."""
  given = dict(text.split('=', 1) for text in options.override)
  fields = {
    'seed': str(seed),
    'data.name': 'npz',
    'train.batch_size': str(options.batch_size),
    'train.length': f'{options.epochs} epochs',
    'optim.warmup': '10 %',
    'probe.online': 'false',
  }
  config = config_lib.load(
    f'configs/{name}.py:cifar10_small', [*fields.items(), *given.items()]
  ).unlock()
  config.method.update(SAME[name])
  config.optim.groups = ConfigDict()
  config.views = ConfigDict({f'view{number}': base.view(**VIEW) for number in (1, 2)})
  return config.lock()


def ours(config: ConfigDict, run: Any) -> dict[str, Any]:
  """Trains with byoljax: the encoder, the last losses, CPU seconds."""
  state: Any = run.layout.place(run.create())
  parameters = sum(x.size for x in jax.tree.leaves(state.params))
  clock = Clock(run.length.total_steps, run.length.batch_size)
  began, told = 0.0, []
  started = time.process_time()
  steps = loop.training(run, state, 0, clock, lambda done: done + 10)
  for done, state, metrics in steps:
    if done == 1:
      jax.block_until_ready(state)
      began = time.process_time()
    told = [*told[-4:], metrics['loss']]
  jax.block_until_ready(state)
  spent = time.process_time() - began
  state = run.layout.gather(state)
  facts = {
    'loss': float(np.mean([float(value) for value in told])),
    'cpu_s': spent,
    'before_s': began - started,
    'parameters': int(parameters),
  }
  encoder = load.of_state(
    run.method.net, state, load.preprocessing_of(config), fields=config.encoder
  )
  return facts | {'encoder': encoder}


def theirs(name: str, config: ConfigDict, run: Any, options: argparse.Namespace) -> dict[str, Any]:
  """Trains with lightly, from the same encoder: features, the last losses, CPU seconds."""
  steps, length = range(run.length.total_steps), run.length
  rates = recipe.make_recipe(config.optim.to_dict(), length).schedule
  assert rates is not None
  tau = ema.constant_tau(0.0)
  if 'base_tau' in config.method:
    tau = ema.cosine_tau(config.method.base_tau, length.total_steps)
  elif 'tau' in config.method:
    tau = ema.constant_tau(config.method.tau)
  view = config.views.view1.to_dict()
  case = {
    'method': name, 'arguments': config.method.to_dict(), 'seed': config.seed,
    'path': str(pathlib.Path(config.data.dir).resolve()), 'images': run.source.size,
    'batch_size': length.batch_size, 'steps_per_epoch': length.steps_per_epoch,
    'weight_decay': config.optim.weight_decay, 'mean': config.data.mean, 'std': config.data.std,
    'view': view, 'rates': [float(rates(step)) for step in steps],
    'taus': [float(tau(step)) for step in steps],
  }  # fmt: skip
  weights = beside_torch.weights_of(jax.device_get(run.create()).params['encoder'])
  script = pathlib.Path(__file__).with_name('peer_parity_torch.py')
  with tempfile.TemporaryDirectory() as place:
    given, out = (pathlib.Path(place) / name for name in ('given.npz', 'out.npz'))
    np.savez(given, **weights)
    command = [options.peer, script, given, out, json.dumps(case)]
    done = subprocess.run([str(word) for word in command], check=False, capture_output=True)
    if done.returncode:
      raise RuntimeError(f'{script.name} failed:\n{done.stderr.decode()}')
    with np.load(out) as arrays:
      return json.loads(done.stdout) | {'features': dict(arrays)}


def images_and_labels(config: ConfigDict) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Of the splits 'train' and 'test', whole."""
  read = dict(zip(('train', 'test'), equal_time.splits(config), strict=True))
  arrays = {split: source.read(np.arange(source.size)) for split, source in read.items()}
  return {split: each[0] for split, each in arrays.items()}, {
    split: np.asarray(each[1]) for split, each in arrays.items()
  }


def embedded(encoder: Encoder, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Features float32 [N, D] of every split."""
  return {
    split: np.concatenate([np.asarray(encoder(x[at : at + 500])) for at in range(0, len(x), 500)])
    for split, x in images.items()
  }


def scores(features: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> dict[str, float]:
  """Top-1 on the test images, with all training images: k-NN, and logistic regression."""
  train, test = ((features[split], labels[split]) for split in ('train', 'test'))
  near = knn.knn_accuracy(
    *train, *test, num_classes=10, ks=(knn.HEADLINE_K,), temperatures=(knn.HEADLINE_TEMPERATURE,)
  )
  linear = frozen.logistic(train, test, lambdas=equal_time.LAMBDAS, max_iterations=100)
  return {'knn': near['top1'], 'linear': linear['top1']}


def one(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
  """Both sides of a method."""
  config = configuration(name, seed, options)
  source = data_lib.open_split(config, 'pretrain', None)
  run = assemble.from_config(config, source)
  images, labels = images_and_labels(config)
  mine = ours(config, run)
  features = embedded(mine.pop('encoder'), images)
  found: dict[str, Any] = {'byoljax': mine | {'scores': scores(features, labels)}}
  other = theirs(name, config, run, options)
  found['lightly'] = other | {'scores': scores(other.pop('features'), labels)}
  if name == options.names[0]:
    untrained = equal_time.random_encoder(dict(config.encoder), load.preprocessing_of(config), seed)
    found['untrained'] = scores(embedded(untrained, images), labels)
  return found | {'steps': run.length.total_steps}


def table(runs: list[dict[str, Any]]) -> str:
  """Means and deviations over seeds, in per cent, and what lightly's time is of byoljax's."""
  lines = [
    '| method | k-NN: byoljax | lightly | linear: byoljax | lightly | CPU s: byoljax | lightly '
    '| ratio | seeds |',
    '|' + '---|' * 9,
  ]
  for name in dict.fromkeys(run['name'] for run in runs):
    each = [run for run in runs if run['name'] == name]
    sides = ('byoljax', 'lightly')
    cells = [
      equal_time.spread([100 * run[side]['scores'][score] for run in each])
      for score in SCORES
      for side in sides
    ]
    seconds = [np.median([run[side]['cpu_s'] for run in each]) for side in sides]
    cells += [f'{value:.0f}' for value in seconds]
    ratio = np.median([run['lightly']['cpu_s'] / run['byoljax']['cpu_s'] for run in each])
    lines.append('| ' + ' | '.join([name, *cells, f'{ratio:.2f}', str(len(each))]) + ' |')
  plain = [run['untrained'] for run in runs if 'untrained' in run]
  cells = [equal_time.spread([100 * each[score] for each in plain]) for score in SCORES]
  lines.append(f'| untrained encoder | {cells[0]} | | {cells[1]} | | | | | {len(plain)} |')
  return '\n'.join(lines) + '\n'


def main() -> None:
  """Runs what is missing."""
  beside_torch.one_core()
  parser = equal_time.parser(__doc__, 'methods', list(SAME), timed=False)
  parser.add_argument('--peer', default='.peers/bin/python', help="the other environment's Python")
  parser.add_argument('--epochs', type=int, default=4)
  parser.add_argument('--batch_size', type=int, default=128)
  options = parser.parse_args()
  about = {'epochs': options.epochs, 'batch_size': options.batch_size}
  equal_time.run_missing(options, one, table, **about)


if __name__ == '__main__':
  main()
