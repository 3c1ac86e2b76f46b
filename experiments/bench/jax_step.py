"""byoljax's train step as a contestant: the real `train_step` under `mapping.spmd`, on one device.

What a training run has around it is absent: augmentation (views arrive finished), online probe and
collapse metrics. What the step itself always does is there: the gradient norm and, with a target,
the cosine of online and target projections are computed too, and every step copies its batch from
the host.
"""

import time
from typing import Any

import contest
import jax
import numpy as np
import train_step

from byoljax import __version__
from byoljax.devices import xla
from byoljax.plan import flops

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')


class Contestant:
  """Answers 'prepare', 'check' and 'steps'; see step_bench.py for what is asked when."""

  def prepare(self, case: dict[str, Any], start: str) -> contest.Reply:
    """Builds the step and writes its initial weights, queue and views for the others to `start`."""
    if jax.device_count() != 1:
      raise RuntimeError(f'{jax.device_count()} devices, but one is meant: look at XLA_FLAGS.')
    self._step, self._state, self._batch = train_step.make(case)
    self._start = train_step.arrays(self._state)
    first, second = train_step.two_views(case)
    np.savez(start, view1=first, view2=second, **self._start)
    counts: dict[str, int] = {}
    for name, value in self._start.items():
      role, _, path = name.partition('/')
      if path:
        counts[role] = counts.get(role, 0) + value.size
    versions = {'byoljax': __version__} | contest.versions(PACKAGES)
    return {'parameters': counts, 'versions': versions}

  def work(self) -> contest.Reply:
    """Operations of a step: matrix products and convolutions."""
    return {'flops': flops.count(self._step, self._state, self._batch).total}

  def _one(self) -> Any:
    self._state, metrics = self._step(self._state, self._batch)
    jax.block_until_ready(self._state)
    return metrics

  def check(self, steps: int) -> contest.Reply:
    """The first steps: their losses, and how far each kind of array has moved by then."""
    begin = time.perf_counter()
    losses = [float(self._one()['loss'])]
    first = time.perf_counter() - begin
    losses += [float(self._one()['loss']) for _ in range(steps - 1)]
    squares: dict[str, float] = {}
    for name, value in train_step.arrays(self._state).items():
      kind = name.partition('/')[0]
      if kind == 'online':
        kind += ', adapted' if name.endswith('kernel') else ', excluded'
      square = float(np.sum(np.square(value - self._start[name], dtype=np.float64)))
      squares[kind] = squares.get(kind, 0.0) + square
    moved = {kind: square**0.5 for kind, square in squares.items()}
    return {'losses': losses, 'moved': moved, 'first_step_s': first}

  def steps(self, count: int) -> contest.Reply:
    """Times steps one by one; each waits for the device."""
    wall, cpu = zip(*(contest.timed(self._one) for _ in range(count)), strict=True)
    return {'wall': wall, 'cpu': cpu}


if __name__ == '__main__':
  xla.set_defaults()
  contestant = Contestant()
  contest.serve(
    {
      'prepare': contestant.prepare,
      'check': contestant.check,
      'steps': contestant.steps,
      'work': contestant.work,
    }
  )
