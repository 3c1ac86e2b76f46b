"""The minimum is that of the stated objective, written down here in float64."""

import numpy as np
import pytest

from byoljax.evals import logistic


def problem(num=120, dim=6, classes=3, seed=0, decades=2):
  """Features that are correlated, off center, and of scales from 10^-decades to 10^decades."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes, num)
  x = rng.normal(size=(num, dim)) + 0.8 * rng.normal(size=(classes, dim))[labels]
  mixed = (x * np.logspace(-decades, decades, dim)) @ np.linalg.qr(rng.normal(size=(dim, dim)))[
    0
  ] + 5.0
  return mixed.astype(np.float32), labels


def objective(model, x, labels, value):
  logits = x.astype(np.float64) @ model.kernel + model.bias
  logits -= logits.max(1, keepdims=True)
  columns = np.searchsorted(model.classes, labels)
  right = logits[np.arange(len(x)), columns].sum()
  return np.log(np.exp(logits).sum(1)).sum() - right + value / 2 * np.square(model.kernel).sum()


@pytest.mark.parametrize('classes', [2, 3])
@pytest.mark.parametrize('value', [1e-3, 1.0, 1e4])
def test_the_minimum_is_scikit_learns(classes, value):
  """To 1e-5, ten times what a step gains at the end (1e-8) times about 100 steps."""
  from sklearn.linear_model import LogisticRegression

  x, labels = problem(classes=classes)
  found = logistic.fit(logistic.rotated(x), labels, value, 1000)
  # Of two classes it fits the difference of the two vectors, whose square is twice their sum's.
  penalty = value / 2 if classes == 2 else value
  model = LogisticRegression(C=1 / penalty, solver='newton-cg', tol=1e-10, max_iter=5000)
  model.fit(x.astype(np.float64), labels)
  kernel, bias = np.asarray(model.coef_).T, np.asarray(model.intercept_)
  if classes == 2:
    kernel, bias = np.concatenate([-kernel, kernel], 1) / 2, np.concatenate([-bias, bias]) / 2
  wanted = objective(logistic.Model(kernel, bias, model.classes_), x, labels, value)
  assert objective(found, x, labels, value) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(('most', 'decades'), [(4096, 2), (0, 0)])
def test_a_path_ends_where_single_fits_do(monkeypatch, most, decades):
  """Whatever the basis: from the previous penalty's minimum, and from nothing."""
  monkeypatch.setattr(logistic, '_MOST_ROTATED', most)
  x, labels = problem(decades=decades)
  features, start = logistic.rotated(x), None
  for value in (1e3, 1.0, 1e-2):
    start = logistic.fit(features, labels, value, 2000, start)
    alone = logistic.fit(features, labels, value, 2000)
    values = [objective(model, x, labels, value) for model in (start, alone)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    assert np.mean(start.predict(x) == alone.predict(x)) > 0.98


def test_a_part_of_the_rows_in_the_basis_of_all():
  x, labels = problem()
  part = np.arange(0, 120, 2)
  found = logistic.fit(logistic.rotated(x).take(part), labels[part], 0.5, 1000)
  wanted = logistic.fit(logistic.rotated(x[part]), labels[part], 0.5, 1000)
  np.testing.assert_allclose(
    objective(found, x[part], labels[part], 0.5),
    objective(wanted, x[part], labels[part], 0.5),
    rtol=1e-5,
  )


def test_columns_are_the_classes_that_there_are():
  x, labels = problem()
  model = logistic.fit(logistic.rotated(x), 10 * labels + 3, 1.0, 100)
  assert model.classes.tolist() == [3, 13, 23]
  assert set(model.predict(x)) <= {3, 13, 23}


def test_constant_and_repeated_features():
  x, labels = problem()
  wide = np.concatenate([x, x, np.ones((len(x), 2), np.float32)], 1)
  found = logistic.fit(logistic.rotated(wide), labels, 1.0, 1000)
  assert np.isfinite(found.kernel).all()
  # Two halves of a weight cost half of what the whole costs.
  alone = logistic.fit(logistic.rotated(x), labels, 0.5, 1000)
  wanted = objective(alone, x, labels, 0.5)
  assert objective(found, wide, labels, 1.0) == pytest.approx(wanted, rel=1e-4)
