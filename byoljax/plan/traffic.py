"""Counts the collectives in the text of a compiled program.

The text is XLA's HLO after optimization, so collectives are counted as they will run, after the
compiler has merged, split or removed some. An asynchronous operation is two instructions, `-start`
and `-done`; the second one, whose result is the operation's, is counted. The body of a loop is
multiplied by its trip count if the compiler knows it. Branches of conditionals are kept separate:
in a train step only logged steps run them.
"""

import re
from typing import NamedTuple

from byoljax.plan import program

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'collective-permute', 'all-to-all')


class Collective(NamedTuple):
  """One collective of the program.

  Attributes:
    kind: one of `KINDS`.
    size: bytes of the result on one device.
    group: participating devices; 0, if the text does not say, for all of them.
    times: how often it runs in one execution of the program.
    conditional: whether it is inside a branch of a conditional.
  """

  kind: str
  size: int
  group: int
  times: int
  conditional: bool


class Found(NamedTuple):
  """All collectives of a program.

  Attributes:
    collectives: in textual order.
    unknown_loops: loops with collectives whose trip count is unknown; counted once.
  """

  collectives: tuple[Collective, ...]
  unknown_loops: int


_OPERATION = re.compile(rf' ({"|".join(KINDS)}|ragged-all-to-all)(-start|-done)?\(')
_GROUPS = re.compile(r'replica_groups=(?:\{\{([0-9,]*)\}|\[(\d+),(\d+)\]<=)')


def find(hlo: str) -> Found:
  """The communication in the text of a compiled HLO module."""
  computations, entry = program.computations(hlo)
  found: list[Collective] = []
  unknown = 0
  for name, times, conditional, uncertain in program.walk(computations, entry):
    own = [each for line in computations[name] if (each := _collective(line))]
    found += [each._replace(times=times, conditional=conditional) for each in own]
    unknown += bool(own) and uncertain
  return Found(tuple(found), unknown)


def totals(found: Found, *, conditional: bool = False) -> dict[str, tuple[int, int]]:
  """kind -> (calls, bytes of the results) per execution, inside or outside of conditionals."""
  result: dict[str, tuple[int, int]] = {}
  for each in found.collectives:
    if each.conditional == conditional:
      calls, size = result.get(each.kind, (0, 0))
      result[each.kind] = (calls + each.times, size + each.times * each.size)
  return result


def sent(kind: str, size: float, group: int) -> float:
  """Bytes that one device sends for a result of `size` bytes in a group, in a ring algorithm.

  All-reduce: 2 (n - 1) / n; all-gather and all-to-all: (n - 1) / n; reduce-scatter: n - 1 times
  the share that stays; permutation: once.
  """
  if group < 2:
    return 0.0
  share = (group - 1) / group
  factors = {
    'all-reduce': 2 * share,
    'all-gather': share,
    'all-to-all': share,
    'reduce-scatter': group - 1,
    'collective-permute': 1,
  }
  return factors[kind] * size


def _collective(line: str) -> Collective | None:
  _, equals, text = line.partition(' = ')
  operation = _OPERATION.search(f' {text}') if equals else None
  if operation is None or operation.group(2) == '-start':
    return None
  kind = operation.group(1).removeprefix('ragged-')
  size = sum(
    program.size(*shape) for shape in program.SHAPE.findall(f' {text}'[: operation.start()])
  )
  return Collective(kind, size, _group(line), 1, False)


def _group(line: str) -> int:
  groups = _GROUPS.search(line)
  if groups is None:
    return 0
  if groups.group(3):
    return int(groups.group(3))
  return len([member for member in groups.group(1).split(',') if member])
