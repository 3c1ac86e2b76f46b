"""Turns counted work and traffic into a range of step times: a model, not a measurement.

    step = max(max(work, memory) + others, input) + bandwidth and latency of the collectives

- work: FLOPs / (peak x achieved share of the peak). The share is a range, because a model of this
  kind cannot know it; the default is 0.1 to 0.4. BYOL's own 1000 epochs of a ResNet-50 in about 8
  hours on 512 TPU v3 cores (authors' repository) correspond to 0.09 with our count of the step.
- memory: bytes accessed according to the compiler / bandwidth, if it reports them. A GPU runs one
  kernel after another: there memory is that of convolutions and products alone, and `others` the
  bytes of all other kernels / bandwidth.
- input: images per host / rate of a host, if given.
- collectives: no overlap with computation. A ring all-reduce moves 2 (n - 1) / n of the bytes over
  all links of a torus at once; among GPUs first within a host, then between hosts. Each call has
  the latency of the whole machine: `HOP_SECONDS` per link of a torus (there and back), or
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
  """Seconds of one step by cause.

  Attributes:
    work: matrix products and convolutions, at the assumed share of the peak.
    memory: bytes to and from memory at full bandwidth.
    others: kernels without products on a GPU, at full bandwidth of its memory.
    input: time in which the hosts deliver a batch.
    transfer: bytes between devices.
    latency: of all collectives.
  """

  work: float
  memory: float
  others: float
  input: float
  transfer: float
  latency: float

  @property
  def total(self) -> float:
    """max(max(work, memory) + others, input) + transfer + latency."""
    computed = max(self.work, self.memory) + self.others
    return max(computed, self.input) + self.transfer + self.latency

  @property
  def bound(self) -> str:
    """The name of the largest part."""
    return max(self._fields, key=lambda name: getattr(self, name))


def step_time(
  topology: hardware.Topology,
  flops: dict[str, int],
  traffic: dict[str, int],
  waits: int,
  *,
  share: float,
  bytes_accessed: float = 0.0,
  bytes_of_others: float = 0.0,
  images_per_host: float = 0.0,
  host_rate: float = 0.0,
) -> StepTime:
  """The time of one step.

  Args:
    topology: the machine.
    flops: dtype -> operations per device and step.
    traffic: kind of collective -> bytes of the results, per device and step.
    waits: dependent collectives per step, each of which costs a latency.
    share: achieved share of the peak, in (0, 1].
    bytes_accessed: per device and step, on a GPU by convolutions and products; 0: unknown.
    bytes_of_others: on a GPU by all other kernels; 0: unknown.
    images_per_host: images that a host must deliver per step.
    host_rate: images per second that a host delivers; 0: unlimited.
  """
  chip = topology.chip
  peaks = hardware.peaks(chip)
  # Of another type as of float32.
  work = sum(n / (peaks.get(dtype, peaks['float32']) * share) for dtype, n in flops.items())
  transfer = sum(transfer_seconds(topology, kind, size) for kind, size in traffic.items())
  return StepTime(
    work=work,
    memory=bytes_accessed / (chip.hbm_bandwidth / chip.devices),
    others=bytes_of_others / (chip.hbm_bandwidth / chip.devices),
    input=images_per_host / host_rate if host_rate else 0.0,
    transfer=transfer,
    latency=waits * latency_seconds(topology),
  )


def transfer_seconds(topology: hardware.Topology, kind: str, size: float) -> float:
  """Time to move the bytes of collectives with results of `size` bytes over all devices.

  Among GPUs of several hosts, an all-gather or a reduce-scatter moves 1 / (GPUs of a host) of the
  bytes over the network of each GPU, and all of them within the host: between the hosts each GPU
  has to do with its own share alone. An all-reduce is both, one after the other. An all-to-all
  exchanges everything within the hosts and then between them; so does, here, a permutation.
  """
  chip = topology.chip
  if not chip.network:
    return traffic.sent(kind, size, topology.num_devices) / (chip.links / chip.devices)
  hosts, per_host = topology.shape
  # `size` is of the result. Of a reduce-scatter it is what one GPU keeps: within a host it is of
  # what all hosts keep, and between hosts of one GPU's share. Of the others it is of everything.
  inside = size * hosts if kind == 'reduce-scatter' else size
  between = size / per_host if kind in ('all-reduce', 'all-gather') else size
  return (
    traffic.sent(kind, inside, per_host) / chip.links
    + traffic.sent(kind, between, hosts) / chip.network
  )


def latency_seconds(topology: hardware.Topology) -> float:
  """Time of a collective without payload: once across the machine and back.

  In a torus each axis is traversed in both directions at once, half its length there and half back.
  A tree of n GPUs has 2 log2(n) stages.
  """
  if not topology.chip.network:
    return HOP_SECONDS * sum(side for side in topology.shape if side > 1)
  return GPU_STAGE_SECONDS * 2 * math.ceil(math.log2(max(1, topology.num_devices)))


def cost(topology: hardware.Topology, seconds: float, price: float) -> float:
  """Price of all chips for `seconds`; `price` is per chip and hour."""
  return math.prod(topology.shape) * seconds / 3600 * price
