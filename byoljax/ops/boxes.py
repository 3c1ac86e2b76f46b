"""Boxes: areas, intersection over union, coding as offsets from anchors, clipping.

A box is (y_min, x_min, y_max, x_max), the edges of an area in continuous coordinates, in whatever
unit, as in `byoljax.data.fields`; its height is y_max - y_min, without the + 1 of pixels that are
counted (torchvision and COCO do so, too, PASCAL VOC's own code does not: see `evals.detection`).

Coding as in R-CNN (Girshick et al., arXiv 1311.2524, appendix C): of a box with center (y, x) and
size (h, w), beside an anchor with center (y_a, x_a) and size (h_a, w_a),

  t = ((y - y_a) / h_a, (x - x_a) / w_a, log(h / h_a), log(w / w_a)) times `weights`.
"""

from collections.abc import Sequence
import math

import jax
import jax.numpy as jnp

UNWEIGHTED = (1.0, 1.0, 1.0, 1.0)
# Detectron's: no decoded side is more than 1000 / 16 times that of its anchor.
MAX_LOG_RATIO = math.log(1000.0 / 16)
_TINY = 1e-6  # Sides of what is no box, so that its code is finite.


def area(boxes: jax.Array) -> jax.Array:
  """Areas [...] of boxes [..., 4]; 0 where an edge is beyond the opposite one."""
  size = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
  return size[..., 0] * size[..., 1]


def intersection(first: jax.Array, second: jax.Array) -> jax.Array:
  """Areas of the intersections of all pairs: [..., n, 4], [..., m, 4] -> [..., n, m]."""
  first, second = first[..., :, None, :], second[..., None, :, :]
  low = jnp.maximum(first[..., :2], second[..., :2])
  high = jnp.minimum(first[..., 2:], second[..., 2:])
  return area(jnp.concatenate([low, high], -1))


def iou(first: jax.Array, second: jax.Array) -> jax.Array:
  """Intersection over union of all pairs, in [0, 1]: [..., n, 4], [..., m, 4] -> [..., n, m].

  0 for two boxes without an area.
  """
  shared = intersection(first, second)
  union = area(first)[..., :, None] + area(second)[..., None, :] - shared
  return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1.0), 0.0)


def _centered(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Centers and sizes, both [..., 2]."""
  size = boxes[..., 2:] - boxes[..., :2]
  return boxes[..., :2] + size / 2, size


def _along(values: Sequence[float], boxes: jax.Array) -> jax.Array:
  """Four numbers, one for each coordinate of boxes."""
  return jnp.asarray(values, jnp.float32).reshape((1,) * (boxes.ndim - 1) + (4,))


def encode(
  boxes: jax.Array, anchors: jax.Array, weights: Sequence[float] = UNWEIGHTED
) -> jax.Array:
  """What boxes are beside anchors, float32 [..., 4]; see the module.

  Args:
    boxes: [..., 4]; the code of one without an area is finite and means nothing.
    anchors: [..., 4], with an area.
    weights: of (y, x, h, w): (10, 10, 5, 5) makes the four about equally large where boxes are
      proposals that fit already.
  """
  center, size = _centered(boxes)
  anchor, extent = _centered(anchors)
  extent = jnp.maximum(extent, _TINY)
  logs = jnp.log(jnp.maximum(size, _TINY) / extent)
  code = jnp.concatenate([(center - anchor) / extent, logs], -1)
  return code * _along(weights, code)


def decode(code: jax.Array, anchors: jax.Array, weights: Sequence[float] = UNWEIGHTED) -> jax.Array:
  """The boxes [..., 4] that codes [..., 4] stand for beside anchors [..., 4].

  Sides are at most 62.5 times those of the anchor (`MAX_LOG_RATIO`).
  """
  code = code / _along(weights, code)
  anchor, extent = _centered(anchors)
  center = code[..., :2] * extent + anchor
  half = jnp.exp(jnp.minimum(code[..., 2:], MAX_LOG_RATIO)) * extent / 2
  return jnp.concatenate([center - half, center + half], -1)


def clip(boxes: jax.Array, height: float, width: float) -> jax.Array:
  """The parts of boxes [..., 4] within an image of this size."""
  return jnp.clip(boxes, 0.0, _along((height, width, height, width), boxes))
