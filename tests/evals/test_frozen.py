"""Evaluations of frozen features: against scikit-learn's objective, by hand, and end to end."""

import json

import numpy as np
import pytest

from byoljax import cli
from byoljax.evals import few_labels, frozen

RNG = np.random.default_rng(0)


def blobs(count, spread, seed, classes=3, dim=4):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes, count)
  centers = np.random.default_rng(9).normal(size=(classes, dim)) * 3
  return (centers[labels] + spread * rng.normal(size=(count, dim))).astype(np.float32), labels


class TestLogistic:
  @pytest.mark.parametrize('value', [0.0, -1.0, float('nan')])
  def test_a_penalty_is_above_zero(self, value):
    with pytest.raises(ValueError, match='lambda=.* must be above 0'):
      frozen.logistic(blobs(9, 1.0, 1), blobs(9, 1.0, 2), lambdas=(value,))

  def test_chooses_on_held_out_images_and_tests_once(self):
    train, test = blobs(400, 1.5, 1), blobs(200, 1.5, 2)
    result = frozen.logistic(train, test, lambdas=(1e-3, 1.0, 1e6))
    assert result['lambda'] < 1e6 and result['top1'] > 0.9
    assert (result['train_examples'], result['test_examples']) == (400, 200)
    # Features times ten with a hundred times the penalty are the same problem.
    scaled = frozen.logistic(
      (10 * train[0], train[1]), (10 * test[0], test[1]), lambdas=(0.1, 100.0, 1e8)
    )
    assert scaled['top1'] == pytest.approx(result['top1'], abs=0.011)

  def test_mean_per_class_counts_every_class_alike(self):
    train = blobs(300, 0.1, 1)
    keep = (train[1] > 0) | (np.arange(300) % 10 == 0)
    test_x, test_y = blobs(100, 0.1, 2)
    wrong = test_y.copy()
    wrong[test_y == 0] = 1  # every image of one class counts as wrong for another
    result = frozen.logistic((train[0][keep], train[1][keep]), (test_x, wrong), lambdas=(1.0,))
    right = np.mean(test_y != 0)
    ones = np.mean(test_y[wrong == 1] == 1)
    assert result['top1'] == pytest.approx(right)
    assert result['mean_per_class'] == pytest.approx((ones + 1.0) / 2)

  def test_the_range_is_the_protocols(self):
    assert len(frozen.LAMBDAS) == 45
    assert frozen.LAMBDAS[0] == pytest.approx(1e-6) and frozen.LAMBDAS[-1] == pytest.approx(1e5)
    ratios = np.diff(np.log(frozen.LAMBDAS))
    np.testing.assert_allclose(ratios, ratios[0])


class TestSubset:
  LABELS = np.repeat([0, 1, 2, -1], [100, 30, 6, 50])

  def test_stratified_and_reproducible(self):
    part = frozen.subset(self.LABELS, share=0.1, seed=3)
    assert np.bincount(self.LABELS[part]).tolist() == [10, 3, 1]
    np.testing.assert_array_equal(part, frozen.subset(self.LABELS, share=0.1, seed=3))
    assert not np.array_equal(part, frozen.subset(self.LABELS, share=0.1, seed=4))
    assert np.bincount(self.LABELS[frozen.subset(self.LABELS, count=5)]).tolist() == [5, 5, 5]
    assert np.bincount(self.LABELS[frozen.subset(self.LABELS, share=0.001)]).tolist() == [1, 1, 1]
    whole = frozen.subset(self.LABELS, share=1.0)
    np.testing.assert_array_equal(whole, np.flatnonzero(self.LABELS >= 0))

  def test_either_or(self):
    with pytest.raises(ValueError, match='either count or share'):
      frozen.subset(self.LABELS)


def test_more_labels_are_better():
  rows = few_labels.few_labels(
    blobs(600, 2.5, 1), blobs(300, 2.5, 2), shots=(1, 20), shares=(0.5,), draws=4, value=1.0
  )['rows']
  assert [row['labels'] for row in rows] == ['1 per class', '20 per class', '50 %']
  assert [row['examples'] for row in rows][:2] == [3, 60]
  assert rows[0]['top1'] < rows[1]['top1'] <= rows[2]['top1'] + 0.02
  assert rows[0]['top1_sd'] > rows[2]['top1_sd']


def test_few_labels_do_not_depend_on_the_scale_of_features():
  (x, y), test = blobs(600, 1.0, 1), blobs(300, 1.0, 2)

  def top1(scale):
    scaled = (scale * x, y), (scale * test[0], test[1])
    rows = few_labels.few_labels(*scaled, shots=(5,), shares=(), draws=3, value=0.01)['rows']
    return rows[0]['top1']

  assert top1(1e-3) == pytest.approx(top1(30.0), abs=0.01), 'an image or two between equal scores'


class TestFifteenLabels:
  """Five labels of each of three classes, and fewer."""

  Y = np.repeat([0, 1, 2], 5)
  X = (np.eye(3)[Y] + 0.1 * RNG.normal(size=(15, 3))).astype(np.float32)

  def few_labels(self, shots, shares, keep=slice(None)):
    train = self.X[keep], self.Y[keep]
    test = self.X, self.Y
    return few_labels.few_labels(train, test, shots=shots, shares=shares, draws=1, value=1.0)

  def test_a_penalty_that_is_none_is_called_as_it_was_given(self):
    with pytest.raises(ValueError, match='regularization=-1 must be above 0'):
      pair = self.X, self.Y
      few_labels.few_labels(pair, pair, shots=(1,), shares=(), draws=1, value=-1.0)

  def test_few_labels_skips_what_cannot_be(self):
    result = self.few_labels((1, 5, 20), (0.01, 0.1, 0.4))
    assert [(row['labels'], row['examples']) for row in result['rows']] == [
      ('1 per class', 3), ('5 per class', 15), ('40 %', 6)
    ]  # fmt: skip
    assert result['skipped'] == {
      '20 per class': 'the smallest class has 5',
      '1 %': 'of 15 images that is 0.15, but one of every class makes 3',
      '10 %': 'of 15 images that is 1.5, but one of every class makes 3',
    }

  def test_a_class_with_two_images_loses_only_the_row_that_needs_more(self):
    result = self.few_labels((1, 2, 5), (), keep=slice(0, 12))
    assert [row['labels'] for row in result['rows']] == ['1 per class', '2 per class']
    assert result['skipped'] == {'5 per class': 'the smallest class has 2'}

  def test_a_rare_class_does_not_cost_a_share(self):
    labels = np.repeat([0, 1], [1000, 30])
    assert few_labels._too_few(labels, None, 0.01) == '', '11 images for 10.3'

  def test_nothing_left_is_a_mistake(self):
    with pytest.raises(ValueError, match='15 labelled images are too few for every entry: 20 per'):
      self.few_labels((20,), (0.01,))
    with pytest.raises(ValueError, match='shots=.0,. must be'):
      self.few_labels((0,), ())

  def test_logistic_holds_out_one_of_each_class(self):
    result = frozen.logistic((self.X, self.Y), (self.X, self.Y), lambdas=(0.01, 1.0))
    assert result['held_out_examples'] == 3 and result['top1'] == 1.0
    rest, chosen = frozen._held_out(self.Y, 0.1, 0)
    assert sorted(self.Y[chosen]) == [0, 1, 2] and not set(rest) & set(chosen)

  def test_logistic_with_one_of_each_has_nothing_to_choose_on(self):
    one = self.X[::5], self.Y[::5]
    result = frozen.logistic(one, (self.X, self.Y))
    assert result['held_out'] is None and result['held_out_examples'] == 0
    assert 0.5 < result['lambda'] < 2 and result['top1'] == 1.0


class TestAnomaly:
  def test_by_hand(self):
    angles = np.deg2rad([0.0, 2.0, 90.0, 92.0])
    train = np.stack([np.cos(angles), np.sin(angles)], 1), np.array([0, 0, 1, 1])
    angles = np.deg2rad([1.0, 80.0, 89.0, 10.0])
    test = np.stack([np.cos(angles), np.sin(angles)], 1), np.array([0, 0, 1, 1])
    result = frozen.anomaly(train, test, neighbors=1)
    # Of class 0 (1 and 80 degrees) against 89 and 10: 1 beats both, 80 beats 89 alone.
    assert result['by_class'] == {'0': pytest.approx(0.75), '1': pytest.approx(0.75)}

  def test_several_classes_are_normal_together(self):
    train, test = blobs(300, 0.3, 1), blobs(100, 0.3, 2)
    result = frozen.anomaly(train, test, normal=((0, 2), (1,)))
    assert set(result['by_class']) == {'0, 2', '1'} and result['auroc'] > 0.99
    with pytest.raises(ValueError, match='neighbors=0 must be at least 1'):
      frozen.anomaly(train, test, neighbors=0)
    with pytest.raises(ValueError, match='with 0, 1, 2 as normal there are no'):
      frozen.anomaly(train, test, normal=((0, 1, 2),))

  def test_noise_is_chance_and_classes_are_found(self):
    noise = RNG.normal(size=(600, 8)), np.arange(600) % 3
    assert frozen.anomaly(noise, noise)['auroc'] > 0.5  # it knows the very images
    other = RNG.normal(size=(600, 8)), np.arange(600) % 3
    assert frozen.anomaly(noise, other)['auroc'] == pytest.approx(0.5, abs=0.06)
    assert frozen.anomaly(blobs(300, 0.3, 1), blobs(100, 0.3, 2))['auroc'] > 0.99


@pytest.mark.parametrize(
  ('features', 'labels', 'sentence'),
  [
    (np.zeros((3, 2)), np.array([0, 0, 0]), 'at least two classes'),
    (np.zeros((3, 2)), np.array([0, 1]), 'labels'),
    (np.zeros((3, 2)), np.array([0, 1, -1]), 'needs a label'),
  ],
)
def test_bad_input(features, labels, sentence):
  with pytest.raises(ValueError, match=sentence):
    frozen.anomaly((features, labels), (features, labels))


@pytest.mark.parametrize('task', ['logistic', 'few-labels', 'anomaly'])
def test_tasks_write_results_with_their_protocol(task, untrained, tmp_path, capsys):
  extra = {
    'logistic': ['--logistic.lambdas=(0.1,1.0)'],
    'few-labels': ['--few_labels.shots=(1,3)', '--few_labels.draws=2'],
    'anomaly': [],
  }[task]
  assert cli.run([task, str(untrained), f'--workdir={tmp_path}', *extra]) == 0
  stored = json.loads((tmp_path / 'result.json').read_text())
  assert stored['config']['task'] == task.replace('-', '_') and stored['versions']
  shown = capsys.readouterr().out
  if task == 'logistic':
    # Three classes that differ in color: an untrained network tells them apart.
    assert stored['result']['top1'] > 0.6 and 'top-1' in shown
  elif task == 'few-labels':
    assert [row['examples'] for row in stored['result']['rows']] == [3, 9, 8]
    assert list(stored['result']['skipped']) == ['1 %'], '0.8 images are not one of each'
  else:
    assert set(stored['result']['by_class']) == {'0', '1', '2'}


def test_mistakes_are_one_sentence(untrained, tmp_path, capsys):
  assert cli.run(['few-labels', str(untrained), f'--workdir={tmp_path}',
                  '--few_labels.shots=(500,)', '--few_labels.shares=()']) == 2  # fmt: skip
  assert '500 per class: the smallest class has' in capsys.readouterr().err
  assert not (tmp_path / 'result.json').exists()
