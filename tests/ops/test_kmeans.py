"""K-means against float64 NumPy from the same start, empty clusters, whitening."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.ops.kmeans import _lloyd, _split, kmeans, pca_whiten

KEY = jax.random.key(0)


def blobs(seed, rows, clusters, dim, spread=0.1):
  rng = np.random.default_rng(seed)
  centers = rng.normal(size=(clusters, dim))
  which = rng.integers(0, clusters, rows)
  return (centers[which] + spread * rng.normal(size=(rows, dim))).astype(np.float32), which


def reference(x, centroids, iterations, spherical):
  """Lloyd's iteration in float64; an empty cluster keeps its centroid."""
  x, centroids = x.astype(np.float64), centroids.astype(np.float64)
  unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)  # noqa: E731
  if spherical:
    x, centroids = unit(x), unit(centroids)

  def assign():
    return np.argmin(((x[:, None] - centroids[None]) ** 2).sum(2), axis=1)

  for _ in range(iterations):
    labels = assign()
    for cluster in range(len(centroids)):
      if (labels == cluster).any():
        centroids[cluster] = x[labels == cluster].mean(0)
    if spherical:
      centroids = unit(centroids)
  return centroids, assign()


@pytest.mark.parametrize('spherical', [False, True])
@pytest.mark.parametrize('chunk', [7, 2048])
def test_equals_numpy_from_the_same_centroids(spherical, chunk):
  x, _ = blobs(1, 200, 9, 5, spread=0.5)
  start = x[:6]
  centroids, labels = kmeans(
    x, 6, key=KEY, iterations=8, spherical=spherical, chunk=chunk, initial=start
  )
  expected, expected_labels = reference(x, start, 8, spherical)
  np.testing.assert_allclose(centroids, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(labels, expected_labels)
  assert centroids.dtype == jnp.float32 and labels.dtype == jnp.int32
  if spherical:
    np.testing.assert_allclose(jnp.linalg.norm(centroids, axis=1), np.ones(6), rtol=1e-5)


@pytest.mark.parametrize('spherical', [False, True])
def test_finds_well_separated_clusters(spherical):
  x, which = blobs(2, 300, 5, 16, spread=0.02)
  _, labels = kmeans(x, 20, key=KEY, iterations=10, spherical=spherical, empty='split')
  assert all(len(set(which[labels == cluster])) == 1 for cluster in np.unique(labels))


def test_spherical_ignores_lengths_and_euclidean_does_not():
  x, _ = blobs(3, 100, 5, 6, spread=0.4)
  scaled = x * np.random.default_rng(0).uniform(0.01, 100, (100, 1)).astype(np.float32)
  run = lambda x, spherical: kmeans(x, 5, key=KEY, iterations=5, spherical=spherical)[1]  # noqa: E731
  np.testing.assert_array_equal(run(x, True), run(scaled, True))
  assert (np.asarray(run(x, False)) != np.asarray(run(scaled, False))).any()


def test_the_start_is_k_different_rows_drawn_by_the_key():
  x, _ = blobs(4, 30, 5, 6)
  _, labels = kmeans(x, 30, key=KEY, iterations=1, spherical=False)
  assert sorted(labels.tolist()) == list(range(30))  # every row is a centroid
  first, again = (kmeans(x, 3, key=KEY, iterations=1, spherical=False)[0] for _ in range(2))
  np.testing.assert_array_equal(first, again)
  other, _ = kmeans(x, 3, key=jax.random.key(5), iterations=1, spherical=False)
  assert not np.array_equal(first, other)


def test_an_empty_cluster_keeps_its_centroid_or_takes_half_of_the_largest():
  x = np.concatenate([np.full((6, 2), 1.0), np.full((90, 2), 5.0)]).astype(np.float32)
  x[6:, 0] += np.linspace(-1, 1, 90, dtype=np.float32)
  start = np.array([[1.0, 1.0], [5.0, 5.0], [-99.0, -99.0]], np.float32)
  arguments = {'key': KEY, 'spherical': False, 'initial': start}
  kept, labels = kmeans(x, 3, iterations=5, **arguments)
  np.testing.assert_array_equal(kept[2], start[2])
  assert 2 not in labels
  once, _ = kmeans(x, 3, iterations=1, empty='split', **arguments)
  middle = x[6:].mean(0)
  sign = np.array([1.0, -1.0]) / 1024
  np.testing.assert_allclose(once[2], middle * (1 + sign), rtol=1e-5)
  np.testing.assert_allclose(once[1], middle * (1 - sign), rtol=1e-5)
  split, labels = kmeans(x, 3, iterations=20, empty='split', **arguments)
  counts = np.bincount(labels, minlength=3)
  assert counts[0] == 6 and counts[1:].min() > 30
  np.testing.assert_allclose(sorted(np.asarray(split)[1:, 0]), [4.5, 5.5], atol=0.1)


@pytest.mark.parametrize('spherical', [False, True])
def test_split_fills_many_empty_clusters(spherical):
  x, _ = blobs(5, 400, 4, 8, spread=0.3)
  start = np.concatenate([x[:4], np.full((12, 8), -50.0, np.float32)])
  start[4:, 0] -= np.arange(12)
  arguments = {'key': KEY, 'iterations': 15, 'spherical': spherical, 'initial': start}
  _, kept = kmeans(x, 16, **arguments)
  _, split = kmeans(x, 16, empty='split', **arguments)
  assert len(np.unique(kept)) < 8 and len(np.unique(split)) == 16


def test_memory_is_a_chunk_not_all_distances():
  x, start = (jax.ShapeDtypeStruct((n, 16), jnp.float32) for n in (100_000, 500))
  compiled = _lloyd.lower(x, start, 5, False, 'split', 1000).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 20_000_000  # all distances: 200 MB


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'k': 11}, r'at least k=11 >= 1 rows, got \(10, 3\)'),
    ({'k': 0}, 'k=0'),
    ({'iterations': 0}, 'at least 1 iteration and 1 row at a time, got 0 and 2048'),
    ({'chunk': 0}, 'got 2 and 0'),
    ({'empty': 'drop'}, "empty='drop' is neither 'keep' nor 'split'"),
    ({'initial': np.ones((2, 2))}, r'initial must be \[k,D\] \(2, 3\), got \(2, 2\)'),
  ],
)
def test_kmeans_refuses_bad_inputs(changed, message):
  arguments = {'k': 2, 'key': KEY, 'iterations': 2, 'spherical': False} | changed
  with pytest.raises(ValueError, match=message):
    kmeans(jnp.ones((10, 3)), **arguments)


# --- whitening ------------------------------------------------------------------------------------


def test_whitened_rows_have_mean_0_and_identity_covariance():
  rng = np.random.default_rng(0)
  x = (rng.normal(size=(500, 12)) @ rng.normal(size=(12, 12)) + 7.0).astype(np.float32)
  for dim in (4, 12):
    white = np.asarray(pca_whiten(x, dim), np.float64)
    assert white.shape == (500, dim)
    np.testing.assert_allclose(white.mean(0), np.zeros(dim), atol=1e-4)
    np.testing.assert_allclose(np.cov(white.T), np.eye(dim), atol=2e-3)


def test_components_come_in_order_and_equal_numpys_up_to_sign():
  rng = np.random.default_rng(1)
  x = (rng.normal(size=(300, 6)) * np.array([9.0, 1.0, 5.0, 0.5, 3.0, 0.1])).astype(np.float32)
  white = np.asarray(pca_whiten(x, 3))
  _, values, directions = np.linalg.svd(x - x.mean(0), full_matrices=False)
  expected = (x - x.mean(0)) @ directions[:3].T / values[:3] * np.sqrt(299)
  np.testing.assert_allclose(np.abs(white), np.abs(expected), atol=1e-3)


def test_components_without_variance_are_zero_instead_of_noise():
  x = np.random.default_rng(2).normal(size=(50, 2)).astype(np.float32)
  white = np.asarray(pca_whiten(np.concatenate([x, x, x], axis=1), 4))
  np.testing.assert_allclose(np.cov(white[:, :2].T), np.eye(2), atol=1e-3)
  np.testing.assert_array_equal(white[:, 2:], 0.0)


@pytest.mark.parametrize('dim', [0, 4, 3])
def test_too_many_components_are_refused(dim):
  x = jnp.ones((3, 5)) if dim == 3 else jnp.ones((10, 3))
  with pytest.raises(ValueError, match=f'cannot take {dim} principal components'):
    pca_whiten(x, dim)


def test_each_empty_cluster_takes_half_of_the_largest_at_that_time():
  """Of 8 and 5 rows: once the 8 are two fours, the next is half of the 5."""
  centroids = jnp.asarray([[1.0, 1.0], [2.0, 2.0], [9.0, 9.0], [9.0, 9.0]])
  found = jax.jit(_split)(centroids, jnp.asarray([8, 5, 0, 0]))
  apart = np.array([1.0, -1.0]) / 1024
  np.testing.assert_allclose(found, [1 - apart, 2 - 2 * apart, 1 + apart, 2 + 2 * apart], rtol=1e-6)
