"""RoIAlign: what a feature map holds within a box, as a small grid (He et al., arXiv 1703.06870).

A box is divided into n x n bins, each bin is the mean of `samples` x `samples` points evenly spaced
in it, each point is interpolated bilinearly between the four pixels around it. A point more than a
pixel outside of the map counts as 0. Pixel (i, j) of the map lies at (i + 1/2, j + 1/2) in the
coordinates of the boxes: that is torchvision's `aligned=True`.

Points of a bin are a product of rows and columns, and so is bilinear interpolation: a grid is
A_y F A_x^T with one matrix [n, H] and one [n, W] for each box. That keeps the shapes static and is
a matrix product on every accelerator, forward and backward, where gathering pixels would make the
gradient a scatter. It costs n H (W + n) C multiplications a box, whatever the size of the box.
"""

import jax
import jax.numpy as jnp


def interpolation(
  low: jax.Array, high: jax.Array, length: int, bins: int, samples: int
) -> jax.Array:
  """The matrices that average an axis of a map within intervals: float32 [r, bins, length].

  Args:
    low: float32 [r], where the intervals begin, in pixels of the map.
    high: float32 [r].
    length: of the axis.
    bins: parts of each interval.
    samples: points in each bin.
  """
  places = (jnp.arange(bins * samples, dtype=jnp.float32) + 0.5) / (bins * samples)
  at = low[:, None] + (high - low)[:, None] * places[None] - 0.5
  inside = (at >= -1) & (at <= length)
  at = jnp.clip(at, 0, length - 1)[..., None]
  pixels = jnp.arange(length, dtype=jnp.float32)[None, None]
  weights = jnp.maximum(0.0, 1.0 - jnp.abs(at - pixels))
  weights = jnp.where(inside[..., None], weights, 0.0)
  return weights.reshape(-1, bins, samples, length).mean(2)


def roi_align(
  features: jax.Array, boxes: jax.Array, *, bins: int, scale: float, samples: int = 2
) -> jax.Array:
  """Grids of one image's map within boxes: [r, bins, bins, C] in the map's dtype.

  Args:
    features: [H, W, C].
    boxes: float32 [r, 4], (y_min, x_min, y_max, x_max); no gradient reaches them.
    bins: side of the grid.
    scale: pixels of the map for a unit of the boxes' coordinates: 1 / stride.
    samples: points along a side of each bin.
  """
  boxes = jax.lax.stop_gradient(boxes).astype(jnp.float32) * scale
  height, width = features.shape[:2]
  rows = interpolation(boxes[:, 0], boxes[:, 2], height, bins, samples).astype(features.dtype)
  columns = interpolation(boxes[:, 1], boxes[:, 3], width, bins, samples).astype(features.dtype)
  banded = jnp.einsum('rph,hwc->rpwc', rows, features)
  return jnp.einsum('rqw,rpwc->rpqc', columns, banded)
