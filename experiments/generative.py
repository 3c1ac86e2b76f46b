"""Trains the methods that generate and the codecs, draws from them, and probes every layer.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=. python experiments/generative.py \
      --seeds 0 --length '10 epochs' --out experiments/shapes_generative

Each is its recipe, as long as `--length` says, in a directory of its own under `--work`, so that it
can be stopped and started again; priors are trained on the codecs of the same seed. Measured are

- on test images, what the loss measures: bits per dimension beside those of two models that need no
  network, uniform and independent numbers; PSNR, perplexity and codes used of codecs;
- k-NN and logistic regression of every map, beside an untrained network, raw pixels and BYOL;
- of what is drawn by class, the share that a classifier takes for the class, which was trained
  from scratch on the real images; of real test images beside it;
- codes drawn in a second by a prior, with and without its cache of keys and values.

Written are results.json, after every run, table.md and a sheet of samples of the first seed.
`--scale cifar10_small -- data.name=npz data.dir=cifar10.npz` does the same on CIFAR-10.
"""

import argparse
import functools
import json
import pathlib
import time
from typing import Any

from collect import processor
import equal_time
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from byoljax.devices import xla
from byoljax.encoders import load, samples
from byoljax.encoders.encoder import random_encoder
from byoljax.encoders.stored_method import StoredMethod
from byoljax.losses import likelihoods
from byoljax.main import main as byoljax_main
from byoljax.models.token_transformer import generate
from byoljax.ops import readouts
from byoljax.ops.sampling import Sampling
from byoljax.protocols import finetune
from byoljax.protocols.finetune import FinetuneProtocol
from byoljax.report import drawn
from byoljax.train.record import Logging
from byoljax.workdir import checkpoint
from configs import base

# name -> (recipe, variant, the codec's name)
RUNS = {
  'pixelcnn': ('pixelcnn', '', ''),
  'image_gpt': ('image_gpt', '', ''),
  'masked_tokens': ('masked_tokens', '', ''),
  'vq_vae': ('vq_vae', '', ''),
  'vq_gan': ('vq_gan', '', ''),
  'dvae': ('dvae', '', ''),
  'prior on vq_vae': ('prior', '', 'vq_vae'),
  'prior on vq_vae, by class': ('prior', 'class', 'vq_vae'),
  'vq_gan hybrid': ('prior', 'vq_gan', 'vq_gan'),
  'dalle hybrid': ('prior', 'dalle', 'dvae'),
  'byol': ('byol', '', ''),
}
MEASURED, BATCH, BY_CLASS, SHOWN = 512, 64, 16, 64  # images
TOLD = ('bits_per_dim', 'psnr', 'perplexity', 'codes_used')


def home_of(name: str, seed: int, options: argparse.Namespace) -> pathlib.Path:
  """Where a run is."""
  return options.work / f'{name.replace(" ", "_").replace(",", "")}-{seed}'


def trained(name: str, seed: int, options: argparse.Namespace) -> pathlib.Path:
  """Trains a run, or goes on with it; its directory."""
  recipe, variant, codec = RUNS[name]
  home = home_of(name, seed, options)
  arguments = [
    f'--config=configs/{recipe}.py:{",".join(x for x in (options.scale, variant) if x)}',
    f'--workdir={home}',
    f'--config.seed={seed}',
    f'--config.train.length={options.length}',
    '--config.evals.final=false',
    '--config.evals.report=false',
    '--config.evals.knn.every=never',
    '--config.probe.online=false',
    *(f'--config.{text}' for text in options.override),
  ]
  if codec:
    arguments.append(f'--config.codec={home_of(codec, seed, options)}')
  if byoljax_main(arguments):
    raise SystemExit(f'{name} was not trained')
  return home


def test_images(config: Any) -> np.ndarray:
  """The first test images, uint8 [n, S, S, C]."""
  _, test = equal_time.splits(config)
  return test.read(np.arange(min(MEASURED, test.size)))[0]


def on_test_images(stored: StoredMethod, state: Any) -> dict[str, float]:
  """The means of what the loss measures; nothing of a method of several views."""
  method, images = stored.method, test_images(stored.config)
  loss = method.phases[0].loss if method.phases else method.loss
  if len(stored.specs) > 1:
    return {}

  @jax.jit
  def measure(views: jax.Array, label: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
    index = jnp.arange(len(views))
    batch = {'views': (views,), 'label': label, 'index': index, 'epoch': 0 * index}
    seen = method.transform(batch, key, jnp.int32(0))
    return loss(*state, seen, key, jnp.int32(0))[1].metrics

  found = []
  _, test = equal_time.splits(stored.config)
  labels = np.asarray(test.read(np.arange(len(images)))[1], np.int32)
  for start in range(0, len(images) - BATCH + 1, BATCH):
    part = slice(start, start + BATCH)
    views = stored.preprocessing.normalize(images[part])
    found.append(measure(views, labels[part], jax.random.key(start)))
  return {name: float(np.mean([each[name] for each in found])) for name in TOLD if name in found[0]}


def without_network(config: Any, levels: int) -> dict[str, float]:
  """Bits per dimension of uniform and of independent numbers, fitted to the training images."""
  train, _ = equal_time.splits(config)
  images = train.read(np.arange(min(4 * MEASURED, train.size)))[0]
  given, truth = (
    np.asarray(likelihoods.levels_of(jnp.asarray(x) / 255.0, levels))
    for x in (images, test_images(config))
  )
  bits = []
  for color in range(given.shape[-1]):
    counts = 1 + np.bincount(given[..., color].ravel(), minlength=levels)
    bits.append(-np.log2(counts / counts.sum())[truth[..., color].ravel()])
  return {'uniform': float(np.log2(levels)), 'independent': float(np.mean(bits))}


@functools.cache
def classifier(recipe: str, seed: int, override: tuple[str, ...]) -> Any:
  """images -> classes: the recipe's encoder, trained from scratch with all labels."""
  config = equal_time.configuration(recipe, seed, list(override))
  encoder = random_encoder(dict(config.encoder), load.preprocessing_of(config), seed)
  given = equal_time.data_of(encoder, config)
  fields = base.finetune_protocol(
    protocol='adamw', length='15 epochs', batch_size=64, crop_scale=(0.3, 1.0), seed=seed,
    optim=base.finetune_protocol()['optim']
    | {'name': 'adamw', 'base_lr': 8e-3, 'weight_decay': 0.05},
    sweep={'base_lr': (), 'length': (), 'weight_decay': ()},
  )  # fmt: skip
  logging = Logging('at the end', False, False)
  return finetune.fit(encoder, given, FinetuneProtocol(**fields), logging=logging)


def share_of_class(sampler: Any, step: int, options: argparse.Namespace) -> dict[str, float]:
  """How often what is drawn of a class is taken for it, and real test images."""
  judge = classifier(f'rotation:{options.scale}', 0, tuple(options.override))
  classes = equal_time.splits(sampler.config)[0].num_classes
  right = []
  for number in range(classes):
    images = sampler.draw(step, Sampling(BY_CLASS), condition=number)
    logits = readouts.logits_of(judge.readout, np.asarray(judge.encoder(images)))
    right.append(np.argmax(logits, -1) == number)
  return {'drawn': float(np.mean(right)), 'real': judge.result['top1']}


def codes_in_a_second(stored: StoredMethod, state: Any) -> dict[str, float]:
  """Of a prior, with and without the cache, compilation not counted."""
  params, _ = state
  encoder, head = stored.method.net.parts[0][2], stored.method.net.parts[1][2]
  condition = jnp.zeros((BY_CLASS, 1), jnp.int32) if encoder.classes else None
  found = {}
  for name, cached in (('with cache', True), ('without', False)):

    @jax.jit
    def draw(key: jax.Array, cached: bool = cached) -> jax.Array:
      tables = jax.tree.map(jnp.asarray, params)
      return generate(
        encoder.model, tables['encoder']['transformer'], head, tables['head'], key,
        Sampling(BY_CLASS), condition=condition, cached=cached,
      )  # fmt: skip

    draw(jax.random.key(0)).block_until_ready()
    began = time.perf_counter()
    codes = draw(jax.random.key(1)).block_until_ready()
    found[name] = codes.size / (time.perf_counter() - began)
  return found


def one(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
  """A run: what it costs, measures, draws and has learned."""
  began = time.process_time()
  home = trained(name, seed, options)
  found: dict[str, Any] = {'name': name, 'seed': seed, 'cpu_s': time.process_time() - began}
  step = checkpoint.finished_steps(home)[-1]
  stored = samples.Sampler.of(home)
  assert stored is not None
  train, _ = equal_time.splits(stored.config)
  state = stored.stored(step, train)
  found['test'] = on_test_images(stored, state)
  if 'levels' in stored.config.method:
    found['without'] = without_network(stored.config, stored.config.method.levels)
  if stored.method.sample is not None:
    images = stored.draw(step, Sampling(SHOWN))
    if seed == options.seeds[0]:
      drawn.grid(options.out / f'{home.name.rpartition("-")[0]}.png', images)
  if stored.config.method.get('condition') == 'class':
    found['classes'] = share_of_class(stored, step, options)
  if RUNS[name][2]:
    found['codes_per_s'] = codes_in_a_second(stored, state)
  for network in ('online', 'random'):
    encoder = load.load_taps(str(home), network, ()).encoder
    given = equal_time.data_of(encoder, stored.config)
    found['layers' if network == 'online' else 'untrained'] = equal_time.layers(encoder, given)
  return found


def table(runs: list[dict[str, Any]]) -> str:
  """Means and deviations over seeds; the best layer by logistic regression, in per cent."""
  by_name: dict[str, list[dict[str, Any]]] = {}
  for run in runs:
    by_name.setdefault(run['name'], []).append(run)
  heads = [
    'method', 'bits per dim', 'uniform', 'independent', 'PSNR', 'perplexity', 'of its class',
    'best layer', 'k-NN there', 'linear there', 'untrained, best linear', 'seeds',
  ]  # fmt: skip
  lines = ['| ' + ' | '.join(heads) + ' |', '|' + '---|' * len(heads)]
  for name, each in by_name.items():

    def of(group: str, key: str, factor: float = 1.0, each: Any = each) -> str:
      return equal_time.spread(
        [factor * run[group][key] for run in each if key in run.get(group, {})]
      )

    best = max(each[0]['layers'], key=lambda tap, each=each: equal_time.mean(each, tap, 'linear'))
    cells = [name, of('test', 'bits_per_dim'), of('without', 'uniform')]
    cells += [of('without', 'independent'), of('test', 'psnr'), of('test', 'perplexity')]
    cells += [of('classes', 'drawn', 100.0), best]
    cells += [
      equal_time.spread([100 * run['layers'][best][score] for run in each])
      for score in ('knn', 'linear')
    ]
    plain = [max(layer['linear'] for layer in run['untrained'].values()) for run in each]
    cells += [equal_time.spread([100 * value for value in plain]), str(len(each))]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def main() -> None:
  """Runs what is missing, and writes the folder after each."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--methods', nargs='+', default=list(RUNS))
  parser.add_argument('--scale', default='shapes', help='of the recipes (default: shapes)')
  parser.add_argument('--length', default='10 epochs', help='of each run (default: 10 epochs)')
  parser.add_argument('--seeds', type=int, nargs='+', default=[0])
  parser.add_argument('--work', type=pathlib.Path, default=pathlib.Path('runs/generative'))
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('override', nargs='*', help='-- train.batch_size=32 ...')
  options = parser.parse_args()
  xla.set_defaults()
  xla.keep_programs()
  options.out.mkdir(parents=True, exist_ok=True)
  path = options.out / 'results.json'
  runs: list[dict[str, Any]] = json.loads(path.read_text())['runs'] if path.exists() else []
  done = {(run['name'], run['seed']) for run in runs}
  about = {
    'length': options.length, 'scale': options.scale, 'processor': processor(),
    'override': options.override,
    'versions': {'jax': jax.__version__, 'jaxlib': jaxlib.__version__},
  }  # fmt: skip
  for seed in options.seeds:
    for name in options.methods:
      if (name, seed) in done:
        continue
      print(f'{name}, seed {seed}', flush=True)
      runs.append(one(name, seed, options))
      path.write_text(json.dumps(about | {'runs': runs}, indent=1) + '\n')
      (options.out / 'table.md').write_text(table(runs))
  print(table(runs))


if __name__ == '__main__':
  main()
