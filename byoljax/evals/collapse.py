"""Collapse monitors: is the representation spread out, or shrinking to a point or a line?

Two numbers that distinguish complete collapse (all images have the same embedding) and
dimensional collapse (embeddings span only a few directions) from a healthy run. The loss cannot:
BYOL's is lowest when everything has collapsed.

All can be jitted and are exact over the global batch if the mapped axis is given. They are float32
for any input dtype and have no gradient.
"""

import jax
from jax import lax
import jax.numpy as jnp

from byoljax.devices import collectives
from byoljax.ops import sphere

# Eigenvalues of the second-moment matrix below this share of the largest are rounding errors,
# about 10 * 2^-23 in float32, whose square roots would add up to a visible rank.
_EIGENVALUE_FLOOR = 32 * 2.0**-23


def normalized_std(embedding: jax.Array, axis: str | None = None) -> jax.Array:
  """Spread of the L2-normalized embeddings: sqrt(D) * mean_d std_b(x_bd / ||x_b||), in [0, 1].

  1 if all directions are used equally (a vector that is uniform on the sphere has a standard
  deviation of 1 / sqrt(D) in each dimension: Chen & He, "SimSiam", 2021, §4.1), 0 if all
  embeddings are equal. Population standard deviation over the batch. Cost: O(b D).

  Args:
    embedding: [b, D] of this device.
    axis: mapped axis whose batches are pooled, with equally many rows per device.

  Returns:
    Float32 scalar, equal on all devices.
  """
  x = sphere.unit(lax.stop_gradient(embedding).astype(jnp.float32))
  # Two passes: E[x^2] - E[x]^2 cancels when x is almost constant, where it matters.
  mean = collectives.pmean(jnp.mean(x, axis=0, keepdims=True), axis)
  variance = collectives.pmean(jnp.mean(jnp.square(x - mean), axis=0), axis)
  return jnp.mean(jnp.sqrt(variance)) * x.shape[1] ** 0.5


def effective_rank(
  embedding: jax.Array, axis: str | None = None, *, max_size: int = 512
) -> jax.Array:
  """Effective rank of the embedding matrix, in [1, min(B, D)].

  erank(X) = exp(-sum_i p_i log p_i),   p_i = s_i / sum_j s_j,   s the singular values of X

  (Roy & Vetterli, "The effective rank", 2007, def. 1). X is [B, D] and not centered, so that equal
  rows have rank 1; orthogonal rows of equal length have rank B. The singular values are the roots
  of the eigenvalues of the smaller of X'X and XX', in float32; those below 0.2 % of the
  largest count as zero, which costs a few percent of the rank if the spectrum has a long tail.

  Cost: O(B D min(B, D)) for the product and O(min(B, D)^3) for the eigenvalues, about 25 ms for
  512 on two CPU cores: too much for every step of a small network, negligible at logged steps.
  If both B and D exceed `max_size`, only that many evenly spaced rows are used, which bounds the
  result.

  Args:
    embedding: [b, D] of this device.
    axis: mapped axis whose batches are stacked to B rows.
    max_size: largest matrix whose eigenvalues are computed.

  Returns:
    Float32 scalar, equal on all devices; 0 if all embeddings are zero.
  """
  x = lax.stop_gradient(embedding).astype(jnp.float32)
  rows, size = x.shape[0] * collectives.axis_size(axis), x.shape[1]
  # p does not depend on the scale of x; dividing keeps squares of large features finite.
  peak = collectives.all_gather(jnp.max(jnp.abs(x))[None], axis)
  x = x / jnp.maximum(jnp.max(peak), 1e-30)
  if size <= min(rows, max_size):
    moment = collectives.psum(_product(x.T, x), axis)
  else:
    x = collectives.all_gather(x, axis)
    if rows > max_size:
      x = x[jnp.arange(max_size) * rows // max_size]
    moment = _product(x, x.T)
  eigenvalues = jnp.linalg.eigvalsh(moment)
  kept = eigenvalues > jnp.max(eigenvalues) * _EIGENVALUE_FLOOR
  singular = jnp.sqrt(jnp.where(kept, eigenvalues, 0.0))
  total = jnp.sum(singular)
  p = singular / jnp.where(total > 0, total, 1.0)
  entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0))
  return jnp.where(total > 0, jnp.exp(entropy), 0.0)


def collapse_metrics(embedding: jax.Array, axis: str | None = None) -> dict[str, jax.Array]:
  """`normalized_std` and `effective_rank` of embeddings [b, D] under their metric names."""
  return {
    'collapse/std': normalized_std(embedding, axis),
    'collapse/rank': effective_rank(embedding, axis),
  }


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
  # Full float32: products rounded to tf32 or bfloat16 would hide the rank.
  return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
