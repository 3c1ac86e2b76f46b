"""Whether a step fits into the memory of a device, and the largest batch that does."""

from collections.abc import Callable
import math
from typing import Any

from byoljax.config import Config, ConfigError
from byoljax.data.batches.order import shares_of
from byoljax.plan import aot, hardware
from byoljax.train.run import Run


def fits(compiled: aot.Compiled, topology: hardware.Topology) -> dict[str, Any]:
  """Whether a compiled program fits on a device, and by how many bytes."""
  available = topology.chip.usable
  if compiled.memory is None:
    return {'available': available, 'fits': False, 'compiler_says': compiled.too_big}
  needed = compiled.memory.needed
  return {
    'available': available,
    'needed': needed,
    'fits': needed <= available,
    'spare': available - needed,
    **compiled.memory._asdict(),
  }


def unit_of(config: Config, run: Run, topology: hardware.Topology) -> int:
  """What batches are multiples of: parts of a micro-batch, groups with their own statistics."""
  groups = config.method.get('bn_groups', 0) or 1
  return run.accumulate * math.lcm(topology.num_devices * sum(shares_of(run.order)), groups)


def bisect(fit: Callable[[int], bool], known: int, known_fits: bool, limit: int) -> int:
  """The largest n in [0, limit] that fits, assuming that smaller n fit if larger ones do.

  Doubles or halves from `known` to bracket it, then bisects, until what fits is known to be the
  largest, or less than 1 / 32 below it.

  Args:
    fit: n -> whether it fits; called as rarely as possible.
    known: an n in [1, limit] for which the answer is known.
    known_fits: that answer.
    limit: the maximum.
  """
  low, high = (known, limit + 1) if known_fits else (0, known)
  probe = known * 2 if known_fits else known // 2
  while high - low > max(1, low // 32):
    probe = probe if low < probe < high else (low + high) // 2
    if fit(probe):
      low = probe
      probe = probe * 2 if high == limit + 1 else 0
    else:
      high = probe
      probe = probe // 2 if low == 0 else 0
  return low


def largest_batch(
  config: Config,
  source: Any,
  topology: hardware.Topology,
  mesh: Any,
  compiled: aot.Compiled,
  unit: int,
  say: Callable[[str], None],
) -> dict[str, Any]:
  """Finds the largest multiple of `unit` that fits, see `bisect`, by compiling for each candidate.

  A batch that the recipe refuses, as one too small for groups of statistics, does not fit either;
  `say` is told why.
  """
  tried: list[dict[str, Any]] = []

  def fit(multiple: int) -> bool:
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
      changed.train.batch_size = multiple * unit
    say(f'Compiling for a batch of {multiple * unit} ({len(tried) + 1} tried).')
    try:
      made = aot.assembled(changed, source, mesh)
    except ConfigError as error:
      say(str(error))
      return False
    answer = fits(aot.compile_step(made, mesh), topology)
    tried.append({'batch_size': multiple * unit, 'fits': answer['fits']})
    return answer['fits']

  start = config.train.batch_size // unit
  best = bisect(fit, start, fits(compiled, topology)['fits'], source.size // unit)
  return {
    'batch_size': best * unit,
    'per_device': best * unit // topology.num_devices,
    'tried': tried,
  }
