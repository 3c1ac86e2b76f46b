"""Trained networks that a method is given and keeps a copy of, frozen, in its state."""

from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def copy_of(given: Any, key: jax.Array, images: Any) -> PyTree:
  """The weights {'params', 'bn'} of a given network, as arrays of their own.

  Args:
    given: a value of `Setting.given` with 'net', 'params' and 'bn'. Where a run is read again only
      its network is known: then they are drawn at random, to be overwritten.
    key: of that draw.
    images: normalized, [b, H, W, C]; only the shape matters.
  """
  if given.params:
    return jax.tree.map(jnp.array, {'params': given.params, 'bn': given.bn})
  params, bn = given.net.init(key, images)
  return {'params': params, 'bn': bn}
