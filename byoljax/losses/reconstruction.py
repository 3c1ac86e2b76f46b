"""Errors of reconstructed images: of all pixels, or weighted by place.

    mean over images of  sum_p w_p e_p / sum_p w_p

An image's error is a weighted mean over its pixels and channels, so that its scale depends neither
on the size of the image nor on how much of it was hidden; every image counts the same, so that the
mean over devices is the mean over the batch. Papers that add up instead (Vincent et al. 2010) have
another scale, which an adaptive optimizer does not notice and others take into the learning rate.
"""

import jax
import jax.numpy as jnp


def squared_error(
  output: jax.Array, target: jax.Array, weight: jax.Array | None = None
) -> jax.Array:
  """Mean squared error, e = (output - target)^2.

  Args:
    output: [b, H, W, C], any float dtype; the computation is float32.
    target: of the same shape. Gradients flow into both.
    weight: [b, H, W, 1] or [b, H, W, C], 0 or more; None: all alike. An image of weight zero
      throughout has the error 0.

  Returns:
    float32 scalar >= 0: the mean over this device's b images, without collectives.

  Raises:
    ValueError: shapes that do not fit.

  Examples:
    >>> zeros, weight = jnp.zeros((1, 1, 2, 1)), jnp.array([[[[1.0], [3.0]]]])
    >>> print(squared_error(jnp.array([[[[2.0], [0.0]]]]), zeros, weight))
    1.0
  """
  output, target = _checked('squared_error', output, target, weight)
  return _weighted_mean(jnp.square(output - target), weight)


def binary_cross_entropy(
  logits: jax.Array, target: jax.Array, weight: jax.Array | None = None
) -> jax.Array:
  """Cross-entropy of intensities taken as probabilities: e = -t log s(l) - (1 - t) log(1 - s(l)).

  s is the sigmoid (Vincent et al. 2010, section 2.2). The least value, at s(l) = t, is the entropy
  of the target and not 0.

  Args:
    logits: l, [b, H, W, C].
    target: t in [0, 1].
    weight: as for `squared_error`, as are the result and the errors.
  """
  logits, target = _checked('binary_cross_entropy', logits, target, weight)
  return _weighted_mean(jax.nn.softplus(logits) - target * logits, weight)


def _weighted_mean(error: jax.Array, weight: jax.Array | None) -> jax.Array:
  if weight is None:
    return error.mean()
  weight = jnp.broadcast_to(weight.astype(jnp.float32), error.shape)
  total = weight.sum((1, 2, 3))
  share = (weight * error).sum((1, 2, 3)) / jnp.where(total > 0, total, 1.0)
  return share.mean()


def _checked(
  name: str, output: jax.Array, target: jax.Array, weight: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  fits = weight is None or weight.shape in (output.shape, (*output.shape[:-1], 1))
  if output.ndim != 4 or output.shape != target.shape or not fits:
    shapes = [array.shape for array in (output, target, weight) if array is not None]
    raise ValueError(
      f'{name} takes an output and a target of one shape [b, H, W, C] and weights [b, H, W, 1] or '
      f'[b, H, W, C], got {", ".join(map(str, shapes))}.'
    )
  return output.astype(jnp.float32), target.astype(jnp.float32)
