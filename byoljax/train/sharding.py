"""Where the train state lies: whole on every device, or each device with parts of some arrays.

Replicated, every device holds parameters, optimizer state and method state. Two of these are used
number by number, but for norms of whole tensors, and are cut: device d of D keeps the d-th part of
every array of the optimizer's state and of the target network. It moves the d-th part of every
parameter and of the target, then all collect the parameters (ZeRO, stage 1: Rajbhandari et al.
2020, arXiv 1910.02054). Gradients are averaged by a reduce-scatter in place of an all-reduce, which
together with the collecting moves as many bytes. The target network is collected where it is
needed, for its forward pass, and not kept.

A method's queue or bank is cut by rows, and stays where it is: it is looked up through
`byoljax.ops.memory`.

Nothing of this is in a checkpoint: `whole` comes before saving, `place` after loading, and a run
may go on with another layout or another number of devices. The results are those of the replicated
state up to the order of sums.
"""

from collections.abc import Callable, Sequence
import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byoljax.devices import collectives, mapping
from byoljax.step import TrainState

_CUT = (('opt_state',), ('method_state', 'target_params'))


class _Kind(enum.Enum):
  """How an array lies: on every device, in parts of its numbers, or in parts of its rows."""

  WHOLE = 0
  NUMBERS = 1
  ROWS = 2


class Layout(NamedTuple):
  """How a train state is placed, and back.

  Attributes:
    axes: for `mapping.spmd`: which leaves are cut; None: none is.
    place: a state in whole arrays -> on the devices.
    whole: what is on the devices -> in whole arrays, replicated, without a device axis.
    stored: shapes of the whole state, number of devices -> shapes with the parts of all devices in
      a row, as `mapping.spmd_shard_map` takes them.
  """

  axes: mapping.Split | None
  place: Callable[[TrainState], TrainState]
  whole: Callable[[TrainState], TrainState]
  stored: Callable[[TrainState, int], TrainState]


def replicated() -> Layout:
  """Every device holds everything."""
  return Layout(None, mapping.replicate, lambda state: state, lambda shapes, devices: shapes)


def sharded(shapes: TrainState, memories: Sequence[tuple[str, ...]] = ()) -> Layout:
  """Every device holds its parts of the optimizer's state, the target and memories, and all else.

  Args:
    shapes: of the whole state.
    memories: see `method.Method`.
  """
  rows = tuple(('method_state', *names) for names in memories)

  def kind(path: Sequence[Any], x: Any) -> _Kind:
    names = tuple(getattr(key, 'name', '') for key in path)
    if names in rows and x.shape[0] > 1:
      return _Kind.ROWS
    # Scalars never are cut.
    cut = jnp.ndim(x) > 0 and any(names[: len(each)] == each for each in _CUT)
    return _Kind.NUMBERS if cut else _Kind.WHOLE

  kinds = jax.tree_util.tree_map_with_path(kind, shapes)
  cut = tuple(each is not _Kind.WHOLE for each in jax.tree.leaves(kinds))
  axes = mapping.Split(jax.tree.structure(shapes), cut)
  likes, _ = axes.apart(shapes)

  def join(parts: list[jax.Array]) -> list[jax.Array]:
    return [collectives.join(part, like.shape) for part, like in zip(parts, likes, strict=True)]

  joined = mapping.spmd(join, donate=False, in_axes=(0,))

  def whole(state: TrainState) -> TrainState:
    parts, rest = axes.apart(state)
    return axes.together((joined(parts) if parts else [], rest))

  placed = {
    _Kind.WHOLE: mapping.replicate,
    _Kind.NUMBERS: mapping.place_cut,
    _Kind.ROWS: mapping.place_cut_by_rows,
  }

  def place(state: TrainState) -> TrainState:
    return jax.tree.map(lambda each, x: placed[each](x), kinds, state)

  def stored(shapes: TrainState, devices: int) -> TrainState:
    def one(each: _Kind, x: Any) -> Any:
      if each is _Kind.WHOLE:
        return x
      shape = (x.size,) if each is _Kind.NUMBERS else x.shape
      padded = (-(-shape[0] // devices) * devices, *shape[1:])
      return jax.ShapeDtypeStruct(padded, x.dtype)

    return jax.tree.map(one, kinds, shapes)

  return Layout(axes, place, whole, stored)
