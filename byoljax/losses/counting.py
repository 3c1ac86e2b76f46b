"""Counts that add up: Noroozi, Pirsiavash and Favaro 2017 (arXiv 1708.06734), equation 4.

    |phi(D x) - sum_j phi(T_j x)|^2 + max(0, M - |phi(D y) - sum_j phi(T_j x)|^2)

What is counted in a whole image x (made smaller, D x) is what is counted in its quarters T_j x, all
together; and it is not what is counted in another image y. Without the second term, zero would do.
Norms are of the whole vector, as in the paper; a public implementation that applied M to every
entry is said not to learn.
"""

import jax
import jax.numpy as jnp

from byoljax.devices import collectives


def counting(
  whole: jax.Array, parts: jax.Array, *, margin: float, axis: str | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Mean of the loss over this device's images; y is the next image of the global batch.

  Args:
    whole: phi(D x), [b, D], any float dtype; the computation is float32.
    parts: phi(T_j x), [n, b, D].
    margin: M, above 0.
    axis: mapped axis; None: this device has the whole batch.

  Returns:
    float32 scalar >= 0; all counts zero give exactly M. And this device's means: 'count', the first
    term; 'contrast', the second; 'active', the share of images whose second term is not 0.

  Raises:
    ValueError: a single image has no other.
  """
  whole, parts = whole.astype(jnp.float32), parts.astype(jnp.float32)
  everyone = collectives.all_gather(whole, axis)
  if len(everyone) < 2:
    raise ValueError('counting compares an image with another one: a batch needs at least two.')
  others = everyone[(collectives.positions(len(whole), axis) + 1) % len(everyone)]
  total = parts.sum(0)
  count = jnp.sum(jnp.square(whole - total), axis=-1)
  contrast = jax.nn.relu(margin - jnp.sum(jnp.square(others - total), axis=-1))
  terms = {
    'count': count.mean(),
    'contrast': contrast.mean(),
    'active': jnp.mean(contrast > 0, dtype=jnp.float32),
  }
  return jnp.mean(count + contrast), terms
