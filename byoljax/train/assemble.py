"""Makes the parts of a run from a configuration: the only module that knows everybody.

Nothing is computed here. Everything in a configuration that does not fit the data, the devices or
the rest of the configuration is found here, before any compute.
"""

from collections.abc import Callable, Mapping
import functools
import logging
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from byoljax import config as config_lib
from byoljax import optim
from byoljax.config import Config, ConfigError, user_errors
from byoljax.data.augment import device
from byoljax.data.augment.views import ViewSpec
from byoljax.data.batches import resident
from byoljax.data.sources.source import Source
from byoljax.devices import collectives, mapping
from byoljax.evals import collapse
from byoljax.length import Length, duration_steps
from byoljax.losses import classification
from byoljax.method import Batch, Method, Setting, with_online_probe
from byoljax.methods import METHODS
from byoljax.models import encoder_factory, heads
from byoljax.models.net import stack
from byoljax.optim import recipe
from byoljax.step import TrainState, init_state, train_step
from byoljax.train import sharding as layout_lib

PyTree = Any
log = logging.getLogger('byoljax')


class Run(NamedTuple):
  """Everything that training needs, made from a configuration; nothing here changes.

  Attributes:
    config: the resolved configuration.
    source: the training images.
    specs: one augmentation per view.
    length: durations in steps.
    method: see `byoljax.method`.
    tx: the optimizer of all parameter groups.
    schedule: step -> learning rate of the group 'default'.
    step: the mapped train step: (state, batch [devices, b, ...]) -> (state, metrics).
    create: () -> the TrainState at step 0, in whole arrays on the default device.
    layout: how the state that `step` takes lies on the devices.
    report: table of the parameters and how each is optimized.
    many_steps: the mapped `resident.make_steps`, for data that live on the devices: (state, data,
      index [devices, K, b], count) -> (state, metrics). None where images differ in size.
  """

  config: Config
  source: Source
  specs: tuple[ViewSpec, ...]
  length: Length
  method: Method
  tx: optax.GradientTransformation
  schedule: Callable[[int], Any]
  step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
  create: Callable[[], TrainState]
  layout: layout_lib.Layout
  report: str
  many_steps: Callable[..., tuple[TrainState, dict[str, jax.Array]]] | None


def assemble(
  config: Config,
  source: Source,
  *,
  given: Mapping[str, Any] | None = None,
  num_devices: int | None = None,
  mapped: Callable[..., Any] = mapping.spmd,
) -> Run:
  """Makes the parts of a training run; computes nothing yet.

  Args:
    config: fields `seed`, `train`, `data`, `augment`, `views`, `encoder`, `method`, `optim`,
      `probe`, `log`.
    source: the training images.
    given: networks for the method, by name ('encoder', 'teacher').
    num_devices: that the step runs on; None = those there are.
    mapped: makes the per-device step one of all devices, given in_axes and out_axes:
      `mapping.spmd`, or another way.

  Raises:
    ConfigError: anything in the configuration that does not fit the data or the devices.
  """
  num_devices = jax.device_count() if num_devices is None else num_devices
  length = _length(config, source, num_devices)
  with user_errors('config.views'):
    specs = view_specs(config)
  with user_errors():
    resident.check(config.data.get('resident', 'auto'), source, config.augment.device)
  encoder = _encoder_factory(config)
  setting = Setting(
    total_steps=length.total_steps,
    steps_per_epoch=length.steps_per_epoch,
    batch_size=length.batch_size // config.train.accumulate,
    accumulate=config.train.accumulate,
    num_devices=num_devices,
    num_examples=source.size,
    num_classes=source.num_classes,
    axis=collectives.AXIS,
    dtype=config.encoder.dtype,
    given=given or {},
  )
  build = config_lib.choose('method', config.method.name, METHODS)
  arguments = {name: value for name, value in config.method.items() if name != 'name'}
  with user_errors('config.method'):
    method = build(encoder, setting, **arguments)
  if config.probe.online and source.num_classes > 1 and not source.multi_label:
    method = _watched(method, source.num_classes)
  cut = bool(config.train.get('shard_state', False))
  optimizers = _optimizers(config, length, collectives.AXIS if cut else None)
  tx = optim.make(
    lambda params: optimizers.label(method.groups(params), params), optimizers.transformations
  )
  augment = augmentation(config, specs, length, config.data.mean, config.data.std)
  example = {
    'views': tuple(np.zeros((2, spec.size, spec.size, 3), np.float32) for spec in specs),
    'index': np.zeros(2, np.int32),
    'label': np.zeros((2, *source.label_shape), np.int32),
  }
  skip = config_lib.skips_non_finite(config)
  create = functools.partial(init_state, method, tx, example, config.seed, skip_non_finite=skip)
  with user_errors('config'):
    shapes = jax.eval_shape(create)
  if setting.batch_size == 1:
    with user_errors('config.train.batch_size=1'):
      _trace_one(method, shapes, example)
  with user_errors():
    every = max(1, length.steps('log.every', config.log.every))
  step = functools.partial(
    train_step,
    method=method,
    tx=tx,
    augment=augment,
    diagnose=_diagnosis(every, length.total_steps),
    accumulate=config.train.accumulate,
    skip_non_finite=skip,
    sharded=shapes if cut else None,
  )
  layout = layout_lib.sharded(shapes, method.memories) if cut else layout_lib.replicated()
  labels = optimizers.label(method.groups(shapes.params), shapes.params)
  report = optim.param_report(shapes.params, labels, optimizers.settings)
  return Run(
    config,
    source,
    specs,
    length,
    method,
    tx,
    optimizers.schedule,
    mapped(step, in_axes=(layout.axes, 0), out_axes=(layout.axes, None)),
    create,
    layout,
    report,
    _many_steps(step, source, layout),
  )


def _trace_one(method: Method, state: TrainState, example: Batch) -> None:
  """Raises what a loss that needs several examples says to one; computes nothing."""
  one = jax.tree.map(lambda x: x[None, :1], example)
  loss = jax.vmap(method.loss, in_axes=(None, None, 0, None, None), axis_name=collectives.AXIS)
  jax.eval_shape(loss, state.params, state.method_state, one, jax.random.key(0), state.step)


def _many_steps(
  step: resident.Step, source: Source, layout: layout_lib.Layout
) -> Callable[..., Any] | None:
  if source.image_shape is None:
    return None
  return mapping.spmd(
    resident.make_steps(step, source.image_shape),
    in_axes=(layout.axes, None, 0, None),
    out_axes=(layout.axes, None),
  )


def view_specs(config: Config) -> tuple[ViewSpec, ...]:
  """One specification per view, in the order of the numbers in their names: view1, view2, ...

  A view may stand for several alike: `{'size': 96, ..., 'repeat': 6}`.
  """
  specs = []
  for name in view_names(config):
    fields = dict(config.views[name])
    repeat = fields.pop('repeat', 1)
    if not isinstance(repeat, int) or repeat < 1:
      raise ConfigError(f'views.{name}.repeat={repeat} must be a whole number of at least 1.')
    specs += [ViewSpec.from_mapping(fields)] * repeat
  return tuple(specs)


def view_names(config: Config) -> list[str]:
  """The names of the configured views, view2 before view10."""
  return sorted(config.views, key=lambda name: (len(name), name))


def augmentation(
  config: Config,
  specs: tuple[ViewSpec, ...],
  length: Length,
  mean: tuple[float, ...],
  std: tuple[float, ...],
) -> Callable[[Batch, Any], Batch]:
  """The part of the augmentation that happens in the step."""
  config_lib.choose('augment.device', config.augment.device, ('accelerator', 'host'))
  with user_errors('config.data'):
    return device.make_augment(
      specs,
      seed=config.seed,
      steps_per_epoch=length.steps_per_epoch,
      mean=mean,
      std=std,
      photometric_on=config.augment.device,
    )


def _diagnosis(every: int, total: int) -> Callable[[jax.Array, jax.Array], dict[str, jax.Array]]:
  """Collapse metrics at the steps that are logged; NaN at others, since eigenvalues cost time."""

  def diagnose(embedding: jax.Array, step: jax.Array) -> dict[str, jax.Array]:
    measure = functools.partial(collapse.collapse_metrics, axis=collectives.AXIS)
    skipped = jax.tree.map(
      lambda x: jnp.full(x.shape, jnp.nan, x.dtype), jax.eval_shape(measure, embedding)
    )
    due = ((step + 1) % every == 0) | (step + 1 == total)
    return jax.lax.cond(due, measure, lambda _: skipped, embedding)

  return diagnose


def _encoder_factory(config: Config) -> Any:
  make = encoder_factory(dict(config.encoder), mean=config.data.mean, std=config.data.std)

  def encoder(bn_axis: str | None, bn_groups: int = 0) -> Any:
    with user_errors('config.encoder'):
      return make(bn_axis, bn_groups)

  return encoder


def _watched(method: Method, num_classes: int) -> Method:
  """Adds the online probe, a linear classifier on the embedding."""
  head = stack((('probe', 'logits', heads.LinearHead(num_classes)),))

  def apply(params: PyTree, x: jax.Array) -> jax.Array:
    return head.apply({'probe': params}, {'probe': {}}, x, train=True)[0]['logits']

  def loss(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    value = classification.cross_entropy(logits, labels)
    return value, {'loss': value, 'top1': classification.accuracy(logits, labels)}

  return with_online_probe(method, lambda key, x: head.init(key, x)[0]['probe'], apply, loss)


def _length(config: Config, source: Source, devices: int) -> Length:
  """Checks batch size, data size and devices against one another and converts the durations."""
  batch_size, parts = config.train.batch_size, config.train.accumulate
  if batch_size < 1 or parts < 1:
    raise ConfigError(
      f'train.batch_size={batch_size} and train.accumulate={parts} must both be at least 1.'
    )
  if batch_size % (devices * parts):
    unit = devices * parts
    below = max(unit, batch_size // unit * unit)
    raise ConfigError(
      f'train.batch_size={batch_size} is not a multiple of {devices} devices x {parts} '
      f'micro-batches; use {below} or {below + unit}.'
    )
  if batch_size > source.size:
    raise ConfigError(
      f'train.batch_size={batch_size} is more than the {source.size} images of {source.name}; '
      f'use at most {source.size // devices * devices}.'
    )
  per_epoch = source.size // batch_size
  with user_errors():
    total = duration_steps(
      'train.length', config.train.length, steps_per_epoch=per_epoch, batch_size=batch_size
    )
  if total < 1:
    raise ConfigError(f"train.length='{config.train.length}' is less than one step.")
  length = Length(batch_size, per_epoch, total)
  with user_errors():
    warmup = length.steps('optim.warmup', config.optim.warmup)
  if warmup > total:
    raise ConfigError(
      f"optim.warmup='{config.optim.warmup}' is {warmup} steps, longer than the training of "
      f'{total} steps; shorten one or lengthen the other.'
    )
  return length


def _optimizers(config: Config, length: Length, axis: str | None) -> recipe.Recipe:
  """The optimizers of all parameter groups, the online probe's among them.

  `axis` is that over which tensors are cut, if they are.
  """
  fields = config.optim.to_dict()
  with user_errors():
    warmup = length.steps('optim.warmup', fields.pop('warmup'))
  with user_errors('config.optim'):
    own = recipe.make_recipe(
      fields,
      batch_size=length.batch_size,
      total_steps=length.total_steps,
      steps_per_epoch=length.steps_per_epoch,
      warmup_steps=warmup,
      axis=axis,
    )
  if not config.probe.online:
    return own
  probe = {'name': 'sgd', 'momentum': config.probe.momentum, 'nesterov': True}
  with user_errors('config.probe'):
    rate = optim.cosine(
      optim.peak_lr(config.probe.base_lr, length.batch_size), total_steps=length.total_steps
    )
    transformation = optim.make_optimizer(schedule=rate, axis=axis, **probe)
  own.transformations['probe'], own.settings['probe'] = transformation, probe
  return own
