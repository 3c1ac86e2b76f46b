"""The unit sphere, on which embeddings are compared."""

import jax
from jax import lax
import jax.numpy as jnp


def normalize(x: jax.Array, axis: int = -1) -> jax.Array:
  """x / max(|x|, 1e-6) along `axis`, in the input's shape, float32; zero stays zero."""
  x = x.astype(jnp.float32)
  return x * lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=axis, keepdims=True), 1e-12))


def unit(x: jax.Array) -> jax.Array:
  """x / max(|x|, 1e-12) along the last axis, for features: divided exactly, zero stays zero."""
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def similarities(a: jax.Array, b: jax.Array) -> jax.Array:
  """a b^T, [n,D] and [m,D] -> float32 [n,m].

  Full float32 precision: accelerators round float32 products to about 10 bits by default, and these
  are divided by a temperature and then exponentiated or ranked.
  """
  return jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST)


def random_points(key: jax.Array, count: int, dim: int) -> jax.Array:
  """Uniform samples from the unit sphere, float32 [count,dim]."""
  return normalize(jax.random.normal(key, (count, dim), jnp.float32))
