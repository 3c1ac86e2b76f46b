"""Linear support vector machines on frozen features, one for each class: VOC 2007's protocol.

Goyal et al., "Scaling and benchmarking self-supervised visual representation learning" (arXiv
1905.01235), and its code: features scaled to unit length; for every class a linear SVM with squared
hinge loss against all other images, positive images counting twice; the cost C chosen for each
class by cross-validated average precision; reported is the mean over classes of the area under the
interpolated precision-recall curve (`scores.area_under_precision`).

Low-shot: k positive and (classes - 1) k negative images of each class, over several draws. The
authors' code evaluates every cost on the test set; here the cost is fixed in advance, since there
is nothing to choose it on.

Differences: parts of the cross-validation are drawn at random, not in the order of the images.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any

import numpy as np

from byoljax import streams
from byoljax.evals import few_labels, frozen, scores
from byoljax.ops import readouts

# 10^-7 ... 10^2 and 2^-19 ... 2^-4, ascending: the paper's grid.
COSTS = tuple(sorted([10.0**power for power in range(-7, 3)] + [0.5**i for i in range(4, 20)]))
Labelled = tuple[np.ndarray, np.ndarray]


def fit_svm(
  train: Labelled,
  test: Labelled,
  *,
  costs: Sequence[float] = COSTS,
  parts: int = 3,
  positive_weight: float = 2.0,
  seed: int = 0,
  max_iterations: int = 2000,
  num_classes: int = 0,
) -> frozen.Fitted:
  """One linear SVM for each class, its cost chosen by cross-validation; tested once.

  Args:
    train: features [N, D] and labels [N] >= 0, or [N, C]: 1 present, 0 absent, -1 ignored.
    test: features [M, D] and labels, likewise.
    costs: candidates of C, above 0. A single one is taken without cross-validation.
    parts: of the training images in the cross-validation, stratified by the class.
    positive_weight: how much more an image of the class counts than another.
    seed: of the parts.
    max_iterations: of the solver.
    num_classes: of the classifier; 0 takes those that occur.

  Returns:
    The classifier, and its result: 'map', the mean over classes of the area under the
    precision-recall curve, with the other scores of `scores.of_logits` (an image's class is the one
    with the highest score) and {'by_class': [{'class', 'ap', 'cost', 'validated' (None with a
    single cost)}], 'at_the_edge': how many classes chose the lowest or the highest cost,
    'train_examples', 'test_examples'}.

  Raises:
    ValueError: no cost or one that is not above 0, as of the weight; fewer than two classes; fewer
      images of a class than parts.
  """
  if not costs or min(costs) <= 0:
    raise ValueError(f'costs={tuple(costs)} must be numbers above 0, at least one.')
  _check_solver(positive_weight, max_iterations)
  frozen.check_labelled(*train)
  order = sorted(costs)
  x, fit = _scaled(train[0]), functools.partial(_fit, positive_weight, max_iterations)
  marks, tested = _by_class(train[1], test[1])
  found, rows = np.full((len(tested), tested.shape[1]), -np.inf), []
  models = {}
  for label in _classes(marks):
    counts = marks[:, label] >= 0
    own, positive = x[counts], marks[counts, label] > 0
    validated = None
    cost = order[0]
    if len(order) > 1:
      split = _parts(positive, parts, seed, label)
      each = [_validated(fit, own, positive, split, cost) for cost in order]
      cost, validated = order[int(np.argmax(each))], float(max(each))
    models[label] = fit(own, positive, cost)
    found[:, label] = models[label].decision_function(_scaled(test[0]))
    rows.append({'class': label, 'cost': cost, 'validated': validated})
  for row in rows:
    row['ap'] = _ap(found[:, row['class']], tested[:, row['class']])
  ends = (order[0], order[-1]) if len(order) > 1 else ()
  result = {
    **_scores(found, test[1], tested),
    'by_class': rows,
    'at_the_edge': sum(row['cost'] in ends for row in rows),
    'train_examples': len(marks),
    'test_examples': len(tested),
  }
  several = train[1].ndim == 2
  readout = None if several else _readout(models, x.shape[1], max(num_classes, marks.shape[1]))
  return frozen.Fitted(result, readout)


def svm(train: Labelled, test: Labelled, **options: Any) -> dict[str, Any]:
  """The result of `fit_svm` alone."""
  return fit_svm(train, test, **options).result


def _readout(models: Mapping[int, Any], dim: int, classes: int) -> readouts.Linear:
  """The machines of all classes side by side."""
  kernel = np.zeros((dim, classes), np.float32)
  bias = np.full(classes, readouts.NEVER, np.float32)
  for label, model in models.items():
    kernel[:, label], bias[label] = model.coef_[0], model.intercept_[0]
  return readouts.Linear(kernel, bias, unit=True)


def low_shot(
  train: Labelled,
  test: Labelled,
  *,
  shots: Sequence[int],
  draws: int,
  cost: float = 0.5,
  positive_weight: float = 2.0,
  seed: int = 0,
  max_iterations: int = 2000,
) -> dict[str, Any]:
  """SVMs on a few images: of each class k of its own and (classes - 1) k others, several draws.

  With one label per image, these are k images of every class, the same for all classes' SVMs and
  the same as those of `few_labels`.

  Args:
    train: as for `svm`.
    test: as for `svm`.
    shots: numbers k.
    draws: of images, for each k; draw d of a seed is always the same.
    cost: C, the same for all classes.
    positive_weight: as for `svm`.
    seed: of the draws.
    max_iterations: of the solver.

  Returns:
    As `few_labels.few_labels`: rows of {'labels', 'examples' (a class's), scores of `svm` and their
    standard deviations over draws, such as 'map' and 'map_sd'}, and what was skipped.

  Raises:
    ValueError: no number of images that every class has, or one below 1; no draw.
  """
  few_labels.check_few_labels(shots, (), draws)
  _check_solver(positive_weight, max_iterations)
  frozen.check_labelled(*train)
  x, xs = _scaled(train[0]), _scaled(test[0])
  marks, tested = _by_class(train[1], test[1])
  classes = _classes(marks)
  least = int((marks[:, classes] > 0).sum(0).min())
  rows, skipped = [], {}
  for count in shots:
    if count > least:
      skipped[f'{count} per class'] = f'the smallest class has {least}'
      continue
    made = []
    for draw in range(draws):
      found = np.full((len(tested), tested.shape[1]), -np.inf)
      for label in classes:
        part = _drawn(train[1], marks, label, count, len(classes), seed, draw)
        model = _fit(positive_weight, max_iterations, x[part], marks[part, label] > 0, cost)
        found[:, label] = model.decision_function(xs)
      made.append(_scores(found, test[1], tested))
    rows.append(
      {'labels': f'{count} per class', 'examples': count * len(classes)}
      | few_labels.over_draws(made)
    )
  if not rows:
    raise ValueError(f'shots={tuple(shots)}: the smallest class has {least} training images.')
  single = train[1].ndim == 1
  return {
    'rows': rows,
    'skipped': skipped,
    **({'majority': scores.majority(test[1])} if single else {}),
  }


def _drawn(
  labels: np.ndarray,
  marks: np.ndarray,
  label: int,
  count: int,
  classes: int,
  seed: int,
  draw: int,
) -> np.ndarray:
  """Positions of the images of one class's SVM."""
  if labels.ndim == 1:
    return frozen.subset(labels, count=count, seed=(seed, streams.FEW_LABELS, draw))
  rng = np.random.default_rng((seed, streams.FEW_LABELS, draw, label))
  positive = rng.permutation(np.flatnonzero(marks[:, label] > 0))[:count]
  negative = rng.permutation(np.flatnonzero(marks[:, label] == 0))[: (classes - 1) * count]
  return np.concatenate([positive, negative])


def _check_solver(positive_weight: float, iterations: int) -> None:
  """Raises ValueError for a weight or a number of iterations with which nothing is solved."""
  if positive_weight <= 0 or iterations < 1:
    raise ValueError(
      f'positive_weight={positive_weight} must be above 0, max_iterations={iterations} at least 1.'
    )


def _scaled(features: np.ndarray) -> np.ndarray:
  """Features of unit length, float64."""
  x = np.asarray(features, np.float64)
  return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5)


def _by_class(*labels: np.ndarray) -> list[np.ndarray]:
  """Labels as int [N, C]: 1 of this class, 0 of another, -1 ignored."""
  if labels[0].ndim == 2:
    return list(labels)
  count = 1 + int(max(each.max() for each in labels))
  return [(each[:, None] == np.arange(count)).astype(int) for each in labels]


def _classes(marks: np.ndarray) -> list[int]:
  """Classes with images of their own and others."""
  return [label for label, own in enumerate(marks.T) if (own > 0).any() and (own == 0).any()]


def _parts(positive: np.ndarray, parts: int, seed: int, label: int) -> list[np.ndarray]:
  """Positions of the images of each part, the class's own shared out evenly."""
  least = min(int(positive.sum()), int((~positive).sum()))
  if parts < 2:
    raise ValueError(f'parts={parts}: cross-validation needs 2 or more, or a single cost.')
  if least < parts:
    raise ValueError(
      f'class {label} has only {least} positive or negative training images, too few for {parts} '
      'cross-validation parts: lower parts, or give a single cost.'
    )
  rng = np.random.default_rng((seed, streams.SVM_PARTS, label))
  number = np.empty(len(positive), int)
  for own in (positive, ~positive):
    number[rng.permutation(np.flatnonzero(own))] = np.arange(own.sum()) % parts
  return [np.flatnonzero(number == part) for part in range(parts)]


def _validated(
  fit: Any, x: np.ndarray, positive: np.ndarray, split: list[np.ndarray], cost: float
) -> float:
  """Mean average precision of the held-out parts."""
  found = []
  for held in split:
    rest = np.setdiff1d(np.arange(len(x)), held)
    model = fit(x[rest], positive[rest], cost)
    found.append(scores.area_under_precision(model.decision_function(x[held]), positive[held]))
  return float(np.mean(found))


def _fit(
  positive_weight: float, iterations: int, x: np.ndarray, positive: np.ndarray, cost: float
) -> Any:
  import warnings

  from sklearn.exceptions import ConvergenceWarning
  from sklearn.svm import LinearSVC

  model = LinearSVC(
    C=cost,
    dual='auto',
    class_weight={True: positive_weight, False: 1.0},
    max_iter=iterations,
    random_state=0,
  )
  with warnings.catch_warnings():
    # High costs take long; what was reached is judged on held-out images.
    warnings.simplefilter('ignore', ConvergenceWarning)
    return model.fit(x, positive)


def _ap(found: np.ndarray, marks: np.ndarray) -> float | None:
  """Average precision on the test images that count; None without one of the class."""
  counts = marks >= 0
  if not (marks > 0).any():
    return None
  return scores.area_under_precision(found[counts], marks[counts] > 0)


def _scores(found: np.ndarray, labels: np.ndarray, marks: np.ndarray) -> dict[str, float]:
  each = [_ap(own, of) for own, of in zip(found.T, marks.T, strict=True)]
  known = [value for value in each if value is not None]
  if not known:
    raise ValueError('no class has a test image: there is nothing to score.')
  return {'map': float(np.mean(known)), **scores.of_logits(found, labels)}
