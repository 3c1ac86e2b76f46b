"""Exponential moving average of parameters: the target network of BYOL and its relatives.

Parameters only. BYOL's target has batch statistics of its own, from its own forward passes in train
mode; they are never averaged.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar('Tree')


def update(target: Tree, online: Tree, tau: float | jax.Array) -> Tree:
  """tau * target + (1 - tau) * online, leaf by leaf (BYOL, arXiv 2006.07733, equation 1).

  Args:
    target: tree of float32 arrays.
    online: tree of the same structure and shapes, any float dtype: the parameters as the optimizer
      has just written them.
    tau: float32 scalar in [0, 1]; 1 keeps the target bit for bit, 0 gives the online values.

  Returns:
    A tree like `target`, float32, in fresh arrays: a target that shared buffers with the online
    network could not be donated with it.

  Raises:
    ValueError: a target leaf is not float32 (in bfloat16 an average with tau near 1 never moves),
      or shapes differ.

  Examples:
    >>> moved = update({'w': jnp.zeros(2)}, {'w': jnp.array([1.0, 4.0])}, 0.75)
    >>> print(moved['w'])
    [0.25 1.  ]
  """
  tau = jnp.asarray(tau, jnp.float32)

  def leaf(path, t, o):
    if t.dtype != jnp.float32 or t.shape != o.shape:
      raise ValueError(
        f'the moving average of {jax.tree_util.keystr(path)} needs a float32 target of the online '
        f'shape, got target {t.dtype}{list(t.shape)} and online {o.dtype}{list(o.shape)}'
      )
    return tau * t + (1.0 - tau) * o.astype(jnp.float32)

  return jax.tree_util.tree_map_with_path(leaf, target, online)


def cosine_tau(
  base_tau: float, total_steps: int, steady_steps: int = 0
) -> Callable[[int | jax.Array], jax.Array]:
  """tau_k = 1 - (1 - tau_0) (cos(pi k / K) + 1) / 2 (BYOL, arXiv 2006.07733, section 3.3).

  Args:
    base_tau: tau_0 in [0, 1].
    total_steps: K >= 1, the number of optimizer steps (neither epochs nor micro-batches, with which
      tau reaches 1 too late or far too soon).
    steady_steps: S in [0, K], steps at tau_0 before it begins to rise; above, k - S then stands for
      k, and K - S for K.

  Returns:
    k, the optimizer step before it is counted up, int or int32 [] -> float32 []. Rises from tau_0
    at k = S to exactly 1 at K and stays there.

  Raises:
    ValueError: tau_0 outside [0, 1] or K < 1.

  Examples:
    >>> tau = cosine_tau(0.99, total_steps=1000)
    >>> print(tau(0), tau(500), tau(1000))
    0.99 0.995 1.0
  """
  _check(base_tau)
  if total_steps < 1:
    raise ValueError(f'the schedule of tau needs at least 1 step of training, got {total_steps}')

  def schedule(step: int | jax.Array) -> jax.Array:
    since = jnp.asarray(step, jnp.float32) - steady_steps
    done = jnp.clip(since / max(total_steps - steady_steps, 1), 0.0, 1.0)
    return 1.0 - (1.0 - base_tau) * 0.5 * (jnp.cos(jnp.pi * done) + 1.0)

  return schedule


def constant_tau(tau: float) -> Callable[[int | jax.Array], jax.Array]:
  """The schedule of a target whose tau never changes (MoCo); ValueError outside [0, 1]."""
  _check(tau)
  return lambda step: jnp.full((), tau, jnp.float32)


def early_tau(tau: float) -> Callable[[int | jax.Array], jax.Array]:
  """min(tau, (1 + k) / (10 + k)) at step k: an average that forgets its start sooner.

  After k steps it is mostly of the last tenth of them, until tau takes over. So does TensorFlow's
  `ExponentialMovingAverage` that is given the number of updates.

  Raises:
    ValueError: tau outside [0, 1].

  Examples:
    >>> tau = early_tau(0.999)
    >>> print(tau(0), tau(8), tau(100_000))
    0.1 0.5 0.999
  """
  _check(tau)

  def schedule(step: int | jax.Array) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(jnp.float32(tau), (1.0 + step) / (10.0 + step))

  return schedule


def _check(tau: float) -> None:
  if not 0.0 <= tau <= 1.0:
    raise ValueError(f'tau={tau} must be between 0 and 1.')
