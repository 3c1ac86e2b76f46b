"""Assembles a run from a configuration and drives the one loop.

This is the only module that knows everybody. `assemble` makes the parts, `restore` places the state
(fresh or from a checkpoint), `training` is the loop as a generator that yields after every step, and
`train` adds what a run with a directory does around it: logs, evaluations, checkpoints, signals.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import logging
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax

from byoljax import checkpoint, metrics, optim, parallel
from byoljax import config as config_lib
from byoljax.clock import Clock, profile_window
from byoljax.config import ConfigError, user_errors
from byoljax.data import datasets, device, pipeline
from byoljax.data.source import Source
from byoljax.data.views import ViewSpec
from byoljax.evals import collapse
from byoljax.losses import classification
from byoljax.method import Batch, Method, Setting, with_online_probe
from byoljax.methods import METHODS
from byoljax.models import heads, make_encoder
from byoljax.models.net import stack
from byoljax.signals import StopRequest
from byoljax.step import TrainState, init_state, train_step

PyTree = Any
log = logging.getLogger('byoljax')


class Length(NamedTuple):
  """How long a run is: its durations in optimiser steps."""

  batch_size: int
  steps_per_epoch: int
  total_steps: int

  def steps(self, field: str, text: str) -> int:
    """Converts the duration in `field`; see `config.duration`."""
    return config_lib.duration(
      field,
      text,
      steps_per_epoch=self.steps_per_epoch,
      batch_size=self.batch_size,
      total_steps=self.total_steps,
    )


class Run(NamedTuple):
  """Everything that training needs, made from a configuration; nothing here changes.

  Attributes:
    config: the resolved configuration.
    source: the training images.
    specs: one augmentation per view.
    length: durations in steps.
    method: see `byoljax.method`.
    tx: the optimiser of all parameter groups.
    schedule: step -> learning rate of the group 'default'.
    step: the mapped train step: (state, batch [devices, b, ...]) -> (state, metrics).
    create: () -> the TrainState at step 0, on the default device.
    report: table of the parameters and how each is optimised.
  """

  config: ConfigDict
  source: Source
  specs: tuple[ViewSpec, ...]
  length: Length
  method: Method
  tx: optax.GradientTransformation
  schedule: Callable[[int], Any]
  step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
  create: Callable[[], TrainState]
  report: str


def assemble(
  config: ConfigDict, source: Source, *, pretrained: tuple[PyTree, PyTree] | None = None
) -> Run:
  """Makes the parts of a training run; computes nothing yet.

  Args:
    config: fields `seed`, `train`, `data`, `augment`, `views`, `encoder`, `method`, `optim`,
      `probe`, `log`.
    source: the training images.
    pretrained: encoder parameters and statistics, for methods that start from some.

  Raises:
    ConfigError: anything in the configuration that does not fit the data or the devices.
  """
  length = _length(config, source)
  with user_errors('config.views'):
    specs = tuple(ViewSpec.from_mapping(config.views[name]) for name in sorted(config.views))
  encoder = functools.partial(_encoder, config.encoder)
  setting = Setting(
    total_steps=length.total_steps,
    num_examples=source.size,
    num_classes=source.num_classes,
    axis=parallel.AXIS,
    dtype=config.encoder.dtype,
    pretrained=pretrained,
  )
  build = config_lib.choose('method', config.method.name, METHODS)
  arguments = {name: value for name, value in config.method.items() if name != 'name'}
  with user_errors('config.method'):
    method = build(encoder, setting, **arguments)
  if config.probe.online and source.num_classes > 1:
    method = _watched(method, source.num_classes)
  schedule, optimisers, settings = _optimisers(config, length)
  tx = optim.make(method.groups, optimisers)
  augment = _augmentation(config, specs, length, config.data.mean, config.data.std)
  example = {
    'views': tuple(np.zeros((2, spec.size, spec.size, 3), np.float32) for spec in specs),
    'index': np.zeros(2, np.int32),
    'label': np.zeros(2, np.int32),
  }
  create = functools.partial(init_state, method, tx, example, config.seed)
  with user_errors('config'):
    shapes = jax.eval_shape(create)
  every = max(1, length.steps('log.every', config.log.every))
  step = functools.partial(
    train_step,
    method=method,
    tx=tx,
    augment=augment,
    diagnose=_diagnosis(every, length.total_steps),
    accumulate=config.train.accumulate,
  )
  report = optim.param_report(shapes.params, method.groups(shapes.params), settings)
  return Run(
    config, source, specs, length, method, tx, schedule, parallel.spmd(step), create, report
  )


def _augmentation(
  config: ConfigDict,
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
    measure = functools.partial(collapse.collapse_metrics, axis=parallel.AXIS)
    skipped = jax.tree.map(
      lambda x: jnp.full(x.shape, jnp.nan, x.dtype), jax.eval_shape(measure, embedding)
    )
    due = ((step + 1) % every == 0) | (step + 1 == total)
    return jax.lax.cond(due, measure, lambda _: skipped, embedding)

  return diagnose


def _encoder(fields: Mapping[str, Any], bn_axis: str | None) -> Any:
  with user_errors('config.encoder'):
    return make_encoder(**fields, bn_axis=bn_axis)


def _watched(method: Method, num_classes: int) -> Method:
  """Adds the online probe, a linear classifier on the embedding."""
  head = heads.LinearHead(num_classes)

  def loss(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    value = classification.cross_entropy(logits, labels)
    return value, {'loss': value, 'top1': classification.accuracy(logits, labels)}

  return with_online_probe(
    method,
    lambda key, x: head.init(key, x, train=True)['params'],
    lambda params, x: head.apply({'params': params}, x, train=True),
    loss,
  )


def _length(config: ConfigDict, source: Source) -> Length:
  """Checks batch size, data size and devices against one another and converts the durations."""
  batch_size, parts = config.train.batch_size, config.train.accumulate
  devices = jax.device_count()
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
  total = config_lib.duration(
    'train.length', config.train.length, steps_per_epoch=per_epoch, batch_size=batch_size
  )
  if total < 1:
    raise ConfigError(f"train.length='{config.train.length}' is less than one step.")
  length = Length(batch_size, per_epoch, total)
  warmup = length.steps('optim.warmup', config.optim.warmup)
  if warmup > total:
    raise ConfigError(
      f"optim.warmup='{config.optim.warmup}' is {warmup} steps, longer than the training of "
      f'{total} steps; shorten one or lengthen the other.'
    )
  return length


def _optimisers(
  config: ConfigDict, length: Length
) -> tuple[Callable[[int], Any], dict[str, optax.GradientTransformation], dict[str, Any]]:
  """The learning-rate schedule, the optimiser of each parameter group, and their settings."""
  fields = dict(config.optim)
  base_lr, end, warmup = fields.pop('base_lr'), fields.pop('end_lr'), fields.pop('warmup')
  with user_errors('config.optim'):
    peak = optim.peak_lr(base_lr, length.batch_size)
    schedule = optim.cosine(
      peak,
      total_steps=length.total_steps,
      warmup_steps=length.steps('optim.warmup', warmup),
      end=end,
    )
    optimisers = {'default': optim.make_optimizer(schedule=schedule, **fields)}
  settings = {'default': fields}
  if config.probe.online:
    probe = {'name': 'sgd', 'momentum': config.probe.momentum, 'nesterov': True}
    with user_errors('config.probe'):
      rate = optim.cosine(
        optim.peak_lr(config.probe.base_lr, length.batch_size), total_steps=length.total_steps
      )
      optimisers['probe'] = optim.make_optimizer(schedule=rate, **probe)
    settings['probe'] = probe
  return schedule, optimisers, settings


def batches(run: Run, start_step: int) -> Any:
  """The run's input from `start_step` to its end: this process's part of every batch."""
  return pipeline.train_batches(
    run.source,
    run.specs,
    batch_size=run.length.batch_size,
    seed=run.config.seed,
    start_step=start_step,
    stop_step=run.length.total_steps,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    photometric_on=run.config.augment.device,
    threads=run.config.data.threads,
  )


def example_views(
  run: Run, count: int
) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
  """The first `count` images of the first batch, and what step 0 makes of them, for looking at.

  Returns:
    Original images, uint8, and for every view a list of float32 images in [0, 1].
  """
  with contextlib.closing(batches(run, 0)) as source:
    batch = jax.tree.map(lambda x: x[:count], next(source))
  augment = _augmentation(run.config, run.specs, run.length, mean=(0.0,) * 3, std=(1.0,) * 3)
  views = jax.jit(augment)(batch, 0)['views']
  originals = pipeline.read_images(run.source, batch['index'])
  return originals, [list(np.asarray(view)) for view in views]


def training(
  run: Run, state: TrainState, start_step: int, clock: Clock
) -> Iterator[tuple[int, TrainState, dict[str, jax.Array]]]:
  """The loop: yields (steps done, state, metrics on the device) after every step.

  The yielded state is donated to the next step: copy what must outlive it.
  """
  wait_for_each = parallel.must_await_every_step()
  with contextlib.closing(batches(run, start_step)) as source:
    for done in range(start_step + 1, run.length.total_steps + 1):
      with clock.waiting():
        batch = parallel.shard(next(source))
      state, values = run.step(state, batch)
      if wait_for_each or done == start_step + 1:  # The first step compiles: timed apart.
        jax.block_until_ready(state)
      clock.tick(done)
      yield done, state, values


class Schedule(NamedTuple):
  """When a run logs, evaluates and saves, in steps; 0 = never before the end."""

  log: int
  evaluate: int
  save: int


Evaluate = Callable[[TrainState], dict[str, float]]


def train(
  run: Run,
  workdir: pathlib.Path,
  *,
  evaluate: Evaluate | None = None,
  evaluate_every: str = '0 steps',
  save_every: str = '0 steps',
  keep: int = 1,
  must_be_finite: tuple[str, ...] = ('loss', 'grad_norm'),
) -> tuple[TrainState, bool]:
  """Trains to the end, or until the process is asked to stop, in a directory that can be resumed.

  Args:
    run: see `assemble`.
    workdir: holds checkpoints, metrics and, when a stop is asked for, everything to go on from.
    evaluate: state -> metrics, at `evaluate_every` and at the end.
    evaluate_every: a duration.
    save_every: a duration; the end of the run and a requested stop are saved in any case.
    keep: how many of the newest checkpoints stay.
    must_be_finite: the run stops when one of these metrics is not.

  Returns:
    The last state, and whether the run is complete.

  Raises:
    FloatingPointError: the loss is not finite. The last good checkpoint stays.
    ConfigError: the directory's checkpoint does not fit the run.
  """
  when = Schedule(
    max(1, run.length.steps('log.every', run.config.log.every)),
    run.length.steps('evals.knn.every', evaluate_every),
    run.length.steps('checkpoint.every', save_every),
  )
  with user_errors('checkpoint'):
    checkpoints = checkpoint.Checkpoints(workdir, keep=keep)
  with contextlib.ExitStack() as stack_:
    stack_.callback(checkpoints.close)
    state, start = restore(run, checkpoints)
    options = run.config.log
    writer = stack_.enter_context(
      metrics.Writer(
        workdir, tensorboard=options.tensorboard, csv=options.csv, resume_step=start
      )
    )
    stop = stack_.enter_context(StopRequest())
    row = functools.partial(_row, run, must_be_finite=must_be_finite)
    return _drive(run, state, start, when, evaluate, checkpoints, writer, stop, row)


def restore(run: Run, checkpoints: checkpoint.Checkpoints) -> tuple[TrainState, int]:
  """The state to go on from, placed on the devices, and its step: the newest checkpoint or 0."""
  latest = checkpoints.latest_step()
  if latest is None:
    return parallel.replicate(run.create()), 0
  with user_errors():
    state = checkpoints.restore(jax.eval_shape(run.create), latest)
  log.info('resuming from step %d', latest)
  return parallel.replicate(state), latest


def _drive(
  run: Run,
  state: TrainState,
  start: int,
  when: Schedule,
  evaluate: Evaluate | None,
  checkpoints: checkpoint.Checkpoints,
  writer: metrics.Writer,
  stop: StopRequest,
  make_row: Callable[..., dict[str, float]],
) -> tuple[TrainState, bool]:
  """Runs the loop and does at each step what is due."""
  total = run.length.total_steps
  clock = Clock(total, run.length.batch_size, start_step=start)
  progress = metrics.Progress(total, steps_per_epoch=run.length.steps_per_epoch)
  latest: dict[str, float] = {}
  logged = start
  with contextlib.closing(training(run, state, start, clock)) as steps, contextlib.ExitStack() as x:
    x.callback(progress.close)
    x.callback(profiler.close)
    for done, state, values in steps:
      profiler(done)
      last, stopping = done == total, stop.requested(done)
      save = last or stopping or _due(done, when.save)
      test = evaluate is not None and (last or _due(done, when.evaluate))
      if not (save or test or _due(done, when.log)):
        continue
      row = make_row(done, values, clock, since=logged)
      logged = done
      if test and evaluate is not None:
        with clock.paused():
          row |= evaluate(state)
      latest |= row
      writer.write(done, row)
      progress.update(done, latest)
      if save:
        writer.flush()
        with clock.paused():
          checkpoints.save(done, state, row)
      if stopping and not last:
        checkpoints.wait()
        return state, False
  return state, True


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


def _row(
  run: Run,
  done: int,
  values: Mapping[str, jax.Array],
  clock: Clock,
  *,
  since: int,
  must_be_finite: tuple[str, ...],
) -> dict[str, float]:
  """This step's metrics on the host; waits for the device.

  Raises:
    FloatingPointError: the loss or the gradient is not finite.
  """
  row = {name: float(value) for name, value in parallel.fetch(dict(values)).items()}
  clock.tick(done)  # Only now are the steps up to here really done.
  broken = [name for name in must_be_finite if not np.isfinite(row[name])]
  if broken:
    raise FloatingPointError(
      f'{broken[0]} became {row[broken[0]]} between step {since + 1} and step {done}; the last '
      f'checkpoint before that is kept. A lower optim.base_lr or a longer optim.warmup may help.'
    )
  rate = np.max(np.asarray(run.schedule(done - 1)))
  epoch = done / run.length.steps_per_epoch
  measured = {name: value for name, value in row.items() if not np.isnan(value)}
  return measured | {'lr': float(rate), 'epoch': epoch} | clock.read()
