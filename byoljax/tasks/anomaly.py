"""Anomalies found on frozen features: one class is normal, the others are not."""

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
  """Tells each class from all others by the distance to it; see `configs/frozen.py`."""
  return evaluation.on_frozen_features('anomaly', _compute, _show, config, invocation)


def _compute(config: Config, train: 'Split', test: 'Split') -> dict[str, Any]:
  from byoljax.evals import frozen

  return frozen.anomaly(train, test, neighbors=config.anomaly.neighbors)


def _show(result: Mapping[str, Any]) -> str:
  rows = [{'normal class': str(c), 'AUROC': value} for c, value in result['by_class'].items()]
  shown = table.format_table(rows, ['normal class', 'AUROC'], formats={'AUROC': '{:.3f}'})
  return f'{shown}\nmean AUROC {result["auroc"]:.3f} (chance: 0.5)'


COMMAND = Command(
  'anomaly',
  'one class against the rest, AUROC',
  run,
  task='anomaly',
  recipe='frozen:anomaly',
  field='pretrained',
)
