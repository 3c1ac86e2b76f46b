"""The final table of a run: its encoder beside what it has to beat, by k-NN and linear evaluation.

Balanced accuracy stands beside accuracy, and one row says what always naming the largest class
would reach: where classes differ in size, accuracy alone may say nothing at all.
"""

from collections.abc import Mapping, Sequence
from typing import Any

# Column -> (evaluation, score), in the order of the table.
COLUMNS = {
  'k-NN top-1': ('knn', 'top1'),
  'k-NN balanced': ('knn', 'mean_per_class'),
  'linear top-1': ('linear', 'top1'),
  'linear balanced': ('linear', 'mean_per_class'),
  # Of methods that learn from labels.
  'own top-1': ('own', 'top1'),
}
ALWAYS = ('k-NN top-1', 'linear top-1')  # others are left out where no row has them
MAJORITY = 'the largest class'


def rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
  """A row for every encoder, and one for always naming the largest class.

  Args:
    results: encoder -> {'knn': scores, 'linear': scores, 'own': scores of the classifier that the
      method has trained}, each as far as it is known.

  Returns:
    {'encoder', column: share in [0, 1]}; what is not known is absent.
  """
  made = [
    {'encoder': name}
    | {
      column: each[kind][score]
      for column, (kind, score) in COLUMNS.items()
      if score in each.get(kind, {})
    }
    for name, each in results.items()
  ]
  return [*made, *_majority(results)]


def columns(made: Sequence[Mapping[str, Any]]) -> list[str]:
  """The columns to show of these rows, in the order of the table."""
  return [name for name in COLUMNS if name in ALWAYS or any(name in row for row in made)]


def _majority(results: Mapping[str, Any]) -> list[dict[str, Any]]:
  known = [
    (kind, each[kind]['majority'])
    for each in results.values()
    for kind in ('knn', 'linear')
    if 'majority' in each.get(kind, {})
  ]
  if not known:
    return []
  shares = dict(known)
  own = {f'{title} top-1': shares[kind]
         for kind, title in (('knn', 'k-NN'), ('linear', 'linear')) if kind in shares}  # fmt: skip
  return [{'encoder': MAJORITY} | own]
