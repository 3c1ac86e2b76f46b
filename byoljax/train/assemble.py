"""From a configuration to a run: the one place where a training configuration is read.

`from_config` turns every field into a typed argument of `make_run`; below it nobody sees a
configuration.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from byoljax import config as config_lib
from byoljax import methods
from byoljax.config import Config, ConfigError, user_errors
from byoljax.data import fields
from byoljax.data.augment import views
from byoljax.data.augment.views import ViewSpec
from byoljax.data.batches.order import AnyOrder, MixedOrder, Order
from byoljax.data.sources.source import Source
from byoljax.devices import backend, mapping
from byoljax.length import Length, make_length
from byoljax.method import Method, Setting
from byoljax.methods import dropped_tokens
from byoljax.models import METHODS_OWN, encoder_factory
from byoljax.ops import fused_attention
from byoljax.optim import lars, recipe
from byoljax.train import progressive, sharding
from byoljax.train.checks import check_batch
from byoljax.train.record import Cadence, Logging
from byoljax.train.run import DataOptions, MapStep, ProbeOptions, Run, make_run
from byoljax.wording import counted
from byoljax.workdir import sinks


def from_config(
  config: Config,
  source: Source,
  *,
  given: Mapping[str, Any] | None = None,
  num_devices: int | None = None,
  mapped: MapStep = mapping.spmd,
) -> Run:
  """Makes the run that a configuration describes; computes nothing yet.

  Args:
    config: fields `seed`, `train`, `data`, `views`, `encoder`, `method`, `optim`, `probe`, `log`;
      see `resolve_dtype` for what is changed.
    source: the training images.
    given: networks for the method, by name.
    num_devices: that the step runs on; None: those there are.
    mapped: as for `make_run`.

  Raises:
    ConfigError: anything in the configuration that does not fit the data or the devices.
  """
  resolve_dtype(config)
  devices = jax.device_count() if num_devices is None else num_devices
  length = length_of(config, source, devices)
  with user_errors('config.views'):
    specs = view_specs(config)
  with user_errors():
    parts = progressive.parse(config.train.progressive, length)
  with user_errors(f"train.progressive='{config.train.progressive}'"):
    earlier = [(part.until, _scaled(config, specs, part.share)) for part in parts]
  skip = config_lib.skips_non_finite(config)
  with user_errors():
    log_every = length.every('log.every', config.log.every)
  with user_errors('config.optim'):
    norm = sharding.norm_over_devices() if config.train.shard_state else lars.l2_norm
    optimizer = recipe.make_recipe(config.optim.to_dict(), length, norm=norm)
  probe = None
  if config.probe.online:
    probe = ProbeOptions(config.probe.base_lr, config.probe.momentum)
  with user_errors('config'):
    run = make_run(
      source,
      specs,
      _method_builder(config, source.channels),
      optimizer,
      length,
      data=data_options(config),
      earlier=earlier,
      order=order_of(config, source, devices),
      seed=config.seed,
      accumulate=config.train.accumulate,
      skip_non_finite=skip,
      max_skipped=config.train.max_skipped,
      shard_state=config.train.shard_state,
      log_every=log_every,
      probe=probe,
      dtype=config.encoder.dtype,
      given=given,
      num_devices=devices,
      mapped=mapped,
    )
  # For devices that are only described, `plan` compiles what JAX has for them on this machine.
  if num_devices is None and config.encoder.attention == 'cudnn':
    with user_errors():
      fused_attention.check_devices(jax.devices())
  return run


def resolve_dtype(config: Config) -> None:
  """Puts the compute type of the devices here in the place of `encoder.dtype`=auto."""
  if config.encoder.dtype == backend.AUTO:
    with config.unlocked():
      config.encoder.dtype = backend.compute_type()


def length_of(config: Config, source: Source, devices: int) -> Length:
  """The run's length in steps, once its batch fits the data and the devices.

  Raises:
    ConfigError: they do not fit.
  """
  with user_errors():
    check_batch(config.train.batch_size, config.train.accumulate, devices, source)
    order = order_of(config, source, devices)
    length = make_length(
      config.train.length,
      batch_size=order.batch_size,
      num_examples=order.steps_per_epoch * order.batch_size,
    )
    return length._replace(steady_steps=recipe.steady_steps(config.optim, length))


def order_of(config: Config, source: Source, devices: int) -> AnyOrder:
  """Which images each step consists of: all alike, or two streams, with and without labels.

  Raises:
    ValueError: the streams' shares do not fit the batch.
  """
  batch_size, accumulate = config.train.batch_size, config.train.accumulate
  process = {'process_index': jax.process_index(), 'process_count': jax.process_count()}
  if not config.data.labels:
    return Order(source.size, batch_size, config.seed, **process)
  ratio = config.data.unlabelled_per_labelled
  if ratio < 1:
    raise ValueError(f'data.unlabelled_per_labelled={ratio} must be at least 1.')
  unit = (1 + ratio) * devices * accumulate
  if batch_size % unit:
    near = max(unit, batch_size // unit * unit)
    raise ValueError(
      f'train.batch_size={batch_size} is not a multiple of {unit}: of 1 labelled and {ratio} other '
      f'images (data.unlabelled_per_labelled) x {counted(devices, "device")} x '
      f'{counted(accumulate, "micro-batch", "micro-batches")}; use {near} or {near + unit}.'
    )
  rows = batch_size // (1 + ratio)
  return MixedOrder(
    [len(source.part_of(start)) for start in source.starts],
    (rows, ratio * rows),
    config.seed,
    num_devices=devices,
    accumulate=accumulate,
    **process,
  )


def data_options(config: Config) -> DataOptions:
  """How the configuration wants images read and normalized, and which fields go with them.

  A field that a view shows is that view; the others accompany every view.
  """
  data = config.data
  shown = {spec.field for spec in view_specs(config)}
  names = (field.name for field in fields.parsed(data.fields))
  further = tuple(name for name in names if name not in shown)
  return DataOptions(tuple(data.mean), tuple(data.std), data.threads, data.resident, further)


def cadence(config: Config, length: Length) -> Cadence:
  """When a run with a directory evaluates and saves, and what it writes.

  Raises:
    ConfigError: not durations, or a service that is not there.
  """
  with user_errors():
    sinks.check(config.log.sinks)
    return Cadence(
      evaluate=length.every('evals.knn.every', config.evals.knn.every, may_be_never=True),
      save=length.every('checkpoint.every', config.checkpoint.every),
      keep=config.checkpoint.keep,
      tensorboard=config.log.tensorboard,
      csv=config.log.csv,
      sinks=tuple(config.log.sinks),
      profile_start=config.profile.start,
      profile_steps=config.profile.steps,
    )


def logging_of(config: Config) -> Logging:
  """What the run of a classifier writes, from the fields `log`."""
  return Logging(config.log.every, config.log.tensorboard, config.log.csv)


def _method_builder(config: Config, channels: int) -> Callable[[Setting], Method]:
  fields, share = config.method.to_dict(), config.train.keep_tokens
  encoder = _encoder_factory(config)

  def method(setting: Setting) -> Method:
    def of_encoder(make: Any) -> Method:
      with user_errors('config.method'):
        made = methods.build_method(make, setting, fields)
      if config.data.labels and made.streams == 1:
        raise ConfigError(
          f"data.labels='{config.data.labels}' makes two streams of the images, with their labels "
          f'and without, and {fields["name"]} learns from one: leave it empty, or take fixmatch, '
          'which learns from both.'
        )
      return made

    with user_errors():
      return dropped_tokens.build(of_encoder, encoder, share, channels=channels, axis=setting.axis)

  return method


def _encoder_factory(config: Config) -> Any:
  make = encoder_factory(dict(config.encoder), mean=config.data.mean, std=config.data.std)

  def encoder(bn_axis: str | None, bn_groups: int = 0) -> Any:
    with user_errors('config.encoder'):
      return make(bn_axis, bn_groups)

  return encoder


def view_specs(config: Config) -> tuple[ViewSpec, ...]:
  """One specification per view, in the order of the numbers in their names: view1, view2, ...

  A view may stand for several alike: `{'size': 96, ..., 'repeat': 6}`. Where its size is 0, it is
  the share `size_share` of the first view's.
  """
  with user_errors('config.views'):
    return views.specs_of(config.views.to_dict())


def _scaled(config: Config, specs: Sequence[ViewSpec], share: float) -> tuple[ViewSpec, ...]:
  """The views at a share of their size, in whole patches where the encoder has some."""
  own = config.encoder.name == METHODS_OWN
  patch = 1 if own else getattr(_encoder_factory(config)(None), 'patch', 1)
  return progressive.scaled(specs, share, patch)


def spec_names(config: Config) -> list[str]:
  """One name per specification, view2 before view10; repeated ones: view3 1, view3 2, ..."""
  names = []
  for name in views.names_of(config.views):
    repeat = config.views[name].get('repeat', 1)
    names += [name] if repeat == 1 else [f'{name} {i + 1}' for i in range(repeat)]
  return names
