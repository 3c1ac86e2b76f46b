"""Decoding, cropping, resizing and mirroring as one TensorFlow function of a group of examples.

The tf.data graph (`graph.py`) maps the function over the groups, and uses it again to rebuild a
group, so both give the same bits.

There are two forms. Images of any size are decoded once each, only the region that its crops need;
every view is cropped from it and resized. For small images of one size (CIFAR) only the decoding is
per example; the crops are two matrix products over the whole group (`resize.resample`), since at
32
pixels the number of operations, not their arithmetic, determines the time.

What TensorFlow does not decode exactly, and images that are numbers, are decoded in Python, called
from the graph (`data.sources.pixels`).
"""

from collections.abc import Callable
import functools
from typing import Any

import numpy as np

from byoljax.data.augment import resize
from byoljax.data.fields import IMAGE, Field
from byoljax.data.sources import image_file, image_header, pixels, tensorflow_import

# Largest image, in pixels, for which the crops of a whole group are made at once.
_SMALL = 64 * 64
# JPEG stores color at half the resolution, and upsampling smooths it across the border of the
# decoded region. With this margin the crop is exactly what decoding the whole image would give.
_MARGIN = 4
# Skipping rows and columns disables the JPEG decoder's fast path: above this fraction of the image,
# decoding all of it is cheaper (measured at 144 and 375 pixels).
_WHOLE_FROM = 0.75


def is_small(image_shape: tuple[int, int] | None) -> bool:
  """Whether images of this size (H, W), or of various ones (None), are cropped as a group."""
  return image_shape is not None and image_shape[0] * image_shape[1] <= _SMALL


def parts(
  kind: np.ndarray, sides: np.ndarray, boxes: np.ndarray, image_shape: tuple[int, int] | None
) -> np.ndarray:
  """Which part of each image is decoded.

  Args:
    kind: who decodes it (`image_header`), int32 [n].
    sides: height and width, int32 [n, 2].
    boxes: crops, int32 [n, V, 4] (y, x, h, w).
    image_shape: (H, W) where all images have the same, else None.

  Returns:
    int32 [n, 4]: a part that holds all the crops; the whole of PNG files and of small images.
  """
  whole = np.concatenate([np.zeros_like(sides), sides], 1)
  if is_small(image_shape) or not len(kind):
    return whole
  return np.where((kind == image_header.PNG)[:, None], whole, _union(boxes, sides))


def _union(boxes: np.ndarray, sides: np.ndarray) -> np.ndarray:
  """A part of each image that holds all its crops, int32 [n, 4]; or the whole image."""
  start = np.maximum(boxes[:, :, :2].min(1) - _MARGIN, 0)
  extent = np.minimum((boxes[:, :, :2] + boxes[:, :, 2:]).max(1) + _MARGIN, sides) - start
  # In floating point: the area of a large photograph overflows int32.
  large = np.prod(extent / sides, axis=1) >= _WHOLE_FROM
  whole = np.concatenate([np.zeros_like(sides), sides], 1)
  return np.where(large[:, None], whole, np.concatenate([start, extent], 1)).astype(np.int32)


@functools.lru_cache(maxsize=16)
def make_decoder(
  views: tuple[tuple[int, str], ...],
  image_shape: tuple[int, int] | None,
  image: Field = IMAGE,
) -> Callable[..., Any]:
  """Builds the function of a group; it is traced on first use, and again for no other group.

  Args:
    views: of each, its side in pixels and its kernel, a key of `resize.KERNELS`.
    image_shape: (H, W) where all images have the same, else None.
    image: of the source: what an image is.

  Returns:
    A `tf.function`: (files string [n], kind int32 [n], part int32 [n, 4], boxes int32 [n, V, 4],
    flips bool [n, V]) -> [n, S, S, C] for each view, as `image` says. The boxes lie in the whole
    images. It raises an OpError when any of the files is damaged.
  """
  tf = tensorflow_import.tensorflow()
  signature = [
    tf.TensorSpec([None], tf.string),
    tf.TensorSpec([None], tf.int32),
    tf.TensorSpec([None, 4], tf.int32),
    tf.TensorSpec([None, len(views), 4], tf.int32),
    tf.TensorSpec([None, len(views)], tf.bool),
  ]

  @tf.function(input_signature=signature, autograph=False)
  def decoder(files, kind, part, boxes, flips):
    if image_shape is not None and is_small(image_shape):
      return tuple(_small_views(tf, files, kind, boxes, flips, views, image_shape, image))
    return tuple(_views(tf, files, kind, part, boxes, flips, views, image))

  return decoder


def _decode_part(tf: Any, data: Any, kind: Any, part: Any, image: Field) -> Any:
  """The part (y, x, h, w) of an image file, [h, w, C]; all of a PNG."""

  def with_numpy() -> Any:
    made = tf.numpy_function(
      functools.partial(_with_numpy, image), [data, part], tf.as_dtype(image.dtype), stateful=False
    )
    return tf.ensure_shape(made, [None, None, image.channels])

  if image.dtype != IMAGE.dtype:
    return with_numpy()
  branches = {
    # The accurate transform is libjpeg's and Pillow's default; the fast one is off by up to 4.
    image_header.JPEG: lambda: tf.io.decode_and_crop_jpeg(
      data, part, channels=3, dct_method='INTEGER_ACCURATE'
    ),
    image_header.PNG: lambda: tf.io.decode_png(data, channels=3),
    image_header.PILLOW: with_numpy,
  }
  return tf.switch_case(kind, branches)


def _with_numpy(image: Field, data: bytes, part: np.ndarray) -> np.ndarray:
  y, x, h, w = part
  try:
    return np.ascontiguousarray(pixels.decode(data, image)[y : y + h, x : x + w])
  except image_file.UnreadableImageError:
    # Cropping this fails later in the graph, without a page of traceback.
    return np.zeros((0, 0, image.channels), image.dtype)


def _views(
  tf: Any,
  files: Any,
  kind: Any,
  part: Any,
  boxes: Any,
  flips: Any,
  views: tuple[tuple[int, str], ...],
  image: Field,
) -> tuple[Any, ...]:
  """Views of images of any size."""

  def example(inputs):
    data, kind, part, boxes, flips = inputs
    whole = _decode_part(tf, data, kind, part, image)
    made = []
    for view, (size, kernel) in enumerate(views):
      y, x, h, w = tf.unstack(boxes[view])
      cut = tf.slice(
        whole, tf.stack([y - part[0], x - part[1], 0]), tf.stack([h, w, image.channels])
      )
      shown = _resized(tf, cut, size, kernel, flips[view])
      made.append(tf.ensure_shape(shown, image.shape(size, size)))
    return tuple(made)

  types = tuple(
    tf.TensorSpec(image.shape(size, size), tf.as_dtype(image.dtype)) for size, _ in views
  )
  inputs = (files, kind, part, boxes, flips)
  return tf.map_fn(example, inputs, fn_output_signature=types, parallel_iterations=1)


# TensorFlow's implementation of each kernel of `resize`.
_RESIZE: dict[str, Callable[..., Any]] = {
  'tf2_bicubic': lambda tf, x, shape: tf.image.resize(x, shape, method='bicubic'),
  'tf1_bicubic': lambda tf, x, shape: tf.raw_ops.ResizeBicubic(images=x[None], size=shape)[0],
  'pil_bicubic': lambda tf, x, shape: tf.image.resize(x, shape, method='bicubic', antialias=True),
  'pil_bilinear': lambda tf, x, shape: tf.image.resize(x, shape, method='bilinear', antialias=True),
}


def _resized(tf: Any, cut: Any, size: int, kernel: str, flip: Any) -> Any:
  """Resize by a kernel to [size, size, C], clipped and rounded as in `resize.resample`."""
  made = _RESIZE[kernel](tf, cut, (size, size))
  if cut.dtype == tf.uint8:
    made = tf.cast(tf.clip_by_value(made + 0.5, 0.0, 255.0), tf.uint8)
  else:
    made = tf.clip_by_value(made, 0.0, 1.0)
  # A choice between the two, by `tf.where`, takes longer than decoding and resizing together.
  return tf.cond(flip, lambda: tf.reverse(made, [1]), lambda: made)


def _small_views(
  tf: Any,
  files: Any,
  kind: Any,
  boxes: Any,
  flips: Any,
  views: tuple[tuple[int, str], ...],
  shape: tuple[int, int],
  image: Field,
) -> list[Any]:
  """Views of small images of one size."""
  height, width = shape

  def example(inputs):
    data, kind = inputs
    made = _decode_part(tf, data, kind, [0, 0, height, width], image)
    return tf.ensure_shape(made, image.shape(height, width))

  whole = tf.TensorSpec(image.shape(height, width), tf.as_dtype(image.dtype))
  images = tf.map_fn(example, (files, kind), fn_output_signature=whole, parallel_iterations=1)
  xp = tf.experimental.numpy
  made = [
    resize.resample(xp, images, boxes[:, view], flips[:, view], *shown)
    for view, shown in enumerate(views)
  ]
  return [_to_bytes(tf, each) for each in made] if image.dtype == IMAGE.dtype else made


def _to_bytes(tf: Any, made: Any) -> Any:
  return tf.cast(tf.floor(made * 255.0 + 0.5), tf.uint8)
