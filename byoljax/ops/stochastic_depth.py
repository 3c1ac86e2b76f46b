"""Stochastic depth (Huang et al. 2016, arXiv 1603.09382) as factors of residual branches."""

import jax
import jax.numpy as jnp
import numpy as np


def branch_rates(depth: int, rate: float) -> np.ndarray:
  """How often each block's branches are left out: float32 [depth], from 0 to `rate` evenly."""
  return np.linspace(0.0, rate, depth, dtype=np.float32)


def branch_factors(keys: jax.Array, depth: int, rate: float) -> jax.Array:
  """Factors of the residual branches of each image: float32 [b,depth,2], without gradient.

  A branch is left out, 0, at its block's rate and otherwise scaled by 1 / (1 - rate), so that its
  mean is kept (timm's "drop path"). The two branches of a block are drawn apart.

  Args:
    keys: one for each image, [b].
    depth: of the network.
    rate: of the last block, in [0, 1).
  """
  kept = 1.0 - branch_rates(depth, rate)[:, None]
  uniform = jax.vmap(lambda key: jax.random.uniform(key, (depth, 2)))(keys)
  return jnp.where(uniform < kept[None], 1.0 / kept[None], 0.0)
