"""Exponential moving average of parameters: the target network of BYOL and its relatives.

Parameters only. BYOL's target has BN statistics of its own, from its own train-mode forwards: they are never averaged.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar('Tree')


def copy(tree: Tree) -> Tree:
  """The same values in fresh arrays: a target must not share buffers with the online network, whose state is donated."""
  return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def update(target: Tree, online: Tree, tau: float | jax.Array) -> Tree:
  """tau * target + (1 - tau) * online, leaf by leaf (BYOL, arXiv 2006.07733, equation 1).

  Args:
    target: tree of float32 arrays.
    online: tree of the same structure and shapes, any float dtype. The parameters after the optimiser step.
    tau: in [0, 1], scalar; 1 keeps the target bit for bit (as long as online is finite), 0 copies online.
  Returns:
    A tree like `target` in fresh float32 arrays. No gradient is meant to flow through it.
  Raises:
    ValueError: a target leaf is not float32 (in bfloat16 an average with tau near 1 never moves), or shapes differ.
  """
  tau = jnp.asarray(tau, jnp.float32)

  def leaf(path, t, o):
    if t.dtype != jnp.float32 or t.shape != o.shape:
      raise ValueError(
        f'the moving average of {jax.tree_util.keystr(path)} needs a float32 target of the online shape, '
        f'got target {t.dtype}{list(t.shape)} and online {o.dtype}{list(o.shape)}'
      )
    return tau * t + (1.0 - tau) * o.astype(jnp.float32)

  return jax.tree_util.tree_map_with_path(leaf, target, online)
