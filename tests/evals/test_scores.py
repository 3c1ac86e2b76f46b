"""Scores of classifiers: by hand; average precision against its definition spelled out."""

import numpy as np
import pytest

from byoljax.evals import scores


def test_top_k_and_mean_per_class_by_hand():
  logits = np.eye(7)[[0, 0, 1, 2]] + 0.01 * np.arange(7)
  labels = np.array([0, 0, 0, 2])
  found = scores.of_logits(logits, labels)
  assert found['top1'] == 0.75 and found['mean_per_class'] == pytest.approx((2 / 3 + 1) / 2)
  # The class 0 comes sixth or later behind the winner for no row but the third: 1, 6, 5, 4, 3.
  assert found['top5'] == 0.75
  assert 'top5' not in scores.of_logits(logits[:, :5], labels)


def test_unknown_labels_do_not_count():
  logits = np.eye(3)[[0, 1, 2]]
  assert scores.of_logits(logits, np.array([0, -1, 0]))['top1'] == 0.5
  with pytest.raises(ValueError, match='no test image has a label'):
    scores.of_logits(logits, np.array([-1, -1, -1]))


def defined(score, positive):
  """Eleven-point interpolated average precision, as VOC's development kit defines it."""
  order = sorted(range(len(score)), key=lambda i: -score[i])
  points, hits = [], 0
  for rank, i in enumerate(order, start=1):
    hits += int(positive[i])
    points.append((hits / sum(positive), hits / rank))
  total = 0.0
  for recall in range(11):
    total += max((p for r, p in points if r >= recall / 10 - 1e-12), default=0.0) / 11
  return total


def test_average_precision():
  # One hit first and one last of four: precision 1 up to recall .5, then 2/4.
  by_hand = (6 * 1.0 + 5 * 0.5) / 11
  got = scores.average_precision(np.array([4.0, 3, 2, 1]), np.array([True, False, False, True]))
  assert got == pytest.approx(by_hand)
  rng = np.random.default_rng(0)
  for count in (1, 3, 10, 40):
    score, positive = rng.normal(size=60), np.zeros(60, bool)
    positive[rng.permutation(60)[:count]] = True
    assert scores.average_precision(score, positive) == pytest.approx(defined(score, positive))
  assert scores.average_precision(np.zeros(5), np.array([1, 0, 0, 0, 1], bool)) == pytest.approx(
    (6 + 5 * 2 / 5) / 11
  ), 'equal scores rank as given'


def test_mean_average_precision_leaves_out_what_does_not_count():
  score = np.array([[3.0, 1.0, 0.0], [2.0, 2.0, 0.0], [1.0, 3.0, 0.0]])
  labels = np.array([[0, 0, 0], [1, 1, 0], [1, -1, 0]])
  # Class 0: ranks 2 and 3 are hits. Class 1: without its third image, rank 1. Class 2: never shown.
  first = (6 * 2 / 3 + 5 * 2 / 3) / 11
  # The areas: both hits of class 0 at a precision of 2/3, class 1 as before.
  expected = {'map11': (first + 1.0) / 2, 'map': (2 / 3 + 1.0) / 2}
  assert scores.of_logits(score, labels) == pytest.approx(expected)
  with pytest.raises(ValueError, match='no class has an image'):
    scores.mean_average_precision(score, np.zeros((3, 3), int))
  with pytest.raises(ValueError, match=r'\[N, C\]'):
    scores.mean_average_precision(score, labels[:, :2])


def test_format_scores():
  assert scores.format_scores({'top1': 0.5, 'lambda': 1, 'map11': 0.25}) == (
    'top-1 50.00%, 11-point mAP 25.00%'
  )
  always_the_first = scores.of_logits(np.tile([1.0, 0.0], (4, 1)), np.array([0, 1, 0, 0]))
  assert scores.format_scores(always_the_first) == (
    'top-1 75.00%, balanced accuracy 50.00% (the largest class: 75.00%)'
  )


def test_confusion_and_classes_by_hand():
  counts = scores.confusion(np.array([0, 1, 1, 1, 0]), np.array([0, 0, 1, -1, 2]), 4)
  assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
  assert scores.by_class(counts) == [
    {'class': 0, 'images': 2, 'recall': 0.5, 'precision': 0.5},
    {'class': 1, 'images': 1, 'recall': 1.0, 'precision': 0.5},
    {'class': 2, 'images': 1, 'recall': 0.0, 'precision': None},
  ]
