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


def all_gather(x: Any, axis: str | None = AXIS) -> Any:
  """Concatenates [b, ...] of every device to the global [B, ...], in device order; trees leafwise.

  Differentiable: the cotangents of all devices' copies are summed back to the owner.
  """
  return x if axis is None else lax.all_gather(x, axis, tiled=True)


def cut(x: jax.Array, axis: str | None = AXIS) -> jax.Array:
  """This device's part of an array that all have: [...] of n numbers -> [ceil(n / devices)].

  The array is flattened, and zeros follow behind its end. A scalar stays a scalar.
  """
  if x.ndim == 0:
    return x
  rows = _rows(x, axis_size(axis))
  return lax.dynamic_index_in_dim(rows, axis_index(axis), keepdims=False)


def mean_cut(x: jax.Array, axis: str | None = AXIS) -> jax.Array:
  """`cut(pmean(x))`: no device ever holds the whole mean."""
  if axis is None or x.ndim == 0:
    return cut(pmean(x, axis), axis)
  size = axis_size(axis)
  return lax.psum_scatter(_rows(x, size), axis, tiled=False) / size


def join(part: jax.Array, shape: tuple[int, ...], axis: str | None = AXIS) -> jax.Array:
  """The whole array, of this shape, on every device: undoes `cut`, and a cut by rows."""
  if not shape:
    return part
  return all_gather(part, axis).reshape(-1)[: math.prod(shape)].reshape(shape)


def _rows(x: Any, count: int) -> Any:
  """The numbers of x in `count` rows, zeros behind the end: [count, ceil(n / count)]."""
  array = np if isinstance(x, np.ndarray) else jnp
  flat = x.reshape(-1)
  return array.pad(flat, (0, -flat.size % count)).reshape(count, -1)


def axis_index(axis: str | None = AXIS) -> jax.Array:
  """This device's position on `axis`, int32; 0 when `axis` is None."""
  return jnp.zeros((), jnp.int32) if axis is None else lax.axis_index(axis)


def axis_size(axis: str | None = AXIS) -> int:
  """Number of devices on `axis`; 1 when `axis` is None."""
  return 1 if axis is None else lax.axis_size(axis)


def is_mapped() -> bool:
  """Whether the code that asks runs on each device of `AXIS`."""
  try:
    lax.axis_size(AXIS)
  except NameError:
    return False
  return True
