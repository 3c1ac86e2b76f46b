"""Describes GPUs to XLA's compiler, which otherwise queries the attached GPU.

The description is the text of XLA's `GpuTargetConfigProto` (openxla/xla,
xla/stream_executor/device_description.proto). The numbers are those of the CUDA C++ Programming
Guide, "Technical Specifications per Compute Capability", and of NVIDIA's white papers on A100 and
H100. A description written by a real GPU (`topology.target_config` in JAX) is better: pass it as
--target_config.
"""

from typing import NamedTuple

from byoljax.plan import hardware


class Gpu(NamedTuple):
  """What the compiler needs to know of a GPU; bytes, and counts per multiprocessor (SM)."""

  name: str
  capability: tuple[int, int]
  multiprocessors: int
  fpus: int
  clock_ghz: float
  l2: int
  shared: int
  shared_optin: int


_KIB = 1024
_A100 = Gpu('NVIDIA A100', (8, 0), 108, 64, 1.41, 40 * _KIB**2, 164 * _KIB, 163 * _KIB)
_H100 = Gpu('NVIDIA H100', (9, 0), 132, 128, 1.98, 50 * _KIB**2, 228 * _KIB, 227 * _KIB)
GPUS = {
  'a100-40': _A100,
  'a100-80': _A100,
  'h100': _H100,
  'h200': _H100._replace(name='NVIDIA H200'),
}
# Versions of the CUDA runtime and cuDNN to compile for.
_RUNTIME, _DNN = (12, 8, 0), (9, 8, 0)


def text(kind: str) -> str:
  """The description of a GPU of `hardware.CHIPS`, as a protobuf in text form."""
  gpu, chip = GPUS[kind], hardware.CHIPS[kind]
  fields = {
    'name': f'"{gpu.name}"',
    'device_vendor': '"NVIDIA Corporation"',
    'threads_per_warp': 32,
    'threads_per_block_limit': 1024,
    'threads_per_core_limit': 2048,
    'shared_memory_per_block': 48 * _KIB,
    'shared_memory_per_block_optin': gpu.shared_optin,
    'shared_memory_per_core': gpu.shared,
    'registers_per_block_limit': 65536,
    'registers_per_core_limit': 65536,
    'core_count': gpu.multiprocessors,
    'fpus_per_core': gpu.fpus,
    'block_dim_limit_x': 2**31 - 1,
    'block_dim_limit_y': 65535,
    'block_dim_limit_z': 65535,
    'memory_bandwidth': int(chip.hbm_bandwidth),
    'device_memory_size': int(chip.hbm),
    'l2_cache_size': gpu.l2,
    'clock_rate_ghz': gpu.clock_ghz,
  }
  lines = [f'  {name}: {value}' for name, value in fields.items()]
  capability = f'  cuda_compute_capability {{ {_version(gpu.capability)} }}'
  return '\n'.join(
    [
      'gpu_device_info {',
      *lines,
      capability,
      '}',
      'platform_name: "CUDA"',
      f'dnn_version_info {{ {_version(_DNN)} }}',
      f'runtime_version {{ {_version(_RUNTIME)} }}',
      f'device_description_str: "{gpu.name}"',
    ]
  )


def _version(numbers: tuple[int, ...]) -> str:
  names = ('major', 'minor', 'patch')
  return ' '.join(f'{name}: {number}' for name, number in zip(names, numbers, strict=False))
