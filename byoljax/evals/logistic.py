"""Multinomial logistic regression of frozen features: one factorization for many penalties.

Minimizes sum_i CE(W x_i + b, y_i) + lambda / 2 |W|^2 by L-BFGS. Features of encoders are correlated
and their scales differ by orders of magnitude, which costs L-BFGS thousands of steps; so it works
on features that are centered and rotated to the eigenvectors of their covariance, which changes
neither the classifier nor |W|, and every direction is scaled by the curvature that the objective
has there, mean_i,c p_ic (1 - p_ic) sum_i x_i^2 + lambda, at the start. A fit ends where a step
gains less than 1e-8 of the objective. Features of more than 4,096 numbers, as pixels may be, are
scaled but not rotated, so that their fits may end further from the minimum.
"""

from typing import NamedTuple

import numpy as np

_GAIN = 1e-8
# Wider features are only centered and scaled: pixels, whose factorization takes longer than fits.
_MOST_ROTATED = 4096


class Rotated(NamedTuple):
  """Features in the basis of their covariance.

  Attributes:
    rows: float32 [N, D], centered; the columns are uncorrelated where D is at most 4096.
    squares: [D], the sum of squares of each column.
    mean: [D], of the features as they were.
    basis: [D, D] orthogonal, (x - mean) @ basis = rows; None where they are not rotated.
  """

  rows: np.ndarray
  squares: np.ndarray
  mean: np.ndarray
  basis: np.ndarray | None

  def take(self, chosen: np.ndarray) -> 'Rotated':
    """Some of the rows, in the same basis, which is nearly their own."""
    return self._replace(rows=self.rows[chosen])


class Model(NamedTuple):
  """A fitted classifier.

  Attributes:
    kernel: float64 [D, K].
    bias: float64 [K].
    classes: int [K], what the columns stand for, ascending.
  """

  kernel: np.ndarray
  bias: np.ndarray
  classes: np.ndarray

  def logits(self, x: np.ndarray) -> np.ndarray:
    """float64 [n, K] of features [n, D]."""
    return x @ self.kernel + self.bias

  def predict(self, x: np.ndarray) -> np.ndarray:
    """Labels [n] of features [n, D]."""
    return self.classes[self.logits(x).argmax(1)]


def rotated(x: np.ndarray) -> Rotated:
  """Factorizes features [N, D]; any number of fits on them, or on some of them, share it."""
  x = np.asarray(x, np.float32)
  mean = x.mean(0, dtype=np.float64)
  rows = x - mean.astype(np.float32)
  if x.shape[1] > _MOST_ROTATED:
    return Rotated(rows, np.square(rows).sum(0, dtype=np.float64), mean, None)
  squares, basis = np.linalg.eigh((rows.T @ rows).astype(np.float64))
  return Rotated(rows @ basis.astype(np.float32), np.maximum(squares, 0.0), mean, basis)


def fit(
  features: Rotated,
  labels: np.ndarray,
  value: float,
  max_iterations: int,
  start: Model | None = None,
) -> Model:
  """The minimum at a lambda, to about 1e-5 of the objective where the features are rotated.

  Args:
    features: see `rotated`.
    labels: int [N], at least two classes.
    value: lambda.
    max_iterations: of L-BFGS, which begins at `start`.
    start: a model of the same features and classes; zeros where there is none.

  Raises:
    ValueError: a lambda that is not above 0.
  """
  from scipy import optimize

  if not value > 0:
    raise ValueError(f'lambda={value:g} must be above 0: a small one is nearly none, such as 1e-6.')
  classes, targets = np.unique(labels, return_inverse=True)
  rows, (num, dim), ways = features.rows, features.rows.shape, len(classes)
  each = np.arange(num)

  def softmax(kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, float]:
    """Probabilities [N, K], and the sum of the cross-entropies."""
    logits = rows @ kernel.astype(np.float32) + bias.astype(np.float32)
    logits -= logits.max(1, keepdims=True)
    right = logits[each, targets].sum(dtype=np.float64)
    np.exp(logits, out=logits)
    total = logits.sum(1, keepdims=True)
    logits /= total
    return logits, np.log(total).sum(dtype=np.float64) - right

  kernel, bias = np.zeros((dim, ways)), np.zeros(ways)
  if start is not None:
    kernel = start.kernel if features.basis is None else features.basis.T @ start.kernel
    bias = start.bias + features.mean @ start.kernel
  shares, _ = softmax(kernel, bias)
  curvature = max(float(np.mean(shares * (1 - shares))), 1e-6)
  scale = 1 / np.sqrt(curvature * features.squares + value)[:, None]
  bias_scale = 1 / np.sqrt(curvature * num)

  def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
    kernel, bias = scale * point[:-ways].reshape(dim, ways), bias_scale * point[-ways:]
    error, loss = softmax(kernel, bias)
    error[each, targets] -= 1
    slope = scale * (rows.T @ error + value * kernel)
    bias_slope = bias_scale * error.sum(0, dtype=np.float64)
    return (
      float(loss + value / 2 * np.square(kernel).sum()),
      np.concatenate([slope.ravel(), bias_slope]),
    )

  begin = np.concatenate([(kernel / scale).ravel(), bias / bias_scale])
  options = {'maxiter': max_iterations, 'maxfun': 2 * max_iterations, 'ftol': _GAIN, 'gtol': 0.0}
  found = optimize.minimize(objective, begin, jac=True, method='L-BFGS-B', options=options).x
  kernel, bias = scale * found[:-ways].reshape(dim, ways), bias_scale * found[-ways:]
  if features.basis is not None:
    kernel = features.basis @ kernel
  return Model(kernel, bias - features.mean @ kernel, classes)
