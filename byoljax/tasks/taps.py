"""Tasks that look at several taps of one run: layer by layer, hypersphere, collapse.

A tap is a place where the network is read out (`byoljax.encoders.encoder`): an inner map, the
embedding h, the projection z, the prediction p. One pass over the images gives all of them, so
memory is N times the sum of the taps' widths, in float32.
"""

from collections.abc import Iterable, Sequence
import functools
import pathlib
from typing import Any

import jax
import numpy as np

from byoljax.config import Config, ConfigError, user_errors
from byoljax.data.augment import device
from byoljax.data.batches import pipeline
from byoljax.data.sources.source import Source
from byoljax.devices import hosts
from byoljax.encoders import load
from byoljax.encoders.encoder import EMBEDDING, Encoder, Preprocessing, outputs, random_encoder
from byoljax.evals import features, frozen, hypersphere, knn, spectrum
from byoljax.protocols import eval_data, extraction
from byoljax.protocols.extraction import EvalData
from byoljax.report import by_tap
from byoljax.train import assemble
from byoljax.workdir import run_dir
from byoljax.workdir.run_dir import Invocation, say

PIXELS = 'pixels'
# What losses and evaluations see: h, z, p.
_OUTPUTS = (EMBEDDING, 'projection', 'prediction')


def layers(config: Config, invocation: Invocation) -> int:
  """k-NN, and if asked for logistic regression, on every tap of a run, from the pixels on."""
  encoder, taps, source, directory = load.load_taps(
    config.pretrained, config.network, [tap for tap in config.taps if tap != PIXELS]
  )
  home = eval_data.home('layers', config, directory, invocation)
  data = eval_data.data_of(config, source, config.batch_size, home)
  say(f'layers of {directory} ({config.network} network) on {data.test.name}')
  found = [_of_taps(encoder, taps, images, data) for images in (data.train, data.test)]
  if (not config.taps or PIXELS in config.taps) and PIXELS not in taps:
    pixels = random_encoder({**source.encoder, 'name': PIXELS}, encoder.preprocessing, 0)
    for (made, _), images in zip(found, (data.train, data.test), strict=True):
      rows, _ = extraction.extract(pixels, images, data)
      made[PIXELS] = rows
    taps = (PIXELS, *(tap for tap in taps if tap in config.taps or not config.taps))
  (train, train_labels), (test, test_labels) = found
  rows = []
  for tap in taps:
    with user_errors('layers'):
      rows.append(
        {'tap': tap, 'dimensions': train[tap].shape[1]}
        | _layer(config, (train[tap], train_labels), (test[tap], test_labels), data)
      )
  result = {'rows': rows, 'k': knn.HEADLINE_K, 'temperature': knn.HEADLINE_TEMPERATURE}
  run_dir.write_result(home / 'result.json', result, config, directory)
  say(by_tap.format_rows('layers', rows))
  say(f'result  {home / "result.json"}')
  return 0


def _layer(
  config: Config,
  train: tuple[np.ndarray, np.ndarray],
  test: tuple[np.ndarray, np.ndarray],
  data: EvalData,
) -> dict[str, float]:
  near = knn.knn_accuracy(
    *train,
    *test,
    num_classes=data.train.num_classes,
    ks=(knn.HEADLINE_K,),
    temperatures=(knn.HEADLINE_TEMPERATURE,),
  )
  scores = {'knn_top1': near['top1']}
  if config.layers.logistic:
    known = [(x[y >= 0], y[y >= 0]) for x, y in (train, test)]
    lambdas = config.layers.lambdas or frozen.LAMBDAS
    scores['logistic_top1'] = frozen.logistic(*known, lambdas=lambdas)['top1']
  return scores


def sphere(config: Config, invocation: Invocation) -> int:
  """Alignment and uniformity of a run's h, z and p; see `evals.hypersphere`."""
  encoder, taps, source, directory = _several(config)
  home = eval_data.home('hypersphere', config, directory, invocation)
  data = eval_data.images_of(config, source, home)
  say(f'hypersphere of {directory} ({config.network} network) on {data.test.name}')
  clean, _ = _of_taps(encoder, taps, data.test, data)
  first, second = _of_views(encoder, taps, source, data, config.hypersphere.seed)
  alpha, t = config.hypersphere.alpha, config.hypersphere.t
  rows = []
  for tap in taps:
    with user_errors('hypersphere'):
      rows.append(
        {
          'tap': tap,
          'alignment': hypersphere.alignment(first[tap], second[tap], alpha),
          'uniformity': np.mean(
            [hypersphere.uniformity(x[tap], t) for x in (first, second)]
          ).item(),
          'uniformity_clean': hypersphere.uniformity(clean[tap], t),
        }
      )
  result = {'rows': rows, 'alpha': alpha, 't': t, 'images': len(next(iter(first.values())))}
  run_dir.write_result(home / 'result.json', result, config, directory)
  say(by_tap.format_rows('hypersphere', rows))
  say(
    f'alignment 0 ... {2**alpha:g}, lower: views of an image agree; uniformity 0 ... {-4 * t:g}, '
    f'lower: images are spread out, {-2 * t:g} = evenly in many dimensions'
  )
  say(f'result  {home / "result.json"}')
  return 0


def collapse(config: Config, invocation: Invocation) -> int:
  """Whether a run's h, z and p have collapsed, with the spectra; see `evals.spectrum`."""
  encoder, taps, source, directory = _several(config)
  home = eval_data.home('collapse', config, directory, invocation)
  data = eval_data.images_of(config, source, home)
  say(f'collapse of {directory} ({config.network} network) on {data.test.name}')
  found, _ = _of_taps(encoder, taps, data.test, data)
  with user_errors('collapse'):
    measured = {tap: spectrum.measure(found[tap]) for tap in taps}
  rows = [{'tap': tap, 'verdict': spectrum.verdict(each)} | each for tap, each in measured.items()]
  sentence = spectrum.summary(measured)
  result = {'rows': rows, 'verdict': sentence}
  run_dir.write_result(home / 'result.json', result, config, directory)
  say(by_tap.format_rows('collapse', rows))
  say(sentence)
  if hosts.is_first_process():
    by_tap.plot(measured, home / 'spectrum.png')
  say(f'spectrum  {home / "spectrum.png"}')
  say(f'result    {home / "result.json"}')
  return 0


TASKS = {'layers': layers, 'hypersphere': sphere, 'collapse': collapse}


def _several(config: Config) -> tuple[Encoder, tuple[str, ...], Config, pathlib.Path]:
  """The encoder with the taps that the configuration names, else h, z and p as far as they are."""
  if config.taps:
    return load.load_taps(config.pretrained, config.network, config.taps)
  encoder, valid, source, directory = load.load_taps(config.pretrained, config.network)
  return encoder, tuple(tap for tap in valid if tap in _OUTPUTS), source, directory


def _of_taps(
  encoder: Encoder, taps: Sequence[str], source: Source, data: EvalData
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """{tap: float32 [N, D]} of un-augmented images, and their labels."""
  extract = _extractor(encoder.net, tuple(taps), encoder.pool, encoder.preprocessing)
  return extract(encoder.params, encoder.bn, extraction.eval_batches(source, data))


@functools.cache
def _extractor(
  net: Any, taps: tuple[str, ...], pool: str | None, preprocessing: Preprocessing
) -> Any:
  embed = functools.partial(outputs, net, taps, pool)
  return features.side_by_side(embed, preprocessing.normalize)


def _of_views(
  encoder: Encoder, taps: Sequence[str], pretraining: Config, data: EvalData, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """{tap: float32 [N, D]} of two augmented views of every image, as pretraining makes them.

  They are the first two views of the recipe, the large ones where there are small crops; a recipe
  with one view gives it twice, drawn anew.
  """
  if not pretraining.get('views'):
    raise ConfigError('this run has no views: weights of another library do not say how they were '
                      'trained, and there is no augmentation to align.')  # fmt: skip
  with user_errors('config.views'):
    specs = (assemble.view_specs(pretraining) * 2)[:2]
  augment = device.make_augment(
    specs, seed=seed, steps_per_epoch=1, mean=tuple(data.mean), std=tuple(data.std)
  )
  pairs = ('first', 'second')

  def embed(params: Any, bn: Any, views: Iterable[jax.Array]) -> dict[str, jax.Array]:
    made = {}
    for name, view in zip(pairs, views, strict=True):
      found = outputs(encoder.net, taps, encoder.pool, params, bn, view)
      made |= {f'{name}/{tap}': x for tap, x in found.items()}
    return made

  extract = features.side_by_side(embed, lambda batch: augment(batch, 0)['views'])
  batches = pipeline.view_batches(
    data.test,
    specs,
    batch_size=data.batch_size,
    seed=seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    threads=data.threads,
  )
  found, _ = extract(encoder.params, encoder.bn, batches)
  first, second = ({tap: found[f'{name}/{tap}'] for tap in taps} for name in pairs)
  return first, second
