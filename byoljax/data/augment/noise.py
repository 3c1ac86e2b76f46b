"""Noise that images are to be freed from: Vincent et al. 2010 (JMLR 11, 3371), section 3.1.

    gaussian     x + n, n ~ N(0, level^2), of every value; not cut off to [0, 1]
    masking      a share `level` of the pixels is black
    salt_pepper  a share `level` of the pixels is black or white, by a fair coin

Different from the paper, whose components are gray values: a pixel loses or keeps all of its
channels together, since what is left of one would tell the others. Each pixel is drawn by itself,
so that the share is met in the mean; the paper disturbs the same number in every image.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def gaussian(key: jax.Array, image: jax.Array, level: float) -> tuple[jax.Array, jax.Array]:
  """One image [H, W, C] in [0, 1] -> (with noise, bool [H, W, 1]: which pixels it disturbed)."""
  noisy = image + level * jax.random.normal(key, image.shape)
  return noisy, jnp.ones((*image.shape[:2], 1), bool)


def masking(key: jax.Array, image: jax.Array, level: float) -> tuple[jax.Array, jax.Array]:
  """As `gaussian`."""
  hit = jax.random.uniform(key, (*image.shape[:2], 1)) < level
  return jnp.where(hit, 0.0, image), hit


def salt_pepper(key: jax.Array, image: jax.Array, level: float) -> tuple[jax.Array, jax.Array]:
  """As `gaussian`."""
  drawn = jax.random.uniform(key, (*image.shape[:2], 1))
  hit = drawn < level
  return jnp.where(hit, jnp.where(drawn < level / 2, 0.0, 1.0), image), hit


NOISES: dict[str, Callable[[jax.Array, jax.Array, float], tuple[jax.Array, jax.Array]]] = {
  'gaussian': gaussian,
  'masking': masking,
  'salt_pepper': salt_pepper,
}
