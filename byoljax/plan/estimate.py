"""Turns counted work and traffic into a range of step times: a model, not a measurement.

    step = max(work, memory, input) + bandwidth and latency of the collectives

- work: FLOPs / (peak x share of the peak that is reached). The share is a range: it is what a
  model of this kind cannot know. The default runs from 0.1 to 0.4. BYOL's own 1000 epochs of a
  ResNet-50 in about 8 hours on 512 TPU v3 cores (authors' repository) are a share of 0.09 when our
  count of the step is put in.
- memory: bytes that the compiler says the program moves / bandwidth, where it says so.
- input: images per host / what a host delivers, where that is given.
- collectives: not hidden behind work. Ring all-reduce moves 2 (n - 1) / n of the bytes over all
  links of a torus at once; among GPUs first within a host, then between hosts. Each call waits for
  the way across the machine: `HOP_SECONDS` per link of a torus (there and back), or
  `GPU_STAGE_SECONDS` per stage of a tree.
"""

import math
from typing import NamedTuple

from byoljax.plan import hardware, traffic

DEFAULT_SHARE = (0.1, 0.4)
# Assumptions, not data: about a microsecond per hop of a torus, several per kernel and switch.
HOP_SECONDS = 1e-6
GPU_STAGE_SECONDS = 5e-6


class StepTime(NamedTuple):
  """Seconds of one step and what they consist of; `total` follows from the rest.

  Attributes:
    work: matrix products and convolutions at the assumed share of the peak.
    memory: bytes to and from memory at full bandwidth.
    input: until the hosts have delivered a batch.
    transfer: bytes between devices.
    latency: waiting for the machine's diameter, once per collective.
  """

  work: float
  memory: float
  input: float
  transfer: float
  latency: float

  @property
  def total(self) -> float:
    """max(work, memory, input) + transfer + latency."""
    return max(self.work, self.memory, self.input) + self.transfer + self.latency

  @property
  def bound(self) -> str:
    """The largest part's name."""
    return max(self._fields, key=lambda name: getattr(self, name))


def step_time(
  topology: hardware.Topology,
  flops: dict[str, int],
  traffic: dict[str, int],
  waits: int,
  *,
  share: float,
  bytes_accessed: float = 0.0,
  images_per_host: float = 0.0,
  host_rate: float = 0.0,
) -> StepTime:
  """The time of one step.

  Args:
    topology: the machine.
    flops: dtype -> operations per device and step.
    traffic: kind of collective -> bytes of the results, per device and step.
    waits: collectives that wait for the way across the machine, per step.
    share: of the peak that is reached, in (0, 1].
    bytes_accessed: per device and step; 0 = not known.
    images_per_host: that a host must deliver per step.
    host_rate: images per second that a host delivers; 0 = as many as are asked for.
  """
  chip = topology.chip
  work = sum(n / (peak(chip, dtype) * share) for dtype, n in flops.items())
  transfer = sum(transfer_seconds(topology, kind, size) for kind, size in traffic.items())
  return StepTime(
    work=work,
    memory=bytes_accessed / (chip.hbm_bandwidth / chip.devices),
    input=images_per_host / host_rate if host_rate else 0.0,
    transfer=transfer,
    latency=waits * latency_seconds(topology),
  )


def peak(chip: hardware.Chip, dtype: str) -> float:
  """Peak of one JAX device for operands of a dtype, FLOP/s."""
  half = dtype in ('bfloat16', 'float16')
  return (chip.peak_bf16 if half else chip.peak_f32) / chip.devices


def transfer_seconds(topology: hardware.Topology, kind: str, size: float) -> float:
  """Time to move the bytes of collectives with results of `size` bytes over all devices.

  Among GPUs of several hosts the bytes go around the GPUs of a host first, and then each GPU's
  share around the hosts.
  """
  chip = topology.chip
  if not chip.network:
    return traffic.sent(kind, size, topology.num_devices) / (chip.links / chip.devices)
  hosts, per_host = topology.shape
  within = traffic.sent(kind, size, per_host) / chip.links
  share = size / per_host if kind == 'all-reduce' else size
  return within + traffic.sent(kind, share, hosts) / chip.network


def latency_seconds(topology: hardware.Topology) -> float:
  """Time of a collective that carries nothing: once across the machine and back.

  In a torus each axis is crossed in both directions at once, half its length there, half back. The
  stages of a tree among GPUs are those of 2 log2(n).
  """
  if not topology.chip.network:
    return HOP_SECONDS * sum(side for side in topology.shape if side > 1)
  return GPU_STAGE_SECONDS * 2 * math.ceil(math.log2(max(1, topology.num_devices)))


def cost(topology: hardware.Topology, seconds: float, price: float) -> float:
  """Price of all chips for a time: `price` is per chip and hour."""
  return math.prod(topology.shape) * seconds / 3600 * price
