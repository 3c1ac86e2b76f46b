"""Random-resized crop and center crop: boxes, and one resampling that cuts, resizes and mirrors.

The boxes follow BYOL's sampler (arXiv 2006.07733, appendix B and the authors' code): the area is
uniform, the ratio log-uniform, width and height are rounded and clamped to the image, nothing is
retried. torchvision and tf.image draw again what does not fit, so that their crops are smaller, on
square images, too: of the scale (.08, 1) the mean area is .53 of the image here, .48 in
torchvision, .42 in TensorFlow.

The resize is TensorFlow's bicubic: Keys' kernel with a = -1/2 (Keys 1981), half-pixel centers, no
antialiasing, kernel positions on a grid of 1/1024 pixel, taps outside of the crop dropped and the
rest renormalized. Here it is two products with per-example weight matrices, so a batch of different
crops is a batched matrix product, the mirror is a reversed matrix, and an accelerator needs no
gather. The positions are integer arithmetic, which keeps numpy, XLA and TensorFlow on the same tap.

Written once over an array namespace `xp`: numpy, jax.numpy, or tf.experimental.numpy inside a
tf.data graph. With jax.numpy on an accelerator, wrap the call in
`jax.default_matmul_precision('highest')`: lower precisions round the weights.
"""

import math
from typing import Any

import numpy as np

from byoljax.data.augment import views
from byoljax.data.fields import Field

_KERNEL_STEPS = 1024
_FLOAT = np.float32
_INT = np.int32


def crop_box(xp: Any, u: Any, height: Any, width: Any, spec: views.ViewSpec) -> Any:
  """Random crop boxes: area ~ U(scale) * H * W, log(w / h) ~ U(log ratio), position uniform.

  w = round(sqrt(area * ratio)) and h = round(sqrt(area / ratio)), clamped to [1, W] and [1, H].

  Args:
    xp: array namespace.
    u: float32 [b, NUM_DRAWS] in [0, 1); of it the columns up to FLIP are enough.
    height: image height in pixels, a scalar or integer [b].
    width: image width in pixels, a scalar or integer [b].
    spec: gives crop_scale and crop_ratio.

  Returns:
    int32 [b, 4] (y, x, h, w), inside the image and at least one pixel in each direction. The
    namespaces differ in the last bit of exp and sqrt: at 500 pixels about one box in 30,000 moves
    by one pixel between them.
  """
  height, width = (xp.asarray(side, dtype=_FLOAT) for side in (height, width))
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


def resample(xp: Any, images: Any, boxes: Any, flip: Any, size: int) -> Any:
  """Crops, resizes bicubically and mirrors each image in one separable resampling.

  Equals `tf.image.resize(image[y:y+h, x:x+w], (size, size), 'bicubic')`, clipped, rounded to the
  256 levels of an 8-bit image, and mirrored where `flip` holds. Not meant to be differentiated.

  Args:
    xp: array namespace.
    images: uint8 [b, H, W, C], or float [b, H, W, C] in [0, 1].
    boxes: int32 [b, 4] (y, x, h, w) inside the image.
    flip: bool [b], mirrors left to right; None mirrors nothing.
    size: side of the square output in pixels.

  Returns:
    float32 [b, size, size, C]: multiples of 1/255 in [0, 1].
  """
  # On the scale 0..255, as TensorFlow resizes: the sums of weighted integers round alike.
  levels = xp.asarray(images, dtype=_FLOAT)
  levels = levels if images.dtype == np.uint8 else levels * 255.0
  out = xp.clip(_interpolated(xp, levels, boxes, flip, size, _keys), 0.0, 255.0)
  return xp.floor(out + 0.5) * _FLOAT(1 / 255)


def resample_map(xp: Any, maps: Any, boxes: Any, flip: Any, size: int, kernel: str) -> Any:
  """Crops, resizes and mirrors numbers per pixel; the geometry is that of `resample`.

  Args:
    xp: array namespace: numpy or jax.numpy.
    maps: numbers [b, H, W, C]; finite, unless the kernel is 'nearest'.
    boxes: int32 [b, 4] (y, x, h, w) inside the image.
    flip: bool [b], mirrors left to right; None mirrors nothing.
    size: side of the square output in pixels.
    kernel: 'nearest', which keeps values and type (pixel centers as in `tf.image.resize`), or
      'bilinear' or 'bicubic', without antialiasing.

  Returns:
    [b, size, size, C], float32 unless the kernel is 'nearest'.
  """
  if kernel == 'nearest':
    rows = _nearest(xp, boxes[:, 0], boxes[:, 2], size, None)
    columns = _nearest(xp, boxes[:, 1], boxes[:, 3], size, flip)
    maps = xp.take_along_axis(maps, rows[:, :, None, None], axis=1)
    return xp.take_along_axis(maps, columns[:, None, :, None], axis=2)
  weight = {'bilinear': _tent, 'bicubic': _keys}[kernel]
  return _interpolated(xp, xp.asarray(maps, dtype=_FLOAT), boxes, flip, size, weight)


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
  xp: Any, field: Field, values: Any, boxes: Any, flip: Any, size: int, height: Any, width: Any
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
  """
  if field.kind == 'boxes':
    return move_boxes(xp, values, boxes, flip, height, width)
  if field.kind == 'image':
    return resample(xp, values, boxes, flip, size)
  return resample_map(xp, values, boxes, flip, size, field.resample)


def _interpolated(xp, values, boxes, flip, size, kernel):
  height, width = _side(xp, values, 1), _side(xp, values, 2)
  rows = _weights(xp, boxes[:, 0], boxes[:, 2], size, height, None, kernel)
  columns = _weights(xp, boxes[:, 1], boxes[:, 3], size, width, flip, kernel)
  columns = xp.swapaxes(columns, 1, 2)
  planes = [xp.matmul(xp.matmul(rows, values[..., c]), columns) for c in range(values.shape[-1])]
  return xp.stack(planes, axis=-1)


def _nearest(xp, start, extent, size, flip):
  """The source pixel of each output pixel of one axis, int32 [b, size]."""
  out = np.arange(size, dtype=_INT)[None]
  if flip is not None:
    out = xp.where(flip[:, None], size - 1 - out, out)
  return start[:, None] + ((out * 2 + 1) * extent[:, None]) // (2 * size)


def _side(xp, images, axis):
  side = images.shape[axis]
  return xp.shape(images)[axis] if side is None else side


def _weights(xp, start, extent, size, length, flip, kernel):
  """Interpolation weights float32 [b, size, length] of one axis; each row sums to 1."""
  out = np.arange(size, dtype=_INT)[None]
  if flip is not None:
    out = xp.where(flip[:, None], size - 1 - out, out)
  # Source position (out + 1/2) * extent / size - 1/2 as an exact fraction over 2 * size.
  position = (out * 2 + 1) * extent[:, None] - size
  base = position // (2 * size)
  step = ((position - base * (2 * size)) * _KERNEL_STEPS + size) // (2 * size)
  source = xp.asarray(xp.arange(length), dtype=_INT)[None] - start[:, None]
  distance = (source[:, None, :] - base[:, :, None]) * _KERNEL_STEPS - step[:, :, None]
  weight = kernel(xp, xp.asarray(xp.abs(distance), dtype=_FLOAT) * (1 / _KERNEL_STEPS))
  inside = (source >= 0) & (source < extent[:, None])
  weight = xp.where(inside[:, None, :], weight, 0.0)
  return weight / xp.sum(weight, axis=-1, keepdims=True)


def _keys(xp, t):
  """Keys' cubic convolution kernel with a = -1/2 (Keys 1981, equation 15), for t >= 0."""
  near = (1.5 * t - 2.5) * t * t + 1.0
  far = ((2.5 - 0.5 * t) * t - 4.0) * t + 2.0
  return xp.where(t < 1.0, near, xp.where(t < 2.0, far, 0.0))


def _tent(xp, t):
  """The kernel of bilinear interpolation, for t >= 0."""
  return xp.maximum(1.0 - t, 0.0)
