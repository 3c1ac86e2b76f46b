"""Regression of one view's prediction onto another view's projection (BYOL, SimSiam).

Same values and gradients as BYOL's code, which the paper's pseudo-code (-2 cos) matches up to a
constant. One direction only; the method adds the two directions (BYOL) or averages them (SimSiam).
"""

import jax
import jax.numpy as jnp

from byoljax.ops import sphere


def cosine_regression(p: jax.Array, z: jax.Array) -> jax.Array:
  """Mean of |p/|p| - z/|z||^2 = 2 - 2 cos(p, z) (BYOL, arXiv 2006.07733, equation 2).

  Args:
    p: predictions [b,D], any float dtype.
    z: target projections [b,D]. Gradients flow into both: stop that of z at the call.

  Returns:
    float32 scalar in [0, 4], independent of the norms. Mean over this device's b rows, without
    collectives.

  Raises:
    ValueError: p and z are not both [b,D] with the same b and D.

  Examples:
    >>> p, z = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 5.0]])  # at right angles
    >>> print(cosine_regression(p, p), cosine_regression(p, z), cosine_regression(p, -p))
    0.0 2.0 4.0
  """
  if p.ndim != 2 or p.shape != z.shape:
    raise ValueError(
      f'cosine_regression needs p and z of one shape [b,D], got p {p.shape} and z {z.shape}'
    )
  return jnp.mean(jnp.sum((sphere.normalize(p) - sphere.normalize(z)) ** 2, axis=-1))


def negative_cosine(p: jax.Array, z: jax.Array) -> jax.Array:
  """Mean of -cos(p, z) (SimSiam, arXiv 2011.10566, equation 1): half of BYOL's loss, minus 1.

  Arguments and errors as for `cosine_regression`.

  Returns:
    float32 scalar in [-1, 1].
  """
  return 0.5 * cosine_regression(p, z) - 1.0
