"""Shuffled batch normalization (MoCo, arXiv 1911.05722, section 3.3).

With batch statistics per device, a query and its key would share a sub-batch, and the network could
recognize the pair by its statistics. So the keys' images are permuted over all devices before they
are encoded, and the permutation of the keys is undone afterwards.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byoljax.devices import collectives


def shuffle(x: jax.Array, key: jax.Array, axis: str | None) -> jax.Array:
  """This device's rows [b,...] of the globally permuted batch.

  Args:
    x: this device's rows [b,...].
    key: the same on all devices; the permutation depends on it and on the global batch size only.
    axis: the mapped axis; None permutes a single device's rows.
  """
  everything = collectives.all_gather(x, axis)
  order = jax.random.permutation(key, everything.shape[0])
  return everything[_own(order, x.shape[0], axis)]


def unshuffle(y: jax.Array, key: jax.Array, axis: str | None) -> jax.Array:
  """Undoes the permutation for rows [b,...] computed from `shuffle(x, key, axis)`."""
  everything = collectives.all_gather(y, axis)
  order = jax.random.permutation(key, everything.shape[0])
  return everything[_own(jnp.argsort(order), y.shape[0], axis)]


def through_shuffle(
  encode: Callable[[jax.Array], tuple[jax.Array, Any]],
  x: jax.Array,
  key: jax.Array,
  axis: str | None,
) -> tuple[jax.Array, Any]:
  """`encode(x)`, (rows [b,...], anything), computed on the shuffled batch."""
  rows, rest = encode(shuffle(x, key, axis))
  return unshuffle(rows, key, axis), rest


def _own(positions: jax.Array, rows: int, axis: str | None) -> jax.Array:
  return lax.dynamic_slice_in_dim(positions, collectives.axis_index(axis) * rows, rows)
