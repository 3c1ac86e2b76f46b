"""What a profiler's trace says about a step: which kernels take the time, and how much is idle.

A trace of `jax.profiler` holds `*.trace.json.gz`, in Chrome's format: events with 'ph', 'pid',
'tid', 'ts' and 'dur' in microseconds, and the names of processes and threads. On a GPU the kernels
are the events of the threads 'Stream #...' of its process; on a CPU the operations are the events
that carry their name in the program, 'hlo_op'.
"""

from collections import defaultdict
import gzip
import json
import pathlib
import re
from typing import Any


def read(folder: pathlib.Path, steps: int, top: int = 15) -> dict[str, Any]:
  """The summary of the newest trace below a folder; see `summary`.

  Raises:
    RuntimeError: there is no trace, or none of a kernel.
  """
  traces = sorted(folder.rglob('*.trace.json.gz'))
  if not traces:
    raise RuntimeError(f'the profiler has left no trace in {folder}')
  with gzip.open(traces[-1], 'rt', encoding='utf-8') as file:
    found = summary(json.load(file)['traceEvents'], steps, top)
  if not found['kernels']:
    raise RuntimeError('the trace has no kernels: the profiler may not be allowed to see them')
  return found


def summary(events: list[dict[str, Any]], steps: int, top: int = 15) -> dict[str, Any]:
  """Time of the kernels by their kind, without the numbers that tell alike ones apart.

  Args:
    events: of a trace of `steps` steps.
    steps: how many.
    top: kinds to name, those that take longest.

  Returns:
    'kernels': name, microseconds and calls per step, and the share of the time of all kernels;
    'busy': share of the time from the first kernel to the end of the last in which one ran.
  """
  chosen = _kernels(events)
  took: dict[str, float] = defaultdict(float)
  calls: dict[str, int] = defaultdict(int)
  for event in chosen:
    kind = re.sub(r'[._]\d+$', '', event['name'])
    took[kind] += event['dur']
    calls[kind] += 1
  total = sum(took.values())
  order = sorted(took, key=lambda kind: -took[kind])[:top]
  rows = [
    {'name': kind, 'us': took[kind] / steps, 'calls': calls[kind] / steps,
     'share': took[kind] / total}
    for kind in order
  ]  # fmt: skip
  return {'kernels': rows, 'us': total / steps, 'calls': len(chosen) / steps, 'busy': _busy(chosen)}


def _kernels(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The complete events that are kernels of a GPU, or else operations of a program."""
  streams, devices = set(), set()
  for event in events:
    name = event.get('args', {}).get('name', '')
    if event.get('name') == 'process_name' and '/device:GPU' in name:
      devices.add(event['pid'])
  for event in events:
    name = event.get('args', {}).get('name', '')
    if event.get('name') == 'thread_name' and event['pid'] in devices and 'Stream' in name:
      streams.add((event['pid'], event['tid']))
  complete = [event for event in events if event.get('ph') == 'X' and event.get('dur', 0) > 0]
  if streams:
    return [event for event in complete if (event['pid'], event['tid']) in streams]
  return [event for event in complete if 'hlo_op' in event.get('args', {})]


def _busy(events: list[dict[str, Any]]) -> float:
  """Share of the time between the first beginning and the last end that the events cover."""
  covered, end = 0.0, float('-inf')
  spans = sorted((event['ts'], event['ts'] + event['dur']) for event in events)
  for start, stop in spans:
    covered += max(0.0, stop - max(start, end))
    end = max(end, stop)
  return covered / (end - spans[0][0]) if spans else 0.0
