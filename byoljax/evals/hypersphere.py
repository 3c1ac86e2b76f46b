"""Alignment and uniformity of features on the unit sphere.

Wang & Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on
the Hypersphere" (arXiv 2005.10242), equations of section 4.1, with f the L2-normalized features:

  alignment  = mean_i ||f(x_i) - f(x_i+)||^alpha,              0 (best) ... 2^alpha
  uniformity = log mean_{i<j} exp(-t ||f(x_i) - f(x_j)||^2),   -4t < ... <= 0 (all equal)

Points that are uniform on a high-dimensional sphere have a uniformity of about -2t, because pairs
are nearly orthogonal: -4 for t = 2. Both are low only if views of an image agree and images differ:
a collapsed encoder has alignment 0 and uniformity 0.

All pairs are counted exactly, block by block: memory is one float32 copy of the features and
block^2 floats.
"""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np


def check(**exponents: float) -> None:
  """Raises ValueError for an `alpha` or a `t` that is not above 0."""
  for name, value in exponents.items():
    if value <= 0:
      raise ValueError(f'{name}={value} must be above 0; 2 is usual.')


def alignment(first: np.ndarray, second: np.ndarray, alpha: float = 2.0) -> float:
  """mean_i ||u_i - v_i||^alpha, u and v the normalized rows; float64.

  Args:
    first: features [N, D] of one view of every image.
    second: features [N, D] of another view of the same images, in the same order.
    alpha: > 0.

  Raises:
    ValueError: the shapes differ, there are no rows, or alpha <= 0.
  """
  if first.shape != second.shape or first.ndim != 2 or not len(first):
    raise ValueError(
      f'need two views [N, D] of the same images, got {first.shape}, {second.shape}.'
    )
  check(alpha=alpha)
  # In float64, because the differences of well-aligned views are small.
  squared = [
    np.sum(np.square(unit(a) - unit(b)), axis=1)
    for a, b in zip(_blocks(first, 4096), _blocks(second, 4096), strict=True)
  ]
  return float(np.mean(np.concatenate(squared) ** (alpha / 2)))


def uniformity(features: np.ndarray, t: float = 2.0, *, block: int = 2048) -> float:
  """log mean_{i<j} exp(-t ||u_i - u_j||^2), u the normalized rows; see the module.

  Squared distances are 2 - 2 cos with products in full float32; the mean over pairs is
  accumulated in log space in float64, so that it does not underflow for large t.

  Args:
    features: float [N, D], N >= 2.
    t: > 0.
    block: rows per block.

  Raises:
    ValueError: fewer than two rows, or t <= 0.
  """
  if features.ndim != 2 or len(features) < 2:
    raise ValueError(f'uniformity needs at least two features [N, D], got {features.shape}.')
  check(t=t)
  count = len(features)
  block = min(block, count)
  blocks = [_padded(rows, block) for rows in _blocks(features, block)]
  total = -np.inf
  for i, rows in enumerate(blocks):
    for j, columns in enumerate(blocks[i:], start=i):
      part = _log_sum(rows, columns, i * block, j * block, count, float(t))
      total = np.logaddexp(total, np.float64(part))
  return float(total - np.log(count * (count - 1) / 2))


@jax.jit
def _log_sum(
  rows: jax.Array, columns: jax.Array, start: int, other: int, count: int, t: float
) -> jax.Array:
  """log sum of exp(-t d^2) over the pairs i < j < count of two blocks of unit rows."""
  cosines = jnp.matmul(rows, columns.T, precision=lax.Precision.HIGHEST)
  i = start + jnp.arange(rows.shape[0])[:, None]
  j = other + jnp.arange(columns.shape[0])[None]
  exponents = t * jnp.minimum(2.0 * cosines - 2.0, 0.0)
  return jax.nn.logsumexp(jnp.where((i < j) & (j < count), exponents, -jnp.inf))


def unit(x: np.ndarray) -> np.ndarray:
  """Rows [N, D] divided by their norm, float64; zero rows stay zero."""
  x = np.asarray(x, np.float64)
  return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _blocks(x: np.ndarray, size: int) -> list[np.ndarray]:
  return [x[start : start + size] for start in range(0, len(x), size)]


def _padded(x: np.ndarray, size: int) -> np.ndarray:
  """Normalized rows, float32, padded with zero rows to `size`."""
  made = np.zeros((size, x.shape[1]), np.float32)
  made[: len(x)] = unit(x)
  return made
