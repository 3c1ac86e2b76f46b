"""Likelihoods of images as whole numbers: what is learned, and what it is worth in bits.

An image of C colors is H W C numbers (dimensions) out of K. A model that knew nothing would need
log2 K bits for each, 8 for the usual 256.
"""

import math

import jax
import jax.numpy as jnp


def levels_of(pixels: jax.Array, levels: int) -> jax.Array:
  """Values in [0, 1] as whole numbers in [0, K), int32 of the same shape.

  With K = 256 the bytes that they were; with fewer, all numbers stand for equally long parts of
  [0, 256): floor(byte K / 256) (Kingma and Dhariwal 2018, arXiv 1807.03039, has K = 32).
  """
  bytes_ = jnp.clip(jnp.round(pixels.astype(jnp.float32) * 255.0), 0.0, 255.0)
  return jnp.floor(bytes_ * (levels / 256.0)).astype(jnp.int32)


def values_of(numbers: jax.Array, levels: int) -> jax.Array:
  """The inverse of `levels_of` up to its rounding: k / (K - 1), float32 in [0, 1]."""
  return numbers.astype(jnp.float32) / (levels - 1)


def categorical_nll(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """-log softmax(logits)[target] in nats, float32 of the targets' shape.

  Args:
    logits: [..., K], any float dtype; the computation is float32.
    targets: integers [...] in [0, K).
  """
  found = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
  return -jnp.take_along_axis(found, targets[..., None], axis=-1)[..., 0]


def bits(nats: jax.Array) -> jax.Array:
  """Nats in bits: / ln 2."""
  return nats / math.log(2.0)
