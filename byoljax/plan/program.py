"""Reads the text of a compiled program, XLA's HLO after optimization."""

import collections
from collections.abc import Iterator
import math
import re

SHAPE = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([0-9,<= ]*)\]')
_CALLED = re.compile(
  r'(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)'
)
_BRANCHES = re.compile(r'(?:branch_computations|called_computations)=\{([^}]*)\}')
_TRIPS = re.compile(r'"?known_trip_count"?[:=]\s*\{\s*"?n"?[:=]\s*"?(\d+)')
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+)\s*(?:\(.*\)\s*->.*)?\{\s*$')


def computations(hlo: str) -> tuple[dict[str, list[str]], str]:
  """Name -> instruction lines of every computation, and the entry's name."""
  computations: dict[str, list[str]] = {}
  entry = current = ''
  for line in hlo.splitlines():
    if line[:1] not in (' ', '}', ''):
      header = _HEADER.match(line)
      if header and not line.startswith('HloModule'):
        current = header.group(2)
        computations[current] = []
        if header.group(1):
          entry = current
    elif current and line.startswith(' '):
      computations[current].append(line)
  return computations, entry


def walk(computations: dict[str, list[str]], entry: str) -> Iterator[tuple[str, int, bool, bool]]:
  """(computation, times it runs, in a conditional, in a loop of unknown length), from the entry.

  What a fusion computes is one operation, and is not entered.
  """
  queue = collections.deque([(entry, 1, False, False)] if entry else [])
  while queue:
    name, times, conditional, uncertain = queue.popleft()
    if name not in computations:
      continue
    yield name, times, conditional, uncertain
    for line in computations[name]:
      if '=%' not in line and '={' not in line and 'calls=' not in line and 'body=' not in line:
        continue
      trips = _TRIPS.search(line)
      for role, called in _CALLED.findall(line):
        if (role == 'to_apply' and ' call(' not in line) or ' fusion(' in line:
          continue  # The operator of a reduction, or one operation.
        count = times * int(trips.group(1)) if trips and role == 'body' else times
        unsure = uncertain or (role == 'body' and trips is None)
        queue.append((called, count, conditional or role.endswith('_computation'), unsure))
      for branches in _BRANCHES.findall(line):
        inside = conditional or ' conditional(' in line
        queue.extend((b.strip(' %'), times, inside, uncertain) for b in branches.split(','))


def size(dtype: str, dimensions: str) -> int:
  """Bytes of an array, as `SHAPE` finds it: 'bf16', '256,32,32,64'."""
  if dtype in ('token', 'opaque'):
    return 0
  bits = 8 if dtype == 'pred' else int((re.search(r'\d+', dtype) or ['8'])[0])
  sizes = [int(re.sub('[^0-9]', '', side)) for side in dimensions.split(',') if side.strip()]
  return math.ceil(math.prod(sizes) * bits / 8)
