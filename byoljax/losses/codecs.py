"""Losses of networks that turn an image into codes and codes into an image again.

The two terms that bring a vector z and its nearest code e together (van den Oord et al., arXiv
1711.00937, equation 3), each with a gradient for one of them alone:

    codebook:   mean |sg(z) - e|^2      moves the code
    commitment: mean |z - sg(e)|^2      moves the encoder, with weight beta = 0.25

Means are over all numbers, as in Sonnet's code, where the paper adds up the D of a vector. The
weight belongs to the commitment: a well-known implementation of VQ-GAN has it on the codebook.
"""

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
