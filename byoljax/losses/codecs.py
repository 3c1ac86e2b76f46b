"""Losses of networks that turn an image into codes and codes into an image again.

The two terms that bring a vector z and its nearest code e together (van den Oord et al., arXiv
1711.00937, equation 3), each with a gradient for one of them alone:

    codebook:   mean |sg(z) - e|^2      moves the code
    commitment: mean |z - sg(e)|^2      moves the encoder, with weight beta = 0.25

Means are over all numbers, as in Sonnet's code, where the paper adds up the D of a vector. The
weight belongs to the commitment: a well-known implementation of VQ-GAN has it on the codebook.
"""

from collections.abc import Sequence

import jax
from jax import lax
import jax.numpy as jnp


def commitment(z: jax.Array, e: jax.Array) -> jax.Array:
  """mean |z - sg(e)|^2 over all numbers of this device, float32 scalar."""
  return _mean_square(z, lax.stop_gradient(e))


def codebook(z: jax.Array, e: jax.Array) -> jax.Array:
  """mean |sg(z) - e|^2 over all numbers of this device, float32 scalar."""
  return _mean_square(lax.stop_gradient(z), e)


def _mean_square(x: jax.Array, y: jax.Array) -> jax.Array:
  if x.shape != y.shape:
    raise ValueError(f'vectors and their codes must have one shape, got {x.shape} and {y.shape}.')
  return jnp.mean(jnp.square(x.astype(jnp.float32) - y.astype(jnp.float32)))


def gradient_difference(output: jax.Array, target: jax.Array) -> jax.Array:
  """Mean absolute error of the differences between neighboring pixels, float32 scalar.

    mean |(x_i - x_(i+1)) - (y_i - y_(i+1))|, of rows and of columns, added

  It asks for edges where the mean of all possible images is blurred; Mathieu et al. 2016 (arXiv
  1511.05440, equation 6) compare the sizes of the differences and not their signs. Noise has the
  median 0: with a weight of 1 a codec that begins at random does not get beyond flat images.

  Args:
    output: [b, H, W, C], H and W at least 2.
    target: of the same shape.
  """
  error = output.astype(jnp.float32) - target.astype(jnp.float32)
  rows, columns = (jnp.mean(jnp.abs(jnp.diff(error, axis=axis))) for axis in (1, 2))
  return rows + columns


def feature_distance(output: Sequence[jax.Array], target: Sequence[jax.Array]) -> jax.Array:
  """How far apart the maps of two images are, float32 scalar; 0 to 4 for each map.

    sum over maps of mean over images and places of |y / |y| - x / |x||^2

  LPIPS's distance (Zhang et al. 2018, arXiv 1801.03924, equation 1) without its learned weights of
  channels: with all of them 1 it is 2 - 2 cos of the two vectors of channels. A place where nothing
  is on counts as the vector 0.

  Args:
    output: maps [b, ..., C] of a network, of what was made.
    target: the same of the images; no gradient flows through them.

  Raises:
    ValueError: other shapes.
  """
  total = jnp.zeros((), jnp.float32)
  for y, x in zip(output, target, strict=True):
    if y.shape != x.shape:
      raise ValueError(f'maps of both images must have one shape, got {y.shape} and {x.shape}.')
    error = _unit(y) - _unit(lax.stop_gradient(x))
    total += jnp.sum(jnp.square(error), axis=-1).mean()
  return total


def _unit(x: jax.Array) -> jax.Array:
  """x / |x| of the last axis; the constant keeps the gradient finite where all is 0."""
  x = x.astype(jnp.float32)
  return x * lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-10)


def adaptive_weight(reconstruction: jax.Array, adversarial: jax.Array) -> jax.Array:
  """|grad of the reconstruction| / (|grad of the adversarial loss| + 1e-4), at most 1e4.

  Of the decoder's last layer (Esser et al., arXiv 2012.09841, equation 7, with the constants of
  their code: the paper adds 1e-6 and has no limit). No gradient flows through it.

  Args:
    reconstruction: the gradient of the global batch's loss, any shape.
    adversarial: the same of the generator's adversarial loss.
  """
  above, below = (jnp.linalg.norm(x.astype(jnp.float32)) for x in (reconstruction, adversarial))
  return lax.stop_gradient(jnp.clip(above / (below + 1e-4), 0.0, 1e4))


# The pixels of the logit-Laplace distribution stay this far from 0 and 1.
MARGIN = 0.1


def logit_laplace(mu: jax.Array, log_scale: jax.Array, x: jax.Array) -> jax.Array:
  """-log f(x | mu, b), [...] as the arguments, in nats (Ramesh et al., arXiv 2102.12092, A.3).

    f(x | mu, b) = exp(-|logit(x) - mu| / b) / (2 b x (1 - x))

  the distribution of a sigmoid of a Laplace variable, which is one of numbers in (0, 1).

  Args:
    mu: location, any shape.
    log_scale: ln b.
    x: in (0, 1), see `squeezed`.

  Examples:
    >>> print(f'{float(logit_laplace(0.0, 0.0, 0.5)):.4f}')  # log(2 / 4)
    -0.6931
  """
  mu, log_scale, x = (jnp.asarray(each, jnp.float32) for each in (mu, log_scale, x))
  distance = jnp.abs(jax.scipy.special.logit(x) - mu)
  return distance * jnp.exp(-log_scale) + log_scale + jnp.log(2.0 * x * (1.0 - x))


def squeezed(pixels: jax.Array) -> jax.Array:
  """Pixels in [0, 1] as numbers in [MARGIN, 1 - MARGIN], of which the logit is finite."""
  return (1.0 - 2.0 * MARGIN) * pixels + MARGIN


def unsqueezed(squeezed_pixels: jax.Array) -> jax.Array:
  """The inverse of `squeezed`, cut off to [0, 1]."""
  return jnp.clip((squeezed_pixels - MARGIN) / (1.0 - 2.0 * MARGIN), 0.0, 1.0)


def divergence_from_uniform(logits: jax.Array) -> jax.Array:
  """KL(softmax(logits) | uniform) = log K - entropy, in nats: [..., K] -> float32 [...]."""
  shares = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
  return jnp.log(logits.shape[-1]) + jnp.sum(jnp.exp(shares) * shares, axis=-1)
