"""Linear support vector machines on frozen features: VOC 2007's protocol."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from byoljax.config import Config
from byoljax.tasks import evaluation
from byoljax.tasks.command import Command
from byoljax.workdir.run_dir import Invocation

if TYPE_CHECKING:
  from byoljax.evals.frozen import Fitted
  from byoljax.protocols.frozen_features import Split


def run(config: Config, invocation: Invocation) -> int:
  """Fits a support vector machine for each class to a run's features; see `configs/frozen.py`."""
  return evaluation.on_frozen_features('svm', _compute, _show, config, invocation)


def _compute(config: Config, num_classes: int, train: 'Split', test: 'Split') -> 'Fitted':
  from byoljax.evals import svm

  fields = config.svm
  return svm.fit_svm(
    train,
    test,
    costs=fields.costs or svm.COSTS,
    parts=fields.parts,
    positive_weight=fields.positive_weight,
    seed=fields.seed,
    max_iterations=fields.max_iterations,
    num_classes=num_classes,
  )


def _show(result: Mapping[str, Any]) -> str:
  from byoljax.evals import scores

  costs = sorted(row['cost'] for row in result['by_class'])
  text = (
    f'{scores.format_scores(result)} on {result["test_examples"]:,} test images '
    f'(costs {costs[0]:.3g} to {costs[-1]:.3g} of {len(costs)} classes)'
  )
  edge = result['at_the_edge']
  return text + (f'\n{edge} of them at the end of the range: widen svm.costs.' if edge else '')


COMMAND = Command(
  'svm',
  'support vector machines on frozen features',
  run,
  task='svm',
  recipe='frozen:svm',
  field='pretrained',
)
