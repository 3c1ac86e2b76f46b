"""A classifier from few labels: what is chosen, what it is scored by, and that it is fitted to all.

Features are drawn here, in place of an encoder's.
"""

import json

import numpy as np
import pytest

from byoljax.config import ConfigError
from byoljax.data.sources import arrays
from byoljax.evals import calibration, frozen
from byoljax.ops import readouts
from byoljax.protocols import answers, classify, extraction, folds, frozen_features

QUICK = classify.ClassifyProtocol(lambdas=(0.01, 1.0, 1e4), k=(1, 5, 500))


def made(monkeypatch, x, y, test=None, **changes):
  """The classifier of features x with labels y, tested by cross-validation or on `test`."""
  images = np.zeros((len(y), 2, 2, 3), np.uint8)
  source = arrays.from_arrays(images, y.astype(np.int32))
  parts = [((x, y), test)] if test else [((x[a], y[a]), (x[b], y[b])) for a, b in folds.rows_of(y)]
  monkeypatch.setattr(frozen_features, 'splits', lambda *_: parts)
  data = extraction.EvalData(
    source, source, 2, (0.5,) * 3, (0.5,) * 3, 4, has_test=test is not None
  )
  protocol = QUICK if not changes else classify.ClassifyProtocol(**QUICK.__dict__ | changes)
  return classify.fit(object(), data, protocol)


def blobs(counts, spread=0.7, seed=0):
  rng = np.random.default_rng(seed)
  y = np.repeat(np.arange(len(counts)), counts)
  centers = 2 * np.eye(8)[: len(counts)]
  return (centers[y] + spread * rng.normal(size=(len(y), 8))).astype(np.float32), y


def test_every_image_is_tested_once_by_others_and_all_are_learned(monkeypatch):
  x, y = blobs([20, 20, 20])
  found = made(monkeypatch, x, y)
  result = found.result
  logits, labels = found.tested
  assert len(labels) == 60 == result['train_examples'] == result['test_examples']
  assert np.mean(logits.argmax(1) == labels) == result['top1'] > 0.8
  assert ('lambda' in result) == (result['head'] == 'logistic') != ('k' in result)
  heads = result['heads']
  assert set(heads) == {'logistic', 'knn'} and result['majority'] == pytest.approx(1 / 3)
  assert heads[result['head']]['cross_entropy'] < 0.6
  # What is kept has learned all images: of their own features it knows more than of others'.
  own = readouts.logits_of(found.readout, x)
  assert np.mean(own.argmax(1) == y) >= result['top1']


def test_neighbors_are_taken_where_they_are_better(monkeypatch):
  """Two classes on two circles: no line tells them apart, the nearest image does."""
  rng = np.random.default_rng(0)
  angle, y = rng.uniform(0, 2 * np.pi, 200), np.arange(200) % 2
  # Directions in three dimensions: a cap around the pole, and the equator.
  height = np.where(y == 0, rng.choice([-0.9, 0.9], 200), rng.uniform(-0.2, 0.2, 200))
  flat = np.sqrt(1 - height**2)
  x = np.stack([flat * np.cos(angle), flat * np.sin(angle), height], 1).astype(np.float32)
  found = made(monkeypatch, x, y)
  assert found.result['head'] == 'knn' and found.result['top1'] > 0.95
  assert found.result['heads']['logistic']['top1'] < 0.75
  forced = made(monkeypatch, x, y, head='logistic')
  assert forced.result['head'] == 'logistic' and list(forced.result['heads']) == ['logistic']


def test_the_second_head_has_to_be_better_by_more_than_chance(monkeypatch):
  """Losses that are lower by .1 on average: of four images by chance, of forty not."""
  monkeypatch.setattr(classify, '_losses', np.asarray)
  first, second = [0.9, 0.5, 0.7, 0.5], [0.4, 0.7, 0.4, 0.7]
  for repeats, taken in ((1, 'logistic'), (10, 'knn')):
    losses = {'logistic': first * repeats, 'knn': second * repeats}
    heads = {head: classify._Candidate(head, {}, each) for head, each in losses.items()}
    assert classify._taken(heads) == taken
  assert classify._taken({'knn': heads['knn']}) == 'knn'


def test_imbalance_is_shown_and_single_images_are_no_error(monkeypatch):
  """150, 3 and 2 images without any information: as good as naming the largest class."""
  rng = np.random.default_rng(0)
  y = np.repeat([0, 1, 2], [150, 3, 2])
  found = made(monkeypatch, rng.normal(size=(155, 8)).astype(np.float32), y)
  assert found.result['majority'] == pytest.approx(150 / 155)
  assert found.result['mean_per_class'] < 0.5
  assert abs(answers.calibrated(found.answers)['ece']) < 0.1
  x, y = blobs([8, 8, 1])
  alone = made(monkeypatch, x, y)
  assert alone.result['top1'] <= 16 / 17, 'nobody could know the single image'
  assert np.isfinite(answers.calibrated(alone.answers)['temperature'])
  own = readouts.logits_of(alone.readout, x)
  assert (own > readouts.NEVER / 2).all(), 'what is kept knows every class'


def test_a_single_image_of_each_class_leaves_nothing_to_cross_validate(monkeypatch):
  x, y = blobs([1, 1])
  found = made(monkeypatch, x, y)
  assert found.result['head'] == 'logistic'
  assert found.result['heads']['logistic']['cross_entropy'] is None
  json.dumps(found.result, allow_nan=False)
  assert readouts.logits_of(found.readout, x).argmax(1).tolist() == [0, 1]


def test_a_test_split_is_looked_at_once(monkeypatch):
  x, y = blobs([20, 20])
  test = blobs([10, 10], seed=1)
  found = made(monkeypatch, x, y, test)
  own = readouts.logits_of(found.readout, test[0])
  assert found.result['top1'] == np.mean(own.argmax(1) == test[1])
  assert found.answers[0].held is not None and len(found.answers[0].held[1]) == 40
  np.testing.assert_array_equal(found.tested[1], test[1])


def test_of_a_large_set_the_part_that_is_tested_does_not_choose(monkeypatch):
  monkeypatch.setattr(folds, 'MOST', 50)
  x, y = blobs([50, 50])
  ((train, test),) = folds.rows_of(y)
  seen, candidates = [], classify._candidates

  def watched(head, parts, *rest):
    seen.extend(features for part in parts for features, _ in part)
    return candidates(head, parts, *rest)

  monkeypatch.setattr(classify, '_candidates', watched)
  found = made(monkeypatch, x, y, head='knn', k=(1, 5))
  chose = {row.tobytes() for features in seen for row in features}
  assert chose == {row.tobytes() for row in x[train]}
  assert len(found.readout.bank) == 100 == found.result['train_examples'], 'it learns all'
  assert found.result['test_examples'] == len(test) == 20
  np.testing.assert_array_equal(found.tested[1], y[test])
  ((logits, held),) = [each.held for each in found.answers]
  assert len(logits) == len(held) == 16, 'a fifth of the others fits the temperature'
  # Scored without itself: of its own images the kept one is sure.
  own = readouts.neighbors(x[train], y[train], classes=2, k=found.result['k'])
  np.testing.assert_array_equal(found.tested[0], readouts.logits_of(own, x[test]))


def test_what_is_kept_learns_the_part_that_is_tested_too(monkeypatch):
  """Of frozen features, with one part as with several."""
  x, y = blobs([50, 50])
  source = arrays.from_arrays(np.zeros((100, 2, 2, 3), np.uint8), y.astype(np.int32))
  data = extraction.EvalData(source, source, 2, (0.5,) * 3, (0.5,) * 3, 4, has_test=False)
  monkeypatch.setattr(folds, 'MOST', 50)
  parts = [((x[a], y[a]), (x[b], y[b])) for a, b in folds.rows_of(y)]
  learned = []

  def compute(train, test):
    learned.append(len(train[1]))
    return frozen.fit_logistic(train, test, lambdas=(1.0,))

  found = frozen_features.fit(object(), data, parts, compute)
  assert learned == [80, 100] and found.result['test_examples'] == 20
  monkeypatch.setattr(frozen_features, 'splits', lambda *_: parts)
  found = frozen_features.fit_knn(object(), data, {'k': (1, 5), 'temperature': (0.07,)})
  assert len(found.readout.bank) == 100 and found.answers[0].held is not None


def test_no_answer_has_a_say_in_what_it_is_scored_by():
  """With other labels in one part the setting that scores this part is the same, by the others."""
  rng = np.random.default_rng(0)
  labels = [np.arange(12) % 2 for _ in range(3)]
  sure, unsure = (
    [np.eye(2)[y] + noise * rng.normal(size=(12, 2)) for y in labels] for noise in (0.1, 1.0)
  )
  unsure[1] = np.eye(2)[1 - labels[1]]  # Wrong here, unless the labels are others.

  def candidates(labels):
    return [
      classify._Candidate('knn', {'k': k}, list(zip(logits, labels, strict=True)))
      for k, logits in ((1, unsure), (2, sure))
    ]

  flipped = [labels[0], 1 - labels[1], labels[2]]
  for own in (labels, flipped):
    assert classify._best(candidates(own), without=1) == 1
    tested, _ = classify._cross_fitted(candidates(own))[1]
    np.testing.assert_array_equal(tested[0], sure[1])
  assert classify._best(candidates(flipped), without=0) == 0, 'where it counts it decides'


def test_neighbors_that_are_held_out_are_not_in_the_bank(monkeypatch):
  rows, y = np.arange(40.0)[:, None], np.arange(40) % 2
  banks = []
  monkeypatch.setattr(readouts, 'logits_of', lambda bank, asked: asked)
  asked, labels = frozen_features._held((rows, y), 3, lambda part, k: banks.append(part))
  assert not set(asked[:, 0]) & set(banks[0][0][:, 0]) and len(asked) + len(banks[0][0]) == 40
  np.testing.assert_array_equal(labels, y[asked[:, 0].astype(int)])


def test_neighbors_that_are_held_out_are_of_all_classes(monkeypatch):
  """Folders of classes are in the order of their classes."""
  monkeypatch.setattr(frozen_features, '_MOST_HELD', 20)
  monkeypatch.setattr(readouts, 'logits_of', lambda bank, asked: asked)
  y = np.repeat(np.arange(10), 30)
  _, labels = frozen_features._held((y[:, None], y), 3, lambda *_: None)
  np.testing.assert_array_equal(np.bincount(labels), [2] * 10)


def test_the_error_of_a_part_is_measured_with_the_temperature_of_the_others():
  rng = np.random.default_rng(0)
  y = np.arange(40) % 2
  # One part is sure, the other is not.
  parts = [(scale * (np.eye(2)[y] + rng.normal(size=(40, 2))), y) for scale in (1.0, 10.0)]
  found = answers.calibrated([answers.Answers(part) for part in parts])
  scaled = [
    (part[0] / calibration.fit_temperature(*other), part[1])
    for part, other in zip(parts, parts[::-1], strict=True)
  ]
  logits, labels = answers.joined(scaled)
  expected = calibration.calibration_error(calibration.probabilities(logits), labels)
  assert found['ece'] == expected > 0.1 and found['images'] == 80
  assert found['temperature'] == calibration.fit_temperature(*answers.joined(parts))


def test_mistakes(monkeypatch):
  x, y = blobs([5, 5])
  with pytest.raises(ConfigError, match="unknown head 'tree'"):
    made(monkeypatch, x, y, head='tree')
