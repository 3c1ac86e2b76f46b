"""Image retrieval by the features of a run: mean average precision and recall@k."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from byoljax.config import Config, choose
from byoljax.tasks import evaluation
from byoljax.tasks.command import Command
from byoljax.workdir.run_dir import Invocation

if TYPE_CHECKING:
  from byoljax.evals.frozen import Fitted
  from byoljax.protocols.frozen_features import Split

GALLERIES = ('queries', 'train')


def run(config: Config, invocation: Invocation) -> int:
  """Looks for images of the same class; see `configs/frozen.py`."""
  gallery = choose('retrieval.gallery', config.retrieval.gallery, GALLERIES)
  return evaluation.on_frozen_features(
    'retrieval', _compute, _show, config, invocation, learns=gallery == 'train'
  )


def _compute(config: Config, num_classes: int, train: 'Split', test: 'Split') -> 'Fitted':
  from byoljax.evals import frozen, retrieval

  del num_classes
  return frozen.Fitted(
    retrieval.retrieval(train if config.retrieval.gallery == 'train' else None, test)
  )


def _show(result: Mapping[str, Any]) -> str:
  from byoljax.evals import scores

  text = (
    f'{scores.format_scores(result)} of {result["queries"]:,} queries among '
    f'{result["gallery"]:,} images each'
  )
  alone = result['without_relevant']
  return text + (f'\n{alone:,} more have no other image of their class.' if alone else '')


COMMAND = Command(
  'retrieval',
  'find images of the same class: mAP, recall@k',
  run,
  task='retrieval',
  recipe='frozen:retrieval',
  field='pretrained',
)
