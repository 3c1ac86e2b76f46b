"""Times a configuration on this machine: the input alone, the step alone, and both together.

Both together is `loop.training`, the loop of every run, and its figures are those that a run logs:
images per second and the share of the time that it waits for data, excluding evaluations,
checkpoints and clustering. The step alone repeats one batch that is already on the device, and
includes the augmentation that runs in the step. The input alone is produced and discarded.

The first step, which compiles, is timed separately. Work is counted as in `byoljax.plan`.
"""

from collections.abc import Callable, Generator, Mapping
import contextlib
import functools
import statistics
import sys
import time
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from byoljax import length as length_lib
from byoljax.config import Config, ConfigError
from byoljax.data.batches import resident
from byoljax.data.sources.source import Source
from byoljax.devices import collectives, mapping
from byoljax.length import Length, next_due
from byoljax.plan import aot, flops, hardware
from byoljax.step import TrainState
from byoljax.train import assemble, loop
from byoljax.train.run import Run
from byoljax.workdir.clock import Clock

try:
  import resource
except ModuleNotFoundError:  # Not on Windows.
  resource = None

# Untimed steps before a round, which use up batches that were prefetched in between.
_HEAD_START = 4
# Step 1 compiles; from the time of step 2 the loop decides how many steps make a call.
_FIRST = 3


def check(config: Config) -> None:
  """Raises ConfigError where there is nothing to time."""
  steps, rounds = config.bench.steps, config.bench.rounds
  if steps < 1 or rounds < 1:
    raise ConfigError(f'bench.steps={steps} and bench.rounds={rounds} must both be at least 1.')
  if _needed(steps, rounds) > length_lib.MOST_STEPS:
    raise ConfigError(
      f'bench.rounds={rounds} rounds of bench.steps={steps} steps are more than a run may have, '
      f'{length_lib.MOST_STEPS:,}.'
    )


def _needed(steps: int, rounds: int) -> int:
  """How many steps of training are timed, with those before the rounds."""
  return _FIRST + rounds * (_HEAD_START + steps)


def measure(
  config: Config, source: Source, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
  """Times a pretraining configuration on the attached devices; writes nothing.

  Args:
    config: fields as for training; times `bench.steps` steps in each of `bench.rounds` rounds, on
      views of their full size, and extends `train.length` if it is shorter than that.
    source: the training images.
    given: networks for the method, by name.

  Returns:
    'input', 'step' and 'training', each with 'img_per_s', 'ms_per_step' and 's_per_epoch' (medians
    over rounds) and 'samples', seconds per step of every round; 'wait', the share of the
    training time, in [0, 1], spent waiting for data; 'first_step_s'; 'peak_memory', bytes and of
    what; 'flops'; and a description of what was measured.

  Raises:
    ConfigError: nothing to time, or a configuration that does not fit.
  """
  check(config)
  steps, rounds = config.bench.steps, config.bench.rounds
  assemble.resolve_dtype(config)
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.train.progressive = ''
  run = assemble.from_config(config, source, given=given)
  needed = _needed(steps, rounds)
  if run.length.total_steps < needed:
    with config.unlocked():
      config.train.length = f'{needed} steps'
    run = assemble.from_config(config, source, given=given)
  opened = run.source.opened()
  on_device = resident.is_chosen(run.data.resident, opened, run.held_fields)

  # Training first, so that its peak memory is not exceeded by anything else.
  state, found = _training(run, steps, rounds)
  peak = _peak_memory()
  with contextlib.closing(loop.batches(run, 0)) as made:
    batch = next(made)
  per_call = found.pop('steps_per_call')
  if on_device:
    call = _resident_call(run, opened, per_call)
  else:
    call, per_call = _host_call(run, batch), 1
  samples = {
    'input': _input(run, steps, rounds, per_call if on_device else 0),
    'step': _step(call, state, steps, rounds, per_call),
    'training': found.pop('samples'),
  }
  counted = assemble.from_config(
    config,
    source,
    given=given,
    mapped=functools.partial(mapping.spmd_shard_map, mesh=aot.counting_mesh(jax.device_count())),
  )
  length = run.length
  timed = {part: _summary(samples[part], length) for part in samples}
  return {
    'method': config.method.name,
    'encoder': config.encoder.name,
    'dtype': config.encoder.dtype,
    'data': source.name,
    'images': source.size,
    'batch_size': length.batch_size,
    'views': [spec.size for spec in run.specs],
    'steps_per_epoch': length.steps_per_epoch,
    'devices': jax.device_count(),
    'device_kind': jax.devices()[0].device_kind,
    'processes': jax.process_count(),
    'data_on_device': on_device,
    'steps_per_call': per_call,
    'steps': steps,
    'rounds': rounds,
    **timed,
    **found,
    'peak_memory': peak,
    'flops': _flops(counted, batch, timed),
  }


def _training(run: Run, steps: int, rounds: int) -> tuple[TrainState, dict[str, Any]]:
  """Rounds of the training loop; the clock is read between them as a run does when it logs."""
  until = 0

  def due(done: int) -> float:
    return min(until if until > done else done + 1, next_due(done, run.log_every))

  clock = Clock(run.length.total_steps, run.length.batch_size)
  state, values, done, per_call = run.layout.place(run.create()), {}, 0, 1
  training = loop.training(run, state, 0, clock, due)
  samples, waits = [], []
  with contextlib.closing(training):

    def advance(count: int) -> dict[str, float]:
      nonlocal state, values, done, per_call, until
      until = done + count
      while done < until:
        before = done
        done, state, values = next(training)
        per_call = max(per_call, done - before)
      jax.block_until_ready((state, values))
      clock.tick(done)
      return clock.read()

    first = advance(_FIRST)['time/first_step_s']
    for _ in range(rounds):
      advance(_HEAD_START)
      row = advance(steps)
      samples.append(run.length.batch_size / row['time/img_per_s'])
      waits.append(row['time/wait'])
  return state, {
    'samples': samples, 'wait': statistics.median(waits), 'wait_samples': waits,
    'first_step_s': first, 'steps_per_call': per_call,
  }  # fmt: skip


Call = Callable[[TrainState], tuple[TrainState, Any]]


def _host_call(run: Run, batch: dict[str, Any]) -> Call:
  """One step on a batch from the host that has been copied to the devices."""
  placed = _placed(mapping.shard(batch))
  return lambda state: run.step(state, placed)


def _resident_call(run: Run, source: Source, count: int) -> Call:
  """The steps of one call on data that live on the devices."""
  data = resident.place(source, run.held_fields)
  index = _placed(resident.examples(run.order, 0, count))
  assert run.many_steps is not None
  many_steps = run.many_steps
  return lambda state: many_steps(state, data, index, np.int32(count))


def _placed(tree: Any) -> Any:
  """Places [local devices, ...] on the devices, so that the mapped step needs no copy."""
  sharding = NamedSharding(mapping.local_mesh(), PartitionSpec(collectives.AXIS))
  return jax.block_until_ready(jax.tree.map(lambda x: jax.device_put(x, sharding), tree))


def _step(call: Call, state: TrainState, steps: int, rounds: int, per_call: int) -> list[float]:
  """Seconds per step of each round."""
  wait_for_each = mapping.must_await_every_step()
  calls, samples = -(-steps // per_call), []
  for number in range(rounds + 1):
    began = time.perf_counter()
    for _ in range(calls if number else 1):  # A single warm-up call.
      state, values = call(state)
      if wait_for_each:
        jax.block_until_ready(state)
    jax.block_until_ready((state, values))
    samples.append((time.perf_counter() - began) / (calls * per_call))
  return samples[1:]


def _input(run: Run, steps: int, rounds: int, per_call: int) -> list[float]:
  """Seconds per step of each round, of producing the input and splitting it over the devices.

  Args:
    run: see `byoljax.train.run`.
    steps: of a round.
    rounds: how many.
    per_call: above 0 if the data are on the devices: steps per call, of which only the indices are
      produced.
  """
  with contextlib.closing(_made(run, per_call)) as made:
    samples = []
    for _ in range(rounds):
      for _ in range(_HEAD_START):
        next(made)
      count, began = 0, time.perf_counter()
      while count < steps:
        count += next(made)
      samples.append((time.perf_counter() - began) / count)
  return samples


def _made(run: Run, per_call: int) -> Generator[int, None, None]:
  """Produces input endlessly; yields the number of steps of each piece."""
  if per_call:
    order, first = run.order, 0
    while True:
      resident.examples(order, first, per_call)
      first += per_call
      yield per_call
  while True:
    with contextlib.closing(loop.batches(run, 0)) as batches:
      for batch in batches:
        mapping.shard(batch)
        yield 1


def _summary(samples: list[float], length: Length) -> dict[str, Any]:
  seconds = statistics.median(samples)
  return {
    'img_per_s': length.batch_size / seconds,
    'ms_per_step': 1000 * seconds,
    's_per_epoch': length.steps_per_epoch * seconds,
    'samples': samples,
  }


def _peak_memory() -> dict[str, Any] | None:
  """Peak bytes in use: of the fullest device if known, else of this process."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peaks = [each['peak_bytes_in_use'] for each in stats if 'peak_bytes_in_use' in each]
  if peaks:
    return {'bytes': max(peaks), 'of': 'the fullest device'}
  if resource is None:
    return None
  size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  unit = 1 if sys.platform == 'darwin' else 1024
  return {'bytes': size * unit, 'of': 'the whole process, on the host'}


def _flops(run: Run, batch: dict[str, Any], timed: dict[str, Any]) -> dict[str, Any]:
  """FLOPs per step and image, per second, and as a share of the devices' peak if known.

  Args:
    run: its step is mapped over an abstract mesh.
    batch: of this process.
    timed: results by part.
  """
  devices = jax.device_count()
  whole = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((run.length.batch_size, *x.shape[1:]), x.dtype), batch
  )
  work = flops.count(run.step, *aot.arguments_for(run, whole, aot.counting_mesh(devices)))
  kind = jax.devices()[0].device_kind
  chip = hardware.chip_of(kind)
  seconds_at_peak = hardware.seconds_at_peak(work.flops, chip) if chip else None
  found: dict[str, Any] = {
    'per_device_and_step': dict(work.flops),
    'per_image': work.total * devices / run.length.batch_size,
    'unknown_loops': work.unknown_loops,
    'peak_per_device': hardware.peaks(chip) if chip else None,
  }
  for part in ('step', 'training'):
    seconds = timed[part]['ms_per_step'] / 1000
    found[part] = {
      'per_s': work.total * devices / seconds,
      'share_of_peak': None if seconds_at_peak is None else seconds_at_peak / seconds,
    }
  return found
