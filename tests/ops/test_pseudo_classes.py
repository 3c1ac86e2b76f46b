"""Drawing by class, centroids and the repair of clusters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.ops import pseudo_classes
from byoljax.ops.pseudo_classes import Sampling

IMAGES, DIM, CLASSES = 60, 5, 6


def unit(x):
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def memory():
  rng = np.random.default_rng(0)
  bank = unit(rng.normal(size=(IMAGES, DIM)))
  labels = rng.integers(0, CLASSES - 1, IMAGES).astype(np.int32)  # The last class is empty.
  return bank, labels


def test_positives_are_uniform_over_the_class(memory):
  _, labels = memory
  own = jnp.full(6000, 2, jnp.int32)
  keys = jax.random.split(jax.random.key(0), 6000)
  drawn = np.asarray(pseudo_classes.sample_positive(keys, own, jnp.asarray(labels), CLASSES))
  members = np.flatnonzero(labels == 2)
  counts = np.bincount(drawn, minlength=IMAGES)
  assert set(np.flatnonzero(counts)) == set(members)
  expected = 6000 / len(members)
  # Five standard deviations.
  assert np.abs(counts[members] - expected).max() < 5 * np.sqrt(expected)


def test_every_query_has_a_positive_of_its_own_class(memory):
  _, labels = memory
  own = labels[:20]
  keys = jax.random.split(jax.random.key(1), 20)
  drawn = pseudo_classes.sample_positive(keys, jnp.asarray(own), jnp.asarray(labels), CLASSES)
  np.testing.assert_array_equal(labels[np.asarray(drawn)], own)
  alone = jnp.arange(IMAGES, dtype=jnp.int32)
  drawn = pseudo_classes.sample_positive(keys, alone[:20], alone, IMAGES)
  np.testing.assert_array_equal(drawn, np.arange(20), err_msg='an image alone is its own')


@pytest.mark.parametrize('mode', pseudo_classes.SAMPLING)
def test_negatives(mode, memory):
  bank, labels = memory
  queries, own = bank[:4], labels[:4]
  keys = jax.random.split(jax.random.key(2), 4)
  index, counts = pseudo_classes.sample_negatives(
    keys, *map(jnp.asarray, (queries, own, bank, labels)), Sampling(mode, 12, 30)
  )
  index, counts = np.asarray(index), np.asarray(counts)
  assert index.shape == counts.shape == (4, 30)
  np.testing.assert_array_equal(counts, labels[index] != own[:, None])
  similarity = queries @ bank.T
  for row in range(4):
    order = np.argsort(-similarity[row])
    if mode == 'hard':
      others = [i for i in order if labels[i] != own[row]][:30]
      assert set(index[row]) == set(others)
    else:
      pool = {'random': order, 'semihard': order[:12], 'semieasy': order[-12:]}[mode]
      assert set(index[row]) <= set(pool)
      # 30 draws with replacement from 12 meet 11.1 of them on average, from 60 23.8.
      assert len(set(index[row])) > (14 if mode == 'random' else 7)
  assert not np.array_equal(index[0], index[1])


def test_centroids_are_unit_means(memory):
  bank, labels = memory
  old = unit(np.random.default_rng(1).normal(size=(CLASSES, DIM)))
  found = pseudo_classes.centroids(*map(jnp.asarray, (bank, labels, old)))
  wanted = np.stack([unit(bank[labels == c].sum(0)) for c in range(CLASSES - 1)] + [old[-1]])
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_small_classes_dissolve_and_the_largest_split():
  """Two far groups in class 0, a good class 1, and two stray rows of class 2 near class 1."""
  rng = np.random.default_rng(0)
  directions = np.eye(DIM)[[0] * 10 + [1] * 10 + [2] * 6 + [2] * 2]
  bank = unit(directions + 0.02 * rng.normal(size=directions.shape))
  labels = np.array([0] * 20 + [1] * 6 + [2] * 2, np.int32)
  old = unit(np.stack([bank[labels == c].sum(0) for c in range(3)]))
  before = labels.copy(), old.copy()
  new, centroids = pseudo_classes.repair(bank, labels, old, min_size=3, seed=0)
  np.testing.assert_array_equal(labels, before[0], err_msg='the arguments stay as they are')
  np.testing.assert_array_equal(old, before[1])
  assert set(new[20:]) == {1}, 'the strays went to the nearest'
  assert len(set(new[:10])) == len(set(new[10:20])) == 1
  assert {new[0], new[10]} == {0, 2}, 'the largest was split at its gap'
  for c in range(3):
    np.testing.assert_allclose(centroids[c], unit(bank[new == c].sum(0)), atol=1e-5)
  again = pseudo_classes.repair(bank, labels, old, min_size=3, seed=0)
  np.testing.assert_array_equal(again[0], new)
  assert new.dtype == np.int32 and centroids.dtype == np.float32


def test_repair_leaves_good_clusters_alone(memory):
  bank, labels = memory
  old = unit(np.random.default_rng(1).normal(size=(CLASSES - 1, DIM)))
  for min_size in (0, 2, 1000):  # nothing is small, or everything
    new, centroids = pseudo_classes.repair(bank, labels, old, min_size=min_size, seed=0)
    np.testing.assert_array_equal(new, labels)
    np.testing.assert_array_equal(centroids, old)


def test_equal_rows_can_be_split():
  bank = unit(np.ones((8, DIM)))
  labels = np.zeros(8, np.int32)
  new, _ = pseudo_classes.repair(bank, labels, unit(np.ones((2, DIM))), min_size=1, seed=0)
  np.testing.assert_array_equal(np.bincount(new, minlength=2), [4, 4])


@pytest.mark.parametrize(
  ('sampling', 'said'),
  [
    (Sampling('semi', 5, 5), 'semihard'),
    (Sampling('semihard', 61, 5), 'between 1 and the 60'),
    (Sampling('hard', 5, 61), 'between 1 and the 60'),
    (Sampling('random', 5, 0), 'between 1 and the 60'),
  ],
)
def test_mistakes(sampling, said):
  with pytest.raises(ValueError, match=said):
    pseudo_classes.check_sampling(sampling, IMAGES)


def test_a_class_too_small_for_two_is_not_split():
  """Of 5, 3 and 0 rows where 3 is the least: halves of 5 would be too small."""
  rng = np.random.default_rng(0)
  bank, old = unit(rng.normal(size=(8, DIM))), unit(rng.normal(size=(3, DIM)))
  labels = np.array([0] * 5 + [1] * 3, np.int32)
  new, centroids = pseudo_classes.repair(bank, labels, old, min_size=3, seed=0)
  np.testing.assert_array_equal(new, labels)
  np.testing.assert_array_equal(centroids, old)
