"""A training run made from typed parts: `make_run`, and `Run`, what the loop takes.

    length = make_length('20 epochs', batch_size=64, num_examples=source.size)
    run = make_run(
      source,
      specs,
      lambda setting: byol.build(make_encoder, setting, projector=(512, 128), predictor=(512, 128)),
      make_recipe({'name': 'adamw', 'base_lr': 8e-3, 'warmup': '1 epochs'}, length),
      length,
      data=DataOptions(mean=(0.5,) * 3, std=(0.25,) * 3),
    )

Nothing is computed here. Whatever does not fit the data, the devices or the other arguments is
found here, before any compute. `byoljax.train.assemble` makes the arguments from a configuration.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from byoljax import optim
from byoljax.data.augment import device
from byoljax.data.augment.views import ViewSpec
from byoljax.data.batches import pipeline, resident
from byoljax.data.batches.order import AnyOrder, Order, check_order, shares_of
from byoljax.data.sources.source import Source
from byoljax.devices import collectives, mapping
from byoljax.evals import collapse
from byoljax.length import Length, is_due
from byoljax.method import Batch, Method, Setting
from byoljax.methods.checks import check_networks
from byoljax.optim.recipe import Recipe
from byoljax.step import Measured, Metrics, TrainState, make_init, train_step
from byoljax.train import checks, online_probe, sharding
from byoljax.train.online_probe import ProbeOptions

PyTree = Any
BuildMethod = Callable[[Setting], Method]
MapStep = Callable[..., Callable[..., Any]]


class DataOptions(NamedTuple):
  """How images are read and normalized.

  Attributes:
    mean: per channel, or one for all, subtracted from images in [0, 1].
    std: per channel, or one for all, divided by.
    threads: for decoding; 0 means one for each core.
    resident: whether images live on the devices: 'auto', 'on' or 'off'; see `resident`.
    fields: names of further fields of the source that the method is given; see `data.fields`.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  threads: int = 0
  resident: str = 'auto'
  fields: tuple[str, ...] = ()


class Stage(NamedTuple):
  """A part of a run, whose views have sizes of their own; see `train.progressive`.

  Attributes:
    until: step that it ends with.
    specs: one augmentation per view.
    step: as `Run.step`.
    many_steps: as `Run.many_steps`.
  """

  until: int
  specs: tuple[ViewSpec, ...]
  step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
  many_steps: Callable[..., tuple[TrainState, Metrics]] | None


class Run(NamedTuple):
  """Everything that training needs; nothing here changes.

  Attributes:
    source: the training images.
    specs: one augmentation per view, in the last stage of the run.
    order: which examples each step of this process consists of.
    seed: of the order, the augmentation and the initial weights.
    data: see `DataOptions`.
    length: durations in steps.
    accumulate: micro-batches per optimizer step.
    method: see `byoljax.method`.
    tx: the optimizer of all parameter groups.
    schedule: step -> learning rate of the group 'default'; None where it is not known.
    warmup_steps: of the learning rate.
    log_every: steps between two rows of metrics; 0 logs the last step only.
    max_skipped: steps in a row whose update may be skipped before the run stops; 0: no limit.
    step: the mapped train step: (state, batch [devices, b, ...]) -> (state, metrics); that of the
      last stage, where there are several: `at` has that of any.
    create: () -> the TrainState at step 0, replicated arrays on the default device.
    layout: how the state that `step` takes is placed on the devices.
    report: table of the parameters and how each is optimized.
    many_steps: the mapped `resident.make_steps`, for data that live on the devices: (state, data,
      order [devices, 2, K, b], count) -> (state, metrics). None where images differ in size.
    earlier: the stages before the last one, which have smaller views.
  """

  source: Source
  specs: tuple[ViewSpec, ...]
  order: AnyOrder
  seed: int
  data: DataOptions
  length: Length
  accumulate: int
  method: Method
  tx: optax.GradientTransformation
  schedule: Callable[[Any], Any] | None
  warmup_steps: int
  log_every: int
  max_skipped: int
  step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
  create: Callable[[], TrainState]
  layout: sharding.Placement
  report: str
  many_steps: Callable[..., tuple[TrainState, Metrics]] | None
  earlier: tuple[Stage, ...] = ()

  @property
  def stages(self) -> tuple[Stage, ...]:
    """The parts of the run in their order, at least one."""
    last = Stage(self.length.total_steps, self.specs, self.step, self.many_steps)
    return (*self.earlier, last)

  @property
  def held_fields(self) -> tuple[str, ...]:
    """The fields beside the image that data on the devices have."""
    return _held(self.specs, self.data.fields)

  def at(self, done: int) -> Stage:
    """The stage that the step after `done` steps belongs to."""
    return next((stage for stage in self.earlier if done < stage.until), self.stages[-1])


def make_run(
  source: Source,
  specs: Sequence[ViewSpec],
  method: BuildMethod,
  optimizer: Recipe | optax.GradientTransformation,
  length: Length,
  *,
  data: DataOptions,
  earlier: Sequence[tuple[int, Sequence[ViewSpec]]] = (),
  order: AnyOrder | None = None,
  seed: int = 0,
  accumulate: int = 1,
  skip_non_finite: bool = False,
  max_skipped: int = 0,
  shard_state: bool = False,
  log_every: int = 0,
  probe: ProbeOptions | None = None,
  dtype: str = 'float32',
  given: Mapping[str, Any] | None = None,
  num_devices: int | None = None,
  mapped: MapStep = mapping.spmd,
) -> Run:
  """Makes a training run.

  Args:
    source: the training images.
    specs: one augmentation per view.
    method: given what the run is like, builds the method.
    optimizer: what `optim.recipe.make_recipe` makes, or any optax transformation, which then moves
      every parameter that the method does not freeze.
    length: see `length.make_length`.
    data: see `DataOptions`.
    earlier: (step that it ends with, one augmentation per view) of stages before the last one, in
      their order; () trains on `specs` throughout.
    order: which examples a step consists of; None: a new permutation of all in every epoch.
    seed: of the order, the augmentation and the initial weights.
    accumulate: micro-batches per optimizer step.
    skip_non_finite: whether steps whose loss or gradient is not finite change nothing.
    max_skipped: how many of them in a row stop the run; 0: none do.
    shard_state: whether the optimizer's state, target networks and memories are sharded over the
      devices; the optimizer then gets flat shards, and takes norms by
      `sharding.norm_over_devices()`.
    log_every: steps between two rows of metrics; 0 logs the last step only.
    probe: of an online probe on labelled data; None: there is none.
    dtype: compute type of the networks, 'float32' or 'bfloat16'; `devices.backend.compute_type()`
      is that which suits the devices.
    given: networks for the method, by name ('encoder', 'teacher').
    num_devices: that the step runs on; None: those there are.
    mapped: makes the per-device step one of all devices, given in_axes and out_axes:
      `mapping.spmd`, or another way.

  Raises:
    ValueError: arguments that do not fit the data, the devices or one another.
  """
  num_devices = jax.device_count() if num_devices is None else num_devices
  checks.check_batch(length.batch_size, accumulate, num_devices, source)
  resident.check(data.resident, source)
  if order is None:
    order = Order(source.size, length.batch_size, seed, jax.process_index(), jax.process_count())
  check_order(order, source.size, length.batch_size, num_devices, accumulate)
  setting = Setting(
    length=length,
    accumulate=accumulate,
    num_devices=num_devices,
    num_examples=source.size,
    num_classes=source.num_classes,
    axis=collectives.AXIS,
    dtype=dtype,
    given=dict(given or {}),
    mean=tuple(data.mean),
    std=tuple(data.std),
    shares=shares_of(order),
    views=tuple(specs),
  )
  made = method(setting)
  if not isinstance(made, Method):
    raise ValueError(f'the method is {type(made).__name__}: its builder must return a Method.')
  if not isinstance(optimizer, Recipe):
    optimizer = Recipe.of(optimizer)
  if probe is not None and source.num_classes > 1 and not source.multi_label:
    made = online_probe.add(made, source.num_classes, setting.axis)
    optimizer = optimizer.with_group('probe', *online_probe.optimizer(probe, length))
  recipe = optimizer.starting(made.starts)
  tx = optim.make(lambda params: recipe.label(made.groups(params), params), recipe.transformations)
  augment = functools.partial(
    device.make_augment,
    seed=seed,
    mean=data.mean,
    std=data.std,
    fields=[source.field(name) for name in data.fields],
  )
  example = _example_batch(source, specs, data.fields, augment(specs))
  create = make_init(made, tx, example, seed, skip_non_finite=skip_non_finite)
  shapes = jax.eval_shape(create)
  check_networks(made, shapes.params, shapes.method_state)
  if setting.micro_batch_size == 1:
    checks.check_losses(made, shapes, jax.tree.map(lambda x: x[:1][None], example), setting)
  for _, smaller in earlier:
    batch = pipeline.batch_shapes(source, smaller, setting.micro_batch_size, data.fields)
    checks.check_stage(made, shapes, jax.eval_shape(augment(smaller), batch), smaller, setting)
  layout = sharding.replicated()
  if shard_state:
    made, tx, layout = sharding.shard(made, tx, shapes)

  def stage(until: int, specs: Sequence[ViewSpec]) -> Stage:
    step = functools.partial(
      train_step,
      method=made,
      tx=tx,
      augment=augment(specs),
      diagnose=_diagnosis(log_every, length.total_steps),
      accumulate=accumulate,
      skip_non_finite=skip_non_finite,
    )
    one = mapped(step, in_axes=(layout.axes, 0), out_axes=(layout.axes, None))
    many = _many_steps(step, source, _held(specs, data.fields), layout)
    return Stage(until, tuple(specs), one, many)

  last = stage(length.total_steps, specs)
  labels = recipe.label(made.groups(shapes.params), shapes.params)
  return Run(
    source=source,
    specs=last.specs,
    order=order,
    seed=seed,
    data=data,
    length=length,
    accumulate=accumulate,
    method=made,
    tx=tx,
    schedule=recipe.schedule,
    warmup_steps=recipe.warmup_steps,
    log_every=log_every,
    max_skipped=max_skipped if skip_non_finite else 0,
    step=last.step,
    create=create,
    layout=layout,
    report=optim.param_report(shapes.params, labels, recipe.settings),
    many_steps=last.many_steps,
    earlier=tuple(stage(*each) for each in earlier),
  )


def _held(specs: Sequence[ViewSpec], fields: Sequence[str]) -> tuple[str, ...]:
  """The further fields that data on the devices need: of the batches, and those that views show."""
  return tuple(dict.fromkeys([*fields, *(s.field for s in specs if s.field != 'image')]))


def _example_batch(source: Source, specs: Sequence[ViewSpec], fields: Any, augment: Any) -> Batch:
  """Two examples as the method sees them, all zeros: only their shapes matter."""
  shapes = jax.eval_shape(augment, pipeline.batch_shapes(source, specs, 2, fields))
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def _many_steps(
  step: resident.Step, source: Source, fields: Sequence[str], layout: sharding.Placement
) -> Callable[..., Any] | None:
  if source.image_shape is None:
    return None
  return mapping.spmd(
    resident.make_steps(step, source, fields),
    in_axes=(layout.axes, None, 0, None),
    out_axes=(layout.axes, None),
  )


def _diagnosis(every: int, total: int) -> Callable[[jax.Array, jax.Array], Metrics]:
  """Collapse metrics at the steps that are logged: eigenvalues cost time."""

  def diagnose(embedding: jax.Array, step: jax.Array) -> Metrics:
    measure = functools.partial(collapse.collapse_metrics, axis=collectives.AXIS)
    nothing = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(measure, embedding)
    )
    due = is_due(step + 1, every) | (step + 1 == total)
    found = jax.lax.cond(due, measure, lambda _: nothing, embedding)
    return {name: Measured(value, due) for name, value in found.items()}

  return diagnose
