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
import pathlib
import time
from typing import Any

import equal_time
import jax
import jax.numpy as jnp
import numpy as np

from byoljax.data.batches import pipeline
from byoljax.data.sources.source import Source
from byoljax.encoders import likelihood, load, samples
from byoljax.encoders.encoder import random_encoder
from byoljax.encoders.stored_method import StoredMethod
from byoljax.evals import image_quality
from byoljax.losses import likelihoods
from byoljax.main import main as byoljax_main
from byoljax.methods.generative import palette
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
  'pixelcnn prior on vq_vae, by class': ('prior', 'class,pixelcnn', 'vq_vae'),
  'vq_gan hybrid': ('prior', 'vq_gan', 'vq_gan'),
  'dalle hybrid': ('prior', 'dalle', 'dvae'),
  'beit': ('beit', '', 'vq_vae'),
  'byol': ('byol', '', ''),
}
MEASURED, BATCH, BY_CLASS, SHOWN = 512, 64, 16, 64  # images
TOLD = ('psnr', 'perplexity', 'codes_used', 'masked_accuracy')


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


def read(stored: StoredMethod, source: Source, most: int) -> tuple[np.ndarray, np.ndarray]:
  """The first images, at the size of evaluations, uint8 [n, S, S, C], and labels int32 [n]."""
  some = source.subset(np.arange(min(most, source.size)))
  batches = pipeline.eval_batches(
    some, image_size=stored.preprocessing.image_size, batch_size=BATCH
  )
  given = [(batch['image'][batch['valid']], batch['label'][batch['valid']]) for batch in batches]
  images, labels = (np.concatenate(each) for each in zip(*given, strict=True))
  return images, labels


def on_test_images(
  home: pathlib.Path, stored: StoredMethod, step: int, state: Any
) -> dict[str, float]:
  """Bits per dimension in evaluation mode, and the means of what else a loss of one view tells."""
  _, test = equal_time.splits(stored.config)
  found = {}
  scorer = likelihood.scorer(home)
  if scorer is not None:
    some = test.subset(np.arange(min(MEASURED, test.size)))
    found['bits_per_dim'] = float(scorer.score(step, some).mean())
  if len(stored.specs) > 1:
    return found
  method = stored.method
  loss = method.phases[0].loss if method.phases else method.loss

  @jax.jit
  def measure(views: jax.Array, label: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
    index = jnp.arange(len(views))
    batch = {'views': (views,), 'label': label, 'index': index, 'epoch': 0 * index}
    seen = method.transform(batch, key, jnp.int32(step))
    told = loss(*state, seen, key, jnp.int32(step))[1].metrics
    shown = {} if method.pictures is None else method.pictures(*state, batch, key)
    # Of a codec: of the codes themselves, where training may draw mixtures.
    if 'psnr' in told and 'output' in shown:
      told = {**told, 'psnr': image_quality.psnr(shown['output'], shown['image'])}
    return told

  images, labels = read(stored, test, MEASURED)
  told = []
  for start in range(0, len(images) - BATCH + 1, BATCH):
    part = slice(start, start + BATCH)
    views = stored.preprocessing.normalize(images[part])
    told.append(measure(views, labels[part], jax.random.key(start)))
  for name in TOLD:
    if told and name in told[0]:
      found[name] = float(np.mean([np.mean(each[name]) for each in told]))
  return found


def without_network(stored: StoredMethod, state: Any) -> dict[str, float]:
  """Bits per dimension of uniform and of independent numbers, fitted to the training images.

  Numbers are the levels of a color, or, where the method has a palette, a pixel's place in it.
  """
  levels = stored.config.method.get('levels', 0)

  def numbers(images: np.ndarray) -> np.ndarray:
    if levels:
      return np.asarray(likelihoods.levels_of(jnp.asarray(images) / 255.0, levels))
    views = stored.preprocessing.normalize(images)
    return np.asarray(palette.tokens_of(state[1], views))[..., None]

  given, truth = (
    numbers(read(stored, source, most)[0])
    for source, most in zip(equal_time.splits(stored.config), (4 * MEASURED, MEASURED), strict=True)
  )
  count = levels or len(state[1].bn['encoder']['palette'])
  bits = []
  for color in range(given.shape[-1]):
    counts = 1 + np.bincount(given[..., color].ravel(), minlength=count)
    bits.append(-np.log2(counts / counts.sum())[truth[..., color].ravel()])
  return {'uniform': float(np.log2(count)), 'independent': float(np.mean(bits))}


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


def by_class(sampler: Any, step: int, classes: int) -> np.ndarray:
  """`BY_CLASS` images of each class, [classes, BY_CLASS, H, W, C]."""
  every = [sampler.draw(step, Sampling(BY_CLASS), condition=own) for own in range(classes)]
  return np.stack(every)


def share_of_class(images: np.ndarray, options: argparse.Namespace) -> dict[str, float]:
  """How often what is drawn of a class is taken for it, and real test images; see `by_class`."""
  judge = classifier(f'rotation:{options.scale}', 0, tuple(options.override))
  right = []
  for number, own in enumerate(images):
    logits = readouts.logits_of(judge.readout, np.asarray(judge.encoder(own)))
    right.append(np.argmax(logits, -1) == number)
  return {'drawn': float(np.mean(right)), 'real': judge.result['top1']}


def codes_in_a_second(stored: StoredMethod, state: Any) -> dict[str, float]:
  """Of a prior, with and without the cache that a transformer has, compilation not counted."""
  params, _ = state
  encoder, head = stored.method.net.parts[0][2], stored.method.net.parts[1][2]
  condition = jnp.zeros(BY_CLASS, jnp.int32) if encoder.classes else None
  ways: dict[str, dict[str, bool]] = {'without': {}}
  if stored.config.method.network == 'transformer':
    ways = {'with cache': {'cached': True}, 'without': {'cached': False}}
  found = {}
  for name, how in ways.items():

    @jax.jit
    def draw(key: jax.Array, how: Any = how) -> jax.Array:
      return encoder.generate(
        params['encoder'], head, params['head'], key, Sampling(BY_CLASS), condition=condition, **how
      )

    draw(jax.random.key(0)).block_until_ready()
    began = time.perf_counter()
    codes = draw(jax.random.key(1)).block_until_ready()
    found[name] = codes.size / (time.perf_counter() - began)
  return found


def one(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
  """A run: what it costs, measures, draws and has learned."""
  earlier, began = home_of(name, seed, options).exists(), time.process_time()
  home = trained(name, seed, options)
  # What a process before this one has trained is not in its time.
  found: dict[str, Any] = {} if earlier else {'cpu_s': time.process_time() - began}
  step = checkpoint.finished_steps(home)[-1]
  stored = samples.Sampler.of(home)
  assert stored is not None
  train, _ = equal_time.splits(stored.config)
  state = stored.stored(step, train)
  found['test'] = on_test_images(home, stored, step, state)
  if 'levels' in stored.config.method or RUNS[name][0] == 'image_gpt':
    found['without'] = without_network(stored, state)
  if stored.config.method.get('condition') == 'class':
    images = by_class(stored, step, train.num_classes)
    found['classes'] = share_of_class(images, options)
    shown = np.concatenate(images[:, : len(images)])  # A row for each class.
  elif stored.method.sample is not None:
    shown = stored.draw(step, Sampling(SHOWN))
  if stored.method.sample is not None and seed == options.seeds[0]:
    drawn.grid(options.out / f'{home.name.rpartition("-")[0]}.png', shown)
  if RUNS[name][0] == 'prior':
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
  """Runs what is missing."""
  parser = equal_time.parser(__doc__, 'methods', list(RUNS), timed=False)
  parser.set_defaults(seeds=[0])
  parser.add_argument('--length', default='10 epochs', help='of each run (default: 10 epochs)')
  parser.add_argument('--work', type=pathlib.Path, default=pathlib.Path('runs/generative'))
  equal_time.run_missing(parser.parse_args(), one, table)


if __name__ == '__main__':
  main()
