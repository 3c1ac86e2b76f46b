"""The plans of `plans.py` carried out by tf.data: decode, crop, resize, mirror, and optionally the
photometric augmentation, with every CPU core, a few batches ahead.

Two forms. Images of any size: each example is decoded once, only the part that its crops need, and
each view is cut from it and resized. Small images that all have one size (CIFAR): only the decoding
is per example, the crops are two matrix products over the whole batch (`crop.resample`), since the
cost of TensorFlow's operations, not their arithmetic, decides at 32 pixels.

A file that turns out damaged while it is decoded must not end the run, and TensorFlow's decoders
have no way to say "no" but an error. So every batch is a small data set of its own, from which
failing examples are dropped; the rows that are missing are then known and the caller fills them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from byoljax.data import crop, image_file, photometric, plans, tensorflow_import, views

# Largest image, in pixels, for which the crops of a whole batch are made at once.
_SMALL = 64 * 64
_AHEAD = 2


class Decoded(NamedTuple):
  """One batch as it leaves the graph; rows that failed are absent from `views`.

  Attributes:
    step: which batch.
    row: which entry of the plan's n each decoded image belongs to, int32 [m], m <= n.
    views: uint8 [m, S, S, 3] for each view.
    index, label, position: as in `plans.Plan`.
  """

  step: int
  row: np.ndarray
  views: tuple[np.ndarray, ...]
  index: np.ndarray
  label: np.ndarray
  position: np.ndarray


def batches(
  plan: Callable[[int], plans.Plan],
  steps: range,
  sizes: Sequence[int],
  *,
  image_shape: tuple[int, int] | None,
  host_specs: Sequence[views.ViewSpec] = (),
  threads: int,
) -> Iterator[Decoded]:
  """Runs the plans of `steps`, in order; a batch of which nothing can be decoded is left out.

  Args:
    plan: the plan of a step.
    steps: which steps, ascending by one.
    sizes: side of each view in pixels.
    image_shape: (H, W) where all images have the same, else None.
    host_specs: the views' settings where the photometric augmentation happens here, else empty.
    threads: how many to use.

  Raises:
    ValueError: whatever `plan` raised.
  """
  tf = tensorflow_import.tensorflow()
  failures: list[Exception] = []
  small = image_shape is not None and image_shape[0] * image_shape[1] <= _SMALL
  finish = _batch_views(tf, sizes, host_specs, image_shape if small else None)

  def one_batch(step, index, label, position, data, kind, union, boxes, flips, numbers):
    rows = tf.range(tf.shape(position)[0])
    batch = tf.data.Dataset.from_tensor_slices((rows, data, kind, union, boxes, flips))
    one = _whole_image(tf, image_shape) if small else _example_views(tf, sizes)
    batch = batch.map(one, num_parallel_calls=threads, deterministic=True)
    batch = batch.ignore_errors(log_warning=False)
    batch = batch.batch(tf.maximum(tf.shape(position, tf.int64)[0], 1))

    def with_plan(row, *decoded):
      pixels = finish(row, decoded, boxes, flips, numbers)
      return step, row, pixels, index, label, position

    return batch.map(with_plan)

  data = tf.data.Dataset.range(steps.start, steps.stop)
  data = data.map(_planner(tf, plan, len(sizes), failures), num_parallel_calls=_AHEAD)
  data = data.interleave(
    one_batch, cycle_length=_AHEAD, num_parallel_calls=_AHEAD, deterministic=True
  )
  data = data.prefetch(_AHEAD).with_options(_options(tf, threads))
  return _numpy(tf, iter(data), failures)


def _numpy(tf: Any, iterator: Any, failures: list[Exception]) -> Iterator[Decoded]:
  """The elements as arrays; an error inside of a plan comes out as itself."""
  while True:
    try:
      step, row, pixels, index, label, position = next(iterator)
    except StopIteration:
      return
    except tf.errors.OpError as error:
      if failures:
        raise failures[0] from None
      raise RuntimeError(f'the input pipeline failed: {error.message}') from error
    yield Decoded(
      int(step),
      row.numpy(),
      tuple(view.numpy() for view in pixels),
      index.numpy(),
      label.numpy(),
      position.numpy(),
    )


def _options(tf: Any, threads: int) -> Any:
  options = tf.data.Options()
  options.deterministic = True
  options.autotune.enabled = True
  options.threading.private_threadpool_size = threads
  options.threading.max_intra_op_parallelism = 1
  # Reading begins when the iterator is made: while the train step is being compiled.
  options.experimental_warm_start = True
  return options


def _planner(
  tf: Any, plan: Callable[[int], plans.Plan], num_views: int, failures: list[Exception]
) -> Callable[[Any], tuple[Any, ...]]:
  """The plan as a graph operation: (step) -> (step, and the fields of the plan)."""
  types = (
    tf.int32,
    tf.int32,
    tf.int32,
    tf.string,
    tf.int32,
    tf.int32,
    tf.int32,
    tf.bool,
    tf.float32,
  )
  shapes = (
    [None],
    [None],
    [None],
    [None],
    [None],
    [None, 4],
    [None, num_views, 4],
    [None, num_views],
    [None, num_views, None],
  )

  def run(step: np.ndarray) -> tuple[np.ndarray, ...]:
    try:
      made = plan(int(step))
    except Exception as error:
      failures.append(error)  # TensorFlow would turn it into a page of text.
      raise
    # An empty object array has no type that TensorFlow could guess.
    return tuple(made._replace(data=made.data if len(made.data) else np.zeros(0, 'S1')))

  def planned(step: Any) -> tuple[Any, ...]:
    fields = tf.numpy_function(run, [step], types, stateful=False)
    for field, shape in zip(fields, shapes, strict=True):
      field.set_shape(shape)
    return (step, *fields)

  return planned


def _decoder(tf: Any) -> Callable[[Any, Any, Any], Any]:
  """(file, kind, part) -> uint8 [h, w, 3]: the part (y, x, h, w) of an upright image."""

  def with_pillow(data: bytes, part: np.ndarray) -> np.ndarray:
    y, x, h, w = part
    try:
      return np.ascontiguousarray(image_file.decode(data)[y : y + h, x : x + w])
    except image_file.UnreadableImageError:
      # Too small for its crops, which fails further on without TensorFlow printing a traceback.
      return np.zeros((0, 0, 3), np.uint8)

  def decode(data: Any, kind: Any, part: Any) -> Any:
    branches = {
      # The accurate transform is Pillow's and libjpeg's default; the fast one is off by up to 4.
      image_file.JPEG: lambda: tf.io.decode_and_crop_jpeg(
        data, part, channels=3, dct_method='INTEGER_ACCURATE'
      ),
      image_file.PNG: lambda: tf.slice(
        tf.io.decode_png(data, channels=3),
        tf.concat([part[:2], [0]], 0),
        tf.concat([part[2:], [3]], 0),
      ),
      image_file.PILLOW: lambda: tf.ensure_shape(
        tf.numpy_function(with_pillow, [data, part], tf.uint8, stateful=False), [None, None, 3]
      ),
    }
    return tf.switch_case(kind, branches)

  return decode


def _whole_image(tf: Any, shape: tuple[int, int] | None) -> Callable[..., tuple[Any, Any]]:
  """One example of a set of small images: decoded, not yet cropped."""
  assert shape is not None
  height, width = shape
  decode = _decoder(tf)

  def whole(row, data, kind, union, boxes, flips):
    del union, boxes, flips
    return row, tf.ensure_shape(decode(data, kind, [0, 0, height, width]), [height, width, 3])

  return whole


def _example_views(tf: Any, sizes: Sequence[int]) -> Callable[..., tuple[Any, ...]]:
  """One example of any size: all views, uint8 [S, S, 3] each."""
  decode = _decoder(tf)

  def example(row, data, kind, union, boxes, flips):
    image = decode(data, kind, union)
    made = []
    for view, size in enumerate(sizes):
      y, x, h, w = tf.unstack(boxes[view])
      part = tf.slice(image, tf.stack([y, x, 0]), tf.stack([h, w, 3]))
      pixels = tf.image.resize(part, (size, size), method='bicubic')
      pixels = tf.cast(tf.floor(tf.clip_by_value(pixels, 0.0, 255.0) + 0.5), tf.uint8)
      made.append(tf.where(flips[view], tf.reverse(pixels, [1]), pixels))
    return row, *made

  return example


def _batch_views(
  tf: Any,
  sizes: Sequence[int],
  host_specs: Sequence[views.ViewSpec],
  small_shape: tuple[int, int] | None,
) -> Callable[..., tuple[Any, ...]]:
  """What is done to a batch as a whole, after the decoding of its examples."""
  xp = tf.experimental.numpy

  def to_bytes(pixels: Any) -> Any:
    return tf.cast(tf.floor(pixels * 255.0 + 0.5), tf.uint8)

  def finish(row, decoded, boxes, flips, numbers):
    made = []
    for view, size in enumerate(sizes):
      if small_shape is None:
        pixels = decoded[view]
      else:
        box, flip = tf.gather(boxes[:, view], row), tf.gather(flips[:, view], row)
        pixels = crop.resample(xp, decoded[0], box, flip, size)
        pixels = pixels if host_specs else to_bytes(pixels)
      if host_specs:
        if pixels.dtype == tf.uint8:
          pixels = tf.cast(pixels, tf.float32) * (1 / 255)
        u = tf.gather(numbers[:, view], row)
        pixels = to_bytes(photometric.photometric(xp, pixels, u, host_specs[view]))
      made.append(pixels)
    return tuple(made)

  return finish
