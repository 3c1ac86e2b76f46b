"""Support vector machines on features: precision by hand, the objective, costs, low shots."""

import json

import numpy as np
import pytest

from byoljax import cli
from byoljax.evals import frozen, scores, svm
from tests.evals.test_frozen import blobs


def several(count, seed):
  """Features of two classes that can both be there; a third that never is; some ignored."""
  rng = np.random.default_rng(seed)
  marks = (rng.random((count, 3)) < [0.4, 0.3, 0.0]).astype(int)
  x = marks[:, :2] @ [[3.0, 0.0, 1.0], [0.0, 3.0, 1.0]] + rng.normal(size=(count, 3)) * 0.7 - 1.0
  marks[:5, 0] = -1
  return x.astype(np.float32), marks


class TestArea:
  def test_by_hand(self):
    # Hits at ranks 1, 3 and 6: precisions 1, 2/3, 1/2.
    positive = np.array([1, 0, 1, 0, 0, 1], bool)
    assert scores.area_under_precision(-np.arange(6.0), positive) == pytest.approx(13 / 18)
    # Hits at ranks 2, 3, 4: 1/2, 2/3, 3/4; the best at a rank or a lower one is 3/4 for all.
    positive = np.array([0, 1, 1, 1], bool)
    assert scores.area_under_precision(-np.arange(4.0), positive) == pytest.approx(3 / 4)
    with pytest.raises(ValueError, match='without a positive example'):
      scores.area_under_precision(np.zeros(2), np.zeros(2, bool))

  def test_is_the_area_under_the_curve_spelled_out(self):
    rng = np.random.default_rng(0)
    for count in (1, 4, 20):
      score, positive = rng.normal(size=50), np.zeros(50, bool)
      positive[rng.permutation(50)[:count]] = True
      hits = np.cumsum(positive[np.argsort(-score)])
      curve = [(n / count, n / (rank + 1)) for rank, n in enumerate(hits)]
      area, last = 0.0, 0.0
      for recall, _ in curve:
        area += (recall - last) * max(p for r, p in curve if r >= recall)
        last = recall
      assert scores.area_under_precision(score, positive) == pytest.approx(area)


def test_the_grid_is_the_papers():
  assert len(svm.COSTS) == 26 and list(svm.COSTS) == sorted(svm.COSTS)
  assert {1e-7, 100.0, 2.0**-4, 2.0**-19} <= set(svm.COSTS)


def test_the_minimum_is_that_of_the_stated_objective():
  """Gradient of |w|^2 / 2 + b^2 / 2 + C sum v (1 - y f)_+^2, written down here, vanishes."""
  x, y = blobs(80, 2.0, 1, classes=2)
  x, positive, cost = svm._scaled(x), y == 1, 3.0
  model = svm._fit(2.0, 100_000, x, positive, cost)
  w, b = model.coef_[0], model.intercept_[0]
  sign = np.where(positive, 1.0, -1.0)
  loss = cost * np.where(positive, 2.0, 1.0) * np.maximum(0, 1 - sign * (x @ w + b))
  slope = -2 * loss * sign
  # scikit-learn's own tolerance, 1e-4 of the gradient at zero, which is about 500 here.
  assert np.abs(w + slope @ x).max() < 0.05 < np.abs(slope @ x).max()
  assert abs(b + slope.sum()) < 0.05


def test_the_cost_is_chosen_on_training_images_for_each_class():
  train, test = blobs(150, 2.0, 1), blobs(90, 2.0, 2)
  result = svm.svm(train, test, costs=(1e-6, 1.0, 10.0))
  assert result['map'] > 0.9 and result['top1'] > 0.85
  assert result['map'] == pytest.approx(np.mean([row['ap'] for row in result['by_class']]))
  assert [row['class'] for row in result['by_class']] == [0, 1, 2]
  assert all(0.8 < row['validated'] <= 1 for row in result['by_class'])
  edge = sum(row['cost'] in (1e-6, 10.0) for row in result['by_class'])
  assert result['at_the_edge'] == edge
  # Features are scaled to unit length, so that their size does not matter.
  larger = svm.svm((100 * train[0], train[1]), (7 * test[0], test[1]), costs=(1e-6, 1.0, 10.0))
  assert larger['map'] == pytest.approx(result['map'], abs=2e-3)
  single = svm.svm(train, test, costs=(1.0,))
  assert single['at_the_edge'] == 0 and single['by_class'][0]['validated'] is None


def test_several_labels_an_image():
  result = svm.svm(several(200, 1), several(100, 2), costs=(0.1, 1.0))
  # The class that no image shows does not count, nor do ignored images.
  assert [row['class'] for row in result['by_class']] == [0, 1]
  assert result['map'] > 0.9 and result['map11'] > 0.9 and 'top1' not in result


class TestLowShot:
  def test_more_images_are_better_and_the_draws_are_those_of_few_labels(self):
    train, test = blobs(300, 2.5, 1), blobs(150, 2.5, 2)
    found = svm.low_shot(train, test, shots=(1, 20, 500), draws=3)
    few, many = found['rows']
    assert [row['labels'] for row in found['rows']] == ['1 per class', '20 per class']
    assert many['map'] > few['map'] and many['examples'] == 60 and few['map_sd'] > 0
    assert 'the smallest class has' in found['skipped']['500 per class']
    part = frozen.subset(train[1], count=1, seed=(0, 2005, 1))
    marks = svm._by_class(train[1], test[1])[0]
    np.testing.assert_array_equal(svm._drawn(train[1], marks, 2, 1, 3, 0, 1), part)

  def test_several_labels_draw_k_of_a_class_and_others_by_the_number_of_classes(self):
    _, marks = several(200, 1)
    part = svm._drawn(marks, marks, 1, 4, 3, 0, 0)
    assert (marks[part, 1] == 1).sum() == 4 and (marks[part, 1] == 0).sum() == 8
    rows = svm.low_shot(several(200, 1), several(100, 2), shots=(4,), draws=2)['rows']
    assert 0.5 < rows[0]['map'] <= 1 and rows[0]['examples'] == 8

  def test_no_number_fits(self):
    with pytest.raises(ValueError, match=r'shots=\(900,\): the smallest class has'):
      svm.low_shot(blobs(60, 1.0, 1), blobs(30, 1.0, 2), shots=(900,), draws=1)


@pytest.mark.parametrize(
  ('settings', 'sentence'),
  [
    ({'costs': ()}, 'must be numbers above 0'),
    ({'costs': (0.0, 1.0)}, 'must be numbers above 0'),
    ({'parts': 1}, 'parts=1: cross-validation needs 2 or more'),
    ({'parts': 40}, 'too few for 40 cross-validation parts'),
    ({'positive_weight': -1.0}, 'positive_weight=-1.0 must be above 0'),
    ({'max_iterations': 0}, 'max_iterations=0 at least 1'),
  ],
)
def test_bad_input(settings, sentence):
  with pytest.raises(ValueError, match=sentence):
    svm.svm(blobs(60, 1.0, 1), blobs(30, 1.0, 2), **({'costs': (0.1, 1.0)} | settings))


def test_the_commands(untrained, tmp_path, capsys):
  command = ['svm', str(untrained), f'--workdir={tmp_path}/svm', '--svm.costs=(0.1,1.0)']
  assert cli.run(command) == 0
  shown = capsys.readouterr().out
  assert 'mAP' in shown and 'top-1' in shown and 'of 3 classes' in shown
  stored = json.loads((tmp_path / 'svm' / 'result.json').read_text())
  # Three classes that differ in color: an untrained network tells them apart.
  assert stored['result']['map'] > 0.7 and stored['config']['svm']['parts'] == 3
  command = ['few-labels', str(untrained), f'--workdir={tmp_path}/few', '--few_labels.draws=2']
  assert cli.run([*command, '--few_labels.classifier=svm', '--few_labels.shots=(1,3)']) == 0
  assert 'map_sd' in capsys.readouterr().out
  rows = json.loads((tmp_path / 'few' / 'result.json').read_text())['result']['rows']
  assert [row['examples'] for row in rows] == [3, 9]
  assert cli.run([*command, '--few_labels.classifier=svn']) == 2
  assert "did you mean 'svm'" in capsys.readouterr().err
