"""Permutation sets of jigsaw puzzles: sizes, distances that can be computed by hand, inverses."""

import itertools
import math

import numpy as np
import pytest

from byoljax.ops import permutations


def most_possible_mean(tiles, count):
  """Above it no set's mean distance can be: at each place every value is as often as any other.

  n rows with m of a value at a place share it in m (m - 1) / 2 of their n (n - 1) / 2 pairs.
  """
  low, more = divmod(count, tiles)
  sizes = [low + 1] * more + [low] * (tiles - more)
  shared = sum(size * (size - 1) / 2 for size in sizes)
  return tiles - tiles * shared / (count * (count - 1) / 2)


def hamming_distances(rows):
  """The number of places at which each pair of rows differs: [count (count - 1) / 2]."""
  return np.concatenate([np.sum(rows[i + 1 :] != row, axis=1) for i, row in enumerate(rows[:-1])])


def test_all_permutations_are_itertools():
  for tiles in (1, 2, 5):
    expected = list(itertools.permutations(range(tiles)))
    np.testing.assert_array_equal(permutations.all_permutations(tiles), expected)


@pytest.mark.parametrize(
  ('rule', 'least_mean', 'least_minimum'),
  # The set that the paper's authors published has mean 8.08 and minimum 2 at this size.
  [('mean', 8.079, 2), ('minimum', 8.02, 6)],
)
def test_a_hundred_permutations_of_nine_tiles(rule, least_mean, least_minimum):
  found = permutations.spread_permutations(9, 100, rule, 0)
  assert found.shape == (100, 9) and found.dtype == np.int32
  assert (np.sort(found, axis=1) == np.arange(9)).all()
  distances = hamming_distances(found)
  assert len(distances) == 100 * 99 // 2 and distances.min() >= least_minimum
  assert least_mean <= distances.mean() <= most_possible_mean(9, 100) + 1e-9
  assert round(most_possible_mean(9, 100), 2) == 8.08


def test_greedy_is_the_definition():
  """Against an exhaustive search with float64 means, up to ties."""
  candidates = permutations.all_permutations(5)
  for rule, value in (('mean', np.mean), ('minimum', np.min)):
    found = permutations.spread_permutations(5, 30, rule, 3)
    for count in range(1, 30):
      before = found[:count]
      distances = (candidates[:, None] != before[None]).sum(-1)
      unused = (distances > 0).all(1)
      values = value(distances[unused].astype(np.float64), axis=1)
      own = value((found[count] != before).sum(-1).astype(np.float64))
      assert own == pytest.approx(values.max(), abs=1e-12)


def test_all_24_of_four_tiles_and_each_once():
  found = permutations.spread_permutations(4, 24, seed=5)
  assert len(np.unique(found, axis=0)) == math.factorial(4)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('rule', 'count', 'mean', 'minimum'),
  [('mean', 1000, 8.008, 2), ('mean', 10000, 8.0008, 1), ('minimum', 1000, 7.9, 5)],
)
def test_large_sets(rule, count, mean, minimum):
  found = permutations.spread_permutations(9, count, rule, 0)
  assert len(np.unique(found, axis=0)) == count
  distances = hamming_distances(found)
  assert distances.min() >= minimum and distances.mean() >= mean - 5e-4


def test_the_set_is_a_function_of_its_arguments():
  first = permutations.spread_permutations(6, 20, 'mean', 0)
  permutations.spread_permutations.cache_clear()
  np.testing.assert_array_equal(first, permutations.spread_permutations(6, 20, 'mean', 0))
  assert not np.array_equal(first, permutations.spread_permutations(6, 20, 'mean', 1))
  # A shorter set is the start of a longer one.
  np.testing.assert_array_equal(first[:10], permutations.spread_permutations(6, 10, 'mean', 0))
  with pytest.raises(ValueError, match='read-only'):
    first[0] = 0


def test_inverse():
  table = permutations.spread_permutations(5, 40)
  back = permutations.inverse(table)
  np.testing.assert_array_equal(np.take_along_axis(table, back, 1), np.tile(np.arange(5), (40, 1)))
  assert permutations.inverse(np.array([2, 0, 1])).tolist() == [1, 2, 0]


def test_distances_by_hand():
  rows = np.array([[0, 1, 2], [0, 2, 1], [1, 2, 0]])
  assert hamming_distances(rows).tolist() == [2, 3, 2]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [((10, 5), 'tiles=10'), ((1, 1), 'tiles=1'), ((3, 7), '6 permutations of 3'), ((3, 1), 'count=1'),
   ((3, 2, 'average'), "rule='average'")],
)  # fmt: skip
def test_what_cannot_be_is_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    permutations.spread_permutations(*arguments)
