"""Facts about accelerators, and the names of machines built from them.

Data sheet values, per chip and per direction. Real machines may deliver less: clouds cap the
network, boards the power. Nothing here was measured by us.
"""

import math
import re
from typing import NamedTuple

from byoljax.suggest import closest

GIB = 2**30


class Chip(NamedTuple):
  """One kind of accelerator.

  Attributes:
    platform: 'tpu' or 'cuda'.
    peak_bf16: dense matrix products of bfloat16, FLOP/s.
    peak_f32: the same for float32 as JAX computes it by default, FLOP/s: on TPUs in one bfloat16
      pass, on GPUs in TF32.
    hbm: memory, bytes.
    usable: memory available to a program, bytes per JAX device.
    hbm_bandwidth: bytes/s.
    links: bytes/s out of a chip over all its links to neighbors at once: half of what data sheets
      call bidirectional.
    network: bytes/s per chip between hosts that are not connected by links; 0: links connect all.
    devices: JAX devices per chip.
    chips_per_host: chips per process.
    sides: side lengths of the largest torus, 2 or 3; of GPUs (hosts, GPUs per host).
    example: a valid topology.
  """

  platform: str
  peak_bf16: float
  peak_f32: float
  hbm: float
  usable: float
  hbm_bandwidth: float
  links: float
  network: float
  devices: int
  chips_per_host: int
  sides: int
  example: str


# Usable memory of TPUs: what libtpu 0.0.42.1 reports as available when a program needs too much. Of
# GPUs: JAX allocates three quarters unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise (JAX's
# documentation, "GPU memory allocation").
CHIPS = {
  # Norrie et al., "The Design Process for Google's Training Chips: TPUv2 and TPUv3", IEEE Micro
  # 2021: 46 and 123 TFLOP/s, 16 and 32 GiB, 700 and 900 GB/s, 4 links of 496 and 656 Gb/s.
  'v2': Chip('tpu', 46e12, 46e12, 16 * GIB, 7.48 * GIB, 700e9, 248e9, 0, 2, 4, 2, 'v2:4x4'),
  'v3': Chip('tpu', 123e12, 123e12, 32 * GIB, 15.48 * GIB, 900e9, 328e9, 0, 2, 4, 2, 'v3:4x4'),
  # docs.cloud.google.com/tpu/docs/v4; 6 links of 50 GB/s: Jouppi et al., "TPU v4", arXiv
  # 2304.01433, table 4.
  'v4': Chip('tpu', 275e12, 275e12, 32 * GIB, 30.75 * GIB, 1200e9, 300e9, 0, 1, 4, 3, 'v4:4x4x4'),
  # docs.cloud.google.com/tpu/docs/v5e: 400 GB/s bidirectional, 51.2 TB/s of all-reduce per 256.
  'v5e': Chip('tpu', 197e12, 197e12, 16 * GIB, 15.75 * GIB, 819e9, 200e9, 0, 1, 4, 2, 'v5e:4x4'),
  # docs.cloud.google.com/tpu/docs/v5p: 1200 GB/s bidirectional.
  'v5p': Chip('tpu', 459e12, 459e12, 95 * GIB, 95.74 * GIB, 2765e9, 600e9, 0, 1, 4, 3, 'v5p:4x4x4'),
  # docs.cloud.google.com/tpu/docs/v6e: 800 GB/s bidirectional.
  'v6e': Chip('tpu', 918e12, 918e12, 32 * GIB, 31.25 * GIB, 1638e9, 400e9, 0, 1, 4, 2, 'v6e:4x4'),
  # docs.cloud.google.com/tpu/docs/tpu7x: 1200 GB/s bidirectional.
  'tpu7x': Chip('tpu', 2307e12, 2307e12, 192 * GIB, 94.75 * GIB, 7380e9, 600e9, 0, 2, 4, 3,
                'tpu7x:4x4x4'),
  # NVIDIA A100 data sheet (2021): 312 and 156 (TF32) TFLOP/s, NVLink 600 GB/s bidirectional; DGX
  # A100: one 200 Gb/s port per GPU.
  'a100-40': Chip('cuda', 312e12, 156e12, 40e9, 30e9, 1555e9, 300e9, 25e9, 1, 8, 2, 'a100-40:1x8'),
  'a100-80': Chip('cuda', 312e12, 156e12, 80e9, 60e9, 2039e9, 300e9, 25e9, 1, 8, 2, 'a100-80:1x8'),
  # NVIDIA H100 SXM and H200 data sheets: 989 and 495 (TF32) dense TFLOP/s, NVLink 900 GB/s
  # bidirectional; DGX H100: one 400 Gb/s port per GPU.
  'h100': Chip('cuda', 989e12, 494.5e12, 80e9, 60e9, 3350e9, 450e9, 50e9, 1, 8, 2, 'h100:1x8'),
  'h200': Chip('cuda', 989e12, 494.5e12, 141e9, 105.75e9, 4800e9, 450e9, 50e9, 1, 8, 2, 'h200:1x8'),
}  # fmt: skip


class Topology(NamedTuple):
  """A machine.

  Attributes:
    name: as given.
    kind: a key of `CHIPS`.
    chip: its facts.
    shape: of the torus for TPUs; (hosts, GPUs per host) for GPUs.
  """

  name: str
  kind: str
  chip: Chip
  shape: tuple[int, ...]

  @property
  def num_devices(self) -> int:
    """JAX devices."""
    return math.prod(self.shape) * self.chip.devices

  @property
  def num_hosts(self) -> int:
    """Processes, each of which reads its part of the data."""
    if self.chip.platform == 'cuda':
      return self.shape[0]
    return max(1, math.prod(self.shape) // self.chip.chips_per_host)


# What a shape looks like, by platform and `Chip.sides`, and what to write.
_SHAPES = {
  ('tpu', 2): (r'\d+x\d+', 'two side lengths of the torus'),
  ('tpu', 3): (r'\d+(x\d+){1,2}', 'two or three side lengths of the torus'),
  ('cuda', 2): (r'\d+(x\d+)?', 'hosts x GPUs per host'),
}


def parse(name: str) -> Topology:
  """Parses the name of a machine, such as `v5e:4x4` or `h100:2x8`.

  Raises:
    ValueError: not a valid name; the message lists the valid ones and the closest.
  """
  kind, colon, shape = name.strip().lower().partition(':')
  if kind not in CHIPS:
    near = closest(kind, [*CHIPS, *_ALIASES])
    meant = _ALIASES.get(near[0], near[0]) if near else ''
    hint = f"did you mean '{CHIPS[meant].example}'? " if near else ''
    raise ValueError(
      f"--topology={name}: unknown device '{kind}': {hint}"
      f'Names: {", ".join(chip.example for chip in CHIPS.values())}.'
    )
  chip = CHIPS[kind]
  valid, what = _SHAPES[chip.platform, chip.sides]
  if not colon or not re.fullmatch(valid, shape):
    raise ValueError(
      f"--topology={name}: '{shape}' is not a shape of {kind}: write {what}, "
      f"such as '{chip.example}'."
    )
  sides = tuple(int(side) for side in shape.split('x'))
  if chip.platform == 'cuda' and len(sides) == 1:
    sides = (1, *sides)
  if 0 in sides:
    raise ValueError(f'--topology={name}: a side of 0 has no devices.')
  return Topology(name, kind, chip, sides)


# Other names of these devices.
_ALIASES = {
  'v5litepod': 'v5e', 'v5lite': 'v5e', 'trillium': 'v6e', 'ironwood': 'tpu7x', 'v7x': 'tpu7x',
  'a100': 'a100-40', 'h100-sxm': 'h100', 'h100-80': 'h100',
}  # fmt: skip


# JAX's names of these devices (`Device.device_kind`), if they determine the peak. H100s on other
# boards have other peaks, so only the SXM one is listed.
_KINDS = {
  'TPU v2': 'v2', 'TPU v3': 'v3', 'TPU v4': 'v4', 'TPU v5 lite': 'v5e', 'TPU v5e': 'v5e',
  'TPU v5': 'v5p', 'TPU v5p': 'v5p', 'TPU v6 lite': 'v6e', 'TPU v6e': 'v6e', 'TPU7x': 'tpu7x',
  'NVIDIA A100-SXM4-40GB': 'a100-40', 'NVIDIA A100-SXM4-80GB': 'a100-80',
  'NVIDIA H100 80GB HBM3': 'h100', 'NVIDIA H200': 'h200',
}  # fmt: skip


def chip_of(device_kind: str) -> Chip | None:
  """The chip of an attached device, by JAX's name for it; None if unknown.

  Examples:
    >>> chip_of('NVIDIA H200').peak_bf16
    989000000000000.0
    >>> chip_of('cpu') is None
    True
  """
  return CHIPS[_KINDS[device_kind]] if device_kind in _KINDS else None


def peaks(chip: Chip) -> dict[str, float]:
  """FLOP/s of one JAX device by the operands' type."""
  return {
    'bfloat16': chip.peak_bf16 / chip.devices,
    'float16': chip.peak_bf16 / chip.devices,
    'float32': chip.peak_f32 / chip.devices,
  }


def seconds_at_peak(work: dict[str, int], chip: Chip) -> float | None:
  """Seconds that the work of a device would take at its peak; None for a type without one."""
  rates = peaks(chip)
  if not set(work) <= set(rates):
    return None
  return sum(count / rates[dtype] for dtype, count in work.items())
