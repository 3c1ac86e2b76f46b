"""Scores of binary masks within a step; `streaming.mean_iou` is for whole sets and many classes."""

import jax
import jax.numpy as jnp

from byoljax.devices import collectives


def binary_scores(
  predicted: jax.Array, target: jax.Array, *, axis: str | None = None
) -> dict[str, jax.Array]:
  """Intersection over union of what is True, and the share of right pixels.

  IoU = |p and t| / |p or t| over all pixels of the batch at once, 1 where both are empty.

  Args:
    predicted: bool, any shape.
    target: bool, the same shape.
    axis: the mapped axis, over which pixels are counted; None on a single device.

  Returns:
    'iou' and 'pixel_accuracy', float32 scalars in [0, 1], equal on all devices.

  Raises:
    ValueError: two shapes.
  """
  if predicted.shape != target.shape:
    raise ValueError(f'binary_scores needs one shape, got {predicted.shape} and {target.shape}.')
  shares = (predicted & target, predicted | target, predicted == target)
  both, either, right = (
    collectives.pmean(jnp.mean(share, dtype=jnp.float32), axis) for share in shares
  )
  iou = jnp.where(either > 0, both / jnp.where(either > 0, either, 1.0), 1.0)
  return {'iou': iou, 'pixel_accuracy': right}
