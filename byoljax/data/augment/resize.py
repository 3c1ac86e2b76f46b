"""One resampling that cuts, resizes and mirrors, with the kernels that published code uses.

  tf2_bicubic   tf.image.resize: Keys' kernel with a = -1/2 (Keys 1981), half-pixel centers, no
                antialiasing, positions on a grid of 1/1024 pixel, taps outside of the crop dropped
                and the rest renormalized. BYOL.
  tf1_bicubic   TensorFlow 1's: a = -3/4, corners in place of half-pixel centers, taps outside of
                the crop are its border. SimCLR.
  pil_bilinear  Pillow's and torchvision's: antialiased, the kernel grows with the reduction.
  pil_bicubic   the same with Keys' a = -1/2.

Pillow rounds to 8 bits between the two directions, and clips what a bicubic kernel overshoots
there; here both happen once, at the end.

It is two products with per-example weight matrices, so a batch of different crops is a batched
matrix product, the mirror is a reversed matrix, and an accelerator needs no gather. The positions
are integer arithmetic, which keeps numpy, XLA and TensorFlow on the same tap.

Written once over an array namespace `xp`: numpy, jax.numpy, or tf.experimental.numpy inside a
tf.data graph. With jax.numpy on an accelerator, wrap the call in
`jax.default_matmul_precision('highest')`: lower precisions round the weights.
"""

from typing import Any

import numpy as np

DEFAULT = 'tf2_bicubic'
_KERNEL_STEPS = 1024
_FLOAT = np.float32
_INT = np.int32


def resample(xp: Any, images: Any, boxes: Any, flip: Any, size: int, kernel: str = DEFAULT) -> Any:
  """Crops, resizes and mirrors each image in one separable resampling.

  Clipped and, of 8-bit images, rounded to their 256 levels. Not meant to be differentiated.

  Args:
    xp: array namespace.
    images: uint8 [b, H, W, C], or float [b, H, W, C] in [0, 1].
    boxes: int32 [b, 4] (y, x, h, w) inside the image.
    flip: bool [b], mirrors left to right; None mirrors nothing.
    size: side of the square output in pixels.
    kernel: a key of KERNELS.

  Returns:
    float32 [b, size, size, C] in [0, 1]; of uint8 multiples of 1/255.
  """
  # Bytes on the scale 0..255, as TensorFlow resizes: the sums of weighted integers round alike.
  is_bytes = images.dtype == np.uint8
  out = _interpolated(xp, xp.asarray(images, dtype=_FLOAT), boxes, flip, size, KERNELS[kernel])
  out = xp.clip(out, 0.0, 255.0 if is_bytes else 1.0)
  return xp.floor(out + 0.5) * _FLOAT(1 / 255) if is_bytes else out


def resample_map(xp: Any, maps: Any, boxes: Any, flip: Any, size: int, kernel: str) -> Any:
  """Crops, resizes and mirrors numbers per pixel; the geometry is that of `resample`.

  `tf1_bicubic` has no map's kernel beside it: it aligns corners, the others centers, so that a map
  lies beside such an image by up to half of what a pixel is enlarged.

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
  weights = {'bilinear': _tf2_bilinear, 'bicubic': _tf2_bicubic}[kernel]
  return _interpolated(xp, xp.asarray(maps, dtype=_FLOAT), boxes, flip, size, weights)


def _interpolated(xp, values, boxes, flip, size, weights):
  height, width = _side(xp, values, 1), _side(xp, values, 2)
  rows = weights(xp, boxes[:, 0], boxes[:, 2], _out(xp, size, None), size, height)
  columns = weights(xp, boxes[:, 1], boxes[:, 3], _out(xp, size, flip), size, width)
  columns = xp.swapaxes(columns, 1, 2)
  planes = [xp.matmul(xp.matmul(rows, values[..., c]), columns) for c in range(values.shape[-1])]
  return xp.stack(planes, axis=-1)


def _side(xp, images, axis):
  side = images.shape[axis]
  return xp.shape(images)[axis] if side is None else side


def _out(xp, size, flip):
  """Numbers of the output pixels of one axis in the order in which they come, int32 [b or 1, S]."""
  out = np.arange(size, dtype=_INT)[None]
  return out if flip is None else xp.where(flip[:, None], size - 1 - out, out)


def _nearest(xp, start, extent, size, flip):
  """The source pixel of each output pixel of one axis, int32 [b, size]."""
  return start[:, None] + ((_out(xp, size, flip) * 2 + 1) * extent[:, None]) // (2 * size)


def _source(xp, start, length):
  """Positions in the crop of the pixels of one axis, int32 [b, length]."""
  return xp.asarray(xp.arange(length), dtype=_INT)[None] - start[:, None]


# Each of the following gives the weights of one axis, float32 [b, size, length], rows of sum 1:
# (xp, start and extent of the crops [b], numbers of the output pixels, size, length of the image).


def _tf2(kernel):
  def weights(xp, start, extent, out, size, length):
    # Source position (out + 1/2) * extent / size - 1/2 as an exact fraction over 2 * size.
    position = (out * 2 + 1) * extent[:, None] - size
    base, step = _on_grid(position, 2 * size)
    source = _source(xp, start, length)
    distance = (source[:, None, :] - base[:, :, None]) * _KERNEL_STEPS - step[:, :, None]
    weight = kernel(xp, xp.asarray(xp.abs(distance), dtype=_FLOAT) * (1 / _KERNEL_STEPS))
    return _normalized(xp, weight, source, extent)

  return weights


def _pil(kernel):
  def weights(xp, start, extent, out, size, length):
    source = _source(xp, start, length)
    # Between pixel centers, over 2 * size and over the reduction, if it is one.
    distance = ((out * 2 + 1) * extent[:, None])[:, :, None] - (source * 2 + 1)[:, None, :] * size
    unit = xp.asarray(2 * xp.maximum(extent, size), dtype=_FLOAT)
    weight = kernel(xp, xp.asarray(xp.abs(distance), dtype=_FLOAT) / unit[:, None, None])
    return _normalized(xp, weight, source, extent)

  return weights


def _tf1_bicubic(xp, start, extent, out, size, length):
  base, step = _on_grid(out * extent[:, None], size)
  source = _source(xp, start, length)[:, None, :]
  t = xp.asarray(step, dtype=_FLOAT) * (1 / _KERNEL_STEPS)
  total = 0.0
  for tap in (-1, 0, 1, 2):
    place = xp.minimum(xp.maximum(base + tap, 0), extent[:, None] - 1)
    weight = cubic(xp, xp.abs(t - tap), -0.75)
    total += xp.where(source == place[:, :, None], weight[:, :, None], 0.0)
  return total


def _on_grid(position, unit):
  """A position over `unit` as the pixel left of it and a number of steps of 1/1024 pixel."""
  base = position // unit
  return base, ((position - base * unit) * _KERNEL_STEPS + unit // 2) // unit


def _normalized(xp, weight, source, extent):
  inside = (source >= 0) & (source < extent[:, None])
  weight = xp.where(inside[:, None, :], weight, 0.0)
  return weight / xp.sum(weight, axis=-1, keepdims=True)


def cubic(xp, t, a):
  """The cubic convolution kernel of parameter a (Keys 1981, equation 15 for -1/2), for t >= 0."""
  near = ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
  far = ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a
  return xp.where(t < 1.0, near, xp.where(t < 2.0, far, 0.0))


def _keys(xp, t):
  return cubic(xp, t, -0.5)


def _tent(xp, t):
  """The kernel of bilinear interpolation, for t >= 0."""
  return xp.maximum(1.0 - t, 0.0)


_tf2_bicubic, _tf2_bilinear = _tf2(_keys), _tf2(_tent)
KERNELS = {
  DEFAULT: _tf2_bicubic,
  'tf1_bicubic': _tf1_bicubic,
  'pil_bilinear': _pil(_tent),
  'pil_bicubic': _pil(_keys),
}
