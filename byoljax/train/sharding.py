"""How the train state is placed on the devices: replicated, or partly sharded over them.

Replicated, every device holds parameters, optimizer state and method state. `shard` distributes
what is used number by number: device d of D keeps the d-th shard of every array of the optimizer's
state and of target networks. It updates its shard of every parameter, then the updates are
gathered (ZeRO, stage 1: Rajbhandari et al. 2020, arXiv 1910.02054). The target is gathered where
the method reads it, and not kept. A method's queue or bank is sharded by rows, and looked up where
it is through `byoljax.ops.memory`.

The train step, the optimizers and the methods know nothing of this: `shard` wraps an optimizer and
a method into ones that take and return shards. Optimizers that take norms of whole tensors are
given `norm_over_devices` when they are made.

Nothing of this is in a checkpoint: `Placement.gather` comes before saving and `Placement.place`
after loading, and a run may be resumed with another placement or another number of devices. The
results are those of the replicated state up to the order of sums.
"""

from collections.abc import Callable, Iterator, Sequence
import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byoljax.devices import collectives, mapping
from byoljax.method import Loss, Method
from byoljax.ops import trees
from byoljax.optim import lars
from byoljax.step import TrainState

PyTree = Any


class _Kind(enum.Enum):
  """How an array is placed: on every device, as shards of its numbers, or as shards of its rows."""

  REPLICATED = 0
  FLAT = 1
  ROWS = 2


class Placement(NamedTuple):
  """How a train state is placed on the devices, and gathered from them.

  Attributes:
    axes: for `mapping.spmd`: which leaves are sharded; None: none is.
    place: a state of replicated or host arrays -> on the devices.
    gather: what is on the devices -> replicated arrays, without a device axis.
    sharded_shapes: shapes of the gathered state, number of devices -> shapes with the shards of all
      devices in a row, as `mapping.spmd_shard_map` takes them.
  """

  axes: mapping.Partition | None
  place: Callable[[TrainState], TrainState]
  gather: Callable[[TrainState], TrainState]
  sharded_shapes: Callable[[TrainState, int], TrainState]


def replicated() -> Placement:
  """Every device holds everything."""
  return Placement(None, mapping.replicate, lambda state: state, lambda shapes, devices: shapes)


def shard(
  method: Method,
  tx: optax.GradientTransformation,
  shapes: TrainState,
  axis: str = collectives.AXIS,
) -> tuple[Method, optax.GradientTransformation, Placement]:
  """Distributes the optimizer's state, target networks and the memories over the devices.

  Args:
    method: see `method.Method`.
    tx: the optimizer; where it takes norms, those of `norm_over_devices`.
    shapes: of the gathered state, as `init_state` makes it of these two.
    axis: the mapped axis.

  Returns:
    The method and the optimizer for `train_step`, and the placement of the state that it takes.
    States at step 0 may be made with either pair.

  Raises:
    ValueError: an optimizer that makes something else of shards than of whole tensors.
  """
  _require_shardable(tx, shapes.params, axis)
  return _shard_targets(method, shapes, axis), shard_optimizer(tx, axis), _placement(method, shapes)


# Primitives with which numbers of a tensor become one, or change places.
_ACROSS = ('reduce_', 'arg', 'cum', 'sort', 'dot_general', 'top_k', 'transpose', 'gather')
# Those that give a number by its place in the tensor: every device's shard would get the same.
_BY_PLACE = ('random_bits', 'threefry', 'rng_', 'iota')
# Shards are traced longer than any table of a schedule, which may be summed.
_LONG = 1 << 24


def _require_shardable(tx: optax.GradientTransformation, params: PyTree, axis: str) -> None:
  """Raises ValueError for an optimizer that needs whole tensors: their sums, or their shapes."""

  def operations(shape: Callable[[Any], tuple[int, ...]]) -> list[Any]:
    tensors = jax.tree.map(lambda x: jax.ShapeDtypeStruct(shape(x), x.dtype), params)
    state = jax.eval_shape(tx.init, tensors)
    made = jax.make_jaxpr(tx.update, axis_env=[(axis, 2)])(tensors, state, tensors)
    return [each for each in _operations(made.jaxpr) if each.primitive.name != 'reshape']

  def names(found: list[Any]) -> list[str]:
    return sorted(each.primitive.name for each in found)

  def of_long(found: list[Any], start: tuple[str, ...], which: str) -> list[str]:
    long = [each for each in found if any(x.aval.size >= _LONG for x in getattr(each, which))]
    return sorted({name for name in names(long) if name.startswith(start)})

  shards = operations(lambda x: (_LONG + x.size,) if x.ndim else ())
  if by_place := of_long(shards, _BY_PLACE, 'outvars'):
    raise ValueError(
      f'shard_state=True gives each device a shard of every tensor, and this optimizer would give '
      f'all shards the same numbers ({", ".join(by_place)}), as the noise of optax.add_noise: leave'
      ' that out, or leave the state replicated.'
    )
  across = of_long(shards, _ACROSS, 'invars')
  if across and not any(name.startswith('psum') for name in names(shards)):
    raise ValueError(
      f'shard_state=True gives each device a shard of every tensor, but this optimizer needs whole '
      f'ones ({", ".join(across)}): take norms with sharding.norm_over_devices, or leave the state '
      'replicated.'
    )
  if names(operations(lambda x: x.shape)) != names(shards):
    raise ValueError(
      'shard_state=True gives each device flat shards of the tensors, but this optimizer depends '
      'on their shapes (a mask by x.ndim, for example): select parameters by name, as '
      'optim.decay_mask does, or leave the state replicated.'
    )


def _operations(jaxpr: Any) -> Iterator[Any]:
  """All operations of a jaxpr, and of those inside of it."""
  for eqn in jaxpr.eqns:
    values = jax.tree.leaves(list(eqn.params.values()))
    inner = [each for each in (getattr(x, 'jaxpr', x) for x in values) if hasattr(each, 'eqns')]
    if not inner:
      yield eqn
    for each in inner:
      yield from _operations(each)


def norm_over_devices(axis: str = collectives.AXIS) -> lars.Norm:
  """`lars.l2_norm` of tensors of which each device of the axis holds a shard."""

  def norm(x: jax.Array, stacked: bool) -> jax.Array:
    if x.ndim == 0:  # Scalars are replicated.
      return lars.l2_norm(x, stacked)
    return jnp.sqrt(collectives.psum(jnp.square(lars.l2_norm(x, stacked)), axis))

  return norm


def shard_optimizer(tx: optax.GradientTransformation, axis: str) -> optax.GradientTransformation:
  """The same optimizer for replicated gradients and parameters and a sharded state.

  Each device updates its shard of every parameter; the updates are gathered.
  """

  def update(updates: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
    own, own_params = jax.tree.map(lambda x: collectives.shard(x, axis), (updates, params))
    own, state = tx.update(own, state, own_params)
    return jax.tree.map(lambda x, g: collectives.unshard(x, g.shape, axis), own, updates), state

  return optax.GradientTransformation(tx.init, update)


def _target_paths(method: Method, shapes: TrainState) -> tuple[tuple[str, ...], ...]:
  """Where the parameters of the targets are that the method state has."""
  paths = (target.params for target in method.targets)
  return tuple(path for path in paths if jax.tree.leaves(trees.at(shapes.method_state, path)))


def _shard_targets(method: Method, shapes: TrainState, axis: str) -> Method:
  paths = _target_paths(method, shapes)
  if not paths:
    return method

  def gathered(state: PyTree) -> PyTree:
    for path in paths:
      target, likes = (trees.at(each, path) for each in (state, shapes.method_state))
      whole = jax.tree.map(lambda x, like: collectives.unshard(x, like.shape, axis), target, likes)
      state = trees.replaced(state, path, whole)
    return state

  def with_gathered(inner: Loss) -> Loss:
    def loss(params: PyTree, state: PyTree, *rest: Any) -> Any:
      value, aux = inner(params, gathered(state), *rest)
      method_state = aux.method_state
      for path in paths:
        method_state = trees.replaced(method_state, path, trees.at(state, path))
      return value, aux._replace(method_state=method_state)

    return loss

  def post_step(params: PyTree, state: PyTree, step: jax.Array) -> Any:
    params, state, metrics = method.post_step(params, gathered(state), step)
    for path in paths:
      own = jax.tree.map(lambda x: collectives.shard(x, axis), trees.at(state, path))
      state = trees.replaced(state, path, own)
    return params, state, metrics

  phases = tuple(each._replace(loss=with_gathered(each.loss)) for each in method.phases)
  return method._replace(loss=with_gathered(method.loss), post_step=post_step, phases=phases)


def _placement(method: Method, shapes: TrainState) -> Placement:
  memories = tuple(('method_state', *names) for names in method.memories)
  numbers = [('method_state', *path) for path in _target_paths(method, shapes)] + [('opt_state',)]

  def kind(path: Sequence[Any], x: Any) -> _Kind:
    names = trees.names(path)
    if names in memories and x.shape[0] > 1:
      return _Kind.ROWS
    flat = any(names[: len(each)] == each for each in numbers)
    return _Kind.FLAT if flat and jnp.ndim(x) > 0 else _Kind.REPLICATED

  kinds = jax.tree_util.tree_map_with_path(kind, shapes)
  sharded = tuple(each is not _Kind.REPLICATED for each in jax.tree.leaves(kinds))
  axes = mapping.Partition(jax.tree.structure(shapes), sharded)
  likes, _ = axes.split(shapes)

  def unshard(shards: list[jax.Array]) -> list[jax.Array]:
    pairs = zip(shards, likes, strict=True)
    return [collectives.unshard(shard, like.shape) for shard, like in pairs]

  unsharded = mapping.spmd(unshard, donate=False, in_axes=(0,))

  def gather(state: TrainState) -> TrainState:
    shards, rest = axes.split(state)
    return axes.merge((unsharded(shards) if shards else [], rest))

  placed = {
    _Kind.REPLICATED: mapping.replicate,
    _Kind.FLAT: mapping.place_shards,
    _Kind.ROWS: mapping.place_row_shards,
  }

  def place(state: TrainState) -> TrainState:
    return jax.tree.map(lambda each, x: placed[each](x), kinds, state)

  def sharded_shapes(shapes: TrainState, devices: int) -> TrainState:
    def one(each: _Kind, x: Any) -> Any:
      if each is _Kind.REPLICATED:
        return x
      shape = (x.size,) if each is _Kind.FLAT else x.shape
      padded = (-(-shape[0] // devices) * devices, *shape[1:])
      return jax.ShapeDtypeStruct(padded, x.dtype)

    return jax.tree.map(one, kinds, shapes)

  return Placement(axes, place, gather, sharded_shapes)
