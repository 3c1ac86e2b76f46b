"""Losses of colorization: cross-entropy with soft targets and weights per pixel, or regression.

Zhang et al. 2016, arXiv 1603.08511, equations 1 and 2. Means are over all pixels, those of weight 0
among them, so that images count alike wherever they are in the batch; the paper has sums.
"""

import jax
import jax.numpy as jnp


def soft_cross_entropy(
  logits: jax.Array, which: jax.Array, shares: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
  """Mean over pixels of -w sum_k z_k log softmax(logits)[k], equation 2.

  Args:
    logits: [..., Q], any float dtype; the computation is float32.
    which: int32 [..., K], the classes that a pixel's target has shares of.
    shares: z, float32 [..., K].
    weights: w, float32 [...]; None: 1.

  Returns:
    float32 scalar >= 0; with equal logits and w = 1 it is ln Q.

  Raises:
    ValueError: the shapes do not fit.
  """
  if which.shape != shares.shape or which.shape[:-1] != logits.shape[:-1]:
    raise ValueError(
      f'need logits [..., Q] and targets [..., K], got {logits.shape}, {which.shape} and '
      f'{shares.shape}'
    )
  logarithms = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
  each = -jnp.sum(shares * jnp.take_along_axis(logarithms, which, axis=-1), axis=-1)
  return jnp.mean(each if weights is None else weights * each)


def squared_error(
  found: jax.Array, target: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
  """Mean over pixels of w |found - target|^2 / 2, equation 1.

  Args:
    found: [..., C], any float dtype; the computation is float32.
    target: [..., C].
    weights: w, float32 [...]; None: 1.

  Returns:
    float32 scalar >= 0.
  """
  difference = found.astype(jnp.float32) - target.astype(jnp.float32)
  each = 0.5 * jnp.sum(jnp.square(difference), axis=-1)
  return jnp.mean(each if weights is None else weights * each)
