"""What a measurement was made on: processor, cores, memory, system, load."""

import datetime
import os
import pathlib
import platform
import time
from typing import Any

# Instruction sets that decide how fast float32 and bfloat16 are.
_TELLING = ('avx2', 'avx512f', 'avx512_bf16', 'avx512_vnni', 'amx_bf16', 'asimd', 'bf16')
_SETTINGS = (
  'XLA_FLAGS',
  'OMP_NUM_THREADS',
  'MKL_NUM_THREADS',
  'TF_NUM_INTRAOP_THREADS',
  'KMP_AFFINITY',
)


def cores() -> int:
  """Cores that this process may use."""
  affinity = getattr(os, 'sched_getaffinity', None)
  return len(affinity(0)) if affinity else os.cpu_count() or 1


def facts() -> dict[str, Any]:
  """What does not change during a run; unknown values are left out."""
  info = _read('/proc/cpuinfo')
  fields = dict(
    tuple(part.strip() for part in line.split(':', 1)) for line in info.splitlines() if ':' in line
  )
  flags = fields.get('flags', fields.get('Features', '')).split()
  memory = [line.split()[1] for line in _read('/proc/meminfo').splitlines() if 'MemTotal' in line]
  found = {
    'cpu': fields.get('model name') or platform.processor() or platform.machine(),
    'mhz': fields.get('cpu MHz'),
    'cores': cores(),
    'instructions': [name for name in _TELLING if name in flags],
    'memory_gb': round(int(memory[0]) / 1e6, 1) if memory else None,
    'virtual': 'hypervisor' in flags,
    'system': platform.platform(),
    'environment': {name: os.environ[name] for name in _SETTINGS if name in os.environ},
  }
  return {name: value for name, value in found.items() if value is not None}


def now(watch: float = 3.0) -> dict[str, Any]:
  """What changes: the time, the load, and how many cores others use while this process sleeps.

  Args:
    watch: seconds to sleep. Without /proc, the load average of the last minute is taken instead.
  """
  load = list(os.getloadavg()) if hasattr(os, 'getloadavg') else [float('nan')]
  before = _cpu_times()
  time.sleep(watch)
  after = _cpu_times()
  spent = [b - a for a, b in zip(before, after, strict=True)]
  # user, nice, system, idle, iowait, irq, softirq, steal: time stolen by the hypervisor is busy too
  busy = sum(spent) - sum(spent[3:5])
  return {
    'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'load_average': load,
    'busy_cores': busy / watch if spent else load[0],
    'stolen_s': after[7] if len(after) > 7 else None,
  }


def is_busy(moment: dict[str, Any]) -> bool:
  """Whether others were using more than a tenth of a core."""
  return moment['busy_cores'] > 0.1


def _cpu_times() -> list[float]:
  """Seconds that all cores together have spent in each state since the start; [] if unknown."""
  words = _read('/proc/stat').partition('\n')[0].split()[1:9]
  return [int(word) / os.sysconf('SC_CLK_TCK') for word in words]


def _read(path: str) -> str:
  try:
    return pathlib.Path(path).read_text()
  except OSError:
    return ''
