"""Pooling of maps of any size to a grid of a fixed one, so that what reads it can be linear."""

import jax
from jax import lax
import jax.numpy as jnp

# name -> reduction over one axis
REDUCTIONS = {'mean': jnp.mean, 'max': jnp.max}


def adaptive_pool(x: jax.Array, edge: int | tuple[int, int], kind: str = 'mean') -> jax.Array:
  """A map [b,H,W,C] as a grid [b,edge,edge,C] of its mean or greatest values.

  Bin i of a side of n positions covers floor(i n / edge) ... ceil((i + 1) n / edge) - 1, PyTorch's
  rule (AdaptiveAvgPool2d): bins overlap where `edge` does not divide n, and repeat values where
  the map is smaller than the grid. A map of the grid's size stays as it is.

  Args:
    x: any float type, which the result has, too.
    edge: of the grid, at least 1; or its rows and columns.
    kind: 'mean' or 'max'.
  """
  reduce = REDUCTIONS[kind]
  edges = (edge, edge) if isinstance(edge, int) else edge
  for axis, edge in zip((1, 2), edges, strict=True):
    count = x.shape[axis]
    if count == edge:
      continue
    bins = [(i * count // edge, -(-(i + 1) * count // edge)) for i in range(edge)]
    cut = [lax.slice_in_dim(x, start, stop, axis=axis) for start, stop in bins]
    x = jnp.stack([reduce(each, axis=axis) for each in cut], axis=axis)
  return x
