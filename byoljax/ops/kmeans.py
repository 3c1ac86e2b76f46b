"""K-means, Euclidean and spherical, and PCA whitening, for occasional clustering.

The data are on the device once; similarities to the centroids are computed for one chunk of rows at
a time. Sums over clusters are matrix products, which unlike scatter-adds are deterministic, so that
every process of a run finds the same clusters.

Different from faiss, which DeepCluster uses: an empty cluster takes half of the largest one, where
faiss draws one, with a probability that grows with its size. All rows are used, as DeepCluster has
it; left to itself faiss samples 256 per centroid.
"""

from functools import partial
from typing import Literal

import jax
from jax import lax
import jax.numpy as jnp

from byoljax.ops import sphere


def kmeans(
  x: jax.Array,
  k: int,
  *,
  key: jax.Array,
  iterations: int,
  spherical: bool,
  empty: Literal['keep', 'split'] = 'keep',
  chunk: int = 2048,
  initial: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Lloyd's algorithm, initialized with k random rows.

  Args:
    x: rows [N,D], any float dtype, NumPy or JAX; the computation is float32.
    k: number of clusters, 1 <= k <= N.
    key: selects the initial rows.
    iterations: >= 1; each assigns all rows and updates all centroids.
    spherical: rows and centroids are normalized, and the nearest centroid is the one of largest
      cosine.
    empty: an empty cluster keeps its centroid ('keep'), or takes half of the largest cluster: the
      same centroid, both perturbed by 1/1024 ('split').
    chunk: rows at a time; memory is chunk * (2 k + D) floats besides x and the centroids.
    initial: initial centroids [k,D] instead of random rows.

  Returns:
    (centroids float32 [k,D], labels int32 [N]: each row's nearest centroid, the first of equally
    near ones). Deterministic.

  Raises:
    ValueError: invalid shapes, or k, iterations, chunk or empty out of range.
  """
  if x.ndim != 2 or not 1 <= k <= x.shape[0]:
    raise ValueError(f'k-means needs x [N,D] with at least k={k} >= 1 rows, got {x.shape}')
  if iterations < 1 or chunk < 1:
    raise ValueError(
      f'k-means needs at least 1 iteration and 1 row at a time, got {iterations} and {chunk}'
    )
  if empty not in ('keep', 'split'):
    raise ValueError(f"empty={empty!r} is neither 'keep' nor 'split'")
  x = jnp.asarray(x, jnp.float32)
  if initial is None:
    initial = x[jax.random.choice(key, x.shape[0], (k,), replace=False)]
  if initial.shape != (k, x.shape[1]):
    raise ValueError(f'initial must be [k,D] {(k, x.shape[1])}, got {initial.shape}')
  initial = jnp.asarray(initial, jnp.float32)
  return _lloyd(x, initial, iterations, spherical, empty, min(chunk, x.shape[0]))


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _lloyd(
  x: jax.Array, initial: jax.Array, iterations: int, spherical: bool, empty: str, chunk: int
) -> tuple[jax.Array, jax.Array]:
  finish = sphere.normalize if spherical else lambda centroids: centroids

  def update(_: jax.Array, centroids: jax.Array) -> jax.Array:
    _, sums, counts = _assign(x, centroids, spherical, chunk)
    means = sums / jnp.maximum(counts, 1)[:, None].astype(jnp.float32)
    moved = finish(jnp.where((counts > 0)[:, None], means, centroids))
    return moved if empty == 'keep' else finish(_split(moved, counts))

  centroids = lax.fori_loop(0, iterations, update, finish(initial))
  labels, _, _ = _assign(x, centroids, spherical, chunk)
  return centroids, labels


def _assign(
  x: jax.Array, centroids: jax.Array, spherical: bool, chunk: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Labels int32 [N], and the sum [k,D] and number int32 [k] of every cluster's rows."""
  count, dim = x.shape
  k = centroids.shape[0]
  half_norms = 0.5 * jnp.sum(centroids**2, axis=1)[None, :]

  def add(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    labels, sums, counts = carry
    # The last chunk overlaps the one before, instead of padding a copy of all rows.
    start = jnp.minimum(i * chunk, count - chunk)
    rows = lax.dynamic_slice(x, (start, 0), (chunk, dim))
    rows = sphere.normalize(rows) if spherical else rows
    # -|x - c|^2 / 2 plus |x|^2 / 2, which does not depend on the centroid.
    closeness = jnp.matmul(rows, centroids.T, precision=lax.Precision.HIGHEST) - half_norms
    nearest = jnp.argmax(closeness, axis=1).astype(jnp.int32)
    is_new = start + jnp.arange(chunk, dtype=jnp.int32) >= i * chunk
    member = (nearest[:, None] == jnp.arange(k, dtype=jnp.int32)[None, :]) & is_new[:, None]
    sums += jnp.matmul(member.T.astype(jnp.float32), rows, precision=lax.Precision.HIGHEST)
    counts += jnp.sum(member, axis=0, dtype=jnp.int32)
    return lax.dynamic_update_slice(labels, nearest, (start,)), sums, counts

  zeros = (
    jnp.zeros((count,), jnp.int32),
    jnp.zeros((k, dim), jnp.float32),
    jnp.zeros((k,), jnp.int32),
  )
  return lax.fori_loop(0, -(-count // chunk), add, zeros)


def _split(centroids: jax.Array, counts: jax.Array) -> jax.Array:
  """Gives every empty cluster half of the largest cluster at that time."""
  sign = jnp.where(jnp.arange(centroids.shape[1]) % 2 == 0, 1.0, -1.0) / 1024.0

  def any_empty(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
    return jnp.any(carry[1] == 0)

  def halve(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    centroids, counts = carry
    to, source = jnp.argmin(counts), jnp.argmax(counts)
    center, size = centroids[source], counts[source]
    centroids = centroids.at[to].set(center * (1.0 + sign)).at[source].set(center * (1.0 - sign))
    return centroids, counts.at[to].set(size // 2).at[source].set(size - size // 2)

  # Terminates: with k <= N rows and an empty cluster, another one has at least two.
  centroids, _ = lax.while_loop(any_empty, halve, (centroids, counts))
  return centroids


def pca_whiten(x: jax.Array, dim: int) -> jax.Array:
  """The first principal components, each with mean 0 and variance 1 (dividing by N - 1).

  Args:
    x: rows [N,D], any float dtype; the computation is float32.
    dim: components, 1 <= dim <= min(N - 1, D).

  Returns:
    float32 [N,dim], largest variance first, with arbitrary signs and identity covariance;
    components with less than 1e-6 of the largest variance are rounding noise, and are set to zero.

  Raises:
    ValueError: x is not [N,D], or dim is out of range.
  """
  if x.ndim != 2 or not 1 <= dim <= min(x.shape[0] - 1, x.shape[1]):
    raise ValueError(f'cannot take {dim} principal components of rows {x.shape}: at most '
                     f'min(N - 1, D)')  # fmt: skip
  return _pca_whiten(jnp.asarray(x, jnp.float32), dim)


@partial(jax.jit, static_argnums=1)
def _pca_whiten(x: jax.Array, dim: int) -> jax.Array:
  centered = x - jnp.mean(x, axis=0, keepdims=True)
  precise = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
  variances, directions = jnp.linalg.eigh(precise(centered.T, centered) / (x.shape[0] - 1))
  variances, directions = variances[::-1][:dim], directions[:, ::-1][:, :dim]
  real = variances > 1e-6 * variances[0]
  scales = jnp.where(real, lax.rsqrt(jnp.where(real, variances, 1.0)), 0.0)
  return precise(centered, directions * scales[None, :])
