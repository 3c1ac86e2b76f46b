"""The one loop, and what a run with a directory does around it.

`training` is the loop as a generator that yields after every step: a linear probe in memory goes
through it as a pretraining run of weeks does. Where the data live on the accelerator, many steps
are one call, which ends where somebody has something to do. `train` adds the rest: resuming,
metrics, evaluations, checkpoints, and stopping when asked to.
"""

import collections
from collections.abc import Callable, Generator, Iterator
import contextlib
import functools
import logging
import math
import pathlib
import time
from typing import Any

import jax
import numpy as np

from byoljax import streams
from byoljax.config import ConfigError, user_errors
from byoljax.data.augment import device
from byoljax.data.batches import pipeline, resident
from byoljax.data.sources.source import Source
from byoljax.devices import hosts, mapping
from byoljax.devices.stop import StopRequest
from byoljax.evals import features as features_lib
from byoljax.length import is_due, next_due
from byoljax.step import Metrics, TrainState
from byoljax.train.progressive import sizes
from byoljax.train.record import Cadence, Hooks, Record
from byoljax.train.resume import restore
from byoljax.train.run import Run
from byoljax.workdir import activity, checkpoint, run_dir
from byoljax.workdir.clock import Clock

log = logging.getLogger('byoljax')


def batches(run: Run, start_step: int) -> Generator[pipeline.Batch, None, None]:
  """The run's input from `start_step` to its end: this process's part of every batch.

  Raises:
    ConfigError: while they are made: what the data hold cannot be used.
  """
  while start_step < run.length.total_steps:
    stage = run.at(start_step)
    made = pipeline.train_batches(
      run.source,
      stage.specs,
      order=run.order,
      seed=run.seed,
      start_step=start_step,
      stop_step=stage.until,
      fields=run.data.fields,
      threads=run.data.threads,
    )
    with contextlib.closing(made):
      while True:
        try:
          batch = next(made)
        except StopIteration:
          break
        except ValueError as error:
          raise ConfigError(f'config.data: {error}') from error
        yield batch
    start_step = stage.until


# (state, steps done, limit) -> (state, metrics, steps done, at most the limit).
Advance = Callable[[TrainState, int, int], tuple[TrainState, Metrics, int]]


def training(
  run: Run,
  state: TrainState,
  start_step: int,
  clock: Clock,
  due: Callable[[int], float] = lambda done: math.inf,
) -> Generator[tuple[int, TrainState, Metrics], None, None]:
  """The loop: yields (steps done, state, metrics of the last step on the device).

  The yielded state is donated to the next step: copy what must outlive it.

  Args:
    run: see `byoljax.train.run`.
    state: on the devices, as `run.layout` places it.
    start_step: steps that it has done.
    clock: times the loop.
    due: steps done -> the next step after which the caller has something to do. It yields there, at
      the end and at places of its own: after every step where the host makes the batches.
  """
  total = run.length.total_steps
  wait_for_each = mapping.must_await_every_step()
  until = start_step  # The end of the stage that is trained.
  refresh = run.method.refresh
  with (
    activity.doing('training', total - start_step, 'steps') as did,
    _advance(run, start_step, clock) as advance,
  ):
    done = start_step
    while done < total:
      if refresh is not None and done % refresh.every == 0:
        with clock.paused(), activity.doing('periodic refresh of the method (such as clustering)'):
          state = refreshed(run, state, done)
      first = done == until  # It compiles: made and timed apart.
      if first:
        until = run.at(done).until
      limit = done + 1 if first else min(due(done), until)
      if refresh is not None:
        limit = min(limit, next_due(done, refresh.every))
      before = done
      later = done > start_step
      with (
        _compiling(run, state, done, clock if later else None)
        if first
        else contextlib.nullcontext()
      ):
        state, values, done = advance(state, done, int(limit))
        if wait_for_each or first:
          jax.block_until_ready(state)
      did(done - before)
      clock.tick(done)
      yield done, state, values


@contextlib.contextmanager
def _compiling(run: Run, state: TrainState, done: int, clock: Clock | None) -> Iterator[None]:
  """Around the first step of a stage, which compiles; the rates of a `clock` leave it out."""
  stage = run.at(done)
  if run.earlier:
    log.info('views of %s pixels up to step %d', sizes(stage.specs), stage.until)
  if clock is not None:
    jax.block_until_ready(state)  # The steps before it are not in the pause.
  with (
    activity.doing('compiling and first step'),
    clock.paused() if clock else contextlib.nullcontext(),
  ):
    yield


@contextlib.contextmanager
def _advance(run: Run, start_step: int, clock: Clock) -> Iterator[Advance]:
  """How this run gets on: by batches from the host, or by data on the devices."""
  if start_step < run.length.total_steps:
    # Decodes what is to be kept in memory: the input of both.
    with clock.waiting(), user_errors('config.data'), activity.doing('reading the images'):
      source = run.source.opened()
    if resident.is_chosen(run.data.resident, source, run.held_fields):
      yield _resident(run, source, clock)
      return
  ahead: collections.deque[Metrics] = collections.deque()
  with contextlib.closing(batches(run, start_step)) as made:

    def advance(state: TrainState, done: int, limit: int) -> tuple[TrainState, Metrics, int]:
      del limit
      with clock.waiting():
        batch = mapping.shard(next(made))
      if len(ahead) == _AHEAD:
        jax.block_until_ready(ahead.popleft())
      state, values = run.at(done).step(state, batch)
      ahead.append(values)
      return state, values, done + 1

    yield advance


# Steps in the devices' queue. A request to stop waits for all of them, and progress counts them as
# done; a few are enough for the devices never to wait for Python.
_AHEAD = 3
# A request to stop is heard between two calls, and one call waits while another one runs.
_CALL_SECONDS = 2.0


def _resident(run: Run, source: Source, clock: Clock) -> Advance:
  """Many steps per call on data that live on the devices; see `byoljax.data.batches.resident`.

  A call has as many steps as fit into `_CALL_SECONDS`, by the time of a stage's second call: the
  first compiles. How the steps are cut into calls does not change what they compute.
  """
  with clock.waiting():
    data = resident.place(source, run.held_fields)
  calls, at_once, until = 0, 1, 0
  before: Metrics = {}

  def advance(state: TrainState, done: int, limit: int) -> tuple[TrainState, Metrics, int]:
    nonlocal calls, at_once, until, before
    stage = run.at(done)
    if stage.until != until:
      calls, at_once, until = 0, 1, stage.until
    count = min(limit - done, at_once)
    with clock.waiting():
      rows = resident.examples(run.order, done, count)
    began = time.perf_counter()
    jax.block_until_ready(before)  # At most one call waits behind the one that runs.
    assert stage.many_steps is not None
    state, before = stage.many_steps(state, data, rows, np.int32(count))
    calls += 1
    if calls == 2:
      jax.block_until_ready(before)
      at_once = _steps_at_once((time.perf_counter() - began) / count)
    return state, before, done + count

  return advance


def _steps_at_once(seconds: float) -> int:
  """How many steps of this length make a call; all processes get the first one's answer."""
  if mapping.must_unroll():
    return 1
  steps = min(int(_CALL_SECONDS / max(seconds, 1e-6)), resident.MAX_STEPS)
  return hosts.broadcast_from_first(max(steps, 1))


def refreshed(run: Run, state: TrainState, step: int) -> TrainState:
  """The state after the method's rare work before `step`, such as clustering all features.

  The steps' own randomness is not touched: the key is folded with a stream of its own.
  """
  refresh = run.method.refresh
  assert refresh is not None

  def features() -> dict[str, np.ndarray]:
    size = run.source.size
    source, count = run.source, min(refresh.rows or size, size)
    if count < size:
      source = source.subset(np.arange(count) * size // count)
    clean = pipeline.eval_batches(
      source,
      image_size=run.at(step).specs[0].size,
      batch_size=run.length.batch_size,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      threads=run.data.threads,
    )
    extract = _extractor(refresh.embed or run.method.embed, run.data.mean, run.data.std)
    watched = activity.counted(clean, 'features', count, activity.rows, 'images')
    return extract(whole.params, whole.method_state, watched, count)

  whole = run.layout.gather(state)
  key = jax.random.fold_in(jax.random.wrap_key_data(mapping.fetch(state.key)), step)
  params, method_state = refresh.apply(
    whole.params, whole.method_state, features, jax.random.fold_in(key, streams.REFRESH), step
  )
  return run.layout.place(whole.replace(params=params, method_state=method_state))


@functools.cache
def _extractor(embed: Callable[..., Any], mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
  """One for every run: compiled once."""
  return features_lib.every_tap(embed, device.make_eval_transform(mean, std))


Evaluate = Callable[[TrainState], dict[str, float]]


def train(
  run: Run,
  workdir: pathlib.Path,
  cadence: Cadence,
  *,
  evaluate: Evaluate | None = None,
  hooks: Hooks = Hooks(),  # noqa: B008 - it is a constant.
  must_be_finite: tuple[str, ...] = ('loss', 'grad_norm'),
) -> TrainState:
  """Trains to the end, or until the process is asked to stop, in a directory that can be resumed.

  Args:
    run: see `byoljax.train.run`.
    workdir: holds checkpoints, metrics and, when a stop is asked for, everything needed to resume.
    cadence: when it evaluates and saves.
    evaluate: state -> metrics.
    hooks: what is called beside; what it raises ends the run.
    must_be_finite: the run stops when one of these metrics is not.

  Returns:
    The last state.

  Raises:
    Stopped: the process was asked to stop; everything is saved.
    FloatingPointError: the loss is not finite. The last good checkpoint stays.
    ConfigError: the directory's checkpoint does not fit the run, or its metrics are damaged.
  """
  total, steady = run.length.total_steps, run.length.steady_steps
  with contextlib.ExitStack() as closing:
    # Outermost: a second signal must not end the process while the last checkpoint is written.
    stop = closing.enter_context(StopRequest())
    with user_errors('checkpoint'):
      checkpoints = closing.enter_context(
        checkpoint.Checkpoints(workdir, keep=cadence.keep, always={steady} - {0})
      )
    state, start = restore(run, checkpoints)
    # Only the first process reads and opens what it writes to.
    with hosts.raising_together(ConfigError, f"another process failed to open '{workdir}'."):
      record = closing.enter_context(Record(run, workdir, cadence, start, must_be_finite))
    periods = (run.log_every, cadence.evaluate, cadence.save)

    def due(done: int) -> float:
      decay = steady if done < steady else math.inf  # A run is extended from there.
      return min([record.profiler.due(done), decay, *(next_due(done, n) for n in periods)])

    steps = training(run, state, start, record.clock, due)
    closing.enter_context(contextlib.closing(steps))
    for done, state, values in steps:
      record.profiler(done, values)
      last, stopping = done == total, stop.requested()
      save = last or stopping or done == steady or is_due(done, cadence.save)
      test = (last and cadence.evaluate >= 0) or is_due(done, cadence.evaluate)
      if not (save or test or is_due(done, run.log_every)):
        continue
      row = record.read(done, values)
      if test and evaluate is not None:
        with record.clock.paused():
          row |= evaluate(state)
      record.write(done, row)
      if hooks.on_row is not None:
        hooks.on_row({'step': done} | row)
      if save:
        with record.clock.paused(), activity.doing('saving the checkpoint'):
          checkpoints.save(done, run.layout.gather(state), row)
          if hooks.on_checkpoint is not None:
            checkpoints.wait()
            hooks.on_checkpoint(done, workdir / 'checkpoints' / str(done))
      if stopping:  # Even after the last step: what follows a run can take hours.
        break
    else:
      return state
  run_dir.say(f'Stopped at step {done} and saved: the same command resumes from there.')
  raise stop.stopped()
