"""Trains recipes for the same CPU time and evaluates every layer, for the scripts beside it.

A recipe is trained with a constant learning rate behind the warm-up, so that it can end at any
step: it ends once its steps have taken so many CPU seconds, compilation not counted. Then k-NN and
logistic regression on what each map of the encoder is on average, and on the embedding.
"""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import json
import pathlib
import statistics
import time
from typing import Any, NamedTuple

from collect import processor
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from byoljax import config as config_lib
from byoljax.data.fields import parsed
from byoljax.data.sources import datasets
from byoljax.data.sources.source import Source
from byoljax.devices import xla
from byoljax.encoders import load
from byoljax.encoders.encoder import EMBEDDING, Encoder, random_encoder
from byoljax.encoders.pictures import Painter, Shown
from byoljax.evals import frozen, knn
from byoljax.models import rescaled
from byoljax.models.taps import taps_of, truncate
from byoljax.protocols import tap_features
from byoljax.protocols.extraction import EvalData
from byoljax.report import reconstructions
from byoljax.tasks import data as data_lib
from byoljax.train import assemble, loop
from byoljax.train.run import Run
from byoljax.workdir.clock import Clock

LAMBDAS = (0.1, 10.0)
LOOK_EVERY, LAST = 5, 50  # steps
ON_A_SHEET = 8  # images
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


def recipe_of(name: str, scale: str) -> str:
  """'mae' -> 'mae:shapes'; 'denoising_autoencoder,masking' with its options."""
  recipe, _, options = name.partition(',')
  return f'{recipe}:{scale}' + (f',{options}' if options else '')


def configuration(recipe: str, seed: int, override: list[str]) -> Any:
  """A recipe, "rotation" or "rotation:shapes", with a constant rate and long enough for any run."""
  fields = {
    'seed': str(seed),
    'train.length': '500 epochs',
    'optim.schedule': 'constant',
    'probe.online': 'false',
    'encoder.dtype': 'float32',
  }
  given = [(field, value) for field, _, value in (text.partition('=') for text in override)]
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
  stored = json.loads(config.to_json())
  stored['data']['dir'] = pathlib.Path(stored['data']['dir']).name
  facts |= last | {'config': stored}
  return Trained(run, config, run.layout.gather(state), facts)


def baseline(kind: str, seed: int, override: list[str], recipe: str) -> Encoder:
  """'random', 'random_rescaled' or 'pixels' in place of the encoder that a recipe has."""
  config = configuration(recipe, seed, override)
  preprocessing = load.preprocessing_of(config)
  fields = dict(config.encoder) | ({'name': 'pixels'} if kind == 'pixels' else {})
  encoder = random_encoder(fields, preprocessing, seed)
  if kind != 'random_rescaled':
    return encoder
  bank, _ = splits(config)
  images, _ = bank.read(np.arange(load.RESCALED_ON))
  weights = rescaled.rescaled(
    encoder.net, encoder.params, encoder.bn, preprocessing.normalize(jnp.asarray(images))
  )
  return dataclasses.replace(encoder, params=weights[0], bn=weights[1])


def splits(config: Any) -> tuple[Source, Source]:
  """Labelled training and test images of a configuration."""
  data = config.data
  more = {'data_dir': data.dir, 'fields': parsed(data.fields)}
  train_, test = (datasets.load(data.name, split, **more) for split in ('train', 'test'))
  return train_, test


def pictures(trained: Trained, most: int, sheet: pathlib.Path | None) -> Shown:
  """What a method makes of the first test images; nothing where it has no pictures.

  Args:
    trained: see `Trained`.
    most: images.
    sheet: where the first of them are drawn, or None.
  """
  run, state = trained.run, trained.state
  if run.method.pictures is None:
    return {}
  painter = Painter(
    pathlib.Path(), trained.config, run.method, trained.encoder.preprocessing, run.specs,
    parsed(trained.config.data.fields),
  )  # fmt: skip
  _, test = splits(trained.config)
  batch = painter.batch(test.subset(np.arange(min(most, test.size))))
  shown = painter.show(state.params, state.method_state, batch)
  if sheet is not None:
    few = {name: picture[:ON_A_SHEET] for name, picture in shown.items()}
    reconstructions.draw(sheet, {int(state.step): few})
  return shown


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


def mean(runs: list[dict[str, Any]], tap: str, score: str) -> float:
  """Of a layer's score over seeds."""
  return statistics.mean(run['layers'][tap][score] for run in runs)


def spread(values: list[float]) -> str:
  """'61.2 ± 0.8'; of one value without a deviation, of none ''."""
  if not values:
    return ''
  text = f'{statistics.mean(values):.1f}'
  return text + (f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else '')


def parser(
  doc: str | None, what: str, names: Sequence[str], *, timed: bool = True
) -> argparse.ArgumentParser:
  """The options that all have: `--<what>` chooses among the names; `timed`: `--seconds`, too."""
  made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
  made.add_argument(f'--{what}', dest='names', nargs='+', default=list(names))
  made.add_argument('--scale', default='shapes', help='of the recipes (default: shapes)')
  made.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  if timed:
    made.add_argument('--seconds', type=float, default=60.0, help='CPU time of the steps')
  made.add_argument('--out', type=pathlib.Path, required=True)
  made.add_argument('override', nargs='*', help='-- train.batch_size=32 ...')
  return made


def run_missing(
  options: argparse.Namespace,
  one: Callable[[str, int, argparse.Namespace], dict[str, Any]],
  table: Callable[[list[dict[str, Any]]], str],
  **about: Any,
) -> None:
  """Runs what `results.json` lacks, and writes it and `table.md` after each.

  Args:
    options: of `parser`.
    one: (name, seed, options) -> what is stored of a run.
    table: of all runs.
    **about: further facts for results.json, the same for all runs.
  """
  xla.set_defaults()
  xla.keep_programs()
  options.out.mkdir(parents=True, exist_ok=True)
  path = options.out / 'results.json'
  runs: list[dict[str, Any]] = json.loads(path.read_text())['runs'] if path.exists() else []
  done = {(run['name'], run['seed']) for run in runs}
  lengths = {name: getattr(options, name) for name in ('seconds', 'length') if name in options}
  about = lengths | {
    'scale': options.scale, 'processor': processor(),
    'override': [place_free(text) for text in options.override],
    'versions': {'jax': jax.__version__, 'jaxlib': jaxlib.__version__}, **about,
  }  # fmt: skip
  for seed in options.seeds:
    for name in options.names:
      if (name, seed) in done:
        continue
      print(f'{name}, seed {seed}', flush=True)
      runs.append({'name': name, 'seed': seed} | one(name, seed, options))
      path.write_text(json.dumps(about | {'runs': runs}, indent=1) + '\n')
      (options.out / 'table.md').write_text(table(runs))
  print(table(runs))


def place_free(text: str) -> str:
  """'data.dir=sets/cifar10.npz' -> 'data.dir=cifar10.npz': where it lies concerns nobody."""
  name, equals, value = text.partition('=')
  return name + equals + (pathlib.Path(value).name if '/' in value else value)
