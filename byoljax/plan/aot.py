"""Compiles the train step of a recipe ahead of time, for a described machine.

The step is the one that training runs: `assemble.from_config` makes it from the recipe, with the
method, optimizer and augmentation for the given number of devices, and `mapping.spmd_shard_map`
maps it over the described devices, with the state donated and the batch sharded. Nothing is
computed and no image is read; only the size of the data set matters.

The figures are the compiler's. They have not been checked against a real machine.
"""

import dataclasses
import functools
import importlib.util
import os
import re
import time
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
import numpy as np

from byoljax.config import Config, ConfigError, expanded
from byoljax.data import fields
from byoljax.data.batches import pipeline
from byoljax.data.sources import sprites
from byoljax.data.sources.source import Source, fingerprint
from byoljax.devices import collectives, mapping
from byoljax.encoders import given_networks
from byoljax.plan import hardware, target
from byoljax.train import assemble
from byoljax.train.run import Run

# Data sets whose size is known without having them: images to pretrain on, classes of the labels (1
# if a split mixes labelled with unlabelled images), mean bytes of a stored file.
# Sizes: tensorflow.org/datasets/catalog and the sets' own pages.
KNOWN_DATA = {
  'imagenet2012': (1_281_167, 1000, 115_000),  # 147.9 GB of training archives
  'cifar10': (50_000, 10, 2_300),
  'cifar100': (50_000, 100, 2_300),
  'stl10': (105_000, 10, 18_000),
  'imagenette': (9_469, 10, 9_500),
  'shapes': (8_000, 10, 3_072),
  'sprites': (8_000, 10, 3_072),
}
# libtpu only compiles here: no cloud metadata, no lock against other processes.
_TPU_ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
# Autotuning would run algorithms on a GPU. Without it, Triton's products have tiles of one size,
# which not all of them take: cuBLAS computes them.
_NO_AUTOTUNING = {'xla_gpu_autotune_level': 0, 'xla_gpu_enable_triton_gemm': False}
# The CUDA compilers that JAX has, that of the extra [cuda] first.
CUDA_VERSIONS = (13, 12)


class Memory(NamedTuple):
  """Bytes per device, as the compiler planned them.

  Attributes:
    arguments: the state and the batch.
    outputs: the new state and the metrics.
    aliased: the part of the outputs that reuses the memory of arguments.
    temporaries: activations and other intermediate values.
    code: the program.
    peak: the maximum at any time, 0 if the compiler does not report it.
  """

  arguments: int
  outputs: int
  aliased: int
  temporaries: int
  code: int
  peak: int

  @property
  def needed(self) -> int:
    """Memory that must be free: the larger of the peak and the sum of the parts."""
    parts = self.arguments + self.outputs - self.aliased + self.temporaries + self.code
    return max(parts, self.peak)


class Compiled(NamedTuple):
  """The compiler's report.

  Attributes:
    memory: None if the program does not fit.
    too_big: the compiler's error if it does not fit.
    xla_flops: per device and step; 0 if the backend does not report them.
    bytes_accessed: to and from memory, per device and step; 0 if the backend does not report them.
    hlo: the compiled program's text.
    lower_seconds: wall time of tracing and lowering here.
    compile_seconds: wall time of compiling here.
  """

  memory: Memory | None
  too_big: str
  xla_flops: float
  bytes_accessed: float
  hlo: str
  lower_seconds: float
  compile_seconds: float


def described_source(config: Config, examples: int = 0, classes: int = -1) -> Source:
  """A data set of a given size that is never read.

  Args:
    config: field `data.name`; `views` for the size of arrays.
    examples: images; 0: the known size of the set.
    classes: of their labels; -1: the known number of the set.

  Raises:
    ConfigError: no size was given, and it is not known, as of a part of the classes.
  """
  name = config.data.name
  known = KNOWN_DATA.get(name.removeprefix('tfds:').split('/')[0])
  if known is None and not examples:
    raise ConfigError(
      f"the size of the data set '{name}' is not known: give it with --examples=N "
      f'(and --classes=N if there are labels). Known: {", ".join(KNOWN_DATA)}.'
    )
  chosen = [field for field in ('classes', 'unlabelled') if config.data[field]]
  if chosen and not examples:
    raise ConfigError(
      f'data.{chosen[0]}={config.data[chosen[0]]!r} changes how many images are trained on, and no '
      'image is read here: give their number with --examples=N.'
    )
  size, labels, _ = known or (0, 0, 0)
  arrays = name in ('npz', 'shapes', 'sprites')
  side = max(view.size for view in config.views.values())

  def unread(*unused: Any) -> Any:
    raise AssertionError('a described data set has no images')

  return Source(
    name=name,
    size=examples or size,
    num_classes=labels if classes < 0 else classes,
    class_names=(),
    encoded=not arrays,
    image_shape=(side, side) if arrays else None,
    fingerprint=fingerprint('described', name, examples or size),
    fetch=unread,
    fetch_labels=unread,
    locate=str,
    fields=(fields.IMAGE, *_further(config)),
    # Of two streams; how many of the images have a label changes nothing of the step.
    starts=(0, 1) if config.data.labels else (0,),
  )


def _further(config: Config) -> list[fields.Field]:
  """The further fields of the data that the recipe names, with channels that are usual."""
  found = []
  for field in fields.parsed(config.data.fields):
    if config.data.name == 'sprites':
      field = fields.find(sprites.FIELDS, field.name, 'sprites')
    else:
      pixels = field.kind in ('image', 'mask')
      usual = fields.IMAGE.channels if field.kind == 'image' else 1
      field = dataclasses.replace(
        field, channels=field.channels or usual, dtype='uint8' if pixels else 'float32'
      )
    found.append(field)
  return found


def devices_of(topology: hardware.Topology, target_config: str = '') -> list[Any]:
  """The described devices of a machine.

  Args:
    topology: see `hardware.parse`.
    target_config: for GPUs, a file with the text of a GpuTargetConfigProto; '' generates one.

  Raises:
    ConfigError: the compiler for these devices is not installed, or rejects the shape.
  """
  if topology.chip.platform == 'tpu':
    return _tpu_devices(topology)
  if cuda_version() is None:
    raise ConfigError(
      f'--topology={topology.name} needs the CUDA compiler (but no GPU): pip install '
      f'"jax[cuda{CUDA_VERSIONS[0]}]=={jax.__version__}" (or byoljax[cuda]); or use --no_compile.'
    )
  if target_config:
    try:
      text = expanded(target_config).read_text(encoding='utf-8')
    except OSError as error:
      raise ConfigError(f'--target_config={target_config} cannot be read: {error}.') from error
  else:
    text = target.text(topology.kind)
  hosts, per_host = topology.shape
  return _described(
    topology,
    platform='cuda',
    topology_name=topology.kind,
    topology=f'1x{hosts}x{per_host}',
    target_config=text,
  )


def cuda_version() -> int | None:
  """Of the CUDA compiler that is installed, such as 13; None without one."""
  found = (version for version in CUDA_VERSIONS if is_installed(f'jax_cuda{version}_plugin'))
  return next(found, None)


def is_installed(module: str) -> bool:
  """Whether a module is installed, without importing it."""
  return importlib.util.find_spec(module) is not None


def _tpu_devices(topology: hardware.Topology) -> list[Any]:
  if not is_installed('libtpu'):
    raise ConfigError(
      f'--topology={topology.name} needs the TPU compiler (but no TPU): pip install '
      f'"jax[tpu]=={jax.__version__}" (or byoljax[plan]); or use --no_compile.'
    )
  for name, value in _TPU_ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  # v4 chips have two cores, but are one JAX device.
  config = {'chip_config_name': 'megacore'} if topology.kind == 'v4' else {}
  name = f'{topology.kind}:{"x".join(map(str, topology.shape))}'
  return _described(topology, platform='tpu', topology_name=name, **config)


def _described(machine: hardware.Topology, /, **how: Any) -> list[Any]:
  try:
    devices = list(topologies.get_topology_desc(**how).devices)
  except Exception as error:  # Whatever the plugin raises, the name is wrong.
    line = re.sub(r'\s+', ' ', str(error))[:200]
    raise ConfigError(
      f'--topology={machine.name}: the compiler rejects this shape ({line}); '
      f"'{machine.chip.example}' is a valid one."
    ) from error
  return devices


def mesh_of(devices: list[Any]) -> Mesh:
  """The devices as the one-axis mesh of the train step."""
  return Mesh(np.array(devices), (collectives.AXIS,))


def counting_mesh(num_devices: int) -> Any:
  """An abstract mesh of `num_devices`: enough to trace the step and count, but not to compile."""
  return AbstractMesh((num_devices,), (collectives.AXIS,))


def assembled(config: Config, source: Source, mesh: Any) -> Run:
  """The run of a recipe as it would be on the devices of `mesh`; nothing is computed.

  Raises:
    ConfigError: the configuration does not fit the devices or the data.
  """

  mapped = functools.partial(mapping.spmd_shard_map, mesh=mesh)
  given = given_networks.load(config)
  return assemble.from_config(config, source, num_devices=mesh.size, mapped=mapped, given=given)


def abstract_arguments(run: Run, mesh: Any) -> tuple[Any, Any]:
  """Shapes of (state, batch) of the train step, with their shardings on `mesh`."""
  batch = pipeline.batch_shapes(run.source, run.specs, run.length.batch_size, run.data.fields)
  return arguments_for(run, batch, mesh)


def arguments_for(run: Run, batch: Any, mesh: Any) -> tuple[Any, Any]:
  """Shapes of (state, batch), sharded as the run's step takes them; `batch` has global shapes."""
  state = run.layout.sharded_shapes(jax.eval_shape(run.create), mesh.size)
  return placed((state, batch), mesh, run.layout.axes)


def placed(arguments: tuple[Any, Any], mesh: Any, state_axes: Any = None) -> tuple[Any, Any]:
  """The shapes of (state, batch) with shardings, the batch split along the first axis.

  Args:
    arguments: shapes.
    mesh: the devices.
    state_axes: see `train.sharding.Placement`.
  """

  def place(x: Any, spec: PartitionSpec) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

  state, batch = arguments
  if state_axes is None:
    state = jax.tree.map(lambda x: place(x, PartitionSpec()), state)
  else:
    state = jax.tree.map(place, state, state_axes.specs())
  return state, jax.tree.map(lambda x: place(x, PartitionSpec(collectives.AXIS)), batch)


def compile_step(run: Run, mesh: Mesh) -> Compiled:
  """Compiles the run's step for the devices of `mesh`; this can take many minutes."""
  began = time.monotonic()
  lowered = run.step.lower(*abstract_arguments(run, mesh))  # type: ignore[attr-defined]
  took = time.monotonic() - began
  platform = mesh.devices.flat[0].platform
  options = {} if platform == 'tpu' else _NO_AUTOTUNING
  return compile_lowered(lowered, options)._replace(lower_seconds=took)


def compile_lowered(lowered: Any, options: dict[str, Any] | None = None) -> Compiled:
  """Compiles the result of `jax.jit(...).lower(...)` and reads the compiler's report.

  Args:
    lowered: for the devices of one mesh.
    options: of XLA, by name.
  """
  began = time.monotonic()
  try:
    compiled = lowered.compile(compiler_options=options or None)
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return Compiled(None, _first_sentence(error), 0, 0, '', 0, time.monotonic() - began)
  took = time.monotonic() - began
  cost = compiled.cost_analysis()
  cost = cost if isinstance(cost, dict) else {}
  return Compiled(
    memory_of(compiled.memory_analysis()),
    '',
    max(0.0, float(cost.get('flops', 0))),
    max(0.0, float(cost.get('bytes accessed', 0))),
    compiled.as_text() or '',
    0,
    took,
  )


def memory_of(stats: Any) -> Memory:
  """The parts of a compiled program's `memory_analysis()`."""
  return Memory(
    stats.argument_size_in_bytes,
    stats.output_size_in_bytes,
    stats.alias_size_in_bytes,
    stats.temp_size_in_bytes,
    stats.generated_code_size_in_bytes,
    int(getattr(stats, 'peak_memory_in_bytes', 0) or 0),
  )


def _first_sentence(error: Exception) -> str:
  text = re.sub(r'\s+', ' ', str(error))
  return text.partition('RESOURCE_EXHAUSTED:')[2].split('. ')[0].strip()[:300]
