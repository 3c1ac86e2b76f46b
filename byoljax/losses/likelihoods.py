"""Likelihoods of images as whole numbers: what is learned, and what it is worth in bits.

An image of C colors is H W C numbers (dimensions) out of K. A model that knew nothing would need
log2 K bits for each, 8 for the usual 256.
"""

import math
from typing import NamedTuple

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


def bits_of_each(nats: jax.Array, dimensions: int) -> jax.Array:
  """Bits per dimension of each example, float32 [b], from the nats of its parts [b, ...]."""
  return bits(nats.reshape(len(nats), -1).sum(1)) / dimensions


class Logistics(NamedTuple):
  """Mixtures of M logistics for the three colors of a pixel, values of [0, 1] taken to [-1, 1].

  Attributes:
    logits: of the mixture's parts, [...,M].
    means: [...,M,3]: of red; of green and blue before what the colors before them add.
    log_scales: [...,M,3], at least -7.
    coefficients: [...,M,3], in (-1, 1): what red adds to green, red to blue, green to blue.
  """

  logits: jax.Array
  means: jax.Array
  log_scales: jax.Array
  coefficients: jax.Array


def logistics_of(output: jax.Array) -> Logistics:
  """A network's output [...,M,10] as mixtures, float32."""
  output = output.astype(jnp.float32)
  scales = jnp.maximum(output[..., 4:7], -7.0)
  return Logistics(output[..., 0], output[..., 1:4], scales, jnp.tanh(output[..., 7:]))


def means_of(found: Logistics, x: jax.Array) -> jax.Array:
  """Means [...,M,3] given the colors before, of which x [...,3] in [-1, 1] are taken."""
  red, green = x[..., None, 0], x[..., None, 1]
  c = found.coefficients
  added = jnp.stack([jnp.zeros_like(c[..., 0]), c[..., 0] * red,
                     c[..., 1] * red + c[..., 2] * green], axis=-1)  # fmt: skip
  return found.means + added


def logistics_nll(output: jax.Array, numbers: jax.Array, levels: int) -> jax.Array:
  """-log p of pixels under discretized mixtures of logistics, float32 nats [...].

  Salimans et al. 2017 (arXiv 1701.05517), eq. 2 and 3: a number's probability is the logistic's
  mass in its bin, of width 2 / (K - 1), the first and last bin being open; in a bin of hardly any
  mass the density in its middle times its width.

  Args:
    output: [...,M,10].
    numbers: int [...,3] in [0, K).
    levels: K.
  """
  found = logistics_of(output)
  x = 2.0 * values_of(numbers, levels) - 1.0
  half = 1.0 / (levels - 1)
  centered = x[..., None, :] - means_of(found, x)
  inverse = jnp.exp(-found.log_scales)
  above, below = inverse * (centered + half), inverse * (centered - half)
  mass = jax.nn.sigmoid(above) - jax.nn.sigmoid(below)
  middle = inverse * centered
  density = middle - found.log_scales - 2.0 * jax.nn.softplus(middle) + math.log(2.0 * half)
  inner = jnp.where(mass > 1e-5, jnp.log(jnp.maximum(mass, 1e-12)), density)
  number = numbers[..., None, :]
  first, last = above - jax.nn.softplus(above), -jax.nn.softplus(below)
  each = jnp.where(number == 0, first, jnp.where(number == levels - 1, last, inner))
  together = each.sum(-1) + jax.nn.log_softmax(found.logits, axis=-1)
  return -jax.nn.logsumexp(together, axis=-1)
