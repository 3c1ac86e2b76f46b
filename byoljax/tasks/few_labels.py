"""Logistic regression on frozen features with few labels, over several draws of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from byoljax.config import Config
from byoljax.report import table
from byoljax.tasks import evaluation
from byoljax.tasks.command import Command
from byoljax.workdir.run_dir import Invocation

if TYPE_CHECKING:
  from byoljax.protocols.frozen_features import Split


def run(config: Config, invocation: Invocation) -> int:
  """Fits logistic regressions to the features of a few images; see `configs/frozen.py`."""
  return evaluation.on_frozen_features('few_labels', _compute, _show, config, invocation)


def _compute(config: Config, train: 'Split', test: 'Split') -> dict[str, Any]:
  from byoljax.evals import frozen

  fields = config.few_labels
  return frozen.few_labels(
    train,
    test,
    shots=fields.shots,
    shares=fields.shares,
    draws=fields.draws,
    value=fields.regularization,
    seed=fields.seed,
  )


def _show(result: Mapping[str, Any]) -> str:
  columns = ['labels', 'examples', 'top1', 'top1_sd']
  formats = {'top1': '{:.1%}', 'top1_sd': '{:.1%}'}
  shown = table.format_table(result['rows'], columns, formats=formats)
  skipped = [f'{name}: skipped, {why}' for name, why in result['skipped'].items()]
  return '\n'.join([shown, *skipped])


COMMAND = Command(
  'few-labels',
  'logistic regression with few labels',
  run,
  task='few_labels',
  recipe='frozen:few_labels',
  field='pretrained',
)
