"""Schedules: plain, traceable functions of the optimizer step; the first update is step 0.

Differences that change results between published codes: warm-up starts from exactly 0 at step 0
(BYOL, SimCLR), so the first update of a warmed-up run moves nothing; the cosine runs over the steps
that remain after warm-up, per step and not per epoch, and arrives at `total_steps`, one step after
the last update (BYOL's code; optax counts the same way).

A peak may be a tuple: the schedule then gives an array of that length, one learning rate per
stacked head (see `byoljax.optim.make_optimizer`). The target's tau is scheduled in
`byoljax.ops.ema`.
"""

from collections.abc import Callable, Sequence
import math

import jax
import jax.numpy as jnp

from byoljax.suggest import check_name

# step, int or int32 [] -> float32 [] or, for stacked heads, [n]
Schedule = Callable[[int | jax.Array], jax.Array]
Rate = float | Sequence[float]


SCALINGS: dict[str, Callable[[int], float]] = {
  'linear': lambda batch_size: batch_size / 256,  # Goyal et al., arXiv 1706.02677
  'sqrt': math.sqrt,  # SimCLR, arXiv 2002.05709, appendix B.1
  'none': lambda batch_size: 1.0,
}


def peak_lr(base_lr: Rate, batch_size: int, scaling: str = 'linear') -> Rate:
  """The learning rate of a batch: base_lr times B / 256, the root of B, or 1.

  Args:
    base_lr: a number or one per stacked head; under 'linear' it is per 256 examples.
    batch_size: B, global.
    scaling: a key of SCALINGS.

  Raises:
    ValueError: an unknown scaling, or a rate below 0 or not finite.

  Examples:
    >>> peak_lr(0.3, 4096)
    4.8
  """
  if scaling not in SCALINGS:
    raise ValueError(f'unknown lr_scaling {scaling!r}: choose one of {", ".join(SCALINGS)}')
  rates = base_lr if isinstance(base_lr, Sequence) else (base_lr,)
  if not all(0 <= rate < math.inf for rate in rates):
    raise ValueError(f'base_lr={base_lr} must be at least 0 and finite.')
  factor = SCALINGS[scaling](batch_size)
  if isinstance(base_lr, Sequence):
    return tuple(lr * factor for lr in base_lr)
  return base_lr * factor


def cosine(
  peak: Rate,
  *,
  total_steps: int,
  warmup_steps: int = 0,
  start: float = 0.0,
  end: float = 0.0,
) -> Schedule:
  """Linear warm-up, then half a cosine.

  At step s, with W = `warmup_steps` and K = `total_steps`, peak times
    start + (1 - start) s / W                                   for s < W
    end + (1 - end) (1 + cos(pi (s - W) / (K - W))) / 2         for W <= s <= K, then `end`.

  Args:
    peak: the value at step W, a number or one per stacked head.
    total_steps: K >= 1, the length of training.
    warmup_steps: W, in [0, K].
    start: value at step 0 when there is a warm-up, as a share of the peak.
    end: value at step K, as a share of the peak.

  Raises:
    ValueError: K < 1 or W outside [0, K].

  Examples:
    >>> rate = cosine(2.0, total_steps=1000, warmup_steps=100)
    >>> print(rate(0), rate(50), rate(100), rate(1000))
    0.0 1.0 2.0 0.0
  """
  _check_steps(total_steps, warmup_steps)

  def after(s: jax.Array) -> jax.Array:
    done = jnp.clip(s / max(total_steps - warmup_steps, 1), 0.0, 1.0)
    return end + (1.0 - end) * (0.5 * (1.0 + jnp.cos(jnp.pi * done)))

  return _warmed_up(peak, warmup_steps, start, after)


def cosine_7_16(
  peak: Rate, *, total_steps: int, warmup_steps: int = 0, start: float = 0.0
) -> Schedule:
  """Linear warm-up, then peak * cos(7 pi s / (16 K)): FixMatch, arXiv 2001.07685, section 2.4.

  It ends at 0.195 of the peak. With W = `warmup_steps`, s - W and K - W stand for s and K;
  arguments and errors as for `cosine`.

  Examples:
    >>> rate = cosine_7_16(0.03, total_steps=1000)
    >>> print(f'{rate(0):.4f} {rate(500):.4f} {rate(1000):.4f}')
    0.0300 0.0232 0.0059
  """
  _check_steps(total_steps, warmup_steps)

  def after(s: jax.Array) -> jax.Array:
    done = jnp.clip(s / max(total_steps - warmup_steps, 1), 0.0, 1.0)
    return jnp.cos((7 * math.pi / 16) * done)

  return _warmed_up(peak, warmup_steps, start, after)


def constant(
  peak: Rate, *, total_steps: int, warmup_steps: int = 0, start: float = 0.0
) -> Schedule:
  """Linear warm-up, then `peak` for ever; arguments and errors as for `cosine`."""
  _check_steps(total_steps, warmup_steps)
  return _warmed_up(peak, warmup_steps, start, jnp.ones_like)


def step_decay(
  peak: Rate,
  *,
  total_steps: int,
  boundaries: Sequence[float],
  factor: float = 0.1,
  warmup_steps: int = 0,
  start: float = 0.0,
) -> Schedule:
  """Linear warm-up, then peak * factor^(number of boundaries passed).

  Args:
    peak: value before the first boundary, a number or one per stacked head.
    total_steps: K >= 1, the length of training.
    boundaries: rising shares of K in (0, 1): (0.6, 0.8) decays at 60 and at 80 % of training, from
      step round(0.6 K) on.
    factor: what every boundary multiplies by.
    warmup_steps: steps from `start` to the peak, in [0, K].
    start: value at step 0 when there is a warm-up, as a share of the peak.

  Raises:
    ValueError: boundaries outside (0, 1) or not rising; K < 1 or a warm-up outside [0, K].
  """
  _check_steps(total_steps, warmup_steps)
  if any(not 0 < b < 1 for b in boundaries) or list(boundaries) != sorted(set(boundaries)):
    raise ValueError(
      f'step decay needs rising boundaries between 0 and 1 (shares of training), got {boundaries}'
    )
  steps = tuple(round(b * total_steps) for b in boundaries)

  def after(s: jax.Array) -> jax.Array:
    value = jnp.ones_like(s)
    for boundary in steps:
      value *= jnp.where(s + warmup_steps >= boundary, factor, 1.0)
    return value

  return _warmed_up(peak, warmup_steps, start, after)


def wsd(
  peak: Rate,
  *,
  total_steps: int,
  steady_steps: int,
  warmup_steps: int = 0,
  start: float = 0.0,
  end: float = 0.0,
) -> Schedule:
  """Linear warm-up, `peak` up to a step, then a straight line down: warm-up, stable, decay.

  As in Zhai et al., arXiv 2106.04560 (a linear cool-down) and Hu et al., arXiv 2404.06395 (the
  name). Up to step S = `steady_steps` nothing depends on the length K of training, so a run can be
  made longer before it decays and is then the same as one that was planned so.

  Args:
    peak: the value between warm-up and step S, a number or one per stacked head.
    total_steps: K >= 1, the length of training.
    steady_steps: S, in [W, K].
    warmup_steps: W, in [0, K].
    start: value at step 0 when there is a warm-up, as a share of the peak.
    end: value at step K, as a share of the peak.

  Raises:
    ValueError: K < 1, W outside [0, K] or S outside [W, K].

  Examples:
    >>> rate = wsd(2.0, total_steps=1000, warmup_steps=100, steady_steps=800)
    >>> print(rate(50), rate(100), rate(800), rate(900), rate(1000))
    1.0 2.0 2.0 1.0 0.0
  """
  _check_steps(total_steps, warmup_steps)
  if not warmup_steps <= steady_steps <= total_steps:
    raise ValueError(
      f'a warm-up of {warmup_steps} steps and a decay of {total_steps - steady_steps} do not fit '
      f'into {total_steps} steps of training: shorten one of them'
    )

  def after(s: jax.Array) -> jax.Array:
    since = s - (steady_steps - warmup_steps)
    done = jnp.clip(since / max(total_steps - steady_steps, 1), 0.0, 1.0)
    return 1.0 - (1.0 - end) * done

  return _warmed_up(peak, warmup_steps, start, after)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
  'cosine': cosine,
  'cosine_7_16': cosine_7_16,
  'constant': constant,
  'step': step_decay,
  'wsd': wsd,
}


def make_schedule(name: str, peak: Rate, **settings) -> Schedule:
  """`SCHEDULES[name](peak, **settings)`; ValueError for a name that is not there."""
  check_name('schedule', name, SCHEDULES)
  return SCHEDULES[name](peak, **settings)


def by_epoch(schedule: Schedule, steps_per_epoch: int, warmup_steps: int) -> Schedule:
  """The schedule held constant within each epoch, as PyTorch recipes step it; warm-up is per step.

  Args:
    schedule: a function of the step.
    steps_per_epoch: E >= 1; after the warm-up, step s is given the value of step s - s % E.
    warmup_steps: steps that are left as they are.
  """

  def held(step: int | jax.Array) -> jax.Array:
    step = jnp.asarray(step)
    start = step - step % steps_per_epoch
    return schedule(jnp.where(step < warmup_steps, step, jnp.maximum(start, warmup_steps)))

  return held


def from_step(first: int, schedule: Schedule) -> Schedule:
  """The schedule that begins at step `first`; before, it has its value at step 0."""
  return lambda step: schedule(jnp.maximum(jnp.asarray(step) - first, 0))


def _warmed_up(
  peak: Rate, warmup_steps: int, start: float, after: Callable[[jax.Array], jax.Array]
) -> Schedule:
  """Peak times start -> 1 over the warm-up, then times after(steps since the warm-up)."""

  def schedule(step: int | jax.Array) -> jax.Array:
    s = jnp.asarray(step, jnp.float32)
    ramp = start + (1.0 - start) * (s / max(warmup_steps, 1))
    return jnp.asarray(peak, jnp.float32) * jnp.where(
      s < warmup_steps, ramp, after(s - warmup_steps)
    )

  return schedule


def _check_steps(total_steps: int, warmup_steps: int) -> None:
  if total_steps < 1:
    raise ValueError(f'a schedule needs at least 1 step of training, got {total_steps}')
  if not 0 <= warmup_steps <= total_steps:
    raise ValueError(
      f'a warm-up of {warmup_steps} steps does not fit into {total_steps} steps of training: '
      f'it must lie between 0 and {total_steps}'
    )
