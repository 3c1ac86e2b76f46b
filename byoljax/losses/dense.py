"""Losses of outputs at every pixel: cross-entropy of classes, reverse Huber of depth.

Pixels without a truth do not count. The mean is over the pixels of all devices that have one, so
that their number may differ between devices; each returns its share of it, times their number.
"""

import jax
from jax import lax
import jax.numpy as jnp

from byoljax.devices import collectives

# Of the largest error, where the reverse Huber loss becomes quadratic (arXiv 1606.00373).
THRESHOLD = 0.2


def pixel_cross_entropy(
  logits: jax.Array, labels: jax.Array, *, axis: str | None = None
) -> jax.Array:
  """Mean of -log softmax(logits)[label] over the labeled pixels.

  Args:
    logits: [b,H,W,K], any float dtype; the computation is float32.
    labels: integer [b,H,W]; outside of 0 ... K - 1 (255, -1) a pixel does not count.
    axis: the mapped axis; None on a single device.

  Returns:
    float32 scalar >= 0, whose mean over the devices is that over all labeled pixels; 0 where there
    are none.

  Raises:
    ValueError: the shapes do not fit.

  Examples:
    >>> logits = jnp.zeros((1, 1, 3, 2))
    >>> print(pixel_cross_entropy(logits, jnp.array([[[0, 1, 255]]])))  # log 2
    0.6931472
  """
  if logits.shape[:-1] != labels.shape:
    raise ValueError(f'need logits [b,H,W,K] and labels, got {logits.shape} and {labels.shape}.')
  known = (labels >= 0) & (labels < logits.shape[-1])
  chances = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
  own = jnp.where(known, labels, 0).astype(jnp.int32)[..., None]
  picked = jnp.take_along_axis(chances, own, axis=-1)[..., 0]
  return mean_of_known(-picked, known, axis=axis)


def reverse_huber(
  predicted: jax.Array, target: jax.Array, known: jax.Array, *, axis: str | None = None
) -> jax.Array:
  """Mean of B(x), x = predicted - target: |x| up to c, and (x^2 + c^2) / (2 c) above it.

  c is a fifth of the largest |x| of the batch (Laina et al. 2016, arXiv 1606.00373, equations 1 and
  2), and has no gradient. The two parts and their slopes meet at c.

  Args:
    predicted: [b,H,W,...], any float dtype; the computation is float32.
    target: of the same shape; anything, also NaN, where it is not known.
    known: bool, of the same shape: where the target is known.
    axis: the mapped axis, over which c is the same; None on a single device. Micro-batches have a c
      of their own.

  Returns:
    float32 scalar >= 0, whose mean over the devices is that over all known pixels; 0 where there
    are none.

  Raises:
    ValueError: the shapes differ.

  Examples:
    >>> ones = jnp.ones(2, bool)
    >>> print(reverse_huber(jnp.array([1.0, 10.0]), jnp.zeros(2), ones))  # c = 2; 1 and 26
    13.5
  """
  if not predicted.shape == target.shape == known.shape:
    shapes = f'{predicted.shape}, {target.shape} and {known.shape}'
    raise ValueError(f'reverse_huber needs three arrays of one shape, got {shapes}.')
  error = predicted.astype(jnp.float32) - jnp.where(known, target, 0.0).astype(jnp.float32)
  # Of |x| JAX takes the slope 1 at 0.
  size = jnp.where(known, error * jnp.sign(error), 0.0)
  c = THRESHOLD * collectives.pmax(lax.stop_gradient(size.max()), axis)
  # Where every error is 0 so is c, and the first part is taken.
  large = (size**2 + c**2) / (2.0 * jnp.where(c > 0, c, 1.0))
  return mean_of_known(jnp.where(size <= c, size, large), known, axis=axis)


def mean_of_known(values: jax.Array, known: jax.Array, *, axis: str | None = None) -> jax.Array:
  """This device's share of the mean over all values that are known, times the number of devices.

  Args:
    values: of any shape.
    known: bool, of the same shape; what is not known may be anything.
    axis: the mapped axis; None on a single device.
  """
  total = jnp.sum(jnp.where(known, values, 0.0), dtype=jnp.float32)
  count = collectives.pmean(jnp.sum(known, dtype=jnp.float32), axis)
  return total / jnp.maximum(count, 1e-6)
