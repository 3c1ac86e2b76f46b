"""Whether batches of some shapes fit the data, the devices and the method.

What the method takes is found out by tracing: nothing is computed.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from byoljax.data.augment.views import ViewSpec
from byoljax.data.sources.source import Source
from byoljax.devices import collectives
from byoljax.method import COTANGENTS, Batch, Method, Setting, transformed
from byoljax.step import TrainState
from byoljax.train import progressive
from byoljax.wording import counted


def check_batch(
  batch_size: int, accumulate: int, devices: int, source: Source, field: str = 'train.batch_size'
) -> None:
  """Checks a batch against the devices, the micro-batches and the data.

  Args:
    batch_size: global.
    accumulate: micro-batches per step.
    devices: that share it.
    source: the images.
    field: the field's name, for messages.

  Raises:
    ValueError: they do not fit; the message names batch sizes that do.
  """
  if batch_size < 1 or accumulate < 1:
    raise ValueError(
      f'{field}={batch_size} and train.accumulate={accumulate} must both be at least 1.'
    )
  unit = devices * accumulate
  shared = f'{counted(devices, "device")} x {counted(accumulate, "micro-batch", "micro-batches")}'
  most = source.size // unit * unit
  if most < 1:
    raise ValueError(
      f'{source.name} has {counted(source.size, "image")}, too few for {shared}: each needs at '
      'least one.'
    )
  if batch_size > source.size:
    raise ValueError(
      f'{field}={batch_size} is more than the {counted(source.size, "image")} of {source.name}; '
      f'use at most {most}.'
    )
  if batch_size % unit:
    below = max(unit, batch_size // unit * unit)
    near = f'{below} or {below + unit}' if below < most else f'{below}'
    raise ValueError(f'{field}={batch_size} is not a multiple of {shared}; use {near}.')


def check_losses(method: Method, state: TrainState, batch: Batch, setting: Setting) -> None:
  """Raises what the method's losses say to micro-batches of such shapes.

  Args:
    method: see `method.Method`.
    state: shapes.
    batch: [devices, b, ...], as the augmentation leaves it.
    setting: of the run. With several micro-batches `Method.compare` gets the outputs of all.
  """
  accumulates = setting.length.batch_size > setting.micro_batch_size
  outputs = {COTANGENTS: None} if accumulates and method.compare else {}

  def losses(state: TrainState, batch: Batch, key: jax.Array) -> list[Any]:
    def of_device(batch: Batch) -> list[Any]:
      seen = method.transform(batch, key, state.step) | outputs
      each = [phase.loss for phase in method.phases] or [method.loss]
      return [loss(state.params, state.method_state, seen, key, state.step) for loss in each]

    return jax.vmap(of_device, axis_name=collectives.AXIS)(batch)

  jax.eval_shape(losses, state, batch, jax.random.key(0))


def check_stage(
  method: Method, state: TrainState, batch: Batch, specs: Sequence[ViewSpec], setting: Setting
) -> None:
  """Checks that a stage with smaller views trains the same state.

  Args:
    method: see `method.Method`.
    state: shapes of the run's state.
    batch: shapes of a micro-batch of the stage, as the augmentation leaves it.
    specs: of its views.
    setting: of the run.

  Raises:
    ValueError: a network or a method whose shapes depend on the size of the views.
  """
  where = f'train.progressive: views of {progressive.sizes(specs)} pixels do not fit this'

  def first_state(batch: Batch, key: jax.Array) -> tuple[Any, Any]:
    return method.init(key, transformed(method, batch, key, jnp.zeros((), jnp.int32)))

  def on_devices(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    rows = x.shape[0] // setting.num_devices
    return jax.ShapeDtypeStruct((setting.num_devices, rows, *x.shape[1:]), x.dtype)

  differ = ''
  try:
    made = jax.eval_shape(first_state, batch, jax.random.key(0))
    differ = _difference(made, (state.params, state.method_state))
    if not differ:
      check_losses(method, state, jax.tree.map(on_devices, batch), setting)
  except (ValueError, TypeError) as error:
    raise ValueError(f'{where} method: {str(error).splitlines()[0]}') from error
  if differ:
    raise ValueError(
      f'{where} run: {differ} with views of their full size. Leave train.progressive empty, '
      'or take an encoder whose weights do not depend on the size.'
    )


def _difference(made: Any, wanted: Any) -> str:
  """The first array that has another shape, with both; '' where none has."""
  pairs = zip(jax.tree.leaves_with_path(made), jax.tree.leaves(wanted), strict=True)
  for (path, here), there in pairs:
    if here.shape != there.shape:
      name = jax.tree_util.keystr(path[1:], simple=True, separator='/')
      return f'{name} would have the shape {list(here.shape)}, and has {list(there.shape)}'
  return ''
