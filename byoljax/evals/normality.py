"""How normal an image is, from how well a network tells the transforms of that image apart.

Golan and El-Yaniv 2018 (arXiv 1805.10917), section 4.3. A classifier is shown the K transforms of
an image; y_k in the simplex of K classes is its softmax for transform k. For images like those that
it was trained on, y_k puts its mass on class k.

    probability(x) = 1/K sum_k y_k[k]                       (their equation for one-hot alphas)
    dirichlet(x)   = sum_k log Dir(y_k; alpha_k) + const = sum_k (alpha_k - 1) . log y_k

with alpha_k the maximum-likelihood Dirichlet of normal training images' y_k. The likelihood's
normalizer depends on alpha_k alone and is left out, as in their code. The fit is Minka's fixed
point ("Estimating a Dirichlet distribution", 2000), from an approximation of the sum of alpha_k,
until nothing moves by more than 1e-6 of itself or 1000 times. NumPy on the host, in float64.
"""

import numpy as np

_MOST_ITERATIONS, _PRECISION = 1000, 1e-6


def probability(log_y: np.ndarray) -> np.ndarray:
  """Mean probability of the right transform, float64 [N] in [0, 1].

  Args:
    log_y: logarithms of the softmax, [N, K, K]: image, transform, class.
  """
  return np.exp(np.diagonal(log_y, axis1=1, axis2=2).astype(np.float64)).mean(1)


def dirichlet(log_y: np.ndarray, alphas: np.ndarray) -> np.ndarray:
  """Sum over the transforms of the log likelihood but for a constant, float64 [N].

  Args:
    log_y: logarithms of the softmax, [N, K, K].
    alphas: [K, K], see `fit_dirichlet`.
  """
  return np.einsum('nkc,kc->n', log_y.astype(np.float64), alphas - 1.0)


def fit_dirichlets(log_y: np.ndarray) -> np.ndarray:
  """The most likely Dirichlet of each transform's points in the simplex, float64 [K, K].

  Args:
    log_y: logarithms of the softmax of normal images, [N, K, K].

  Raises:
    ValueError: fewer than two images.
  """
  from scipy.special import digamma, logsumexp

  if len(log_y) < 2:
    raise ValueError(f'a Dirichlet needs at least two normal images, got {len(log_y)}.')
  log_y = log_y.astype(np.float64)
  mean_log = log_y.mean(0)
  log_mean = logsumexp(log_y, axis=0) - np.log(len(log_y))
  # 0 where all points are equal; a large sum of alphas then says so.
  spread = np.sum(np.exp(log_mean) * (log_mean - mean_log), axis=1, keepdims=True)
  total = (log_y.shape[-1] - 1) / (2.0 * np.maximum(spread, 1e-9))
  alphas = _inverse_digamma(digamma(total) + mean_log)
  for _ in range(_MOST_ITERATIONS):
    before = alphas
    alphas = _inverse_digamma(digamma(alphas.sum(1, keepdims=True)) + mean_log)
    if np.max(np.abs(alphas - before) / before) < _PRECISION:
      break
  return alphas


def _inverse_digamma(y: np.ndarray) -> np.ndarray:
  """x > 0 with digamma(x) = y, by five steps of Newton (Minka 2000, appendix C)."""
  from scipy.special import digamma, polygamma

  x = np.where(y >= -2.22, np.exp(np.maximum(y, -2.22)) + 0.5, -1.0 / (y - digamma(1.0)))
  for _ in range(5):
    x -= (digamma(x) - y) / polygamma(1, x)
  return x
