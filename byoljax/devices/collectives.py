"""The mapped axis and its collectives.

Every loss, batch normalization and train step is written for one device and names the axis `AXIS`
where it needs the others. The collectives are the identity when the axis is None, so the same
functions run eagerly in a notebook.
"""

import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

AXIS = 'batch'
PyTree = Any


def pmean(tree: PyTree, axis: str | None = AXIS) -> PyTree:
  """Mean over the devices of `axis`; the identity when `axis` is None."""
  return tree if axis is None else lax.pmean(tree, axis)


def psum(tree: PyTree, axis: str | None = AXIS) -> PyTree:
  """Sum over the devices of `axis`; the identity when `axis` is None."""
  return tree if axis is None else lax.psum(tree, axis)


def pmax(tree: PyTree, axis: str | None = AXIS) -> PyTree:
  """Largest value over the devices of `axis`; the identity when `axis` is None. No gradient."""
  return tree if axis is None else lax.pmax(tree, axis)


def all_gather(x: Any, axis: str | None = AXIS) -> Any:
  """Concatenates [b, ...] of every device to the global [B, ...], in device order; trees leafwise.

  Differentiable: the cotangents of all devices' copies are summed back to the owner.
  """
  return x if axis is None else lax.all_gather(x, axis, tiled=True)


def shard(x: jax.Array, axis: str | None = AXIS) -> jax.Array:
  """This device's shard of a replicated array: [...] of n numbers -> [ceil(n / devices)].

  The array is flattened and padded with zeros. A scalar stays a scalar.
  """
  if x.ndim == 0:
    return x
  return lax.dynamic_index_in_dim(shards(x, axis_size(axis)), axis_index(axis), keepdims=False)


def unshard(x: jax.Array, shape: tuple[int, ...], axis: str | None = AXIS) -> jax.Array:
  """Gathers the array of this shape from its shards, which may also be shards of its rows."""
  if not shape:
    return x
  return all_gather(x, axis).reshape(-1)[: math.prod(shape)].reshape(shape)


def shards(x: Any, count: int) -> Any:
  """All shards of a JAX or NumPy array of n numbers: [count, ceil(n / count)], zeros at the end."""
  array = np if isinstance(x, np.ndarray) else jnp
  flat = x.reshape(-1)
  return array.pad(flat, (0, -flat.size % count)).reshape(count, -1)


def axis_index(axis: str | None = AXIS) -> jax.Array:
  """This device's position on `axis`, int32; 0 when `axis` is None."""
  return jnp.zeros((), jnp.int32) if axis is None else lax.axis_index(axis)


def positions(count: int, axis: str | None = AXIS) -> jax.Array:
  """Positions in the global batch of this device's `count` examples, int32 [count]."""
  return axis_index(axis) * count + jnp.arange(count, dtype=jnp.int32)


def example_keys(key: jax.Array, count: int, axis: str | None = AXIS) -> jax.Array:
  """A key for each of this device's `count` examples, by its position in the global batch."""
  return jax.vmap(lambda place: jax.random.fold_in(key, place))(positions(count, axis))


def axis_size(axis: str | None = AXIS) -> int:
  """Number of devices on `axis`; 1 when `axis` is None."""
  return 1 if axis is None else lax.axis_size(axis)
