"""Trains every pretext task, and BYOL, for the same CPU time, and evaluates every layer.

    PYTHONPATH=. python experiments/pretext.py --seeds 0 1 2 --seconds 60 \
      --out experiments/shapes_pretext

Each task is its recipe on the built-in shapes, with a constant learning rate behind the warm-up, so
that a run can end at any step: it ends once its steps have taken so many CPU seconds, compilation
not counted. Then k-NN and logistic regression on what each map of the encoder is on average, and on
the embedding, beside a random encoder, a rescaled random one and raw pixels. Written are
results.json, after every run, so that it can be stopped and started again, and table.md.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import time
from typing import Any, NamedTuple

from collect import processor
import jax
import jaxlib
import numpy as np

from byoljax import config as config_lib
from byoljax.data.sources import datasets
from byoljax.data.sources.source import Source
from byoljax.devices import xla
from byoljax.encoders import load
from byoljax.encoders.encoder import EMBEDDING, Encoder, random_encoder
from byoljax.evals import frozen, knn
from byoljax.models import rescaled
from byoljax.models.taps import taps_of, truncate
from byoljax.protocols import tap_features
from byoljax.protocols.extraction import EvalData
from byoljax.tasks import data as data_lib
from byoljax.train import assemble, loop
from byoljax.train.run import Run
from byoljax.workdir.clock import Clock

TASKS = (
  'rotation', 'byol', 'counting', 'jigsaw', 'relative_patch_location', 'exemplar', 'geometric',
  'augmentation_prediction',
)  # fmt: skip
BASELINES = ('random', 'random_rescaled', 'pixels')
NAMES = {'random': 'random encoder', 'random_rescaled': 'random, rescaled', 'pixels': 'raw pixels'}
LAMBDAS = (0.1, 10.0)
LOOK_EVERY, LAST = 5, 50  # steps
TOLD = ('loss', 'pretext_accuracy', 'psnr', 'psnr_input')


class Trained(NamedTuple):
  """What so many CPU seconds of steps have made.

  Attributes:
    run: see `byoljax.train.run`.
    config: its configuration.
    state: whole, on one device.
    facts: for results.json.
  """

  run: Run
  config: Any
  state: Any
  facts: dict[str, Any]

  @property
  def encoder(self) -> Encoder:
    """The trained encoder."""
    return load.of_state(
      self.run.method.net,
      self.state,
      load.preprocessing_of(self.config),
      fields=self.config.encoder,
    )


def configuration(recipe: str, seed: int, override: list[str]) -> Any:
  """A recipe, "rotation" or "rotation:shapes", with a constant rate and long enough for any run."""
  fields = {
    'seed': str(seed),
    'train.length': '500 epochs',
    'optim.schedule': 'constant',
    'probe.online': 'false',
  }
  given = [tuple(text.split('=', 1)) for text in override]
  name, colon, arguments = recipe.partition(':')
  return config_lib.load(f'configs/{name}.py{colon}{arguments}', [*fields.items(), *given])


def train(recipe: str, seed: int, options: argparse.Namespace) -> Trained:
  """Trains for so many CPU seconds of steps."""
  config = configuration(recipe, seed, options.override)
  run = assemble.from_config(config, data_lib.open_split(config, 'pretrain', None))
  before, began, done, told = time.process_time(), 0.0, 0, []
  state: Any = run.layout.place(run.create())
  steps = loop.training(run, state, 0, Clock(run.length.total_steps, run.length.batch_size))
  for done, state, metrics in steps:
    if done == 1:
      jax.block_until_ready(state)
      began = time.process_time()
    told = [*told[1 - LAST :], metrics]
    if done % LOOK_EVERY == 0:
      jax.block_until_ready(state)
      if time.process_time() - began >= options.seconds:
        break
  steps.close()
  spent = time.process_time() - began
  last = {
    name: float(np.mean([float(metrics[name]) for metrics in told]))
    for name in TOLD
    if name in told[-1]
  }
  batch_size = run.length.batch_size
  facts = {'steps': done, 'images': done * batch_size, 'cpu_s': spent, 'before_s': began - before}
  facts |= last | {'config': json.loads(config.to_json())}
  return Trained(run, config, run.layout.gather(state), facts)


def baseline(name: str, seed: int, override: list[str], recipe: str = 'rotation') -> Encoder:
  """One of `BASELINES`, with the encoder that a recipe has."""
  config = configuration(recipe, seed, override)
  preprocessing = load.preprocessing_of(config)
  fields = dict(config.encoder) | ({'name': 'pixels'} if name == 'pixels' else {})
  encoder = random_encoder(fields, preprocessing, seed)
  if name != 'random_rescaled':
    return encoder
  bank, _ = splits(config)
  images, _ = bank.read(np.arange(load.RESCALED_ON))
  weights = rescaled.rescaled(
    encoder.net, encoder.params, encoder.bn, preprocessing.normalize(images)
  )
  return dataclasses.replace(encoder, params=weights[0], bn=weights[1])


def splits(config: Any) -> tuple[Source, Source]:
  """Labelled training and test images of a configuration."""
  data = config.data
  train_, test = (datasets.load(data.name, s, data_dir=data.dir) for s in ('train', 'test'))
  return train_, test


def layers(encoder: Encoder, given: EvalData) -> dict[str, dict[str, float]]:
  """{layer: {'knn', 'linear'}}: top-1 on the test images, in the order of the network."""
  preprocessing, train_, test = encoder.preprocessing, given.train, given.test
  taps = tuple(taps_of(encoder.net, preprocessing.example()))
  whole = dataclasses.replace(encoder, net=truncate(encoder.net, taps))
  (bank, labels), (queries, truth) = (
    tap_features.of_images(whole, taps, images, given) for images in (train_, test)
  )
  found = {}
  for tap in taps:
    if tap != EMBEDDING and np.array_equal(bank[tap], bank[EMBEDDING]):
      continue  # The last map, averaged.
    near = knn.knn_accuracy(
      bank[tap], labels, queries[tap], truth, num_classes=train_.num_classes,
      ks=(knn.HEADLINE_K,), temperatures=(knn.HEADLINE_TEMPERATURE,),
    )  # fmt: skip
    linear = frozen.logistic(
      (bank[tap], labels), (queries[tap], truth), lambdas=LAMBDAS, max_iterations=100
    )
    found[tap] = {'knn': near['top1'], 'linear': linear['top1']}
  return found


def data_of(encoder: Encoder, config: Any) -> EvalData:
  """The images that an encoder is evaluated on."""
  preprocessing = encoder.preprocessing
  return EvalData(
    *splits(config), preprocessing.image_size, preprocessing.mean, preprocessing.std, batch_size=200
  )


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
    best = max(taps, key=lambda tap: mean(each, tap, 'linear'))
    cells = [NAMES.get(name, name)]
    told = [100 * run['pretext_accuracy'] for run in each if 'pretext_accuracy' in run]
    cells += [spread(told), best]
    for tap in (best, EMBEDDING):
      for score in ('knn', 'linear'):
        cells.append(spread([100 * run['layers'][tap][score] for run in each]))
    steps = [run['steps'] for run in each if 'steps' in run]
    cells += [f'{statistics.mean(steps):.0f}' if steps else '', str(len(each))]
    rows.append((mean(each, best, 'linear'), '| ' + ' | '.join(cells) + ' |'))
  return '\n'.join(lines + [row for _, row in sorted(rows, reverse=True)]) + '\n'


def mean(runs: list[dict[str, Any]], tap: str, score: str) -> float:
  """Of a layer's score over seeds."""
  return statistics.mean(run['layers'][tap][score] for run in runs)


def spread(values: list[float]) -> str:
  """'61.2 ± 0.8'; of one value without a deviation, of none ''."""
  if not values:
    return ''
  text = f'{statistics.mean(values):.1f}'
  return text + (f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else '')


def main() -> None:
  """Runs what is missing, and writes the folder after each."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--tasks', nargs='+', default=[*BASELINES, *TASKS])
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--seconds', type=float, default=60.0, help='CPU time of the steps')
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('override', nargs='*', help='-- train.batch_size=32 ...')
  options = parser.parse_args()
  xla.set_defaults()
  xla.keep_programs()
  options.out.mkdir(parents=True, exist_ok=True)
  path = options.out / 'results.json'
  runs: list[dict[str, Any]] = json.loads(path.read_text())['runs'] if path.exists() else []
  done = {(run['name'], run['seed']) for run in runs}
  for seed in options.seeds:
    for name in options.tasks:
      if (name, seed) in done or not (name in BASELINES or _exists(name)):
        continue
      print(f'{name}, seed {seed}', flush=True)
      if name in BASELINES:
        encoder, facts = baseline(name, seed, options.override), {}
      else:
        trained = train(name, seed, options)
        encoder, facts = trained.encoder, trained.facts
      given = data_of(encoder, configuration('rotation', seed, options.override))
      runs.append({'name': name, 'seed': seed} | facts | {'layers': layers(encoder, given)})
      about = {
        'seconds': options.seconds, 'processor': processor(), 'override': options.override,
        'versions': {'jax': jax.__version__, 'jaxlib': jaxlib.__version__},
      }  # fmt: skip
      path.write_text(json.dumps(about | {'runs': runs}, indent=1) + '\n')
      (options.out / 'table.md').write_text(table(runs))
  print(table(runs))


def _exists(name: str) -> bool:
  return pathlib.Path(f'configs/{name}.py').exists()


if __name__ == '__main__':
  main()
