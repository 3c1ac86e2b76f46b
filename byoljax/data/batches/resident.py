"""Data sets that live on the accelerator: many train steps per call, without the host in between.

The images are replicated on every device, as uint8 or, of more bits, as float32. A call receives
the epochs and indices of its steps' examples, a few kilobytes, and does the rest on the device:
gather, crop, photometric operations, step. Examples, random numbers and pictures are those of
`pipeline.train_batches`, because both are functions of (seed, epoch, example); only the rounding
differs, since the program is compiled differently.

Replicated rather than sharded: a batch is drawn from the whole set, so shards would have to be
exchanged between the devices in every step. A set may therefore take `SHARE` of one device's
memory. Larger sets are read by the host, as are photographs of various sizes, and everything on a
CPU, whose "device" is the host: there is nothing to save there, and XLA's CPU compiler does not
optimize the gradients of convolutions inside loops.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from byoljax.data.batches.order import AnyOrder
from byoljax.data.sources.source import Source
from byoljax.devices import hosts, mapping

MODES = ('auto', 'on', 'off')
# Largest share of a device's memory that the images may take; the rest is the training's.
SHARE = 1 / 4
# Steps of one call: bounds the memory for their order, and how much there is to wait for.
MAX_STEPS = 128

PyTree = Any
Step = Callable[[Any, dict[str, Any]], tuple[Any, dict[str, jax.Array]]]


def check(mode: str, source: Source) -> None:
  """Refuses a mode that does not exist, or 'on' where it is impossible.

  Raises:
    ValueError: which of the two, and what to do.
  """
  if mode not in MODES:
    raise ValueError(f"data.resident='{mode}' must be one of {', '.join(MODES)}.")
  if mode != 'on':
    return
  if source.image_shape is None:
    raise ValueError(
      f"data.resident='on' needs images of one size, but those of {source.name} differ: "
      'set data.resident=auto.'
    )
  if source.encoded and source.decode is None:
    raise ValueError(
      f"data.resident='on', but the decoded images of {source.name} do not fit into this "
      "computer's memory: set data.resident=auto."
    )


def is_chosen(mode: str, source: Source, fields: Sequence[str] = ()) -> bool:
  """Whether a run's data are to live on the devices; the answer is the same in all processes.

  Args:
    mode: 'off', 'on', or 'auto': where the set fits, on devices that are not the host's own.
    source: as `Source.opened` gives it.
    fields: names of the further fields that the batches hold.
  """
  if mode == 'off' or source.encoded:
    return False
  return mode == 'on' or bool(hosts.broadcast_from_first(_bytes(source, fields) <= _room()))


def _bytes(source: Source, fields: Sequence[str]) -> int:
  return source.size * sum(
    math.prod(source.shape_of(name)) * np.dtype(source.field(name).dtype).itemsize
    for name in ('image', *fields)
  )


def _room() -> float:
  """Bytes that a set may take on each device; 0 on the CPU and where the memory is not known."""
  device = jax.local_devices()[0]
  if device.platform == 'cpu':
    return 0
  return (device.memory_stats() or {}).get('bytes_limit', 0) * SHARE


def place(source: Source, fields: Sequence[str] = ()) -> dict[str, jax.Array]:
  """Copies a set of arrays to every local device.

  Args:
    source: a set of arrays.
    fields: names of the further fields that the batches hold.

  Returns:
    'image' uint8 or float32 [N, H * W * C], flat because accelerators pad a minor axis of three,
    'label' int32 [N, ...], and the further fields, those with pixels flat, too.
  """
  names = ('image', *fields)
  *values, labels = source.read(np.arange(source.size), (*names, 'label'))
  made = {
    name: value.reshape(source.size, -1) if source.field(name).has_pixels else value
    for name, value in zip(names, values, strict=True)
  }
  return mapping.replicate(made | {'label': labels})


def make_steps(step: Step, source: Source, fields: Sequence[str] = ()) -> Callable[..., Any]:
  """Builds many_steps(state, data, order, count) -> (state, the last step's metrics), per device.

  `data` is from `place`, `order` int32 [2, K, b], from `examples`, holds epochs and indices of this
  device's examples in up to K steps, and `count` in [1, K], int32, says how many are made; any
  count runs the same program. Where loops must not hold convolutions, a call makes one step and
  `count` is 1.

  Args:
    step: the train step of one device.
    source: the set, for the shapes of its fields.
    fields: names of the further fields that the batches hold.
  """
  names = ('image', *fields, 'label')
  shapes = {name: source.shape_of(name) for name in names}

  def many_steps(state: Any, data: dict[str, jax.Array], order: jax.Array, count: jax.Array) -> Any:
    def rows(x: jax.Array, chosen: jax.Array) -> jax.Array:
      return x.at[chosen].get(mode='promise_in_bounds')

    def one(number: Any, carry: Any) -> Any:
      epoch, chosen = lax.dynamic_index_in_dim(order, number, axis=1, keepdims=False)
      batch = {
        name: rows(data[name], chosen).reshape(len(chosen), *shape)
        for name, shape in shapes.items()
      }
      return step(carry[0], batch | {'index': chosen, 'epoch': epoch})

    if mapping.must_unroll():
      return one(0, (state,))
    metrics = jax.eval_shape(one, 0, (state,))[1]
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)
    return lax.fori_loop(0, count, one, (state, nothing))

  return many_steps


def examples(order: AnyOrder, first: int, count: int) -> np.ndarray:
  """This process's examples in steps first, ..., first + count - 1, int32 [D, 2, MAX_STEPS, b].

  The second axis is (epoch, index). D are the local devices, and device d gets the rows that
  `mapping.shard` would give it. What exceeds `count` steps is 0 and is not looked at.
  """
  rows = np.zeros((2, MAX_STEPS, order.local_size), np.int32)
  for number in range(count):
    rows[:, number] = order.at(first + number)
  devices = jax.local_device_count()
  rows = rows.reshape(2, MAX_STEPS, devices, -1)
  return np.ascontiguousarray(np.moveaxis(rows, 2, 0))
