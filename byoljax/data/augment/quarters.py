"""An image at half its size beside its four quarters, for counting.

How the whole is made smaller is drawn from several kernels for each image. Were it always the same
one, its traces (what it does to edges and to noise) would tell the whole from its quarters, and
could be counted instead of what is in the picture.
"""

from collections.abc import Callable

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from byoljax.data.augment import resize


def _lanczos3(t: np.ndarray) -> np.ndarray:
  return np.where(t < 3.0, np.sinc(t) * np.sinc(t / 3.0), 0.0)


# By distance in pixels of the smaller image: all but 'nearest' are stretched, so that they smooth.
KERNELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'nearest': lambda t: np.where(np.isclose(t, t.min(1, keepdims=True)), 1.0, 0.0),
  'area': lambda t: np.where(t <= 0.5, 1.0, 0.0),
  'bilinear': lambda t: np.maximum(1.0 - t, 0.0),
  'bicubic': lambda t: resize.cubic(np, t, -0.5),
  'lanczos3': _lanczos3,
}


def halving_matrix(kernel: str, size: int) -> np.ndarray:
  """Weights of the pixels of one axis for one half as long: float32 [size / 2, size].

  Rows sum to 1. Pixel centers are at half-integers, as in TensorFlow and JAX. 'nearest' takes the
  second of the two pixels that are equally near, as they do.

  Args:
    kernel: a key of `KERNELS`; 'bicubic' is Keys' with a = -1/2.
    size: even.

  Raises:
    ValueError: an unknown kernel, or an odd size.
  """
  if kernel not in KERNELS:
    raise ValueError(f"the kernel '{kernel}' is not one of {', '.join(KERNELS)}.")
  if size % 2:
    raise ValueError(f'only an even side can be halved, and {size} is odd.')
  centers = 2.0 * np.arange(size // 2)[:, None] + 0.5
  weights = KERNELS[kernel](np.abs(np.arange(size) - centers) / 2.0)
  if kernel == 'nearest':
    weights[np.arange(size // 2), 2 * np.arange(size // 2)] = 0.0
  return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def halved(images: jax.Array, matrices: np.ndarray, which: jax.Array) -> jax.Array:
  """Images at half their size, each by one of the kernels.

  Args:
    images: float32 [b, S, S, C].
    matrices: float32 [K, S / 2, S], see `halving_matrix`.
    which: int32 [b] in [0, K).

  Returns:
    float32 [b, S / 2, S / 2, C].
  """
  own = jnp.asarray(matrices)[which]
  # The weights must not be rounded to bfloat16 or TF32.
  return jnp.einsum('bih,bhwc,bjw->bijc', own, images, own, precision=lax.Precision.HIGHEST)


def quarters(images: jax.Array) -> jax.Array:
  """The four quarters, row by row: [b, S, S, C] -> [4, b, S / 2, S / 2, C]."""
  half = images.shape[1] // 2
  rows = images[:, :half], images[:, half:]
  return jnp.stack([part for row in rows for part in (row[:, :, :half], row[:, :, half:])])
