"""Decoding, cropping and resizing in TensorFlow: three compiled functions that threads call.

`tf.data` is not used, although it looks made for this. Its reader would have to be Python (random
access, unusual formats), and a Python function inside of a tf.data graph deadlocks when the
iterator is dropped while the function runs: the iterator's destructor holds the interpreter lock
and waits for a function that waits for the lock. Nor can it say which example of a batch failed.
Plain threads around a `tf.function` decode as fast, since TensorFlow releases the lock, and have
neither problem.

Two forms. Images of any size: each is decoded once, only the part that its crops need, and every
view is cut from it and resized. Small images that all have one size (CIFAR): only the decoding is
per example, the crops are two matrix products over the whole group (`crop.resample`), since the
number of operations, not their arithmetic, decides the time at 32 pixels.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import numpy as np

from byoljax.data import crop, image_file, photometric, tensorflow_import, views

# Largest image, in pixels, for which the crops of a whole group are made at once.
_SMALL = 64 * 64
# JPEG stores the colour at half the size and smooths it on the way back, across the border of what
# is decoded. With this many pixels more on each side, a part is exactly what the whole would give.
_MARGIN = 4
# Skipping rows and columns costs the JPEG decoder its fast path: from this share of the image on,
# decoding all of it is cheaper (measured at 144 and 375 pixels).
_WHOLE_FROM = 0.75


class Decoder(NamedTuple):
  """The functions for one set of views; all may be called by several threads at once.

  Attributes:
    sizes: side of each view in pixels.
    decode: (files object [n] of JPEG and PNG bytes, kind int32 [n], height and width int32 [n, 2],
      boxes int32 [n, V, 4], flips bool [n, V]) -> uint8 [n, S, S, 3] for each view, cropped,
      resized and mirrored; None when any of the files is damaged.
    resize: (image uint8 [H, W, 3], boxes int32 [V, 4], flips bool [V]) -> uint8 [S, S, 3] for each
      view of an image that is decoded already.
    finish: (uint8 [n, S, S, 3] for each view, draws float32 [n, V, NUM_DRAWS]) -> the same after
      the photometric augmentation, where that happens on the host; else unchanged.
  """

  sizes: tuple[int, ...]
  decode: Callable[..., tuple[np.ndarray, ...] | None]
  resize: Callable[..., tuple[np.ndarray, ...]]
  finish: Callable[..., tuple[np.ndarray, ...]]


@functools.lru_cache(maxsize=16)
def make_decoder(
  sizes: tuple[int, ...],
  image_shape: tuple[int, int] | None,
  host_specs: tuple[views.ViewSpec, ...] = (),
) -> Decoder:
  """Builds the functions; they are compiled on first use.

  Args:
    sizes: side of each view in pixels.
    image_shape: (H, W) where all images have the same, else None.
    host_specs: settings of each view where the photometric augmentation is made here, else empty.
  """
  tf = tensorflow_import.tensorflow()
  small = image_shape is not None and image_shape[0] * image_shape[1] <= _SMALL
  compiled = _small_views(sizes, image_shape) if small and image_shape else _views(sizes)
  one = _one_view()

  def decode(files, kind, sides, boxes, flips):
    part = np.zeros((len(files), 4), np.int32) if small else _union(boxes, sides)
    inside = boxes - np.pad(part[:, None, :2], ((0, 0), (0, 0), (0, 2)))
    try:
      made = compiled(*map(tf.constant, (list(files), kind, part, inside, flips)))
    except tf.errors.OpError:
      return None
    return tuple(view.numpy() for view in made)

  def resize(image, boxes, flips):
    made = []
    for (y, x, h, w), flip, size in zip(boxes, flips, sizes, strict=True):
      pixels = one(np.ascontiguousarray(image[y : y + h, x : x + w]), np.int32(size), flip)
      made.append(pixels.numpy())
    return tuple(made)

  return Decoder(sizes, decode, resize, _photometric(tf, host_specs))


def _union(boxes: np.ndarray, sides: np.ndarray) -> np.ndarray:
  """A part of each image that holds all its crops, int32 [n, 4]; or the whole image."""
  start = np.maximum(boxes[:, :, :2].min(1) - _MARGIN, 0)
  extent = np.minimum((boxes[:, :, :2] + boxes[:, :, 2:]).max(1) + _MARGIN, sides) - start
  # In floating point: the area of a large photograph overflows int32.
  large = np.prod(extent / sides, axis=1) >= _WHOLE_FROM
  whole = np.concatenate([np.zeros_like(sides), sides], 1)
  return np.where(large[:, None], whole, np.concatenate([start, extent], 1)).astype(np.int32)


def _signature(tf: Any, num_views: int) -> list[Any]:
  return [
    tf.TensorSpec([None], tf.string),
    tf.TensorSpec([None], tf.int32),
    tf.TensorSpec([None, 4], tf.int32),
    tf.TensorSpec([None, num_views, 4], tf.int32),
    tf.TensorSpec([None, num_views], tf.bool),
  ]


def _decode_part(tf: Any, data: Any, kind: Any, part: Any) -> Any:
  """The part (y, x, h, w) of a JPEG or PNG file, uint8 [h, w, 3]."""
  return tf.cond(
    kind == image_file.JPEG,
    # The accurate transform is libjpeg's and Pillow's default; the fast one is off by up to 4.
    lambda: tf.io.decode_and_crop_jpeg(data, part, channels=3, dct_method='INTEGER_ACCURATE'),
    lambda: tf.slice(
      tf.io.decode_png(data, channels=3),
      tf.concat([part[:2], [0]], 0),
      tf.concat([part[2:], [3]], 0),
    ),
  )


def _resized(tf: Any, pixels: Any, size: Any, flip: Any) -> Any:
  """Bicubic resize without antialiasing to [size, size, 3], rounded as in `crop.resample`."""
  pixels = tf.image.resize(pixels, tf.stack([size, size]), method='bicubic')
  pixels = tf.cast(tf.floor(tf.clip_by_value(pixels, 0.0, 255.0) + 0.5), tf.uint8)
  return tf.where(flip, tf.reverse(pixels, [1]), pixels)


@functools.lru_cache(maxsize=16)
def _views(sizes: tuple[int, ...]) -> Any:
  """Views of images of any size."""
  tf = tensorflow_import.tensorflow()

  @tf.function(input_signature=_signature(tf, len(sizes)), autograph=False)
  def compiled(files, kind, part, boxes, flips):
    def example(inputs):
      data, kind, part, boxes, flips = inputs
      image = _decode_part(tf, data, kind, part)
      made = []
      for view, size in enumerate(sizes):
        y, x, h, w = tf.unstack(boxes[view])
        cut = tf.slice(image, tf.stack([y, x, 0]), tf.stack([h, w, 3]))
        made.append(tf.ensure_shape(_resized(tf, cut, size, flips[view]), [size, size, 3]))
      return tuple(made)

    types = tuple(tf.TensorSpec([size, size, 3], tf.uint8) for size in sizes)
    inputs = (files, kind, part, boxes, flips)
    return tf.map_fn(example, inputs, fn_output_signature=types, parallel_iterations=1)

  return compiled


@functools.lru_cache(maxsize=16)
def _small_views(sizes: tuple[int, ...], shape: tuple[int, int]) -> Any:
  """Views of small images of one size."""
  tf = tensorflow_import.tensorflow()
  height, width = shape

  @tf.function(input_signature=_signature(tf, len(sizes)), autograph=False)
  def compiled(files, kind, part, boxes, flips):
    del part

    def example(inputs):
      data, kind = inputs
      image = _decode_part(tf, data, kind, [0, 0, height, width])
      return tf.ensure_shape(image, [height, width, 3])

    whole = tf.TensorSpec([height, width, 3], tf.uint8)
    images = tf.map_fn(example, (files, kind), fn_output_signature=whole, parallel_iterations=1)
    made = []
    for view, size in enumerate(sizes):
      xp = tf.experimental.numpy
      pixels = crop.resample(xp, images, boxes[:, view], flips[:, view], size)
      made.append(_to_bytes(tf, pixels))
    return tuple(made)

  return compiled


def _to_bytes(tf: Any, pixels: Any) -> Any:
  return tf.cast(tf.floor(pixels * 255.0 + 0.5), tf.uint8)


@functools.cache
def _one_view() -> Any:
  tf = tensorflow_import.tensorflow()
  signature = [
    tf.TensorSpec([None, None, 3], tf.uint8),
    tf.TensorSpec([], tf.int32),
    tf.TensorSpec([], tf.bool),
  ]
  resized = functools.partial(_resized, tf)
  return tf.function(resized, input_signature=signature, autograph=False)


def _photometric(tf: Any, specs: tuple[views.ViewSpec, ...]) -> Callable[..., Any]:
  """The photometric augmentation of a group, or nothing where there are no specs."""
  if not specs:
    return lambda pixels, numbers: pixels

  signature = [
    tuple(tf.TensorSpec([None, spec.size, spec.size, 3], tf.uint8) for spec in specs),
    tf.TensorSpec([None, len(specs), views.NUM_DRAWS], tf.float32),
  ]

  @tf.function(input_signature=signature, autograph=False)
  def compiled(pixels, numbers):
    made = []
    for view, spec in enumerate(specs):
      images = tf.cast(pixels[view], tf.float32) * (1 / 255)
      u = numbers[:, view]
      made.append(_to_bytes(tf, photometric.photometric(tf.experimental.numpy, images, u, spec)))
    return tuple(made)

  def finish(pixels, numbers):
    made = compiled(tuple(map(tf.constant, pixels)), tf.constant(numbers))
    return tuple(view.numpy() for view in made)

  return finish
