"""k-NN or linear classifiers at every tap of a run, from the pixels to the prediction."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from byoljax.config import Config, ConfigError, choose, user_errors
from byoljax.report import by_tap
from byoljax.tasks import evaluation
from byoljax.tasks.command import Command
from byoljax.workdir import run_dir
from byoljax.workdir.lock import lock_workdir
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.encoders.encoder import Encoder
  from byoljax.encoders.load import Loaded
  from byoljax.protocols.extraction import EvalData

PIXELS = 'pixels'


def run(config: Config, invocation: Invocation) -> int:
  """k-NN or a linear probe on every tap of a run, from the pixels on; see `configs/taps.py`."""
  return choose('probe', config.probe, PROBES)(config, invocation)


def _knn(config: Config, invocation: Invocation) -> int:
  """k-NN, and if asked for logistic regression."""
  from byoljax.encoders.encoder import random_encoder
  from byoljax.evals import knn
  from byoljax.protocols import folds

  encoder, taps, source, directory = _loaded(config)
  home = evaluation.result_directory('layers', config, directory, invocation)
  data = evaluation.data_of(config, source, config.batch_size, home)
  folds.require_single(data.train, 'k-NN')
  say(f'layers of {directory} ({config.network} network) on {folds.describe(data)}')
  pixels = None
  if (not config.taps or PIXELS in config.taps) and PIXELS not in taps:
    pixels = random_encoder({**source.encoder, 'name': PIXELS}, encoder.preprocessing, 0)
  result = folds.combined(
    [
      {
        'rows': _rows(config, encoder, taps, pixels, part),
        'k': min(knn.HEADLINE_K, part.train.size),
        'temperature': knn.HEADLINE_TEMPERATURE,
      }
      for part in folds.by_fold(data)
    ]
  )
  _report(config, result, home, directory)
  return 0


def _linear(config: Config, invocation: Invocation) -> int:
  """Linear classifiers, all trained in one pass over augmented images."""
  from byoljax.models import pooling
  from byoljax.protocols import folds, linear
  from byoljax.train import assemble

  if config.layers.logistic:
    raise ConfigError(
      'layers.logistic=true goes with probe=knn, and probe=linear leaves it out: drop one of them.'
    )
  encoder, taps, source, directory = _loaded(config)
  if not config.taps or PIXELS in config.taps:
    taps = (PIXELS, *taps)
  home = evaluation.result_directory('layers', config, directory, invocation)
  data = evaluation.data_of(config, source, config.linear.batch_size, home)
  protocol, logging = linear.LinearProtocol(**config.linear.to_dict()), assemble.logging_of(config)
  linear.check(data, protocol, logging)
  choose('layers.pool', config.layers.pool, pooling.REDUCTIONS)
  chosen = linear.Taps(tuple(dict.fromkeys(taps)), config.layers.dimensions, config.layers.pool)
  with config.unlocked():
    config.pretrained = str(directory.resolve())  # The same however the user wrote it.
  parts, results = folds.by_fold(data), []
  with lock_workdir(home):
    evaluation.open_home(home, config, invocation, data.train, encoder)
    say(f'layers of {directory} ({config.network} network, linear) on {folds.describe(data)}')
    for number, part in enumerate(parts):
      own = home if len(parts) == 1 else home / f'fold{number}'
      with user_errors('layers'):
        rows = linear.layers_result(encoder, part, protocol, chosen, logging=logging, workdir=own)
      results.append({'rows': rows})
  _report(config, folds.combined(results), home, directory)
  return 0


PROBES = {'knn': _knn, 'linear': _linear}


def _loaded(config: Config) -> 'Loaded':
  """The network with the taps that are asked for, which may be none beside the pixels."""
  from byoljax.encoders import load

  found = load.load_taps(
    config.pretrained, config.network, [tap for tap in config.taps if tap != PIXELS]
  )
  asked = tuple(tap for tap in found.taps if not config.taps or tap in config.taps)
  return found._replace(taps=asked)


def _report(
  config: Config, result: Mapping[str, Any], home: pathlib.Path, directory: pathlib.Path
) -> None:
  run_dir.write_result(home / 'result.json', result, config, directory)
  say(by_tap.format_rows('layers', result['rows']))
  say(f'result  {home / "result.json"}')


def _rows(
  config: Config,
  encoder: 'Encoder',
  taps: Sequence[str],
  pixels: 'Encoder | None',
  data: 'EvalData',
) -> list[dict[str, Any]]:
  """One row a tap; the pixels, where they are asked for, first."""
  from byoljax.protocols import extraction, tap_features

  found = []
  for images in (data.train, data.test):
    made, labels = tap_features.of_images(encoder, taps, images, data) if taps else ({}, None)
    if pixels is not None:
      made[PIXELS], labels = extraction.extract(pixels, images, data)
    found.append((made, labels))
  (train, train_labels), (test, test_labels) = found
  if pixels is not None:
    taps = (PIXELS, *taps)
  rows = []
  for tap in taps:
    with user_errors('layers'):
      rows.append(
        {'tap': tap, 'dimensions': train[tap].shape[1]}
        | _layer(config, (train[tap], train_labels), (test[tap], test_labels), data)
      )
  return rows


def _layer(
  config: Config,
  train: tuple[np.ndarray, np.ndarray],
  test: tuple[np.ndarray, np.ndarray],
  data: 'EvalData',
) -> dict[str, float]:
  from byoljax.evals import frozen, knn

  near = knn.knn_accuracy(
    *train,
    *test,
    num_classes=data.train.num_classes,
    ks=(knn.HEADLINE_K,),
    temperatures=(knn.HEADLINE_TEMPERATURE,),
  )
  scores = {'knn_top1': near['top1'], 'knn_balanced': near['mean_per_class']}
  if config.layers.logistic:
    known = [(x[y >= 0], y[y >= 0]) for x, y in (train, test)]
    lambdas = config.layers.lambdas or frozen.LAMBDAS
    found = frozen.logistic(*known, lambdas=lambdas)
    scores |= {'logistic_top1': found['top1'], 'logistic_balanced': found['mean_per_class']}
  return scores


COMMAND = Command(
  'layers',
  'evaluate layer by layer, by k-NN or linear probes',
  run,
  task='layers',
  recipe='taps:layers',
  field='pretrained',
)
