"""What a cell of the transfer table can hold: any evaluation of an encoder on one data set.

An evaluation is one line of `EVALUATIONS`: how it opens the data, what it computes, and, with the
data, which number of the result is shown.
"""

from collections.abc import Callable, Sequence
import functools
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

from ml_collections import ConfigDict

from byoljax.config import Config
from byoljax.tasks import dense as dense_task
from byoljax.tasks import detect as detect_task
from byoljax.tasks import evaluation

if TYPE_CHECKING:
  from byoljax.encoders.encoder import Encoder
  from byoljax.protocols.dense_protocol import DenseData
  from byoljax.protocols.extraction import EvalData

Result = dict[str, Any]


class Opened(NamedTuple):
  """A data set as some evaluations read it.

  Attributes:
    data: what they compute with.
    images: where these come from.
    headline: of their results, see `evals.headlines`.
    about: what else results depend on, as JSON.
  """

  data: Any
  images: 'EvalData'
  headline: str
  about: dict[str, Any]


class Evaluation(NamedTuple):
  """One way to evaluate an encoder.

  Attributes:
    open: (configuration of the cell, of the run, directory for notes) -> the data; raises
      ConfigError where they are not there, or lack what is asked for.
    compute: (encoder, `Opened.data`, configuration, directory of the cell) -> result.
    single: whether images must have one label each.
  """

  open: Callable[[Config, Config, pathlib.Path], Opened]
  compute: Callable[['Encoder', Any, Config, pathlib.Path], Result]
  single: bool = False


def configuration(entry: str, name: str, config: Config) -> Config:
  """That of one cell: the evaluation `name` on the data set NAME or NAME=DIRECTORY."""
  data, _, directory = entry.partition('=')
  reads = config.reads[name]
  return ConfigDict(
    config.to_dict()
    | {
      'data': {
        'name': data,
        'dir': directory or config.data.dir,
        'threads': config.data.threads,
        'field': '',
      },
      'image_size': reads.image_size or config.image_size,
      # As the evaluations' own commands leave them open.
      'images': 0,
      'split_seed': 0,
      'classes': (),
      'boxes': '',
    }
  )


def _labelled(config: Config, pretraining: Config, home: pathlib.Path) -> Opened:
  """Images with a class each, or several."""
  from byoljax.data.sources import datasets

  data = evaluation.data_of(config, pretraining, config.batch_size, home)
  metric = 'map11' if data.train.multi_label else datasets.facts(config.data.name).metric
  return Opened(data, data, metric, {})


def _dense(kind: str, config: Config, pretraining: Config, home: pathlib.Path) -> Opened:
  """Images with a truth at every pixel."""
  from byoljax.protocols.dense_protocol import KINDS

  config.batch_size = config.whole_batch_size
  data = dense_task.open_data(kind, config, pretraining, home)
  about = {'mode': config.mode, 'truth': [data.field, *data.classes]}
  return Opened(data, data.data, KINDS[kind].headline, about)


def _boxes(config: Config, pretraining: Config, home: pathlib.Path) -> Opened:
  """Images with boxes."""
  from byoljax.protocols import detect

  data = detect_task.data_of(config, pretraining, home)
  classes = detect.class_names(data.train, data.test)
  return Opened((data, classes), data, 'ap', {'classes': list(classes)})


def _logistic(encoder: 'Encoder', data: 'EvalData', config: Config, home: pathlib.Path) -> Result:
  from byoljax.evals import frozen
  from byoljax.protocols import folds, frozen_features

  del home
  fields = config.logistic
  results = [
    frozen.logistic(
      train,
      test,
      lambdas=fields.lambdas or frozen.LAMBDAS,
      held_out=fields.held_out,
      seed=fields.seed,
      max_iterations=fields.max_iterations,
    )
    for train, test in frozen_features.splits(encoder, data)
  ]
  return folds.combined(results, data.train.labels)


def _knn(encoder: 'Encoder', data: 'EvalData', config: Config, home: pathlib.Path) -> Result:
  from byoljax.protocols import frozen_features

  del home
  return frozen_features.knn_result(encoder, data, config.knn)


def _linear(encoder: 'Encoder', data: 'EvalData', config: Config, home: pathlib.Path) -> Result:
  from byoljax.protocols.linear import LinearProtocol, linear_result
  from byoljax.train import assemble

  protocol = LinearProtocol(**config.linear.to_dict())
  return linear_result(encoder, data, protocol, logging=assemble.logging_of(config), workdir=home)


def _finetune(encoder: 'Encoder', data: 'EvalData', config: Config, home: pathlib.Path) -> Result:
  from byoljax.protocols.finetune import FinetuneProtocol, finetune_result
  from byoljax.train import assemble

  protocol = FinetuneProtocol(**config.finetune.to_dict())
  return finetune_result(encoder, data, protocol, logging=assemble.logging_of(config), workdir=home)


def _pixels(
  kind: str,
  name: str,
  encoder: 'Encoder',
  data: 'DenseData',
  config: Config,
  home: pathlib.Path,
) -> Result:
  from byoljax.protocols import dense
  from byoljax.protocols.dense_protocol import DenseProtocol
  from byoljax.train import assemble

  protocol, logging = DenseProtocol(**config[name].to_dict()), assemble.logging_of(config)
  dense.check(encoder, data, protocol, logging, name)
  return dense.fit(kind, encoder, data, protocol, config.mode, logging=logging, workdir=home).result


def _detect(
  encoder: 'Encoder', data: 'tuple[EvalData, Sequence[str]]', config: Config, home: pathlib.Path
) -> Result:
  from byoljax.protocols import detect
  from byoljax.train import assemble

  images, classes = data
  protocol = detect_task.protocol_of(config)
  logging = assemble.logging_of(config)
  return detect.fit(encoder, images, classes, protocol, logging=logging, workdir=home).result


# The kinds of outputs at every pixel, as `encoders.dense` calls them, which imports JAX.
_KINDS = {'segment': 'segmentation', 'depth': 'depth'}
EVALUATIONS = {
  'knn': Evaluation(_labelled, _knn, single=True),
  'logistic': Evaluation(_labelled, _logistic),
  'linear': Evaluation(_labelled, _linear, single=True),
  'finetune': Evaluation(_labelled, _finetune),
  **{
    name: Evaluation(functools.partial(_dense, kind), functools.partial(_pixels, kind, name))
    for name, kind in _KINDS.items()
  },
  'detect': Evaluation(_boxes, _detect),
}
