"""Cross-validation: what evaluations do where labelled images have no test split.

Every labelled image is a test image once, of a classifier that was trained on the other parts;
scores are means over the parts, with their standard deviation. Large sets need no more than one of
the parts for a test set.
"""

from collections.abc import Callable, Mapping, Sequence
import pathlib
import statistics
from typing import Any

import numpy as np

from byoljax import streams
from byoljax.config import ConfigError
from byoljax.data.sources.source import Source
from byoljax.evals.scores import METRICS, majority
from byoljax.protocols.answers import Trained
from byoljax.protocols.extraction import EvalData

FOLDS = 5
# With more labelled images than so many, a single part is the test set.
MOST = 5_000
# Numbers that were chosen rather than measured: their mean would be nobody's.
_CHOSEN = ('base_lr', 'cost', 'lambda', 'temperature', 'weight_decay')
# What says which row of a list is which, where parts may lack some.
_ROW_NAMES = ('labels', 'class')

Rows = tuple[np.ndarray, np.ndarray]


def rows(source: Source) -> list[Rows]:
  """(training rows, test rows) of every part, ascending; a function of the labels alone.

  Parts are stratified, and differ by at most one image in size. There are five of them, or as many
  as the smallest class has images, but at least two. Of more than `MOST` images there is one: a
  fifth of them for testing. Images without a label belong to none.

  Raises:
    ConfigError: fewer than two labelled images.
  """
  labels = source.labels
  if labels is None or (labels >= 0).sum() < 2:
    raise ConfigError(f'{source.name} has fewer than two labelled images: too few to evaluate on.')
  return rows_of(labels)


def rows_of(labels: np.ndarray) -> list[Rows]:
  """`rows` of labels int [N], or [N, C] where images have several, of which two are known."""
  generator = np.random.default_rng((0, streams.FOLDS))
  if labels.ndim == 2:
    order, rarest = generator.permutation(len(labels)), FOLDS
  else:
    classes = np.unique(labels[labels >= 0])
    own = [generator.permutation(np.flatnonzero(labels == label)) for label in classes]
    order, rarest = np.concatenate(own), min(map(len, own))
  large = len(order) > MOST
  count = FOLDS if large else min(len(order), max(2, min(FOLDS, rarest)))
  parts = [np.sort(order[part::count]) for part in range(1 if large else count)]
  return [(np.setdiff1d(order, part), part) for part in parts]


def require_single(source: Source, what: str = 'a classifier that is kept') -> None:
  """Raises ConfigError where images have several labels each, which `what` cannot take."""
  if source.multi_label:
    raise ConfigError(
      f'{source.name} has several labels per image: {what} needs one. `byoljax logistic`, `svm` '
      'and `finetune:voc` take several.'
    )


def by_fold(data: EvalData) -> list[EvalData]:
  """The data of every part, each with test images of its own; all of them with a test split."""
  if data.has_test:
    return [data]
  return [
    data._replace(train=data.train.subset(train), test=data.train.subset(test), has_test=True)
    for train, test in rows(data.train)
  ]


def homes(
  data: EvalData, workdir: pathlib.Path | None
) -> list[tuple[EvalData, pathlib.Path | None]]:
  """The data of every part with a directory of its own, the whole one where there is one part."""
  parts = by_fold(data)
  if workdir is None or len(parts) == 1:
    return [(part, workdir) for part in parts]
  return [(part, workdir / f'fold{number}') for number, part in enumerate(parts)]


def fit(
  data: EvalData,
  workdir: pathlib.Path | None,
  train: Callable[[EvalData, pathlib.Path | None], Trained],
) -> Trained:
  """Trains on every part and, of several, on all labelled images, for the classifier.

  Args:
    data: with or without a test split.
    workdir: where parts have their directories; None keeps all in memory.
    train: (data with a test split, directory) -> one result with its classifier.
  """
  made = [train(part, home) for part, home in homes(data, workdir)]
  last = made[-1]
  if not data.has_test:
    rows_tested = by_fold(data)[0].test  # Not looked at: the parts have the result.
    whole = data._replace(test=rows_tested, has_test=True)
    last = train(whole, None if workdir is None else workdir / 'all')
  answers = tuple(answer for each in made for answer in each.answers)
  result = combined([each.result for each in made], data.train.labels)
  return last._replace(result=result, answers=answers)


def describe(data: EvalData) -> str:
  """What is tested on, for a person: 'val', or 'photos, cross-validated in 5 parts'."""
  if data.has_test:
    return data.test.name
  count = len(rows(data.train))
  how = f'cross-validated in {count} parts' if count > 1 else 'a fifth held out as test images'
  return f'{data.train.name} ({how}: there is no test split)'


def combined(
  results: Sequence[Mapping[str, Any]], labels: np.ndarray | None = None
) -> dict[str, Any]:
  """One result of those of all parts: means of what was measured, medians of what was chosen.

  Args:
    results: one of each part.
    labels: int [N] of all images that the parts were made of, where results have the share of the
      largest class, 'majority'. It is that among all: in small parts another class may be the
      largest, and the mean of their shares is what no answer reaches.

  Returns:
    The result itself where there is one. Else fields as in each and rows that all parts have, a
    score's standard deviation over the parts as '<score>_sd', 'test_examples' in all (likewise
    'queries' and those 'without_relevant'), what any part 'skipped', and each result in 'folds'.
  """
  if len(results) == 1:
    return dict(results[0])
  made = _merged(results)
  for name in (*METRICS, 'auroc'):
    if isinstance(made.get(name), float):
      made[f'{name}_sd'] = statistics.stdev(each[name] for each in results)
  if labels is not None and 'majority' in made:
    made['majority'] = majority(labels)
  for name in ('test_examples', 'queries', 'without_relevant'):
    if name in made:
      made[name] = sum(each[name] for each in results)
  if 'skipped' in results[0]:
    made['skipped'] = {name: why for each in results for name, why in each['skipped'].items()}
  return made | {'folds': [dict(each) for each in results]}


def _merged(values: Sequence[Any], name: str = '') -> Any:
  first = values[0]
  if all(value == first for value in values):
    return first
  if isinstance(first, Mapping):
    shared = [key for key in first if all(key in value for value in values)]
    return {key: _merged([value[key] for value in values], str(key)) for key in shared}
  if isinstance(first, bool):
    return any(values)
  known = [value for value in values if value is not None]
  if all(isinstance(value, int | float) for value in known):
    whole = any(isinstance(value, int) for value in known) or name in _CHOSEN
    return statistics.median_low(known) if whole else statistics.fmean(known)
  if isinstance(first, list | tuple):
    return [_merged(each, name) for each in zip(*_alike(values), strict=False)]
  return ', '.join(dict.fromkeys(map(str, values)))


def _alike(values: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
  """Lists whose rows have names without the rows that are not in all of them."""
  for key in _ROW_NAMES:
    if all(isinstance(row, Mapping) and key in row for rows in values for row in rows):
      shared = set.intersection(*({row[key] for row in rows} for rows in values))
      return [[row for row in rows if row[key] in shared] for rows in values]
  return list(values)
