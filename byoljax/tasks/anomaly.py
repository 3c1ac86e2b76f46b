"""Anomalies: some classes are normal, the others are not; of features, and of told transforms."""

from collections.abc import Mapping
import pathlib
from typing import TYPE_CHECKING, Any

from byoljax.config import Config, user_errors
from byoljax.report import table
from byoljax.tasks import evaluation
from byoljax.tasks.command import Command
from byoljax.workdir import activity, run_dir
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.encoders.encoder import Encoder
  from byoljax.method import Transforms

_SHOWN = {
  'knn': 'k-NN',
  'probability': 'transforms, probability',
  'dirichlet': 'transforms, Dirichlet',
}


def run(config: Config, invocation: Invocation) -> int:
  """Tells classes from all others by the distance to them; see `configs/frozen.py`.

  Where the run was trained on some classes only, these are the normal ones; if telling transforms
  apart was its task, how well that succeeds on an image is a second and a third score.
  """
  from byoljax.encoders import load
  from byoljax.evals import frozen
  from byoljax.protocols import folds, frozen_features, told_transforms

  encoder, source, directory = load.load_encoder(config.pretrained, config.network, config.tap)
  home = evaluation.result_directory('anomaly', config, directory, invocation)
  data = evaluation.data_of(config, source, config.batch_size, home)
  seen = () if config.data.name else tuple(source.data.classes)
  telling = _telling(config, source, directory) if seen else None
  say(f'anomaly of {directory} ({evaluation.which(config)}) on {folds.describe(data)}')
  splits, parts = frozen_features.splits(encoder, data), folds.by_fold(data)
  results = []
  with user_errors('anomaly'), activity.doing(f'anomaly of {data.train.size:,} images'):
    for (train, test), part in zip(splits, parts, strict=True):
      near = frozen.anomaly(
        train, test, neighbors=config.anomaly.neighbors, normal=(seen,) if seen else ()
      )
      told = told_transforms.anomaly(*telling, part, seen) if telling else {}
      results.append(near | {'scores': {'knn': near} | told})
  result = folds.combined(results)
  run_dir.write_result(home / 'result.json', result, config, directory)
  say(_text(result))
  say(f'result  {home / "result.json"}')
  return 0


def _telling(
  config: Config, source: Config, directory: pathlib.Path
) -> 'tuple[Encoder, Transforms] | None':
  """The run's network with its classifier, and the transforms that it tells apart, if any."""
  from byoljax.encoders import load, method_network
  from byoljax.method import NETWORKS
  from byoljax.protocols import told_transforms

  method = method_network.method(source, directory.parent.parent)
  if method is None or method.transforms is None or config.network not in NETWORKS:
    return None
  encoder, *_ = load.load_encoder(config.pretrained, config.network, told_transforms.LOGITS)
  return encoder, method.transforms


def _text(result: Mapping[str, Any]) -> str:
  columns = {f'AUROC, {_SHOWN[name]}': each['by_class'] for name, each in result['scores'].items()}
  rows = [
    {'normal class': group} | {column: values[group] for column, values in columns.items()}
    for group in result['by_class']
  ]
  shown = table.format_table(
    rows, ['normal class', *columns], formats=dict.fromkeys(columns, '{:.3f}')
  )
  return f'{shown}\nmean AUROC {result["auroc"]:.3f} of k-NN (chance: 0.5)'


COMMAND = Command(
  'anomaly',
  'test how well one class separates from the rest (AUROC)',
  run,
  task='anomaly',
  recipe='frozen:anomaly',
  field='pretrained',
)
