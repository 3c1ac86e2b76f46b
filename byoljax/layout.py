"""Where the train state lies: whole on every device, or each device with parts of some arrays.

Replicated, every device holds parameters, optimiser state and method state. Two of these are used
number by number, but for norms of whole tensors, and are cut: device d of D keeps the d-th part of
every array of the optimiser's state and of the target network. It moves the d-th part of every
parameter and of the target, then all collect the parameters (ZeRO, stage 1: Rajbhandari et al.
2020, arXiv 1910.02054). Gradients are averaged by a reduce-scatter in place of an all-reduce, which
together with the collecting moves as many bytes. The target network is collected where it is
needed, for its forward pass, and not kept.

Nothing of this is in a checkpoint: `whole` comes before saving, `place` after loading, and a run
may go on with another layout or another number of devices. The results are those of the replicated
state up to the order of sums.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byoljax import parallel
from byoljax.step import TrainState

_CUT = (('opt_state',), ('method_state', 'target_params'))


class Layout(NamedTuple):
  """How a train state is placed, and back.

  Attributes:
    axes: for `parallel.spmd`: which leaves are cut; None: none is.
    place: a state in whole arrays -> on the devices.
    whole: what is on the devices -> in whole arrays, replicated, without a device axis.
  """

  axes: parallel.Split | None
  place: Callable[[TrainState], TrainState]
  whole: Callable[[TrainState], TrainState]


def replicated() -> Layout:
  """Every device holds everything."""
  return Layout(None, parallel.replicate, lambda state: state)


def sharded(shapes: TrainState) -> Layout:
  """Every device holds its parts of the optimiser's state and of the target, and all else.

  Args:
    shapes: of the whole state.
  """
  cut = jax.tree.leaves(_map(lambda x, cut: cut, shapes))
  axes = parallel.Split(jax.tree.structure(shapes), tuple(cut))
  likes, _ = axes.apart(shapes)

  def join(parts: list[jax.Array]) -> list[jax.Array]:
    return [parallel.join(part, like.shape) for part, like in zip(parts, likes, strict=True)]

  joined = parallel.spmd(join, donate=False, in_axes=(0,))

  def whole(state: TrainState) -> TrainState:
    parts, rest = axes.apart(state)
    return axes.together((joined(parts) if parts else [], rest))

  def place(state: TrainState) -> TrainState:
    return _map(lambda x, cut: parallel.place_cut(x) if cut else parallel.replicate(x), state)

  return Layout(axes, place, whole)


def stored(shapes: TrainState, devices: int) -> TrainState:
  """Shapes of a state that is cut, the parts of all devices in a row: for `spmd_shard_map`."""

  def one(x: Any, cut: bool) -> Any:
    size = -(-x.size // devices) * devices
    return jax.ShapeDtypeStruct((size,), x.dtype) if cut else x

  return _map(one, shapes)


def _map(function: Callable[[Any, bool], Any], state: TrainState) -> TrainState:
  """Applies function(leaf, whether it is cut); scalars never are."""

  def one(path: Sequence[Any], x: Any) -> Any:
    names = tuple(getattr(key, 'name', '') for key in path)
    return function(x, jnp.ndim(x) > 0 and any(names[: len(cut)] == cut for cut in _CUT))

  return jax.tree_util.tree_map_with_path(one, state)
