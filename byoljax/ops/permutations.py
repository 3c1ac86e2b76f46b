"""Sets of permutations that differ in many places, for jigsaw puzzles (arXiv 1603.09246).

A puzzle's classes are permutations of its tiles. The fewer places two of them share, the less the
network can tell them apart by a single tile, so the set is built greedily (the paper's algorithm
1): from a random permutation on, the one that is farthest from those chosen so far. It is a
function of (tiles, count, rule, seed) and never stored.

The Hamming distance of two permutations is the number of places at which they differ. All n! are
candidates in every round; for 9 tiles that is 362,880, and what they share with the one that was
added last is found from what their halves share with it: about a millisecond a round.

Different from the paper's code: its search for the largest minimum distance recomputes all
distances, and what it does about ties is not said. Here ties go to the candidate that is better by
the other rule, then by chance.
"""

import functools
import math

import numpy as np

from byoljax import streams

RULES = ('mean', 'minimum')
_MOST_TILES = 9


@functools.lru_cache(maxsize=8)
def spread_permutations(tiles: int, count: int, rule: str = 'mean', seed: int = 0) -> np.ndarray:
  """`count` different permutations of `tiles` places that are far from each other.

  Args:
    tiles: n, 2 to 9.
    count: 2 to n!.
    rule: what is made as large as possible when one is added: its 'mean' or its 'minimum' Hamming
      distance to those before it. The mean is what the paper's authors used.
    seed: decides the first one and ties; at least 0.

  Returns:
    int32 [count, n], read-only: row i has the tile that lies at each place.

  Raises:
    ValueError: an argument out of range.
  """
  if not 2 <= tiles <= _MOST_TILES:
    raise ValueError(f'tiles={tiles}: permutations are listed for 2 to {_MOST_TILES} tiles.')
  if not 2 <= count <= math.factorial(tiles):
    raise ValueError(
      f'count={count}: there are {math.factorial(tiles)} permutations of {tiles} tiles; take 2 to '
      'that many.'
    )
  if rule not in RULES:
    raise ValueError(f'rule={rule!r} is not one of {", ".join(RULES)}.')
  if seed < 0:
    raise ValueError(f'the seed of the permutations is {seed}: give a whole number from 0.')
  rng = np.random.default_rng((seed, streams.PERMUTATIONS))
  candidates, matches_of = all_permutations(tiles), _Matches(tiles)
  # Places shared with all chosen ones together: about as many as there are.
  total = np.zeros(len(candidates), np.uint16 if count < 2**14 else np.uint32)
  most = np.zeros(len(candidates), np.uint8)  # with the nearest of them
  chosen = [int(rng.integers(len(candidates)))]
  while len(chosen) < count:
    matches = matches_of(candidates[chosen[-1]])
    total += matches.astype(total.dtype)
    np.maximum(most, matches, out=most)
    # Out of reach of all others, with room for what is added later. Nothing else has `tiles`.
    total[chosen[-1]], most[chosen[-1]] = np.iinfo(total.dtype).max // 2, tiles
    first, second = (total, most) if rule == 'mean' else (most, total)
    second = np.where(first == first.min(), second, np.iinfo(second.dtype).max)
    ties = np.flatnonzero(second == second.min())
    chosen.append(int(ties[rng.integers(len(ties))]))
  found = candidates[chosen].astype(np.int32)
  found.setflags(write=False)
  return found


def all_permutations(tiles: int) -> np.ndarray:
  """All permutations of 0, ..., tiles - 1 in lexicographic order: uint8 [tiles!, tiles]."""
  table = np.zeros((1, 0), np.uint8)
  for size in range(1, tiles + 1):
    # The first place takes every value; the rest is a permutation of the others.
    heads = np.repeat(np.arange(size, dtype=np.uint8), len(table))[:, None]
    rest = np.tile(table, (size, 1))
    table = np.concatenate([heads, rest + (rest >= heads)], axis=1, dtype=np.uint8)
  return table


def inverse(permutations: np.ndarray) -> np.ndarray:
  """The inverse of each row, [..., n]: `p[inverse(p)]` and `inverse(p)[p]` are 0, ..., n - 1."""
  return np.argsort(permutations, axis=-1).astype(permutations.dtype)


class _Matches:
  """At how many places all permutations are as a given one; much is shared between them.

  In lexicographic order those with the same first places stand together, and what follows is an
  order of the values that are left: for 9 tiles 3024 beginnings, and 126 sets of 5 values in 120
  orders each.
  """

  def __init__(self, tiles: int):
    self.split = tiles - (tiles + 1) // 2
    orders = math.factorial(tiles - self.split)
    table = all_permutations(tiles).reshape(-1, orders, tiles)
    starts, ends = table[..., : self.split], table[..., self.split :]
    self.starts = np.ascontiguousarray(starts[:, 0].T)
    # The first of each block has the values that are left in ascending order.
    _, first, self.left = np.unique(ends[:, 0], axis=0, return_index=True, return_inverse=True)
    self.ends = np.ascontiguousarray(np.moveaxis(ends[first], -1, 0))

  def __call__(self, permutation: np.ndarray) -> np.ndarray:
    """uint8 [n!], in lexicographic order."""
    start, end = permutation[: self.split, None], permutation[self.split :, None, None]
    at_start = np.add.reduce(self.starts == start, axis=0, dtype=np.uint8)
    at_end = np.add.reduce(self.ends == end, axis=0, dtype=np.uint8)
    return (at_start[:, None] + at_end[self.left]).reshape(-1)
