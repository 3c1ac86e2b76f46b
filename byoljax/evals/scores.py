"""Scores of a classifier's outputs: top-k and balanced accuracy, VOC's mean average precision.

Accuracy alone says little where classes differ in size: of 150, 3 and 2 images whoever always names
the first class has 97 % right. So it never stands without the balanced accuracy, which that answer
brings to chance, and the share of the largest class, which is what that answer reaches.

Scores and labels in, numbers out, on the host. `byoljax.data.sources.datasets` knows each data
set's headline metric.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byoljax.losses import classification

# Display names. Balanced accuracy is what papers on transfer call the mean per class.
METRICS = {
  'top1': 'top-1',
  'top5': 'top-5',
  'mean_per_class': 'balanced accuracy',
  'map': 'mAP',
  'map11': '11-point mAP',
  'recall_at_1': 'recall@1',
  'recall_at_5': 'recall@5',
  'recall_at_10': 'recall@10',
}


def format_scores(result: Mapping[str, Any]) -> str:
  """'top-1 71.20%, balanced accuracy 70.10%': the scores among a result's fields.

  A result with '<score>_sd', over the parts of a cross-validation, shows it, too; one with
  'majority' says what the largest class's share is.
  """
  shown = []
  for name, text in METRICS.items():
    if name in result:
      spread = f' ± {result[f"{name}_sd"]:.2%}' if f'{name}_sd' in result else ''
      shown.append(f'{text} {result[name]:.2%}{spread}')
  largest = f' (the largest class: {result["majority"]:.2%})' if 'majority' in result else ''
  return ', '.join(shown) + largest


_top_k_correct = jax.jit(classification.top_k_correct, static_argnums=2)


def of_logits(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
  """All scores of a classifier's outputs on a whole test set.

  Args:
    logits: [N, C], any monotonic score.
    labels: int [N], -1 ignored; or int [N, C] for several labels per image: 1 present, 0 absent, -1
      ignored.

  Returns:
    One label per image: {'top1', 'top5' (from 6 classes on), 'mean_per_class' (the balanced
    accuracy), 'majority' (see `majority`)}; several: {'map11', 'map'}, means over classes of the
    eleven-point average precision and of the area under the curve. All in [0, 1].

  Raises:
    ValueError: invalid shapes, or no labelled image.
  """
  if labels.ndim == 2:
    area = mean_average_precision(logits, labels, area_under_precision)
    return {'map11': mean_average_precision(logits, labels), 'map': area}
  known = labels >= 0
  if not known.any():
    raise ValueError('no test image has a label: there is nothing to score.')
  scores, targets = jnp.asarray(logits[known]), jnp.asarray(labels[known])
  right = np.asarray(_top_k_correct(scores, targets, 1))
  found = {'top1': float(right.mean())}
  if scores.shape[1] > 5:
    found['top5'] = float(np.asarray(_top_k_correct(scores, targets, 5)).mean())
  own = labels[known]
  return found | {'mean_per_class': mean_per_class(right, own), 'majority': majority(own)}


def majority(labels: np.ndarray) -> float:
  """The share of the largest class: the accuracy of always naming it.

  Args:
    labels: int [N], -1 ignored.

  Examples:
    >>> majority(np.array([0, 0, 0, 2, -1]))
    0.75
  """
  counts = np.bincount(labels[labels >= 0])
  return float(counts.max() / counts.sum())


def confusion(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
  """Counts int64 [C, C]: rows are true classes, columns predicted ones.

  Args:
    predicted: int [N] in [0, C).
    labels: int [N] in [-1, C); -1 is not counted.
    num_classes: C.

  Examples:
    >>> confusion(np.array([0, 1, 1]), np.array([0, 0, -1]), 2)
    array([[1, 1],
           [0, 0]])
  """
  known = labels >= 0
  cells = labels[known].astype(np.int64) * num_classes + predicted[known]
  return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def by_class(counts: np.ndarray) -> list[dict[str, Any]]:
  """What a confusion matrix says of every class that occurs in it.

  Args:
    counts: int [C, C] of `confusion`.

  Returns:
    Rows of {'class': number, 'images': of it, 'recall': share of them that are found, 'precision':
    share of those named so that are}; None where there is nothing to divide by.
  """
  right, true, named = np.diag(counts), counts.sum(1), counts.sum(0)
  return [
    {
      'class': label,
      'images': int(true[label]),
      'recall': float(right[label] / true[label]) if true[label] else None,
      'precision': float(right[label] / named[label]) if named[label] else None,
    }
    for label in np.flatnonzero(true + named).tolist()
  ]


def mistakes(counts: np.ndarray, most: int) -> list[tuple[int, int, int]]:
  """(true class, predicted class, how often) of at most so many mistakes, the commonest first.

  Args:
    counts: int [C, C] of `confusion`.
    most: how many, where there are more.

  Examples:
    >>> mistakes(np.array([[5, 1], [3, 0]]), 2)
    [(1, 0, 3), (0, 1, 1)]
  """
  wrong = counts - np.diag(np.diag(counts))
  order = np.argsort(-wrong, axis=None, kind='stable')[:most]
  pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
  return [(int(i), int(j), int(wrong[i, j])) for i, j in pairs if wrong[i, j]]


def mean_per_class(right: np.ndarray, labels: np.ndarray) -> float:
  """Mean of the per-class accuracies, so that every class has the same weight.

  Args:
    right: bool [N], whether each image was classified correctly.
    labels: int [N] >= 0.
  """
  counts = np.bincount(labels)
  there = counts > 0
  return float(np.mean(np.bincount(labels, weights=right)[there] / counts[there]))


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
  """Eleven-point interpolated average precision of one class (PASCAL VOC 2007, Everingham 2010).

  The mean, over recalls of 0, 0.1, ..., 1, of the highest precision at that recall or a higher one.
  Ties rank in the given order.

  Args:
    scores: float [n], higher is more certain.
    positive: bool [n], at least one.

  Raises:
    ValueError: no positive example.
  """
  if not positive.any():
    raise ValueError('a class without a positive example has no average precision.')
  hits = np.cumsum(positive[np.argsort(-scores, kind='stable')])
  precision = hits / np.arange(1, len(hits) + 1)
  # Recall is hits / hits[-1]; compared as integers, because 3 * 0.1 > 0.3.
  reached = [10 * hits >= tenths * hits[-1] for tenths in range(11)]
  return float(np.mean([precision[enough].max() for enough in reached]))


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
  """Area under the ROC curve: the share of pairs whose positive has the higher score; ties half.

  Args:
    scores: float [n].
    positive: bool [n], some and not all.

  Raises:
    ValueError: all examples are positive, or none.

  Examples:
    >>> auroc(np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False]))
    0.625
  """
  from sklearn.metrics import roc_auc_score

  if positive.all() or not positive.any():
    raise ValueError('an ROC curve needs positive and negative examples.')
  return float(roc_auc_score(positive, scores))


def area_under_precision(scores: np.ndarray, positive: np.ndarray) -> float:
  """Average precision of one class: the area under the interpolated precision-recall curve.

  The mean, over the positive examples, of the highest precision at that example's rank or a lower
  one (PASCAL VOC since 2010). Ties rank in the given order.

  Args:
    scores: float [n], higher is more certain.
    positive: bool [n], at least one.

  Raises:
    ValueError: no positive example.
  """
  if not positive.any():
    raise ValueError('a class without a positive example has no average precision.')
  ranked = positive[np.argsort(-scores, kind='stable')]
  precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
  highest = np.maximum.accumulate(precision[::-1])[::-1]
  return float(np.mean(highest[ranked]))


def mean_average_precision(
  scores: np.ndarray,
  labels: np.ndarray,
  of_class: Callable[[np.ndarray, np.ndarray], float] = average_precision,
) -> float:
  """Mean of `average_precision` over classes; classes without a positive image are ignored.

  Args:
    scores: float [N, C].
    labels: int [N, C]: 1 present, 0 absent, -1 ignored (VOC's 'difficult').
    of_class: what is averaged; `area_under_precision` for VOC's since 2010.

  Raises:
    ValueError: the shapes differ, or no class has a positive image.
  """
  if scores.shape != labels.shape:
    raise ValueError(f'need scores and labels [N, C], got {scores.shape} and {labels.shape}.')
  each = [
    of_class(own[counts], marks[counts] > 0)
    for own, marks in zip(scores.T, labels.T, strict=True)
    for counts in [marks >= 0]
    if (marks > 0).any()
  ]
  if not each:
    raise ValueError('no class has an image that shows it: there is nothing to score.')
  return float(np.mean(each))
