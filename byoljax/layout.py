"""Where the train state lies: whole on every device, or each device with a part of the optimiser's.

Replicated, every device holds parameters, optimiser state and method state. An optimiser looks at
each number by itself, but for norms of whole tensors, so its state can be cut: device d of D keeps
the d-th part of every array and moves the d-th part of every parameter, then all collect the
parameters (ZeRO, stage 1: Rajbhandari et al. 2020, arXiv 1910.02054). Gradients are averaged by a
reduce-scatter in place of an all-reduce, which together with the collecting moves as many bytes.

Nothing of this is in a checkpoint: `whole` comes before saving, `place` after loading, and a run
may go on with another layout or another number of devices. The results are those of the replicated
state up to the order of sums.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byoljax import parallel
from byoljax.step import TrainState

PyTree = Any


class Layout(NamedTuple):
  """How a train state is placed, and back.

  Attributes:
    axes: a tree like the state: 0 where the devices hold parts, None where each holds the whole;
      None alone: all of it is whole.
    place: a state in whole arrays -> on the devices.
    whole: what is on the devices -> in whole arrays, replicated, without a device axis.
  """

  axes: PyTree
  place: Callable[[TrainState], TrainState]
  whole: Callable[[TrainState], TrainState]


def replicated() -> Layout:
  """Every device holds everything."""
  return Layout(None, parallel.replicate, lambda state: state)


def cut_optimizer(shapes: TrainState) -> Layout:
  """Every device holds its part of the optimiser's state, and everything else.

  Args:
    shapes: of the whole state.
  """
  axes = _axes(shapes)

  def place(state: TrainState) -> TrainState:
    whole = parallel.replicate(state.replace(opt_state=None))
    return whole.replace(opt_state=jax.tree.map(_placed, state.opt_state))

  def join(state: TrainState, unused: jax.Array) -> TrainState:
    del unused
    joined = jax.tree.map(
      lambda part, like: parallel.join(part, like.shape), state.opt_state, shapes.opt_state
    )
    return state.replace(opt_state=joined)

  # pmap wants something that has a device axis, though the state may hold nothing that is cut.
  mapped = parallel.spmd(join, donate=False, in_axes=(axes, 0))

  def whole(state: TrainState) -> TrainState:
    return mapped(state, jnp.zeros(jax.local_device_count()))

  return Layout(axes, place, whole)


def stored(shapes: TrainState, devices: int) -> TrainState:
  """Shapes of a state whose optimiser's part is cut, all parts of `spmd_shard_map` in a row."""

  def one(x: Any) -> Any:
    if x.ndim == 0:
      return x
    return jax.ShapeDtypeStruct((-(-x.size // devices) * devices,), x.dtype)

  return shapes.replace(opt_state=jax.tree.map(one, shapes.opt_state))


def _axes(shapes: TrainState) -> TrainState:
  whole = jax.tree.map(lambda _: None, shapes)
  return whole.replace(opt_state=jax.tree.map(lambda x: 0 if x.ndim else None, shapes.opt_state))


def _placed(x: Any) -> jax.Array:
  return parallel.place_cut(x) if jnp.ndim(x) else parallel.replicate(x)
