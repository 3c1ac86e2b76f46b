"""What masked patches should have been: He et al. 2021 (arXiv 2111.06377), SimMIM (2111.09886).

    mean over the masked patches of the mean over a patch's D values of |prediction - target|^p

with p = 2 (MAE) or 1 (SimMIM). MAE's better targets are normalized patch by patch, (x - mean) /
sqrt(variance + 1e-6), with the unbiased variance (its code): all zeros then cost (D - 1) / D.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

EPSILON = 1e-6
ERRORS: dict[str, Callable[[jax.Array], jax.Array]] = {'mse': jnp.square, 'l1': jnp.abs}


def statistics(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean and sqrt(unbiased variance + 1e-6) of each patch: float32 [b,n,D] -> [b,n,1] each.

  Raises:
    ValueError: D = 1, which has no variance.
  """
  if patches.shape[-1] < 2:
    raise ValueError('patches of a single value have no variance: set norm_pixels=False.')
  patches = patches.astype(jnp.float32)
  variance = jnp.var(patches, axis=-1, ddof=1, keepdims=True)
  return patches.mean(-1, keepdims=True), jnp.sqrt(variance + EPSILON)


def normalized(patches: jax.Array) -> jax.Array:
  """Each patch with mean 0 and variance 1: float32 [b,n,D]."""
  mean, scale = statistics(patches)
  return (patches - mean) / scale


def masked_error(
  predictions: jax.Array, targets: jax.Array, masked: jax.Array, error: str = 'mse'
) -> jax.Array:
  """Mean error of the masked patches of this device's images, a float32 scalar >= 0.

  Args:
    predictions: [b,n,D], any float dtype; the computation is float32.
    targets: [b,n,D].
    masked: bool [b,n]; predictions of other patches do not count and get no gradient.
    error: 'mse' or 'l1'.

  Raises:
    ValueError: the shapes differ.
  """
  if predictions.shape != targets.shape or masked.shape != targets.shape[:2]:
    raise ValueError(
      'need predictions and targets [b,n,D] and masked [b,n], got '
      f'{predictions.shape}, {targets.shape} and {masked.shape}'
    )
  difference = predictions.astype(jnp.float32) - targets.astype(jnp.float32)
  each = ERRORS[error](jnp.where(masked[:, :, None], difference, 0.0)).mean(-1)
  return each.sum() / jnp.maximum(masked.sum(), 1)
