"""Drawing from the distributions that a network predicts: temperature, top-k, top-p."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_LEAST = 1e-30  # temperature above 0: no float32 logit divided by it is infinite


class Sampling(NamedTuple):
  """How samples are drawn, and how many.

  Attributes:
    count: n.
    size: side of an image in pixels.
    temperature: T >= 0: probabilities are softmax(logits / T). Below 1 what is probable becomes
      more so; 0 takes the most probable.
    top_k: of how many most probable values one is drawn; 0: of all.
    top_p: the fewest most probable values of at least this much probability together are kept,
      after T and k (nucleus sampling, Holtzman et al. 2019, arXiv 1904.09751); 1: all.
  """

  count: int = 16
  size: int = 32
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0


def check(sampling: Sampling) -> None:
  """Raises ValueError for a value out of range."""
  count, size, temperature, top_k, top_p = sampling
  if count < 1 or size < 1:
    raise ValueError(f'count={count} and size={size} must be at least 1.')
  if not 0 <= temperature < float('inf'):
    raise ValueError(f'temperature={temperature} must be 0 or above: 1 draws as it was learned.')
  if top_k < 0 or top_k != int(top_k):
    raise ValueError(f'top_k={top_k} must be a whole number from 0; 0 draws from all values.')
  if not 0 < top_p <= 1:
    raise ValueError(f'top_p={top_p} must be above 0 and at most 1; 1 draws from all values.')


def restricted(logits: jax.Array, sampling: Sampling) -> jax.Array:
  """Logits of the distribution that is drawn from, float32 [..., K]; -inf for what is left out.

  Values as probable as the last one that is kept are kept, too. Not for a temperature of 0.
  """
  logits = logits.astype(jnp.float32)
  # The largest is 0: a temperature near 0 leaves that one, and makes no NaN.
  logits = (logits - logits.max(-1, keepdims=True)) / max(sampling.temperature, _LEAST)
  values = logits.shape[-1]
  if 0 < sampling.top_k < values:
    least = jax.lax.top_k(logits, sampling.top_k)[0][..., -1:]
    logits = jnp.where(logits < least, -jnp.inf, logits)
  if sampling.top_p < 1:
    sorted_logits = -jnp.sort(-logits, axis=-1)
    probabilities = jax.nn.softmax(sorted_logits, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = jnp.where(before < sampling.top_p, sorted_logits, jnp.inf)
    logits = jnp.where(logits < kept.min(-1, keepdims=True), -jnp.inf, logits)
  return logits


def keys(key: jax.Array, count: int) -> jax.Array:
  """One key for each of `count` samples: the first ones do not depend on how many there are."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))


def draw(keys: jax.Array, place: jax.Array, logits: jax.Array, sampling: Sampling) -> jax.Array:
  """A value of every sample at a place: int32 [n].

  Args:
    keys: of `keys`, [n].
    place: int scalar, below which no other was drawn with these keys.
    logits: [n,K].
    sampling: see `Sampling`.
  """
  if sampling.temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  here = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
  return jax.vmap(jax.random.categorical)(here, restricted(logits, sampling)).astype(jnp.int32)
