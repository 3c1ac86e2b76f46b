"""Classifiers of frozen features with few labels, over several draws of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from byoljax.config import Config, choose
from byoljax.report import table
from byoljax.tasks import evaluation
from byoljax.tasks.command import Command
from byoljax.workdir.run_dir import Invocation

CLASSIFIERS = ('logistic', 'svm')

if TYPE_CHECKING:
  from byoljax.evals.frozen import Fitted
  from byoljax.protocols.frozen_features import Split


def run(config: Config, invocation: Invocation) -> int:
  """Fits classifiers to the features of a few images; see `configs/frozen.py`."""
  choose('few_labels.classifier', config.few_labels.classifier, CLASSIFIERS)
  return evaluation.on_frozen_features('few_labels', _compute, _show, config, invocation)


def _compute(config: Config, num_classes: int, train: 'Split', test: 'Split') -> 'Fitted':
  from byoljax.evals import few_labels, svm
  from byoljax.evals.frozen import Fitted

  fields = config.few_labels
  if fields.classifier == 'svm':
    return Fitted(
      svm.low_shot(
        train, test, shots=fields.shots, draws=fields.draws, cost=fields.cost, seed=fields.seed
      )
    )
  return few_labels.fit_few_labels(
    train,
    test,
    shots=fields.shots,
    shares=fields.shares,
    draws=fields.draws,
    value=fields.regularization,
    seed=fields.seed,
    num_classes=num_classes,
  )


def _show(result: Mapping[str, Any]) -> str:
  columns = list(result['rows'][0])
  formats = dict.fromkeys(columns[2:], '{:.1%}')
  shown = table.format_table(result['rows'], columns, formats=formats)
  skipped = [f'{name}: skipped, {why}' for name, why in result['skipped'].items()]
  largest = [f'The largest class: {result["majority"]:.1%}'] if 'majority' in result else []
  return '\n'.join([shown, *largest, *skipped])


COMMAND = Command(
  'few-labels',
  'logistic regression or a support vector machine on few labels',
  run,
  task='few_labels',
  recipe='frozen:few_labels',
  field='pretrained',
)
