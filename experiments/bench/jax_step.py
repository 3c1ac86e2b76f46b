"""byoljax's train step as a contestant: the real `train_step` under `mapping.spmd`, on one device.

What a training run has around it is absent: augmentation (views arrive finished), online probe and
collapse metrics. What the step itself always does is there: the gradient norm and, with a target,
the cosine of online and target projections are computed too, and every step copies its batch from
the host.
"""

import functools
import time
from typing import Any

import contest
import jax
import numpy as np

from byoljax import __version__, optim
from byoljax.devices import collectives, mapping, xla
from byoljax.length import Length
from byoljax.method import Method, Setting
from byoljax.methods import METHODS
from byoljax.models import make_encoder
from byoljax.plan import flops
from byoljax.step import TrainState, init_state, train_step

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')


def flat(tree: Any) -> dict[str, np.ndarray]:
  """Arrays by their path, 'encoder/stem_conv/kernel', as copies on the host."""
  leaves = jax.tree_util.tree_leaves_with_path(mapping.fetch(tree))
  return {optim.path_name(path): np.array(leaf) for path, leaf in leaves}


def views(case: dict[str, Any]) -> tuple[np.ndarray, ...]:
  """Two random views, float32 [b, S, S, 3]: what is in them does not change a step's time."""
  rng = np.random.default_rng(0)
  shape = (case['batch_size'], case['size'], case['size'], 3)
  return tuple(rng.standard_normal(shape, np.float32) for _ in range(2))


def method_of(case: dict[str, Any]) -> Method:
  """The case's method as `assemble` would build it."""

  def encoder(axis: str | None, bn_groups: int = 0) -> Any:
    return make_encoder(
      case['encoder'], stem='cifar', dtype=case['dtype'], bn_axis=axis, bn_groups=bn_groups
    )

  length = Length(case['batch_size'], 1, case['total_steps'])
  setting = Setting(length, axis=collectives.AXIS, dtype=case['dtype'])
  return METHODS[case['method']](encoder, setting, **case['arguments'])


class Contestant:
  """Answers 'prepare', 'check' and 'steps'; see step_bench.py for what is asked when."""

  def prepare(self, case: dict[str, Any], start: str) -> contest.Reply:
    """Builds the step and writes its initial weights, queue and views for the others to `start`."""
    if jax.device_count() != 1:
      raise RuntimeError(f'{jax.device_count()} devices, but one is meant: look at XLA_FLAGS.')
    method = method_of(case)
    optimizer = optim.make_optimizer(
      'lars',
      schedule=optim.constant(case['lr'], total_steps=case['total_steps']),
      weight_decay=case['weight_decay'],
      momentum=case['momentum'],
      trust_coefficient=case['trust_coefficient'],
    )
    tx = optim.make(method.groups, {'default': optimizer})
    self._step = mapping.spmd(
      functools.partial(train_step, method=method, tx=tx, augment=lambda batch, step: batch)
    )
    pair, count = views(case), case['batch_size']
    index = np.arange(count, dtype=np.int32)
    self._batch = mapping.shard({'views': pair, 'index': index, 'label': -np.ones_like(index)})
    example = {'views': tuple(view[:2] for view in pair)}
    self._state: TrainState = mapping.replicate(init_state(method, tx, example, seed=0))
    self._start = self._arrays()
    np.savez(start, view1=pair[0], view2=pair[1], **self._start)
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

  def _arrays(self) -> dict[str, np.ndarray]:
    """Parameters, 'online/...' and 'target/...', and the rows of the 'queue', if there are any."""
    state = self._state.method_state
    queue = getattr(state, 'queue', None)
    target = getattr(state, 'target_params', None)
    rows = None if queue is None else queue.items
    return flat({'online': self._state.params, 'target': target, 'queue': rows})

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
    for name, value in self._arrays().items():
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
