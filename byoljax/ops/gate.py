"""Parameters that are not trained in the beginning: SwAV's prototypes, DINO's last layer."""

from typing import TypeVar

import jax
from jax import lax
import jax.numpy as jnp

Tree = TypeVar('Tree')


def trained_from(start: int, step: jax.Array, params: Tree) -> Tree:
  """The same values, whose gradients are zero before step `start`.

  The optimizer still sees them: a gradient of zero moves nothing under momentum that starts at
  zero, but weight decay applies. Use it where the length of a parameter does not matter.
  """

  def gated(x: jax.Array) -> jax.Array:
    return jnp.where(step >= start, x, lax.stop_gradient(x))

  return jax.tree.map(gated, params)
