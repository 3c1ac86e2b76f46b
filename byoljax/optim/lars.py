"""LARS in the four forms that published code uses.

They are not interchangeable: a learning rate belongs to its form.

With lr_t the scheduled rate, lambda the weight decay, eta the trust coefficient, mu the momentum,
and every norm taken over one tensor (You et al., arXiv 1708.03888):

  A  'lars'         BYOL, MoCo v3, Barlow Twins, VICReg, DINO, MAE's probe
     g' = g + lambda w;  u = eta |w|/|g'| g';  m = mu m + u;  w -= lr_t m
  B  'lars_simclr'  SimCLR ("classic momentum"), optax.lars
     g' = g + lambda w;  u = eta |w|/|g'| g';  m = mu m + lr_t u;  w -= m
  C  'larc'         apex's LARC with clip=False: SwAV, DeepCluster-v2, SimSiam's probe
     r = eta |w|/(|g| + lambda |w| + 1e-8);  m = mu m + r (g + lambda w);  w -= lr_t m
  D  'larc_clip'    solo-learn; published with eta = 0.02
     as C with min(r / lr_t, 1) in place of r

A and B agree only under a constant rate. Where a norm is zero, A and B take the ratio as 1 and
still decay; C and D leave the gradient as it is, undecayed. Excluded tensors get no decay and no
ratio: u = g. What the authors exclude: biases and normalization parameters in A, B and D, nothing
in C. SimCLR's code excludes the supervised head, too, whose kernel decays through a term of the
loss: u = g + lambda w.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byoljax.optim.schedules import Schedule

# (tensor, stacked) -> its norm; see `l2_norm`.
Norm = Callable[[jax.Array, bool], jax.Array]
Mask = Callable[[Any], Any]  # params -> tree of bool, True where decay or adaptation applies

_LARC_EPSILON = 1e-8


class CountState(NamedTuple):
  """Number of updates made, int32 []."""

  count: jax.typing.ArrayLike


def l2_norm(x: jax.Array, stacked: bool) -> jax.Array:
  """L2 norm in float32, broadcastable against x; one per slice of the leading axis if stacked."""
  axes = tuple(range(1 if stacked else 0, x.ndim))
  return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=axes, keepdims=True))


def per_slice(rate: jax.Array, x: jax.Array) -> jax.Array:
  """A scalar rate as it is; rates [n] reshaped to multiply x [n,...], ValueError for other x."""
  if rate.ndim == 0:
    return rate
  if x.shape[:1] != rate.shape:
    raise ValueError(
      f'{rate.shape[0]} learning rates need parameters with a leading axis of that length, '
      f'got {list(x.shape)}'
    )
  return rate.reshape((-1,) + (1,) * (x.ndim - 1))


def scale_by_trust_ratio(
  trust_coefficient: float, mask: Mask, stacked: bool, norm: Norm = l2_norm
) -> optax.GradientTransformation:
  """u = eta |w|/|u| u where the mask is True and neither norm zero: forms A, B, after decay."""

  def adapt(u: jax.Array, w: jax.Array, adapted: bool) -> jax.Array:
    if not adapted:
      return u
    u_norm, w_norm = norm(u, stacked), norm(w, stacked)
    nonzero = (u_norm > 0) & (w_norm > 0)
    return u * jnp.where(nonzero, trust_coefficient * w_norm / jnp.where(nonzero, u_norm, 1.0), 1.0)

  return _stateless(lambda updates, params: jax.tree.map(adapt, updates, params, mask(params)))


def scale_by_larc(
  trust_coefficient: float,
  weight_decay: float,
  decayed: Mask,
  adapted: Mask,
  stacked: bool,
  clip_at: Schedule | None,
  norm: Norm = l2_norm,
) -> optax.GradientTransformation:
  """u = r (g + lambda w) where `adapted` and neither norm is zero: C; D if `clip_at` = lr.

  Where `decayed` alone, u = g + lambda w.
  """

  def update(updates, state, params=None):
    rate = None if clip_at is None else jnp.asarray(clip_at(state.count))

    def adapt(g: jax.Array, w: jax.Array, decays: bool, adapts: bool) -> jax.Array:
      if not adapts:
        return g + weight_decay * w if decays else g
      g_norm, w_norm = norm(g, stacked), norm(w, stacked)
      ratio = trust_coefficient * w_norm / (g_norm + weight_decay * w_norm + _LARC_EPSILON)
      if rate is not None:
        # at rate 0, the first step of a warm-up, the quotient is inf and the ratio 1
        ratio = jnp.minimum(ratio / per_slice(rate, g), 1.0)
      return jnp.where((g_norm > 0) & (w_norm > 0), ratio * (g + weight_decay * w), g)

    updates = jax.tree.map(adapt, updates, params, decayed(params), adapted(params))
    return updates, CountState(optax.safe_increment(state.count))

  return optax.GradientTransformation(lambda params: CountState(jnp.zeros([], jnp.int32)), update)


def clip_by_norm(limit: float, stacked: bool, norm: Norm = l2_norm) -> optax.GradientTransformation:
  """g min(1, limit / |g|), |g| over all tensors of the group; one norm per slice if stacked."""

  def clip(updates, params):
    del params
    leaves = jax.tree.leaves(updates)
    squares = [jnp.square(norm(g, stacked)).reshape(-1 if stacked else ()) for g in leaves]
    total = jnp.sqrt(sum(squares)) if leaves else jnp.zeros([])
    scale = jnp.minimum(1.0, limit / jnp.maximum(total, 1e-16))
    return jax.tree.map(lambda g: g * per_slice(scale, g), updates)

  return _stateless(clip)


def clip_each_by_norm(
  limit: float, stacked: bool, norm: Norm = l2_norm
) -> optax.GradientTransformation:
  """g min(1, limit / |g|) for every tensor by itself (DINO); one norm per slice if stacked."""

  def clip(g: jax.Array) -> jax.Array:
    return g * jnp.minimum(1.0, limit / jnp.maximum(norm(g, stacked), 1e-16))

  return _stateless(lambda updates, params: jax.tree.map(clip, updates))


def add_scheduled_decay(decay: Schedule, mask: Mask) -> optax.GradientTransformation:
  """u + lambda_t w where the mask is True, t counting updates from 0."""

  def update(updates, state, params=None):
    weight = jnp.asarray(decay(state.count))
    updates = jax.tree.map(
      lambda u, w, decayed: u + weight * w if decayed else u, updates, params, mask(params)
    )
    return updates, CountState(optax.safe_increment(state.count))

  return optax.GradientTransformation(lambda params: CountState(jnp.zeros([], jnp.int32)), update)


def scale_by_rate(schedule: Schedule) -> optax.GradientTransformation:
  """u = lr_t u with t counting updates from 0; rates [n] go to the slices of the leading axis."""

  def update(updates, state, params=None):
    del params
    rate = jnp.asarray(schedule(state.count))
    updates = jax.tree.map(lambda u: per_slice(rate, u) * u, updates)
    return updates, CountState(optax.safe_increment(state.count))

  return optax.GradientTransformation(lambda params: CountState(jnp.zeros([], jnp.int32)), update)


def _stateless(function: Callable[[Any, Any], Any]) -> optax.GradientTransformation:
  def update(updates, state, params=None):
    return function(updates, params), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
