"""How per-device code is mapped over devices, and where its arguments are placed.

`spmd` maps a function of one device with `jax.pmap`; `spmd_shard_map` is its twin on
`jax.shard_map`, kept equal by a test, so that leaving `pmap` is a change of one line. State has no
device axis: it is placed once by `replicate` and stays where it is, donated from step to step.
`byoljax.train.sharding` says which arrays are sharded instead.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
import numpy as np

from byoljax.devices import collectives

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Partition:
  """Which leaves of a tree are sharded: for `in_axes` and `out_axes`.

  Attributes:
    tree: the structure.
    sharded: for each leaf, whether each device holds a shard of it; the others are replicated.
  """

  tree: Any
  sharded: tuple[bool, ...]

  def split(self, value: PyTree) -> tuple[list[Any], list[Any]]:
    """The sharded leaves and the replicated ones."""
    pairs = list(zip(jax.tree.leaves(value), self.sharded, strict=True))
    return [x for x, sharded in pairs if sharded], [x for x, sharded in pairs if not sharded]

  def merge(self, leaves: tuple[Sequence[Any], Sequence[Any]]) -> PyTree:
    """The inverse of `split`."""
    sharded, replicated = map(iter, leaves)
    return jax.tree.unflatten(
      self.tree, [next(sharded if each else replicated) for each in self.sharded]
    )

  def specs(self) -> PyTree:
    """A tree of partition specs."""
    found = [PartitionSpec(collectives.AXIS) if each else PartitionSpec() for each in self.sharded]
    return jax.tree.unflatten(self.tree, found)


def local_mesh() -> Mesh:
  """This process's devices as a one-axis mesh, in the order in which `pmap` uses them."""
  return Mesh(np.array(jax.local_devices()), (collectives.AXIS,))


def replicate(tree: PyTree) -> PyTree:
  """Copies a tree of arrays to every local device, without adding a device axis.

  The copy is real: `device_put` would alias a buffer that already lies on the first device, and
  donating the result would then delete the caller's array as well. Placed like this once, a state
  neither recompiles nor is resharded by `spmd`.
  """
  sharding = NamedSharding(local_mesh(), PartitionSpec())
  return jax.tree.map(lambda x: jax.device_put(np.array(x), sharding), tree)


def place_shards(x: Any) -> jax.Array:
  """Puts its `collectives.shard` of x on every local device: [local devices, k]."""
  return _place(collectives.shards(np.asarray(x), jax.device_count()))


def place_row_shards(x: Any) -> jax.Array:
  """Puts its shard of the rows of x [N, ...] on every local device: [local devices, k, ...].

  Device d has the rows from d * k on, k = ceil(N / devices); zeros follow behind the last row.
  """
  rows = np.asarray(x)
  padding = [(0, -len(rows) % jax.device_count())] + [(0, 0)] * (rows.ndim - 1)
  return _place(np.pad(rows, padding).reshape(jax.device_count(), -1, *rows.shape[1:]))


def _place(shards: np.ndarray) -> jax.Array:
  first, count = jax.process_index() * jax.local_device_count(), jax.local_device_count()
  sharding = NamedSharding(local_mesh(), PartitionSpec(collectives.AXIS))
  return jax.device_put(shards[first : first + count], sharding)


def shard(batch: Mapping[str, Any]) -> dict[str, Any]:
  """Shards the leading axis of each host array [n, ...] into [local devices, n / devices, ...]."""
  devices = jax.local_device_count()

  def split(x: np.ndarray) -> np.ndarray:
    if x.shape[0] % devices:
      raise ValueError(
        f'A batch of {x.shape[0]} examples cannot be sharded over {devices} devices: '
        f'use a multiple of {devices}.'
      )
    return x.reshape(devices, x.shape[0] // devices, *x.shape[1:])

  return jax.tree.map(split, dict(batch))


def fetch(tree: PyTree) -> PyTree:
  """Copies a replicated tree to the host as NumPy arrays: this waits for the device."""
  return jax.tree.map(_fetch_leaf, tree)


def _fetch_leaf(x: Any) -> np.ndarray:
  # Any one replica is the value; asking for the whole array would fail across processes.
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return np.asarray(x.addressable_data(0))
  return np.asarray(x)


def spmd(
  step: Callable[..., Any],
  *,
  donate: bool = True,
  in_axes: tuple[Any, ...] = (None, 0),
  out_axes: Any = None,
) -> Callable[..., Any]:
  """Maps `step(state, batch) -> outputs` over the local devices (and all processes) by `pmap`.

  Args:
    step: per-device function over the axis `AXIS`; outputs without a device axis must be equal on
      all devices.
    donate: whether the state's buffers may be reused for the outputs.
    in_axes: for each argument, 0 where it has a device axis in front, None where it has none, or a
      `Partition`.
    out_axes: the same for the outputs; one for all, or a tuple with one for each.

  Returns:
    A compiled function of (state without a device axis, batch [local devices, b, ...]).
  """
  outputs = out_axes if isinstance(out_axes, tuple) else (out_axes,)
  if not any(isinstance(axes, Partition) for axes in (*in_axes, *outputs)):
    return _pmapped(step, in_axes, out_axes, donate)

  # On several processes pmap takes only axes that can be hashed, which trees cannot.
  def split(values: Sequence[Any], axes: Sequence[Any]) -> tuple[Any, ...]:
    pairs = zip(values, axes, strict=True)
    return tuple(a.split(x) if isinstance(a, Partition) else x for x, a in pairs)

  def merge(values: Sequence[Any], axes: Sequence[Any]) -> tuple[Any, ...]:
    pairs = zip(values, axes, strict=True)
    return tuple(a.merge(x) if isinstance(a, Partition) else x for x, a in pairs)

  def inner(*arguments: Any) -> tuple[Any, ...]:
    return split(step(*merge(arguments, in_axes)), outputs)

  ins, outs = (
    tuple((0, None) if isinstance(a, Partition) else a for a in axes) for axes in (in_axes, outputs)
  )
  mapped = _pmapped(inner, ins, outs, donate)
  return lambda *arguments: merge(mapped(*split(arguments, in_axes)), outputs)


def _pmapped(
  step: Callable[..., Any], in_axes: tuple[Any, ...], out_axes: Any, donate: bool
) -> Callable[..., Any]:
  return jax.pmap(
    step,
    axis_name=collectives.AXIS,
    in_axes=in_axes,
    out_axes=out_axes,  # type: ignore[arg-type]
    donate_argnums=(0,) if donate else (),
  )


def spmd_shard_map(
  step: Callable[..., Any],
  *,
  donate: bool = True,
  mesh: Mesh | AbstractMesh | None = None,
  in_axes: tuple[Any, ...] = (None, 0),
  out_axes: Any = None,
) -> Callable[..., Any]:
  """The twin of `spmd` on `jax.shard_map`: batches are [B, ...], split along the first axis.

  What is sharded has no device axis here, either: the shards of all devices follow each other.

  `check_vma=False` is not a detail: with it on, differentiating with respect to the replicated
  parameters already sums the gradients over the devices, and the step's own mean would be wrong
  by a factor of the device count.

  Args:
    step: as in `spmd`.
    donate: as in `spmd`.
    mesh: one axis, `AXIS`; None takes all devices there are. Its devices may be those of a machine
      that is only described (`byoljax.plan`): the result can then be compiled, not called.
    in_axes: as in `spmd`: 0 for what is sharded, None for what is replicated.
    out_axes: as in `spmd`.
  """
  if mesh is None:
    mesh = Mesh(np.array(jax.devices()), (collectives.AXIS,))
  mapped = jax.shard_map(
    step,
    mesh=mesh,
    in_specs=specs(in_axes),
    out_specs=specs(out_axes),
    check_vma=False,
  )
  return jax.jit(mapped, donate_argnums=(0,) if donate else ())


def specs(axes: Any) -> Any:
  """Axes as `spmd` takes them, as partition specs."""
  if isinstance(axes, tuple):
    return tuple(map(specs, axes))
  if isinstance(axes, Partition):
    return axes.specs()
  return PartitionSpec() if axes is None else PartitionSpec(collectives.AXIS)


def spmd_map(fn: Callable[..., Any]) -> Callable[..., Any]:
  """Maps `fn(replicated, sharded) -> sharded`: outputs keep a leading [local devices] axis."""
  return jax.pmap(fn, axis_name=collectives.AXIS, in_axes=(None, 0), out_axes=0)


def must_await_every_step() -> bool:
  """Whether steps may not be queued ahead of the devices.

  The CPU backend aborts the process when too many multi-device steps are in flight.
  """
  return jax.default_backend() == 'cpu' and jax.device_count() > 1


def must_unroll() -> bool:
  """Whether convolutions have to stay out of loops.

  XLA's CPU compiler puts the gradients of convolutions into a form that it computes fast, but only
  outside of loops: inside, a step of the small encoder takes eleven times as long.
  """
  return jax.default_backend() == 'cpu'
