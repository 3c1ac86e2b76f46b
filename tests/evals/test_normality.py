"""Scores of told transforms, by hand and by SciPy; the fit of a Dirichlet finds what was drawn."""

import numpy as np
import pytest

from byoljax.evals import normality

RNG = np.random.default_rng(0)


def test_probability_by_hand():
  y = np.array([[[0.7, 0.3], [0.4, 0.6]], [[0.5, 0.5], [1.0, 1e-30]]])
  np.testing.assert_allclose(normality.probability(np.log(y)), [0.65, 0.25])


def test_the_fit_finds_the_dirichlets_that_were_drawn_from():
  from scipy import stats  # Imported where it is needed: not by every worker.

  alphas = np.array([[8.0, 1.0, 0.5], [0.3, 6.0, 2.0], [1.0, 1.0, 40.0]])
  y = np.stack([RNG.dirichlet(own, 20_000) for own in alphas], axis=1)
  found = normality.fit_dirichlets(np.log(np.maximum(y, 1e-300)))
  # The standard error of an alpha is below 2 % with 20,000 draws.
  np.testing.assert_allclose(found, alphas, rtol=0.1)
  # The most likely ones: moving any of them makes the points less likely.
  for k, own in enumerate(found):
    kept = np.clip(y[:, k], 1e-12, None)
    kept /= kept.sum(1, keepdims=True)
    changed = [np.ones(3), *(1.0 + 0.1 * np.eye(3)), *(1.0 - 0.1 * np.eye(3))]
    likely = [stats.dirichlet(own * each).logpdf(kept.T).mean() for each in changed]
    assert likely[0] > max(likely[1:])


def test_the_dirichlet_score_is_the_log_likelihood_but_for_a_constant():
  from scipy import stats

  alphas = np.array([[3.0, 1.0], [0.5, 2.0]])
  y = np.stack([RNG.dirichlet(own, 5) for own in alphas], axis=1)
  expected = sum(stats.dirichlet(alphas[k]).logpdf(y[:, k].T) for k in range(2))
  difference = normality.dirichlet(np.log(y), alphas) - expected
  np.testing.assert_allclose(difference, difference[0], rtol=1e-9)


def test_certain_answers_give_finite_scores():
  """A network that is always right and sure: float32 logits that are 80 apart."""
  log_y = np.full((6, 3, 3), -80.0, np.float32) + 80.0 * np.eye(3, dtype=np.float32)
  alphas = normality.fit_dirichlets(log_y)
  assert np.isfinite(alphas).all() and (alphas > 0).all()
  unsure = np.full((1, 3, 3), np.log(1 / 3), np.float32)
  for score in (normality.probability, lambda y: normality.dirichlet(y, alphas)):
    assert np.isfinite(score(log_y)).all() and score(log_y)[0] > score(unsure)[0]


def test_one_image_is_too_few():
  with pytest.raises(ValueError, match='at least two normal images, got 1'):
    normality.fit_dirichlets(np.zeros((1, 2, 2)))
