"""Cross-validation of labelled images without a test split."""

import numpy as np
import pytest

from byoljax.config import ConfigError
from byoljax.data.sources import arrays
from byoljax.evals import knn
from byoljax.protocols import extraction, folds
from byoljax.protocols.extraction import EvalData


def source(labels, **rest):
  labels = np.asarray(labels, np.int32)
  return arrays.from_arrays(np.zeros((len(labels), 4, 4, 3), np.uint8), labels, **rest)


def data(of, has_test=False):
  return EvalData(of, of, 4, (0.5,) * 3, (0.25,) * 3, 16, has_test=has_test)


LABELS = np.repeat([0, 1, 2, -1], [13, 7, 6, 9])


def test_parts_are_stratified_and_every_label_is_tested_once():
  parts = folds.rows(source(LABELS))
  assert len(parts) == 5
  np.testing.assert_array_equal(
    np.sort(np.concatenate([test for _, test in parts])), np.flatnonzero(LABELS >= 0)
  )
  for train, test in parts:
    assert not set(train) & set(test) and len(train) + len(test) == 26
    counts = np.bincount(LABELS[test], minlength=3)
    assert all(abs(count - of / 5) < 1 for count, of in zip(counts, (13, 7, 6), strict=True))
    assert len(test) in (5, 6)
  again = folds.rows(source(LABELS))
  assert all(np.array_equal(a[1], b[1]) for a, b in zip(parts, again, strict=True))


def test_as_many_parts_as_the_smallest_class_has_images():
  assert len(folds.rows(source([0] * 9 + [1] * 3))) == 3
  assert len(folds.rows(source([0] * 9 + [1]))) == 2
  with pytest.raises(ConfigError, match='fewer than two labelled images'):
    folds.rows(source([1, -1, -1]))


def test_of_a_large_set_one_part_is_the_test_set():
  for labels in (np.arange(6000) % 10, np.repeat([0, 1, 2], [3000, 2999, 1])):
    ((train, test),) = folds.rows(source(labels))
    assert (len(train), len(test)) == (4800, 1200), 'a fifth, however rare a class is'


def test_several_labels_per_image():
  parts = folds.rows(source(np.ones((11, 3))))
  assert sorted(np.concatenate([test for _, test in parts])) == list(range(11))


def test_by_fold():
  whole = data(source(LABELS))
  parts = folds.by_fold(whole)
  assert [(p.train.size, p.test.size) for p in parts] == [(20, 6), *[(21, 5)] * 4]
  assert all(part.has_test for part in parts)
  assert folds.by_fold(data(source(LABELS), has_test=True))[0].test.size == len(LABELS)
  assert 'cross-validated in 5 parts' in folds.describe(whole)


def test_results_are_combined():
  one = {'top1': 0.5, 'lambda': 1.0, 'k': 12, 'test_examples': 3, 'at_the_edge': False,
         'held_out': None, 'rows': [{'labels': 'a', 'top1': 0.2}]}  # fmt: skip
  other = {'top1': 0.7, 'lambda': 3.0, 'k': 13, 'test_examples': 2, 'at_the_edge': True,
           'held_out': 0.5, 'rows': [{'labels': 'a', 'top1': 0.4}]}  # fmt: skip
  made = folds.combined([one, other])
  assert made.pop('folds') == [one, other]
  assert made == {
    'top1': pytest.approx(0.6), 'top1_sd': pytest.approx(0.02**0.5), 'lambda': 1.0, 'k': 12,
    'test_examples': 5, 'at_the_edge': True, 'held_out': 0.5,
    'rows': [{'labels': 'a', 'top1': pytest.approx(0.3)}],
  }  # fmt: skip
  assert folds.combined([one]) == one
  made = folds.combined([{'majority': 0.5}, {'majority': 0.5}], np.array([0, 0, 1, 1, 2, 2, -1]))
  assert made['majority'] == pytest.approx(1 / 3)
  counts = [{'queries': 3, 'without_relevant': 1}, {'queries': 4, 'without_relevant': 0}]
  made = folds.combined(counts)
  assert (made['queries'], made['without_relevant']) == (7, 1)


def test_rows_that_a_part_lacks_are_left_out():
  """By name, not by place: another row must not be averaged in."""
  some, few, tenth = (
    {'labels': name, 'top1': top1}
    for name, top1 in (('1 per class', 0.1), ('5 per class', 0.5), ('10 %', 0.7))
  )
  one = {'rows': [some, tenth], 'skipped': {'5 per class': 'the smallest class has 4'}}
  made = folds.combined([one, {'rows': [some, few, tenth | {'top1': 0.9}], 'skipped': {}}])
  assert made['rows'] == [some, {'labels': '10 %', 'top1': pytest.approx(0.8)}]
  assert made['skipped'] == one['skipped']
  two, three = (
    [{'class': c, 'ap': c / 10, 'cost': cost} for c in has]
    for has, cost in (((0, 2), 1e-7), ((0, 1, 2), 100.0))
  )
  made = folds.combined([{'by_class': two}, {'by_class': three}])
  assert made['by_class'] == two, 'costs are chosen: of two the lower'


def test_a_size_that_is_none_is_a_sentence():
  whole = data(source(LABELS))
  with pytest.raises(ConfigError, match='at least one pixel'):
    extraction.eval_batches(whole.test, whole._replace(image_size=-4))


def test_the_headline_can_be_that_of_the_smallest_bank():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(20, 4)), np.arange(20) % 2
  found = knn.knn_accuracy(x, y, x, y, num_classes=2, ks=(1, 9), headline_k=9)
  assert found['k'] == 9 and found['top1'] == found['sweep'][-2]['top1']
