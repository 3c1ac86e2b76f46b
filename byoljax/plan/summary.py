"""Assembles a plan: a nested dict that becomes the JSON file and the tables."""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax

from byoljax.config import Config, ConfigError
from byoljax.devices import backend
from byoljax.ops import fused_attention
from byoljax.plan import aot, calibration, estimate, fitting, flops, hardware, kernels
from byoljax.plan import traffic as traffic_lib
from byoljax.train.run import Run
from byoljax.version import __version__
from byoljax.wording import counted


class Options(NamedTuple):
  """The user's options; see the flags of `command`."""

  topology: str
  examples: int = 0
  classes: int = -1
  share: tuple[float, float] = estimate.DEFAULT_SHARE
  bench: str = ''
  price: float = 0.0
  interconnect: float = 0.0
  host_rate: float = 0.0
  target_config: str = ''
  compile: bool = True
  largest_batch: bool = False


def machine(options: Options) -> hardware.Topology:
  """The machine of the options, with the user's interconnect.

  Raises:
    ValueError: not a machine, or an option out of range.
  """
  low, high = options.share
  if not 0 < low <= high <= 1:
    raise ValueError(f'--share={low},{high} must be two fractions with 0 < low <= high <= 1.')
  for name in ('price', 'interconnect', 'host_rate', 'examples'):
    value = getattr(options, name)
    if not value >= 0 or math.isinf(value):
      raise ValueError(f'--{name}={value} must not be negative; 0 ignores it.')
  topology = hardware.parse(options.topology)
  if options.target_config and topology.chip.platform != 'cuda':
    raise ValueError(f'--target_config is for GPUs, but --topology={topology.name} is not one.')
  if options.interconnect:
    rate = options.interconnect * 1e9
    # Between hosts if there are several, else between chips.
    field = 'network' if topology.chip.network and topology.num_hosts > 1 else 'links'
    topology = topology._replace(chip=topology.chip._replace(**{field: rate}))
  return topology


def make(config: Config, options: Options, say: Callable[[str], None] = print) -> dict[str, Any]:
  """Makes the plan of a recipe, and compiles its step unless `options.compile` is False.

  Args:
    config: a recipe that trains an encoder.
    options: see the flags.
    say: called with a message before slow operations.

  Raises:
    ConfigError: recipe, options and machine do not fit together.
    ValueError: an option out of range.
  """
  measured = calibration.read(options.bench) if options.bench else None
  if measured:
    options = options._replace(share=measured.share)
  topology = machine(options)
  if 'method' not in config or 'views' not in config:
    raise ConfigError('only pretraining can be planned: name a recipe that trains an encoder.')
  if config.encoder.dtype == backend.AUTO:
    # As `backend.compute_type` on any chip of `hardware.CHIPS`.
    with config.unlocked():
      config.encoder.dtype = 'bfloat16'
  source = aot.described_source(config, options.examples, options.classes)
  if options.compile:
    mesh = aot.mesh_of(aot.devices_of(topology, options.target_config))
    if mesh.size != topology.num_devices:
      raise ConfigError(
        f'--topology={topology.name} has {topology.num_devices} devices in our table and '
        f'{mesh.size} in the compiler: this version counts cores differently.'
      )
  else:
    mesh = aot.counting_mesh(topology.num_devices)
  run = aot.assembled(config, source, mesh)
  state, batch = aot.abstract_arguments(run, mesh)
  work = flops.count(run.step, state, batch)
  plan = {
    'run': _run(config, run, topology),
    'machine': _machine(topology),
    'versions': _versions(topology, options.compile),
    'flops': {
      'per_device_and_step': dict(work.flops),
      'per_step': work.total * topology.num_devices,
      'per_image': work.total * topology.num_devices / run.length.batch_size,
      'unknown_loops': work.unknown_loops,
    },
    'memory': {'state': _state_bytes(state)},
    'collectives': {
      'written': _table(work.collectives),
      'written_at_logged_steps_only': _table(work.conditional),
      'rounds': work.rounds,
    },
    'input': _input(run, topology, _bytes(batch)),
  }
  traffic, accessed, waits = work.collectives, (0.0, 0.0), work.rounds
  if options.compile:
    devices = counted(topology.num_devices, 'device')
    say(f'Compiling the step for {devices}: minutes for a large encoder.')
    compiled = aot.compile_step(run, mesh)
    plan['memory'] |= fitting.fits(compiled, topology)
    plan['compiler'] = {
      'lower_seconds': compiled.lower_seconds,
      'compile_seconds': compiled.compile_seconds,
      'flops': compiled.xla_flops,
      'counted_over_compiler': work.total / compiled.xla_flops if compiled.xla_flops else None,
      'bytes_accessed': compiled.bytes_accessed,
    }
    accessed = (compiled.bytes_accessed, 0.0)
    if compiled.hlo and topology.chip.platform == 'cuda':
      launched = kernels.totals(kernels.find(compiled.hlo))
      plan['kernels'] = {
        kind: {'launches': count, 'bytes': size} for kind, (count, size) in launched.items()
      }
      accessed = kernels.accessed(launched)
    if compiled.hlo:
      found = traffic_lib.find(compiled.hlo)
      traffic = traffic_lib.totals(found)
      waits = sum(calls for calls, _ in traffic.values())
      plan['collectives'] |= _compiled_collectives(found)
    if options.largest_batch:
      unit = fitting.unit_of(config, run, topology)
      plan['largest_batch'] = fitting.largest_batch(
        config, source, topology, mesh, compiled, unit, say
      )
  if measured:
    accessed = (0.0, 0.0)  # What was measured has waited for the memory, too.
  plan['estimate'] = _estimate(
    run, topology, work, traffic, waits, accessed, options, _bytes(batch)
  )
  plan['estimate']['based_on'] = (
    f'measured with {measured.measured} ({options.bench})' if measured else None
  )
  plan['assumptions'] = _assumptions(config, run, topology, options, measured)
  return plan


def _run(config: Config, run: Run, topology: hardware.Topology) -> dict[str, Any]:
  length = run.length
  return {
    'method': config.method.name,
    'encoder': config.encoder.name,
    'dtype': config.encoder.dtype,
    'data': run.source.name,
    'images': run.source.size,
    'classes': run.source.num_classes,
    'batch_size': length.batch_size,
    'images_per_device': length.batch_size // topology.num_devices,
    'accumulate': config.train.accumulate,
    'length': config.train.length,
    'steps': length.total_steps,
    'views': [spec.size for spec in run.specs],
  }


def _machine(topology: hardware.Topology) -> dict[str, Any]:
  return {
    'topology': topology.name,
    'devices': topology.num_devices,
    'chips': math.prod(topology.shape),
    'hosts': topology.num_hosts,
    'chip': topology.chip._asdict(),
  }


def _versions(topology: hardware.Topology, compiled: bool) -> dict[str, str]:
  from importlib import metadata

  wanted = ['jax', 'jaxlib']
  if compiled:
    cuda = f'jax-cuda{aot.cuda_version()}-pjrt'
    wanted.append('libtpu' if topology.chip.platform == 'tpu' else cuda)
  return {'byoljax': __version__} | {name: metadata.version(name) for name in wanted}


def _bytes(tree: Any) -> int:
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _state_bytes(state: Any) -> dict[str, int]:
  """Bytes per device of the parts of the train state."""
  here = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.sharding.shard_shape(x.shape), x.dtype), state
  )
  sizes = {name: _bytes(getattr(here, name)) for name in ('params', 'opt_state', 'method_state')}
  return sizes | {'total': sum(sizes.values())}


def _input(run: Run, topology: hardware.Topology, size: int) -> dict[str, Any]:
  """What the hosts must deliver per step: `size` bytes to the devices, and decoded images."""
  known = aot.KNOWN_DATA.get(run.source.name.removeprefix('tfds:').split('/')[0])
  return {
    'bytes_per_step': size,
    'bytes_per_host_and_step': size / topology.num_hosts,
    'images_per_host_and_step': run.length.batch_size / topology.num_hosts,
    'stored_bytes_per_image': known[2] if known else None,
  }


def _table(rows: dict[str, tuple[int, int]]) -> dict[str, Any]:
  return {kind: {'calls': calls, 'bytes': size} for kind, (calls, size) in rows.items()}


def _compiled_collectives(found: traffic_lib.Found) -> dict[str, Any]:
  return {
    'compiled': _table(traffic_lib.totals(found)),
    'compiled_at_logged_steps_only': _table(traffic_lib.totals(found, conditional=True)),
    'unknown_loops': found.unknown_loops,
  }


def _estimate(
  run: Run,
  topology: hardware.Topology,
  work: flops.Work,
  traffic: dict[str, tuple[int, int]],
  waits: int,
  accessed: tuple[float, float],
  options: Options,
  batch_bytes: int,
) -> dict[str, Any]:
  """The fast and the slow end of the range of times, for a step and for the run."""
  ends = {}
  steps, batch = run.length.total_steps, run.length.batch_size
  for end, share in zip(('slow', 'fast'), options.share, strict=True):
    parts = estimate.step_time(
      topology,
      work.flops,
      {kind: size for kind, (_, size) in traffic.items()},
      waits,
      share=share,
      bytes_accessed=accessed[0],
      bytes_of_others=accessed[1],
      images_per_host=batch / topology.num_hosts,
      host_rate=options.host_rate,
    )
    seconds = steps * parts.total
    ends[end] = {
      'share_of_peak': share,
      'step_seconds': parts.total,
      'parts': parts._asdict(),
      'bound_by': parts.bound,
      'images_per_second': batch / parts.total,
      'run_hours': seconds / 3600,
      'cost': estimate.cost(topology, seconds, options.price) if options.price else None,
      'host_images_per_second': batch / topology.num_hosts / parts.total,
      'host_bytes_per_second': batch_bytes / topology.num_hosts / parts.total,
    }
  return ends


def _assumptions(
  config: Config,
  run: Run,
  topology: hardware.Topology,
  options: Options,
  measured: calibration.Calibration | None,
) -> list[str]:
  chip = topology.chip
  low, high = options.share
  lines = [
    f'a model, not a measurement: {low:.3g} to {high:.3g} of the peak is reached'
    + (f', as {measured.measured}, where other recipes reach other shares ' if measured else ' ')
    + f'({chip.peak_bf16 / 1e12:g} TFLOP/s bfloat16, {chip.peak_f32 / 1e12:g} float32 per chip)',
    f'links {chip.links / 1e9:g} GB/s per chip and direction'
    + (f', {chip.network / 1e9:g} GB/s between hosts' if chip.network else ''),
    'communication does not overlap with computation; each collective has a latency of '
    f'{estimate.latency_seconds(topology) * 1e6:.3g} us',
    f'hosts deliver {options.host_rate:g} images/s each'
    if options.host_rate
    else 'hosts keep up with the devices',
    'not included: start-up, compilation, evaluations, checkpoints, failures',
    f'price {options.price:g} per chip and hour, as given' if options.price else 'no price given',
  ]
  if run.earlier:
    lines.append(
      'views have their full size in all steps, not the smaller ones of the first stages'
    )
  if chip.platform == 'cuda':
    lines.append(
      'others, kernels without products, run one after another at the full bandwidth of the memory'
      if options.compile
      else 'kernels without products are left out'
    )
    lines.append(
      'three quarters of the memory are usable, the default of JAX '
      '(XLA_PYTHON_CLIENT_MEM_FRACTION); convolutions may need more workspace on a real GPU'
    )
  if config.encoder.attention == 'cudnn' and (chip.platform != 'cuda' or fused_attention.missing()):
    lines.append(
      "attention as XLA computes it, which takes more memory than encoder.attention='cudnn': "
      + (fused_attention.missing() if chip.platform == 'cuda' else 'cuDNN is for NVIDIA GPUs')
    )
  if not options.compile:
    lines.append(
      'not compiled: assumes that the compiler merges all independent collectives; memory traffic '
      'is unknown'
    )
  return lines
