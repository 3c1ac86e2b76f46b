"""Schedules: plain functions of the optimiser step, traceable, in float32. The first update is step 0.

Differences that change results between published codes: warm-up starts from exactly 0 at step 0 (BYOL, SimCLR), so the
first update of a warmed-up run moves nothing; the cosine runs over the steps that remain after warm-up, per step and
not per epoch, and reaches its end value at `total_steps`, one step after the last update (BYOL's code; optax counts
the same way). A peak may be a tuple: the schedule then gives an array of that length, one learning rate per stacked
head (see `byoljax.optim.make_optimizer`).
"""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
import math

import jax
import jax.numpy as jnp

# step (int or int32 array []) -> float32 [] or, for stacked heads, [n]
Schedule = Callable[[int | jax.Array], jax.Array]
Rate = float | Sequence[float]


def peak_lr(base_lr: Rate, batch_size: int) -> Rate:
  """base_lr * batch_size / 256, the linear scaling rule; `batch_size` is global, a tuple of rates gives a tuple."""
  if isinstance(base_lr, (int, float)):
    return base_lr * batch_size / 256
  return tuple(lr * batch_size / 256 for lr in base_lr)


def cosine(
  peak: Rate,
  *,
  total_steps: int,
  warmup_steps: int = 0,
  start: float = 0.0,
  end: float = 0.0,
) -> Schedule:
  """Linear warm-up, then half a cosine.

  s < W: start + (peak - start) s / W;  s >= W: end + (peak - end) (1 + cos(pi (s - W) / (K - W))) / 2.

  Args:
    peak: the value at step W = `warmup_steps`; a tuple for stacked heads.
    total_steps: K, the step at which the cosine arrives at `end`, where it stays.
    warmup_steps: W, in [0, K].
    start: value at step 0 when there is a warm-up.
    end: last value.
  Raises:
    ValueError: K < 1 or W outside [0, K].
  """
  _check_steps(total_steps, warmup_steps)

  def after(s: jax.Array) -> jax.Array:
    done = jnp.clip(s / max(total_steps - warmup_steps, 1), 0.0, 1.0)
    return end + (jnp.asarray(peak, jnp.float32) - end) * (0.5 * (1.0 + jnp.cos(jnp.pi * done)))

  return _with_warmup(after, peak, warmup_steps, start)


def constant(
  peak: Rate, *, total_steps: int | None = None, warmup_steps: int = 0, start: float = 0.0
) -> Schedule:
  """`peak` throughout, after a linear warm-up from `start`; `total_steps` only checks that the warm-up fits."""
  _check_steps(warmup_steps + 1 if total_steps is None else total_steps, warmup_steps)
  return _with_warmup(
    lambda s: jnp.asarray(peak, jnp.float32) * jnp.ones_like(s), peak, warmup_steps, start
  )


def step_decay(
  peak: Rate,
  *,
  total_steps: int,
  boundaries: Sequence[float],
  factor: float = 0.1,
  warmup_steps: int = 0,
  start: float = 0.0,
) -> Schedule:
  """peak * factor^(number of boundaries passed), after a linear warm-up.

  Args:
    peak: value before the first boundary; a tuple for stacked heads.
    total_steps: length of training.
    boundaries: shares of `total_steps`, in (0, 1) and rising: (0.6, 0.8) decays at 60 % and 80 %. A boundary at step s
      (rounded) takes effect from step s on.
    factor: what each boundary multiplies by.
    warmup_steps: steps from `start` to `peak`.
    start: value at step 0 when there is a warm-up.
  Raises:
    ValueError: boundaries outside (0, 1) or not rising; warm-up longer than training.
  """
  _check_steps(total_steps, warmup_steps)
  if any(not 0 < b < 1 for b in boundaries) or list(boundaries) != sorted(set(boundaries)):
    raise ValueError(
      f'step decay needs rising boundaries between 0 and 1 (shares of training), got {boundaries}'
    )
  steps = [round(b * total_steps) for b in boundaries]

  def after(s: jax.Array) -> jax.Array:
    passed = jnp.sum(s + warmup_steps >= jnp.asarray(steps, jnp.float32)) if steps else 0
    return jnp.asarray(peak, jnp.float32) * jnp.float32(factor) ** passed

  return _with_warmup(after, peak, warmup_steps, start)


def tau_cosine(base_tau: float, *, total_steps: int) -> Schedule:
  """Target decay tau_k = 1 - (1 - tau_0) (cos(pi k / K) + 1) / 2 (BYOL, arXiv 2006.07733, appendix).

  `base_tau` is tau_0 in [0, 1]; k is the optimiser step before it is counted up and K = `total_steps` the number of
  optimiser steps (not epochs, not micro-batches). Rises from tau_0 at step 0 to exactly 1 at step K.
  """
  _check_tau(base_tau)
  _check_steps(total_steps, 0)

  def schedule(step: int | jax.Array) -> jax.Array:
    done = jnp.clip(jnp.asarray(step, jnp.float32) / total_steps, 0.0, 1.0)
    return 1.0 - jnp.float32(1.0 - base_tau) * (jnp.cos(jnp.pi * done) + 1.0) / 2.0

  return schedule


def tau_constant(base_tau: float, *, total_steps: int | None = None) -> Schedule:
  """The same target decay in [0, 1] at every step."""
  del total_steps
  _check_tau(base_tau)
  return lambda step: jnp.full_like(jnp.asarray(step, jnp.float32), base_tau)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
  'cosine': cosine,
  'constant': constant,
  'step': step_decay,
}
TAU_SCHEDULES: dict[str, Callable[..., Schedule]] = {'cosine': tau_cosine, 'constant': tau_constant}


def make_schedule(name: str, peak: Rate, **settings) -> Schedule:
  """The learning-rate schedule of that name in SCHEDULES, with that function's keyword arguments; ValueError if unknown."""
  if name not in SCHEDULES:
    close = get_close_matches(name, SCHEDULES, n=1)
    hint = f'; did you mean {close[0]!r}?' if close else ''
    raise ValueError(f'unknown schedule {name!r}: choose one of {", ".join(SCHEDULES)}{hint}')
  return SCHEDULES[name](peak, **settings)


def _with_warmup(
  after: Callable[[jax.Array], jax.Array], peak: Rate, warmup_steps: int, start: float
) -> Schedule:
  """start -> peak over `warmup_steps`, then after(steps since then)."""

  def schedule(step: int | jax.Array) -> jax.Array:
    s = jnp.asarray(step, jnp.float32)
    ramp = start + (jnp.asarray(peak, jnp.float32) - start) * (s / max(warmup_steps, 1))
    return jnp.where(s < warmup_steps, ramp, after(s - warmup_steps))

  return schedule


def _check_steps(total_steps: int, warmup_steps: int) -> None:
  if total_steps < 1:
    raise ValueError(f'a schedule needs total_steps of at least 1, got {total_steps}')
  if not 0 <= warmup_steps <= total_steps:
    raise ValueError(
      f'warm-up of {warmup_steps} steps does not fit into {total_steps} steps of training: shorten it to at most that'
    )


def _check_tau(tau: float) -> None:
  if not 0.0 <= tau <= 1.0 or math.isnan(tau):
    raise ValueError(f'tau {tau} must lie in [0, 1]')
