"""Redundancy reduction: decorrelated dimensions instead of negatives.

Barlow Twins, VICReg and W-MSE. Their statistics are those of the global batch, independent of the
number of devices, and gradients flow through them across devices.

Different from the authors' code:
- Barlow Twins' code sums C over the processes without a gradient across them, so that its
  gradients are those of the objective divided by the number of processes. Here they are exact.
- VICReg's code halves the variance term, its paper does not: `halved_variance`.
- W-MSE's code whitens random sub-batches (`w_mse_of_parts`); `w_mse` whitens the global batch once.
"""

import jax
from jax import lax
import jax.numpy as jnp

from byoljax.devices import collectives
from byoljax.losses.regression import cosine_regression


def barlow_twins(
  a: jax.Array, b: jax.Array, *, off_diagonal: float, axis: str | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2 (Barlow Twins, arXiv 2103.03230, equation 1).

  C = a^T b / B, each dimension standardized over the global batch with the biased variance and
  epsilon 1e-5.

  Args:
    a: projections of one view [b,D].
    b: projections of the other view [b,D].
    off_diagonal: lambda; .0051 in the authors' code for D = 8192.
    axis: the mapped axis, or None for one device.

  Returns:
    (float32 scalar >= 0, the same on all devices; its two sums 'on_diagonal' and 'off_diagonal',
    the latter without lambda).

  Raises:
    ValueError: a and b are not both [b,D], or the global batch is a single row.
  """
  rows = _global_rows(a, b, axis)
  correlation = _cross(_standardized(a, axis), _standardized(b, axis), axis) / rows
  is_diagonal = jnp.eye(correlation.shape[0], dtype=bool)
  on = jnp.sum((1.0 - jnp.diagonal(correlation)) ** 2)
  off = jnp.sum(jnp.where(is_diagonal, 0.0, correlation) ** 2)
  return on + off_diagonal * off, {'on_diagonal': on, 'off_diagonal': off}


def vicreg(
  a: jax.Array,
  b: jax.Array,
  *,
  invariance: float = 25.0,
  variance: float = 25.0,
  covariance: float = 1.0,
  halved_variance: bool = True,
  axis: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """lambda s(a, b) + mu (v(a) + v(b)) / 2 + nu (c(a) + c(b)) (VICReg, arXiv 2105.04906, eq. 6).

  s is the mean squared difference over rows and dimensions; v(z) the mean over dimensions of
  max(0, 1 - sqrt(Var z_j + 1e-4)) (eq. 1-2); c(z) = sum_{i != j} Cov(z)_ij^2 / D (eq. 3-4).
  Variance and covariance are of the global batch, divided by B - 1.

  Args:
    a: projections of one view [b,D], not normalized.
    b: projections of the other view [b,D].
    invariance: lambda.
    variance: mu.
    covariance: nu.
    halved_variance: the authors' code; False is the paper's sum of both variance terms.
    axis: the mapped axis, or None for one device.

  Returns:
    (float32 scalar >= 0; the three unweighted terms 'invariance', 'variance', 'covariance'). s is
    the mean over this device's rows, the others are the same on all devices.

  Raises:
    ValueError: a and b are not both [b,D], or the global batch is a single row.
  """
  rows = _global_rows(a, b, axis)
  a, b = a.astype(jnp.float32), b.astype(jnp.float32)
  terms = {
    'invariance': jnp.mean((a - b) ** 2),
    'variance': jnp.zeros((), jnp.float32),
    'covariance': jnp.zeros((), jnp.float32),
  }
  for z in (a, b):
    centered = _centered(z, axis)
    spread = collectives.psum(jnp.sum(centered**2, axis=0), axis) / (rows - 1)
    terms['variance'] += jnp.mean(jax.nn.relu(1.0 - jnp.sqrt(spread + 1e-4)))
    cross = _cross(centered, centered, axis) / (rows - 1)
    is_diagonal = jnp.eye(cross.shape[0], dtype=bool)
    terms['covariance'] += jnp.sum(jnp.where(is_diagonal, 0.0, cross) ** 2) / cross.shape[0]
  if halved_variance:
    terms['variance'] *= 0.5
  weights = {'invariance': invariance, 'variance': variance, 'covariance': covariance}
  return sum((weights[name] * term for name, term in terms.items()), jnp.zeros(())), terms


def w_mse(a: jax.Array, b: jax.Array, *, axis: str | None = None, eps: float = 1e-3) -> jax.Array:
  """Mean of 2 - 2 cos(w(a), w(b)) of whitened views (W-MSE, arXiv 2007.06346, section 3).

  w(z) = L^-1 (z - mean z) with L L^T = (1 - eps) Cov(z) + eps I, the Cholesky factor; mean and
  covariance (divided by B - 1) are of the global batch, separately for each view.

  Args:
    a: projections of one view [b,D].
    b: projections of the other view [b,D].
    axis: the mapped axis, or None for one device.
    eps: shrinkage towards the identity in [0, 1); the authors use 0, which fails in
      float32 once a dimension collapses.

  Returns:
    float32 scalar in [0, 4]; mean over this device's rows.

  Raises:
    ValueError: a and b are not both [b,D], or there are not more rows than dimensions, so the
      covariance is singular.
  """
  rows = _global_rows(a, b, axis)
  if rows <= a.shape[1]:
    raise ValueError(
      f'whitening {a.shape[1]} dimensions needs a larger global batch than {rows}: '
      f'use at least {2 * a.shape[1]}, or a smaller projection'
    )
  return cosine_regression(_whitened(a, rows, axis, eps), _whitened(b, rows, axis, eps))


def w_mse_of_parts(
  a: jax.Array, b: jax.Array, parts: jax.Array, *, axis: str | None = None, eps: float = 1e-3
) -> jax.Array:
  """`w_mse` of parts of the global batch that are whitened apart, averaged (the authors' code).

  Args:
    a: projections of one view [b,D].
    b: projections of the other view [b,D].
    parts: rows of the global batch, int32 [..., rows]: every row is in as many parts as any other.
    axis: the mapped axis, or None for one device.
    eps: as for `w_mse`.

  Returns:
    float32 scalar in [0, 4], the same on all devices: each computes all parts, which are small.

  Raises:
    ValueError: as `w_mse`, of a part.
  """
  _global_rows(a, b, axis)
  first, second = (collectives.all_gather(z, axis) for z in (a, b))
  parts = parts.reshape(-1, parts.shape[-1])
  return jnp.mean(jax.vmap(lambda rows: w_mse(first[rows], second[rows], eps=eps))(parts))


def _whitened(z: jax.Array, rows: int, axis: str | None, eps: float) -> jax.Array:
  centered = _centered(z.astype(jnp.float32), axis)
  spread = _cross(centered, centered, axis) / (rows - 1)
  factor = jnp.linalg.cholesky((1.0 - eps) * spread + eps * jnp.eye(spread.shape[0]))
  return jax.scipy.linalg.solve_triangular(factor, centered.T, lower=True).T


def _standardized(z: jax.Array, axis: str | None) -> jax.Array:
  centered = _centered(z.astype(jnp.float32), axis)
  spread = collectives.pmean(jnp.mean(centered**2, axis=0, keepdims=True), axis)
  return centered * lax.rsqrt(spread + 1e-5)


def _centered(z: jax.Array, axis: str | None) -> jax.Array:
  return z - collectives.pmean(jnp.mean(z, axis=0, keepdims=True), axis)


def _cross(a: jax.Array, b: jax.Array, axis: str | None) -> jax.Array:
  """a^T b of the global batch, [b,D] and [b,D] -> [D,D]."""
  return collectives.psum(jnp.matmul(a.T, b, precision=lax.Precision.HIGHEST), axis)


def _global_rows(a: jax.Array, b: jax.Array, axis: str | None) -> int:
  """The number of rows on all devices, after checking the shapes."""
  if a.ndim != 2 or a.shape != b.shape:
    raise ValueError(f'need both views of one shape [b,D], got {a.shape} and {b.shape}')
  rows = a.shape[0] * collectives.axis_size(axis)
  if rows < 2:
    raise ValueError(f'statistics over the batch need at least 2 rows, got {rows}')
  return rows
