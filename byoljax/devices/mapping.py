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
class Split:
  """Which leaves of a tree are cut: for `in_axes` and `out_axes`.

  Attributes:
    tree: the structure.
    cut: for each leaf, whether the devices hold parts of it.
  """

  tree: Any
  cut: tuple[bool, ...]

  def apart(self, value: PyTree) -> tuple[list[Any], list[Any]]:
    """The leaves that are cut, and those that are not."""
    pairs = list(zip(jax.tree.leaves(value), self.cut, strict=True))
    return [x for x, cut in pairs if cut], [x for x, cut in pairs if not cut]

  def together(self, parts: tuple[Sequence[Any], Sequence[Any]]) -> PyTree:
    """The inverse of `apart`."""
    cut, whole = map(iter, parts)
    return jax.tree.unflatten(self.tree, [next(cut if each else whole) for each in self.cut])

  def specs(self) -> PyTree:
    """A tree of partition specs."""
    found = [PartitionSpec(collectives.AXIS) if each else PartitionSpec() for each in self.cut]
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


def place_cut(x: Any) -> jax.Array:
  """Puts on every local device the part that `cut` would give it: [local devices, k]."""
  return _place_parts(collectives._rows(np.asarray(x), jax.device_count()))


def place_cut_by_rows(x: Any) -> jax.Array:
  """Puts on each local device its part of the rows of x [N, ...]: [local devices, k, ...].

  Device d has the rows from d * k on, k = ceil(N / devices); zeros follow behind the last row.
  """
  rows = np.asarray(x)
  padding = [(0, -len(rows) % jax.device_count())] + [(0, 0)] * (rows.ndim - 1)
  return _place_parts(np.pad(rows, padding).reshape(jax.device_count(), -1, *rows.shape[1:]))


def _place_parts(parts: np.ndarray) -> jax.Array:
  first, count = jax.process_index() * jax.local_device_count(), jax.local_device_count()
  sharding = NamedSharding(local_mesh(), PartitionSpec(collectives.AXIS))
  return jax.device_put(parts[first : first + count], sharding)


def shard(batch: Mapping[str, Any]) -> dict[str, Any]:
  """Splits the leading axis of each host array [n, ...] into [local devices, n / devices, ...]."""
  devices = jax.local_device_count()

  def split(x: np.ndarray) -> np.ndarray:
    if x.shape[0] % devices:
      raise ValueError(
        f'A batch of {x.shape[0]} examples cannot be split over {devices} devices: '
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
      `Split`.
    out_axes: the same for the outputs; one for all, or a tuple with one for each.

  Returns:
    A compiled function of (state without a device axis, batch [local devices, b, ...]).
  """
  outputs = out_axes if isinstance(out_axes, tuple) else (out_axes,)
  if not any(isinstance(axes, Split) for axes in (*in_axes, *outputs)):
    return _pmapped(step, in_axes, out_axes, donate)

  # On several processes pmap takes only axes that can be hashed, which trees cannot.
  def apart(values: Sequence[Any], axes: Sequence[Any]) -> tuple[Any, ...]:
    pairs = zip(values, axes, strict=True)
    return tuple(a.apart(x) if isinstance(a, Split) else x for x, a in pairs)

  def together(values: Sequence[Any], axes: Sequence[Any]) -> tuple[Any, ...]:
    pairs = zip(values, axes, strict=True)
    return tuple(a.together(x) if isinstance(a, Split) else x for x, a in pairs)

  def inner(*arguments: Any) -> tuple[Any, ...]:
    return apart(step(*together(arguments, in_axes)), outputs)

  ins, outs = (
    tuple((0, None) if isinstance(a, Split) else a for a in axes) for axes in (in_axes, outputs)
  )
  mapped = _pmapped(inner, ins, outs, donate)
  return lambda *arguments: together(mapped(*apart(arguments, in_axes)), outputs)


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

  What is cut has no device axis here, either: the parts of all devices follow each other.

  `check_vma=False` is not a detail: with it on, differentiating with respect to the replicated
  parameters already sums the gradients over the devices, and the step's own mean would be wrong
  by a factor of the device count.

  Args:
    step: as in `spmd`.
    donate: as in `spmd`.
    mesh: one axis, `AXIS`; None takes all devices there are. Its devices may be those of a machine
      that is only described (`byoljax.plan`): the result can then be compiled, not called.
    in_axes: as in `spmd`: 0 for what is split, None for what every device has whole.
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
  if isinstance(axes, Split):
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
