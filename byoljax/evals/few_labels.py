"""Classifiers of frozen features on a few images of each class, over several draws of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from byoljax import streams
from byoljax.evals import frozen, logistic, scores


def fit_few_labels(
  train: tuple[np.ndarray, np.ndarray],
  test: tuple[np.ndarray, np.ndarray],
  *,
  shots: Sequence[int],
  shares: Sequence[float],
  draws: int,
  value: float,
  seed: int = 0,
  max_iterations: int = 1000,
  num_classes: int = 0,
) -> frozen.Fitted:
  """Logistic regression on small, stratified random subsets of the training images.

  An entry that the images are too few for is skipped: more images per class than the smallest class
  has, or a share of which one image per class would be much more than was asked for.

  Args:
    train: features [N, D] and labels [N] >= 0.
    test: features [M, D] and labels [M] >= 0.
    shots: images per class.
    shares: fractions of the training images in (0, 1], of each class alike.
    draws: number of subsets for each entry; subset d of a seed is always the same.
    value: lambda of `logistic.fit` for features whose mean squared distance from their mean is 1:
      so it means the same for encoders whose outputs differ in scale. Nothing is tuned, because
      there is nothing to tune on.
    seed: of the subsets.
    max_iterations: of L-BFGS.
    num_classes: of the classifier; 0 takes those that occur.

  Returns:
    The classifier of the first draw of the entry with the most images, and the result: {'rows': for
    each entry {'labels' ('5 per class', '1 %'), 'examples', 'top1', 'top1_sd' (over draws),
    'mean_per_class', 'mean_per_class_sd'}, 'skipped': {entry: why}, 'majority'}.

  Raises:
    ValueError: an entry that makes no sense, none that can be evaluated, or fewer than two classes.
  """
  frozen.check_single(train[1])
  frozen.check_labelled(*train)
  check_few_labels(shots, shares, draws)
  if not value > 0:
    raise ValueError(f'regularization={value:g} must be above 0; a tiny value is as good as none.')
  classes, largest = max(num_classes, frozen.classes_in(train[1], test[1])), (0, None)
  wanted = [(f'{count} per class', count, None) for count in shots]
  wanted += [(f'{100 * share:g} %', None, share) for share in shares]
  rows, skipped = [], {}
  for name, count, share in wanted:
    problem = _too_few(train[1], count, share)
    if problem:
      skipped[name] = problem
      continue
    found, size = [], 0
    for draw in range(draws):
      part = frozen.subset(
        train[1], count=count, share=share, seed=(seed, streams.FEW_LABELS, draw)
      )
      features = logistic.rotated(train[0][part])
      scale = features.squares.sum() / len(part) or 1.0  # Features that are all alike have none.
      model = logistic.fit(features, train[1][part], value * scale, max_iterations)
      if not draw and len(part) > largest[0]:
        largest = len(part), frozen.linear_readout(model, classes)
      right = model.predict(test[0]) == test[1]
      per_class = scores.mean_per_class(right, test[1])
      found.append({'top1': float(np.mean(right)), 'mean_per_class': per_class})
      size = len(part)
    rows.append({'labels': name, 'examples': size} | over_draws(found))
  if not rows:
    raise ValueError(
      f'{len(train[1])} labelled images are too few for every entry: '
      + '; '.join(f'{name}: {problem}' for name, problem in skipped.items())
    )
  result = {'rows': rows, 'skipped': skipped, 'majority': scores.majority(test[1])}
  return frozen.Fitted(result, largest[1])


def few_labels(
  train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], **options: Any
) -> dict[str, Any]:
  """The result of `fit_few_labels` alone."""
  return fit_few_labels(train, test, **options).result


def over_draws(found: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
  """Means of scores, and their standard deviations '<score>_sd' (None of a single draw)."""
  made: dict[str, float | None] = {}
  for name in [name for name in scores.METRICS if name in found[0]]:
    values = [each[name] for each in found]
    made[name] = float(np.mean(values))
    made[f'{name}_sd'] = float(np.std(values, ddof=1)) if len(values) > 1 else None
  return made


def check_few_labels(shots: Sequence[int], shares: Sequence[float], draws: int) -> None:
  """Raises ValueError unless the fields of `few_labels` make sense for some data set."""
  if any(count < 1 for count in shots):
    raise ValueError(f'shots={tuple(shots)} must be numbers of images per class of at least 1.')
  if any(not 0 < share <= 1 for share in shares):
    raise ValueError(f'shares={tuple(shares)} must be above 0 and at most 1, such as 0.1.')
  if draws < 1 or not (shots or shares):
    raise ValueError('few labels need at least one entry of shots or shares, and one draw.')


# A share is not evaluated where one image per class is more than so many times the share.
_MOST_OF_SHARE = 1.25


def _too_few(labels: np.ndarray, count: int | None, share: float | None) -> str:
  """Why an entry of `few_labels` cannot be what its name says; '' where it can."""
  if count is not None:
    least = int(np.bincount(labels)[np.unique(labels)].min())
    return f'the smallest class has {least}' if count > least else ''
  asked = (share or 0.0) * len(labels)
  drawn = len(frozen.subset(labels, share=share))
  if drawn <= _MOST_OF_SHARE * asked:
    return ''
  return f'of {len(labels)} images that is {asked:.3g}, but one of every class makes {drawn}'
