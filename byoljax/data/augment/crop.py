"""Random-resized crop and center crop: boxes, and how what lies in an image follows them.

The boxes follow BYOL's sampler (arXiv 2006.07733, appendix B and the authors' code): the area is
uniform, the ratio log-uniform, width and height are rounded and clamped to the image, nothing is
retried. torchvision and tf.image draw again what does not fit, so that their crops are smaller, on
square images, too: of the scale (.08, 1) the mean area is .53 of the image here, .48 in
torchvision, .42 in TensorFlow.

Written once over an array namespace `xp`: numpy, jax.numpy, or tf.experimental.numpy inside a
tf.data graph. `resize` cuts, resizes and mirrors.
"""

import math
from typing import Any

import numpy as np

from byoljax.data.augment import resize, views
from byoljax.data.fields import Field

_FLOAT = np.float32
_INT = np.int32


def crop_box(xp: Any, u: Any, height: Any, width: Any, spec: views.ViewSpec) -> Any:
  """Random crop boxes: area ~ U(scale) * H * W, log(w / h) ~ U(log ratio), position uniform.

  w = round(sqrt(area * ratio)) and h = round(sqrt(area / ratio)), clamped to [1, W] and [1, H].
  With `spec.zoom`, w = h = round(size / U(zoom)), clamped to [1, min(H, W)].

  Args:
    xp: array namespace.
    u: float32 [b, NUM_DRAWS] in [0, 1); of it the columns up to FLIP are enough.
    height: image height in pixels, a scalar or integer [b].
    width: image width in pixels, a scalar or integer [b].
    spec: gives crop_scale and crop_ratio, or zoom and size.

  Returns:
    int32 [b, 4] (y, x, h, w), inside the image and at least one pixel in each direction. The
    namespaces differ in the last bit of exp and sqrt: at 500 pixels about one box in 30,000 moves
    by one pixel between them.
  """
  height, width = (xp.asarray(side, dtype=_FLOAT) for side in (height, width))
  if spec.zoom is not None:
    low, high = spec.zoom
    side = xp.floor(spec.size / (low + u[:, views.AREA] * (high - low)) + 0.5)
    h = w = xp.minimum(xp.maximum(side, 1.0), xp.minimum(height, width))
  else:
    low, high = spec.crop_scale
    area = (low + u[:, views.AREA] * (high - low)) * height * width
    low, high = (math.log(ratio) / 2 for ratio in spec.crop_ratio)
    root_ratio = xp.exp(low + u[:, views.RATIO] * (high - low))
    root_area = xp.sqrt(area)
    h = xp.minimum(xp.maximum(xp.floor(root_area / root_ratio + 0.5), 1.0), height)
    w = xp.minimum(xp.maximum(xp.floor(root_area * root_ratio + 0.5), 1.0), width)
  y = _offset(xp, u[:, views.OFFSET_Y], height - h)
  x = _offset(xp, u[:, views.OFFSET_X], width - w)
  return xp.asarray(xp.stack([y, x, h, w], axis=-1), dtype=_INT)


def _offset(xp, u, room):
  # The minimum guards u * (room + 1) being rounded up to room + 1.
  return xp.minimum(xp.floor(u * (room + 1.0)), room)


def flips(u: Any, spec: views.ViewSpec) -> Any:
  """Which examples are mirrored: u < flip_prob (bool [b]).

  Args:
    u: float32 [b, NUM_DRAWS] in [0, 1); of it the columns up to FLIP are enough.
    spec: gives flip_prob.
  """
  return u[:, views.FLIP] < spec.flip_prob


def center_crop_box(xp: Any, height: Any, width: Any, size: int) -> Any:
  """Center box whose resampling shows what "shorter side to size / 0.875, center crop" shows.

  The square has side floor(7/8 min(H, W)), cut at the native resolution and resized once, with an
  odd remainder below and right of it one pixel smaller: the BYOL authors' code. An image that
  already has size x size pixels is kept whole.

  Args:
    xp: array namespace.
    height: image height in pixels >= 1, a scalar or integer [b].
    width: image width in pixels >= 1, a scalar or integer [b].
    size: side of the square output in pixels.

  Returns:
    int32 [4] or [b, 4] (y, x, h, w), inside the image and at least one pixel in each direction.
  """
  height, width = (xp.asarray(side, dtype=_INT) for side in (height, width))
  shorter = xp.minimum(height, width)
  side = xp.maximum(shorter * 7 // 8, 1)
  side = xp.where((height == size) & (width == size), size, side)
  box = xp.stack([(height - side + 1) // 2, (width - side + 1) // 2, side, side], axis=-1)
  return xp.asarray(box, dtype=_INT)


def move_boxes(xp: Any, objects: Any, boxes: Any, flip: Any, height: Any, width: Any) -> Any:
  """Boxes of objects as a view shows them: moved, clipped, mirrored, dropped outside.

  Args:
    xp: array namespace: numpy or jax.numpy.
    objects: float32 [b, n, 5], see `byoljax.data.fields`, in fractions of the image.
    boxes: int32 [b, 4] (y, x, h, w): the crop.
    flip: bool [b], mirrors left to right; None mirrors nothing.
    height: of the image in pixels, a scalar or integer [b].
    width: of the image in pixels, a scalar or integer [b].

  Returns:
    float32 [b, n, 5] in fractions of the view; of what is outside, the corners are 0 and the class
    -1.
  """

  def moved(fraction: Any, side: Any, start: Any, extent: Any) -> Any:
    pixels = fraction * xp.reshape(xp.asarray(side, dtype=_FLOAT), (-1, 1))
    return xp.clip((pixels - start[:, None]) / extent[:, None], 0.0, 1.0)

  top, bottom = (moved(objects[..., i], height, boxes[:, 0], boxes[:, 2]) for i in (0, 2))
  left, right = (moved(objects[..., i], width, boxes[:, 1], boxes[:, 3]) for i in (1, 3))
  if flip is not None:
    mirror = flip[:, None]
    left, right = xp.where(mirror, 1.0 - right, left), xp.where(mirror, 1.0 - left, right)
  seen = (objects[..., 4] >= 0) & (bottom > top) & (right > left)
  corners = xp.stack([top, left, bottom, right], axis=-1)
  corners = xp.where(seen[..., None], corners, 0.0)
  classes = xp.where(seen, objects[..., 4], -1.0)
  return xp.asarray(xp.concatenate([corners, classes[..., None]], axis=-1), dtype=_FLOAT)


def crop_field(
  xp: Any,
  field: Field,
  values: Any,
  boxes: Any,
  flip: Any,
  size: int,
  height: Any,
  width: Any,
  kernel: str = resize.DEFAULT,
) -> Any:
  """A field of a batch as a view shows it, by its kind.

  Args:
    xp: array namespace: numpy or jax.numpy.
    field: which; not a label, which is the same in all views.
    values: of the whole images, as the source gives them, [b, ...].
    boxes: int32 [b, 4] (y, x, h, w): the crop.
    flip: bool [b], mirrors left to right; None mirrors nothing.
    size: side of the view in pixels.
    height: of the images in pixels.
    width: of the images in pixels.
    kernel: of images, see `resize.KERNELS`.
  """
  if field.kind == 'boxes':
    return move_boxes(xp, values, boxes, flip, height, width)
  if field.kind == 'image':
    return resize.resample(xp, values, boxes, flip, size, kernel)
  return resize.resample_map(xp, values, boxes, flip, size, field.resample)
