"""Temperature and calibration error: by hand, against a search over a grid, and their limits."""

import numpy as np
import pytest

from byoljax.evals import calibration
from byoljax.ops import readouts

RNG = np.random.default_rng(0)


def test_the_temperature_is_where_the_stated_objective_is_lowest():
  """Cross-entropy with smoothed labels, written down here, over a fine grid of temperatures."""
  logits = RNG.normal(size=(40, 5)) * 3
  labels = np.where(RNG.random(40) < 0.6, logits.argmax(1), RNG.integers(-1, 5, 40))
  z, y = logits[labels >= 0], labels[labels >= 0]
  spare = 1 / (len(y) + 2)
  target = (1 - spare) * np.eye(5)[y] + spare / 5

  def loss(t):
    p = np.exp(z / t)
    return -(target * np.log(p / p.sum(1, keepdims=True))).sum(1).mean()

  found = calibration.fit_temperature(logits, labels)
  grid = np.geomspace(found / 3, 3 * found, 2001)
  best = grid[np.argmin([loss(t) for t in grid])]
  assert 0.1 < found < 50
  assert abs(np.log(found / best)) < np.log(9) / 2000, 'one step of the grid'
  # Logits times ten need ten times the temperature.
  assert calibration.fit_temperature(10 * logits, labels) == pytest.approx(10 * found, rel=1e-6)


def test_a_few_right_answers_are_no_certainty():
  """Laplace's rule: n of n right are believed to (n + 1) / (n + 2) or a little more, with C > 2."""
  for count in (2, 8, 100):
    logits = np.tile([5.0, 0.0], (count, 1))
    t = calibration.fit_temperature(logits, np.zeros(count, int))
    sure = calibration.probabilities(logits, t)[0, 0]
    assert sure == pytest.approx(1 - 1 / (2 * (count + 2)), abs=1e-6)
  assert calibration.fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1.0
  assert calibration.fit_temperature(np.ones((2, 3)), np.array([-1, -1])) == 1.0


def test_classes_that_were_never_learned_do_not_count():
  logits, labels = np.array([[2.0, 0.0], [1.0, 3.0], [0.5, 0.0]] * 5), np.array([0, 1, 1] * 5)
  expected = calibration.fit_temperature(logits, labels)
  wider = np.concatenate([logits, np.full((15, 1), readouts.NEVER)], 1)
  assert calibration.fit_temperature(wider, labels) == expected
  more = np.concatenate([wider, wider[:2]]), np.concatenate([labels, [2, 2]])
  assert calibration.fit_temperature(*more) == expected


def test_calibration_error_by_hand():
  chances = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])
  labels = np.array([0, 1, 1, -1])
  # Two with 90 % of which one is right, one with 60 % that is right.
  assert calibration.calibration_error(chances, labels) == pytest.approx((2 * 0.4 + 0.4) / 3)
  # In one bin over- and underconfidence cancel: 2 of 3 right at a mean of 80 %.
  assert calibration.calibration_error(chances, labels, bins=1) == pytest.approx(0.8 - 2 / 3)
  # A bin holds its upper end: 0.6 is the last of the ninth, 0.65 in the tenth.
  ends = np.array([[0.6, 0.4], [0.65, 0.35]])
  found = calibration.calibration_error(ends, np.array([0, 1]))
  assert found == pytest.approx((0.4 + 0.65) / 2)
  certain = np.eye(2)[[0, 1]]
  assert calibration.calibration_error(certain, np.array([0, 1])) == 0.0
  with pytest.raises(ValueError, match='labelled image'):
    calibration.calibration_error(chances, np.full(4, -1))


def test_what_is_drawn_from_the_probabilities_is_calibrated():
  logits = RNG.normal(size=(4000, 4)) * 2
  p = calibration.probabilities(logits)
  labels = (p.cumsum(1) > RNG.random((4000, 1))).argmax(1)
  found = calibration.report(3 * logits, labels, calibration.fit_temperature(3 * logits, labels))
  assert found['temperature'] == pytest.approx(3, rel=0.1)
  assert found['ece'] < 0.03 < 0.1 < found['ece_uncalibrated']
