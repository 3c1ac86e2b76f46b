"""Parameters that are frozen for the first steps: SwAV's prototypes, DINO's last layer."""

from typing import TypeVar

import jax
from jax import lax
import jax.numpy as jnp

Tree = TypeVar('Tree')


def trained_from(start: int, step: jax.Array, params: Tree) -> Tree:
  """`params` unchanged, with zero gradient before step `start`.

  The optimizer still updates them: with a zero gradient and a momentum buffer that is initially
  zero nothing changes, but weight decay applies. Use it where the norm of a parameter is
  irrelevant.
  """

  def gated(x: jax.Array) -> jax.Array:
    return jnp.where(step >= start, x, lax.stop_gradient(x))

  return jax.tree.map(gated, params)
