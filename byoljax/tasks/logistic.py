"""Logistic regression on frozen features: the transfer protocol of SimCLR and BYOL."""

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
  """Fits a logistic regression to a run's features; see `configs/frozen.py`."""
  return evaluation.on_frozen_features('logistic', _compute, _show, config, invocation)


def _compute(config: Config, num_classes: int, train: 'Split', test: 'Split') -> 'Fitted':
  from byoljax.evals import frozen

  fields = config.logistic
  return frozen.fit_logistic(
    train,
    test,
    lambdas=fields.lambdas or frozen.LAMBDAS,
    held_out=fields.held_out,
    seed=fields.seed,
    max_iterations=fields.max_iterations,
    num_classes=num_classes,
  )


def _show(result: Mapping[str, Any]) -> str:
  from byoljax.evals import scores

  held = 'a single label for each class, none to choose it on'
  if result['held_out'] is not None:
    held = f'{result["held_out"]:.2%} on held-out training images'
  text = (
    f'{scores.format_scores(result)} on {result["test_examples"]:,} test images '
    f'(lambda {result["lambda"]:.3g}, {held})'
  )
  edge = '\nThe best lambda is at the end of the range: widen logistic.lambdas.'
  return text + (edge if result['at_the_edge'] else '')


COMMAND = Command(
  'logistic',
  'logistic regression on frozen features',
  run,
  task='logistic',
  recipe='frozen:logistic',
  field='pretrained',
)
