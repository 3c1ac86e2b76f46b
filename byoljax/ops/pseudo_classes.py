"""Pseudo-classes over a memory bank: sampling by class, centroids, repairing clusters.

As used by InterCLR (Xie et al. 2020, arXiv 2008.11702): a query's positive is an image of its
class, its negatives are images of other classes, and clusters that become too small are dissolved.
"""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from byoljax import streams
from byoljax.devices import collectives
from byoljax.ops import sphere

SAMPLING = ('random', 'semihard', 'semieasy', 'hard')


class Sampling(NamedTuple):
  """Where the negatives of a query come from.

  Attributes:
    mode: 'random', from the whole bank; 'semihard', at random from the `pool` nearest entries;
      'semieasy', from the `pool` farthest; 'hard', the nearest entries of other classes.
    pool: P, entries in the pool; unused by 'random' and 'hard'.
    count: K, negatives per query.
  """

  mode: str
  pool: int
  count: int


def check_sampling(sampling: Sampling, size: int) -> None:
  """Raises ValueError for an unknown mode, or numbers that a bank of `size` rows cannot satisfy."""
  mode, pool, count = sampling
  if mode not in SAMPLING:
    raise ValueError(f"sampling='{mode}' is not one of {', '.join(SAMPLING)}.")
  if not (1 <= pool <= size and 1 <= count <= size):
    raise ValueError(
      f'{count} negatives from the {pool} nearest images: both numbers must be between 1 and the '
      f'{size} images of the bank.'
    )


def sample_positive(
  keys: jax.Array, classes: jax.Array, labels: jax.Array, num_classes: int
) -> jax.Array:
  """Index of a uniformly sampled image of each query's class, int32 [b].

  Args:
    keys: one key per query [b].
    classes: int32 [b], the queries' classes, none of them empty.
    labels: int32 [N], the classes of all images.
    num_classes: C.
  """
  order = jnp.argsort(labels).astype(jnp.int32)
  sizes = jnp.bincount(labels, length=num_classes)
  first = jnp.cumsum(sizes) - sizes
  size = sizes[classes]
  # The product may round up to the size itself.
  place = jnp.minimum((jax.vmap(jax.random.uniform)(keys) * size).astype(jnp.int32), size - 1)
  return order[first[classes] + place]


def sample_negatives(
  keys: jax.Array,
  queries: jax.Array,
  classes: jax.Array,
  bank: jax.Array,
  labels: jax.Array,
  sampling: Sampling,
) -> tuple[jax.Array, jax.Array]:
  """Indices int32 [b,K] of each query's negatives, and which of them are valid, bool [b,K].

  Those of the query's own class are not valid. Samples are with replacement. No gradient.

  Args:
    keys: one key per query [b].
    queries: unit rows [b,D].
    classes: int32 [b], the queries' classes.
    bank: unit rows [N,D].
    labels: int32 [N], the classes of the bank's rows.
    sampling: where they come from.

  Raises:
    ValueError: see `check_sampling`.
  """
  mode, pool, count = sampling
  size = bank.shape[0]
  check_sampling(sampling, size)
  if mode == 'random':
    index = _uniform(keys, count, size)
  else:
    similarity = sphere.similarities(lax.stop_gradient(queries), bank)
    if mode == 'hard':
      other = labels[None, :] != classes[:, None]
      _, index = lax.top_k(jnp.where(other, similarity, -jnp.inf), count)
    else:
      _, nearest = lax.top_k(similarity if mode == 'semihard' else -similarity, pool)
      index = jnp.take_along_axis(nearest, _uniform(keys, count, pool), axis=1)
  return index, labels[index] != classes[:, None]


def _uniform(keys: jax.Array, count: int, size: int) -> jax.Array:
  """Uniform samples from 0, ..., size - 1, int32 [b,count]."""
  return jax.vmap(lambda key: jax.random.randint(key, (count,), 0, size))(keys)


def centroids(
  bank: jax.Array, labels: jax.Array, old: jax.Array, *, axis: str | None = None
) -> jax.Array:
  """The normalized mean of every class's rows, float32 [C,D].

  Args:
    bank: unit rows [N,D], the same on all devices.
    labels: int32 [N].
    old: float32 [C,D]; an empty class keeps its row.
    axis: the mapped axis, or None.
  """
  sums = jax.ops.segment_sum(bank, labels, num_segments=old.shape[0])
  # Scatter-adds have no fixed order; the mean makes the devices agree to the last bit.
  sums = collectives.pmean(sums, axis)
  occupied = jnp.bincount(labels, length=old.shape[0]) > 0
  return jnp.where(occupied[:, None], sphere.normalize(sums), old)


def repair(
  bank: np.ndarray, labels: np.ndarray, old: np.ndarray, *, min_size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Dissolves small classes and replaces them by splitting the largest ones; on the host.

  Rows of classes with fewer than `min_size` rows are assigned to the nearest other centroid. Then,
  for every freed class, the largest class is split by spherical 2-means, as long as it has at least
  2 * min_size rows. Nothing changes if all classes are small.

  Args:
    bank: unit rows [N,D].
    labels: int32 [N].
    old: centroids, unit rows [C,D].
    min_size: at least 0; from 1 on, empty classes are small.
    seed: of the splits.

  Returns:
    New labels int32 [N] and centroids float32 [C,D]; centroids of unchanged and of still empty
    classes are kept.
  """
  labels, moved = labels.copy(), old.copy()
  sizes = np.bincount(labels, minlength=len(old))
  small = sizes < min_size
  if small.all() or not small.any():
    return labels, moved
  large = np.flatnonzero(~small)
  leaving = np.flatnonzero(small[labels])
  # In chunks: similarities of all rows to all centroids may take gigabytes.
  for rows in np.array_split(leaving, len(leaving) // 4096 + 1):
    labels[rows] = large[np.argmax(bank[rows] @ old[large].T, axis=1)]
  sizes = np.bincount(labels, minlength=len(old))
  changed = set(np.unique(labels[leaving]).tolist())
  generator = np.random.default_rng((seed, streams.CLUSTER_REPAIR))
  for freed in np.flatnonzero(small).tolist():
    largest = int(np.argmax(sizes))
    if sizes[largest] < max(2, 2 * min_size):
      break
    members = np.flatnonzero(labels == largest)
    half = members[_halve(bank[members], generator)]
    labels[half] = freed
    sizes[freed], sizes[largest] = len(half), len(members) - len(half)
    changed |= {largest, freed}
  for label in sorted(changed):
    total = bank[labels == label].sum(0)
    moved[label] = total / max(float(np.linalg.norm(total)), 1e-6)
  return labels, moved


def _halve(x: np.ndarray, generator: np.random.Generator, iterations: int = 10) -> np.ndarray:
  """Spherical 2-means of unit rows [n,D], n > 1: bool [n], neither all True nor all False."""
  centers = x[generator.choice(len(x), 2, replace=False)]
  second = np.zeros(len(x), bool)
  for _ in range(iterations):
    lean = x @ (centers[1] - centers[0])
    second = lean > 0
    if second.all() or not second.any():
      # Equal rows cannot be separated: any two halves will do.
      return np.argsort(np.argsort(lean, kind='stable'), kind='stable') >= len(x) // 2
    totals = np.stack([x[~second].sum(0), x[second].sum(0)])
    centers = totals / np.maximum(np.linalg.norm(totals, axis=1, keepdims=True), 1e-6)
  return second
