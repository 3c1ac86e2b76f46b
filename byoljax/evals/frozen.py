"""Evaluations of frozen features on the host: logistic regression, anomaly detection.

Features [n, D] and labels in, numbers out. Features are used unchanged: what `logistic` does to
them changes no minimum, as in the transfer protocol.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from byoljax import streams
from byoljax.evals import logistic as logistic_lib
from byoljax.evals import scores
from byoljax.ops import readouts

# Transfer by linear evaluation: 45 values, evenly spaced on a logarithmic scale (Kornblith et al.,
# arXiv 1805.08974, appendix A.5; adopted by SimCLR, appendix B.8.1, and BYOL, appendix E.1).
LAMBDAS = tuple(float(value) for value in np.logspace(-6, 5, 45))


class Fitted(NamedTuple):
  """A result with the classifier that it is of.

  Attributes:
    result: the numbers.
    readout: the classifier, or None where there is none for one label per image.
    held: scores [n, C] and labels [n] of images that it was chosen on, by the same classifier
      without these images; None where none were held out.
  """

  result: dict[str, Any]
  readout: readouts.Linear | None = None
  held: tuple[np.ndarray, np.ndarray] | None = None


def fit_logistic(
  train: tuple[np.ndarray, np.ndarray],
  test: tuple[np.ndarray, np.ndarray],
  *,
  lambdas: Sequence[float] = LAMBDAS,
  held_out: float = 0.1,
  seed: int = 0,
  max_iterations: int = 1000,
  num_classes: int = 0,
) -> Fitted:
  """Multinomial logistic regression by L-BFGS; the regularization is selected on held-out images.

  Minimizes sum_i CE(W x_i + b, y_i) + lambda / 2 |W|^2; the model with the best lambda on a
  stratified held-out part of the training images is refitted on all of them, and tested once. If
  images have several labels each, every class is a separate binary problem.

  Args:
    train: features [N, D] and labels [N] >= 0, or [N, C]: 1 present, 0 absent, -1 ignored.
    test: features [M, D] and labels, likewise.
    lambdas: candidates, above 0.
    held_out: fraction of the training images to select on, in (0, 1).
    seed: of the split.
    max_iterations: of L-BFGS.
    num_classes: of the classifier; 0 takes those that occur.

  Returns:
    The classifier, what it was chosen on, and its result: scores of the test images (see
    `scores.of_logits`) with {'lambda', 'held_out' (the first of these scores, on held-out images),
    'held_out_examples', 'at_the_edge' (whether the best lambda is the first or last),
    'train_examples', 'test_examples'}. A class with a single image keeps it for training; if all
    are so, nothing is held out: 'held_out' is None and 'lambda' the candidate nearest to 1.

  Raises:
    ValueError: fewer than two classes, a share that is not one, or no candidate above 0.
  """
  check_labelled(*train)
  classes = max(num_classes, classes_in(train[1], test[1]))
  rest, chosen = _held_out(train[1], held_out, seed)
  held, start, pair = [], None, None
  order = sorted(lambdas, reverse=True)  # Strongest first: each fit starts from the previous one.
  features = logistic_lib.rotated(train[0])
  part = features.take(rest)
  for value in order if len(chosen) else ():
    start = _models(part, train[1][rest], value, max_iterations, start)
    logits = _logits(start, train[0][chosen], classes)
    held.append(next(iter(scores.of_logits(logits, train[1][chosen]).values())))
    if np.argmax(held) == len(held) - 1:
      pair = np.maximum(logits, readouts.NEVER), train[1][chosen]
  # Nothing to choose on: the middle of the range, which is 1 to within a factor of 2 by default.
  best = int(np.argmax(held)) if held else int(np.argmin(np.abs(np.log(order))))
  model = _models(features, train[1], order[best], max_iterations)
  result = {
    **scores.of_logits(_logits(model, test[0], classes), test[1]),
    'lambda': order[best],
    'held_out': held[best] if held else None,
    'held_out_examples': len(chosen),
    'at_the_edge': len(held) > 1 and best in (0, len(order) - 1),
    'train_examples': len(train[1]),
    'test_examples': len(test[1]),
  }
  if not isinstance(model, logistic_lib.Model):
    return Fitted(result)
  return Fitted(result, linear_readout(model, classes), pair)


def logistic(
  train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], **options: Any
) -> dict[str, Any]:
  """The result of `fit_logistic` alone."""
  return fit_logistic(train, test, **options).result


def linear_readout(model: logistic_lib.Model, classes: int) -> readouts.Linear:
  """A fitted logistic regression as a readout of `classes` classes."""
  every = np.zeros((len(model.kernel), classes), np.float32)
  every[:, model.classes] = model.kernel
  biases = np.full(classes, readouts.NEVER, np.float32)
  biases[model.classes] = model.bias
  return readouts.Linear(every, biases)


def subset(
  labels: np.ndarray,
  *,
  count: int | None = None,
  share: float | None = None,
  seed: int | tuple[int, ...] = (0, streams.LABEL_SUBSET),
  spare: int = 0,
) -> np.ndarray:
  """Positions of a stratified random subset of a labelled set, ascending, int64.

  A function of the labels and the seed alone. With `share`, each class contributes its rounded
  share and at least one image.

  Args:
    labels: int [N]; -1 is never chosen.
    count: images per class; or
    share: fraction of each class in (0, 1].
    seed: different seeds give different subsets.
    spare: so many images of every class are never chosen.

  Raises:
    ValueError: neither or both of count and share.
  """
  if (count is None) == (share is None):
    raise ValueError('give either count or share.')
  rng = np.random.default_rng(seed)
  chosen = []
  for label in np.unique(labels[labels >= 0]):
    own = rng.permutation(np.flatnonzero(labels == label))
    size = count if count is not None else max(1, round((share or 0.0) * len(own)))
    chosen.append(own[: max(0, min(size, len(own) - spare))])
  return np.sort(np.concatenate(chosen))


def anomaly(
  train: tuple[np.ndarray, np.ndarray],
  test: tuple[np.ndarray, np.ndarray],
  *,
  neighbors: int = 2,
  normal: Sequence[Sequence[int]] = (),
) -> dict[str, Any]:
  """Area under the ROC curve with some classes as normal and all others abnormal.

  The score of a test image is the mean cosine similarity to its nearest `neighbors` among the
  normal training images.

  Args:
    train: features [N, D] and labels [N] >= 0.
    test: features [M, D] and labels [M] >= 0.
    neighbors: k.
    normal: the classes that are normal together, one row of the result each; () takes every class
      by itself.

  Returns:
    {'auroc' (mean over the rows), 'by_class' {'3' or '3, 5': AUROC}}, in [0, 1]; 0.5 is chance.

  Raises:
    ValueError: no neighbor, fewer than two classes, or nothing to tell apart.
  """
  from byoljax.evals import knn

  if neighbors < 1:
    raise ValueError(f'neighbors={neighbors} must be at least 1.')

  check_single(train[1])
  check_labelled(*train)
  found = {}
  for group in normal or [(int(label),) for label in np.unique(test[1])]:
    bank = train[0][np.isin(train[1], group)]
    inside = np.isin(test[1], group)
    if not len(bank) or inside.all() or not inside.any():
      continue
    similarities, _ = knn.nearest(bank, test[0], neighbors)
    found[group_name(group)] = scores.auroc(similarities.mean(1), inside)
  if not found:
    classes = ' or '.join(map(group_name, normal)) or 'any class'
    raise ValueError(
      f'with {classes} as normal there are no normal training images, or no test images of both '
      'normal and other classes: nothing can be told apart.'
    )
  return {'auroc': float(np.mean(list(found.values()))), 'by_class': found}


def _held_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Positions of (the rest, the held-out part): of every class its share, but never all of it."""
  if not 0 < share < 1:
    raise ValueError(f'held_out={share} must be between 0 and 1, such as 0.1.')
  seeds = (seed, streams.PROBE_HELD_OUT)
  if labels.ndim == 1:
    chosen = subset(labels, share=share, seed=seeds, spare=1)
  else:
    count = min(max(1, round(share * len(labels))), len(labels) - 1)
    chosen = np.sort(np.random.default_rng(seeds).permutation(len(labels))[:count])
  return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def group_name(classes: Sequence[int]) -> str:
  """'3', or '3, 5' of several."""
  return ', '.join(map(str, classes))


def classes_in(*labels: np.ndarray) -> int:
  """How many classes there are, by labels [N] or [N, C]."""
  return labels[0].shape[1] if labels[0].ndim == 2 else 1 + int(max(y.max() for y in labels))


# Of images with several labels one for each class, None where the labels are all equal.
_Models = logistic_lib.Model | list[logistic_lib.Model | None]


def _models(
  features: logistic_lib.Rotated,
  y: np.ndarray,
  value: float,
  iterations: int,
  start: Any = None,
) -> _Models:
  """Fitted to labels [N] or [N, C], each from that of `start`."""
  if y.ndim == 1:
    return logistic_lib.fit(features, y, value, iterations, start)
  made: list[logistic_lib.Model | None] = []
  for own, before in zip(y.T, start or [None] * y.shape[1], strict=True):
    known = own >= 0
    # The penalty is that of a binary problem's single vector, the difference of the two classes'.
    binary = features.take(known), own[known], 2 * value, iterations, before
    made.append(logistic_lib.fit(*binary) if len(np.unique(own[known])) == 2 else None)
  return made


def _logits(models: _Models, x: np.ndarray, classes: int) -> np.ndarray:
  """Scores [n, C]; -inf for classes without training examples."""
  out = np.full((len(x), classes), -np.inf)
  if isinstance(models, logistic_lib.Model):
    out[:, models.classes] = models.logits(x)
    return out
  for label, model in enumerate(models):
    if model is not None:
      out[:, label] = np.subtract(*model.logits(x).T[::-1])
  return out


def check_single(labels: np.ndarray) -> None:
  """Raises ValueError where images have several labels each."""
  if labels.ndim != 1:
    raise ValueError('this evaluation needs one label per image; these images have several each.')


def check_labelled(features: np.ndarray, labels: np.ndarray) -> None:
  """Raises ValueError unless these are features [N, D] and labels of at least two classes."""
  if features.ndim != 2 or labels.ndim not in (1, 2) or len(labels) != len(features):
    raise ValueError(f'need features [N, D] and labels [N], got {features.shape}, {labels.shape}.')
  if labels.ndim == 2:
    return
  if len(np.unique(labels)) < 2:
    raise ValueError('need at least two classes among the training images.')
  if np.min(labels) < 0:
    raise ValueError('every image needs a label, got -1 for some images.')
