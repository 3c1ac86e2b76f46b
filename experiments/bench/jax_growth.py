"""Points of the curves of growth_bench.py: byoljax's real step, losses and order at one size each.

Time is that of a compiled program, called again and again; memory is what the compiler plans for
its temporaries on one device (`memory_analysis`), so it is exact and has no other process in it.
"""

import statistics
import time
import tracemalloc
from typing import Any

import contest
import jax
import jax.numpy as jnp
import numpy as np
from setting import ROOT

from byoljax import __version__
from byoljax import config as config_lib
from byoljax.data.batches.order import Order
from byoljax.devices import mapping, xla
from byoljax.losses import contrastive
from byoljax.ops import sphere
from byoljax.plan import aot, traffic
from byoljax.train import assemble

PACKAGES = ('jax', 'jaxlib', 'numpy')
_WIDTH = 128  # Of projections.
_ENOUGH = 1.0  # Seconds of one point, after which its calls end.


def _calls(work: Any, most: int = 10) -> list[float]:
  """Seconds of each call, three at least; the first counts only where a call takes very long."""
  first = _seconds(work)
  if first > 5 * _ENOUGH:
    return [first]
  samples: list[float] = []
  while len(samples) < 3 or (len(samples) < most and sum(samples) < _ENOUGH):
    samples.append(_seconds(work))
  return samples


def _seconds(work: Any) -> float:
  began = time.perf_counter()
  work()
  return time.perf_counter() - began


class Contestant:
  """Answers one request for each kind of curve, each with a point."""

  def prepare(self) -> contest.Reply:
    """Versions and devices."""
    return {
      'versions': {'byoljax': __version__} | contest.versions(PACKAGES),
      'devices': jax.device_count(),
    }

  def step(self, recipe: str, changes: dict[str, Any]) -> contest.Reply:
    """The recipe's own train step, augmentation included, on random images."""
    overrides = [(name, str(value)) for name, value in changes.items()]
    config = config_lib.load(str(ROOT / 'configs' / recipe), overrides)
    source = aot.described_source(config, examples=4_000_000, classes=0)
    run = assemble.from_config(config, source, mapped=mapping.spmd_shard_map)
    shapes = aot.abstract_arguments(run, mapping.local_mesh())
    compiled = run.step.lower(*shapes).compile()  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)

    def filled(shape: Any) -> jax.Array:
      high = 256 if shape.dtype == np.uint8 else 1
      return jax.device_put(rng.integers(0, high, shape.shape, shape.dtype), shape.sharding)

    batch = jax.tree.map(filled, shapes[1])
    state = mapping.replicate(run.create())
    state, _ = compiled(state, batch)
    jax.block_until_ready(state)

    def work() -> None:
      nonlocal state
      state, _ = compiled(state, batch)
      jax.block_until_ready(state)

    found = traffic.totals(traffic.find(compiled.as_text()))
    return {
      'seconds': _calls(work),
      'bytes': compiled.memory_analysis().temp_size_in_bytes,
      # On one device they stay in the program, and do nothing.
      'all_reduces': found.get('all-reduce', (0, 0))[0] if jax.device_count() > 1 else 0,
    }

  def moco_loss(self, queue: int, batch: int) -> contest.Reply:
    """InfoNCE and its gradient in the queries, against a queue."""
    q, k, negatives = (_unit(i, rows) for i, rows in enumerate((batch, batch, queue)))

    def loss(q: jax.Array, k: jax.Array, negatives: jax.Array) -> jax.Array:
      return jnp.mean(contrastive.info_nce(q, k, negatives, 0.2))

    return _point(jax.value_and_grad(loss), (q, k, negatives), run=True)

  def nt_xent(self, batch: int, chunk: int, run: bool) -> contest.Reply:
    """NT-Xent and its gradient; not run where that would take too much memory."""
    views = _unit(0, batch), _unit(1, batch)

    def loss(views: Any) -> jax.Array:
      first, second = contrastive.nt_xent(*views, 0.1, chunk=chunk)
      return jnp.mean(first + second)

    return _point(jax.value_and_grad(loss), (views,), run=run)

  def order(self, size: int, batch: int) -> contest.Reply:
    """The examples of the first step of an epoch, whose permutation is made for it."""
    epoch = 0

    def work() -> None:
      nonlocal epoch
      epoch += 1
      plan = Order(size, batch, seed=0)
      plan.at(epoch * plan.steps_per_epoch)

    seconds = _calls(work)
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    plan = Order(size, batch, seed=0)
    later = [
      _seconds(lambda step=step: plan.at(epoch * plan.steps_per_epoch + step))
      for step in range(1, plan.steps_per_epoch)
    ]
    return {
      'seconds': seconds,
      'bytes': peak,
      'later_step_s': statistics.median(later) if later else None,
    }


def _unit(seed: int, rows: int) -> jax.Array:
  return sphere.random_points(jax.random.key(seed), rows, _WIDTH)


def _point(function: Any, arguments: tuple[Any, ...], *, run: bool) -> contest.Reply:
  compiled = jax.jit(function).lower(*arguments).compile()
  size = compiled.memory_analysis().temp_size_in_bytes
  if not run:
    return {'seconds': [], 'bytes': size}
  return {
    'seconds': _calls(lambda: jax.block_until_ready(compiled(*arguments))),
    'bytes': size,
  }


if __name__ == '__main__':
  xla.set_defaults()
  contestant = Contestant()
  names = ('prepare', 'step', 'moco_loss', 'nt_xent', 'order')
  contest.serve({name: getattr(contestant, name) for name in names})
