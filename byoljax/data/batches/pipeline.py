"""Batches for training and evaluation, from any source, from any step, on any number of processes.

    which = order.Order(source.size, batch_size=256, seed=0)
    batches = pipeline.train_batches(source, specs, order=which, seed=0, start_step=0,
                                     stop_step=1000)
    for batch in batches: ...
    batches.close()

Sources of image files give cropped, resized and mirrored views, uint8: only what the accelerator
needs travels to it. Sources of arrays give the whole images, and the crop is made on the
accelerator: that needs neither TensorFlow nor a fast host. Either way the pictures are the same,
because crops and draws are functions of (seed, epoch, example, view).

Batches are made ahead of the one that is asked for: from image files by a tf.data graph, with every
core; from arrays by one thread. What a batch holds depends on neither.
"""

from collections.abc import Sequence
import os

import numpy as np

from byoljax.data.augment import crop, views
from byoljax.data.batches import decode, examples
from byoljax.data.batches import order as order_lib
from byoljax.data.batches.ahead import Batch, Batches, ThreadBatches
from byoljax.data.batches.file_batches import FileBatches
from byoljax.data.sources import arrays
from byoljax.data.sources.source import Source


def train_batches(
  source: Source,
  specs: Sequence[views.ViewSpec],
  *,
  order: order_lib.AnyOrder,
  seed: int,
  start_step: int,
  stop_step: int,
  threads: int = 0,
) -> Batches:
  """This process's share of the batches of steps start_step, ..., stop_step - 1.

  Args:
    source: the data.
    specs: one per view.
    order: which examples a step consists of.
    seed: of crops and flips, as given to `device.make_augment`; 0 <= seed < 2^32.
    start_step: first step, >= 0; as fast to reach as step 0.
    stop_step: one beyond the last step.
    threads: for decoding; 0 means one for every core that this process may use.

  Returns:
    Dicts of b = order.local_size rows: 'index' and 'epoch' int32 [b], 'label' int32
    [b, *source.label_shape] (-1: none), and 'views', a tuple of uint8 [b, S, S, 3]; or, for a
    source of arrays, 'image' uint8 [b, H, W, 3].

  Raises:
    ValueError: an argument out of range; or, while iterating, data that cannot be read at all.
  """
  source = source.opened()
  if not 0 <= start_step <= stop_step:
    raise ValueError(f'start_step {start_step} must lie in [0, stop_step], which is {stop_step}.')
  if not specs:
    raise ValueError('there is no view: give at least one ViewSpec.')
  steps = range(start_step, stop_step)
  if source.encoded:
    sizes = tuple(spec.size for spec in specs)
    return FileBatches(
      steps,
      order.at,
      examples.Planner(source, examples.random_geometry(specs, seed), replace=True),
      decode.make_decoder(sizes, source.image_shape),
      sizes=sizes,
      threads=threads or _cores(),
    )

  def make(step: int) -> Batch:
    epoch, index = order.at(step)
    images, labels = source.read(index)
    return {'image': images, 'index': index.astype(np.int32), 'epoch': epoch, 'label': labels}

  return ThreadBatches(steps, make)


def eval_batches(
  source: Source,
  *,
  image_size: int,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  threads: int = 0,
) -> Batches:
  """Every example once, in order, over all processes; each process gets ceil(N / B) batches.

  The picture is the center crop that "shorter side to S / 0.875, then S x S" shows; an S x S image
  is unchanged.

  Args:
    source: the data.
    image_size: side S of the images in pixels.
    batch_size: global batch B, a multiple of process_count; the last batch is padded.
    process_index: this process.
    process_count: number of processes P.
    threads: for decoding; 0 means one for every core that this process may use.

  Returns:
    Dicts of b = B / P rows: 'image' uint8 [b, S, S, 3], 'index' int32 [b], 'label' int32
    [b, *source.label_shape] (-1: none) and 'valid' bool [b]: False for padding and for examples
    that cannot be read, whose index is -1 and whose image is black.

  Raises:
    ValueError: an argument out of range.
  """
  order_lib.check_processes(batch_size, process_index, process_count)
  if image_size < 1:
    raise ValueError(f'image_size is {image_size}, but an image needs at least one pixel.')
  source = source.opened()
  geometry_of = examples.center_geometry(image_size)
  steps = range(-(-source.size // batch_size))

  def at(step: int) -> tuple[np.ndarray, np.ndarray]:
    index = order_lib.eval_indices(source.size, batch_size, process_index, process_count, step)
    return np.zeros(len(index), np.int32), index

  if source.encoded:
    return FileBatches(
      steps,
      at,
      examples.Planner(source, geometry_of, replace=False),
      decode.make_decoder((image_size,), source.image_shape),
      sizes=(image_size,),
      threads=threads or _cores(),
      finish=_for_evaluation,
    )

  def make(step: int) -> Batch:
    _, index = at(step)
    inside = index >= 0
    image = np.zeros((len(index), image_size, image_size, 3), np.uint8)
    label = np.full((len(index), *source.label_shape), -1, np.int32)
    if inside.any():
      pixels, label[inside] = source.read(index[inside])
      if pixels.shape[1:3] != (image_size, image_size):
        pixels = _resampled(pixels, index[inside], geometry_of, image_size)
      image[inside] = pixels
    return _for_evaluation({'index': index.astype(np.int32), 'label': label, 'views': (image,)})

  return ThreadBatches(steps, make)


def view_batches(
  source: Source,
  specs: Sequence[views.ViewSpec],
  *,
  batch_size: int,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
  threads: int = 0,
) -> Batches:
  """Every example once, in order, with the augmentation of epoch 0: `eval_batches` of views.

  Args:
    source: the data.
    specs: one per view.
    batch_size: global batch B, a multiple of process_count; the last batch is padded.
    seed: 0 <= seed < 2^32; with the examples' indices it decides the pictures, B does not.
    process_index: this process.
    process_count: number of processes P.
    threads: for decoding; 0 means one for every core that this process may use.

  Returns:
    Dicts of b = B / P rows: those of `train_batches`, which `device.make_augment` takes, and
    'valid' bool [b]; where it is False, for padding and for examples that cannot be read, 'index'
    and 'label' are -1.

  Raises:
    ValueError: an argument out of range.
  """
  order_lib.check_processes(batch_size, process_index, process_count)
  geometry_of = examples.random_geometry(specs, seed)
  steps = range(-(-source.size // batch_size))

  def at(step: int) -> tuple[np.ndarray, np.ndarray]:
    index = order_lib.eval_indices(source.size, batch_size, process_index, process_count, step)
    return np.zeros(len(index), np.int32), index

  if source.encoded:
    sizes = tuple(spec.size for spec in specs)
    return FileBatches(
      steps,
      at,
      examples.Planner(source, geometry_of, replace=False),
      decode.make_decoder(sizes, source.image_shape),
      sizes=sizes,
      threads=threads or _cores(),
      finish=lambda batch: {**batch, 'valid': batch['index'] >= 0},
    )

  def make(step: int) -> Batch:
    epoch, index = at(step)
    images, label = source.read(np.maximum(index, 0))
    label[index < 0] = -1
    rest = {'index': index.astype(np.int32), 'epoch': epoch, 'label': label, 'valid': index >= 0}
    return {'image': images, **rest}

  return ThreadBatches(steps, make)


def in_memory(source: Source, *, image_size: int, threads: int = 0) -> Source:
  """Decodes a whole data set into arrays: for sets that fit, which then need no TensorFlow again.

  Args:
    source: the data; examples that cannot be read are left out.
    image_size: side S of the images in pixels, as for `eval_batches`.
    threads: for decoding; 0 means one for every core that this process may use.

  Returns:
    A source of uint8 [S, S, 3] images in memory, with the fingerprint of arrays.
  """
  images, labels = [], []
  for batch in eval_batches(source, image_size=image_size, batch_size=256, threads=threads):
    images.append(batch['image'][batch['valid']])
    labels.append(batch['label'][batch['valid']])
  return arrays.from_arrays(
    np.concatenate(images),
    np.concatenate(labels) if source.num_classes else None,
    name=source.name,
    class_names=source.class_names,
    num_classes=source.num_classes,
  )


def _for_evaluation(batch: Batch) -> Batch:
  index, label, (image,) = batch['index'], batch['label'], batch['views']
  return {'image': image, 'index': index, 'label': label, 'valid': index >= 0}


def _cores() -> int:
  affinity = getattr(os, 'sched_getaffinity', None)
  return len(affinity(0)) if affinity else os.cpu_count() or 1


def _resampled(
  images: np.ndarray, index: np.ndarray, geometry_of: examples.GeometryOf, size: int
) -> np.ndarray:
  """The one view uint8 [b, S, S, 3] that a geometry cuts from images uint8 [b, H, W, 3]."""
  height, width = (np.full(len(index), side, np.int32) for side in images.shape[1:3])
  boxes, flips = geometry_of(index, np.zeros(len(index), np.int32), height, width)
  pixels = crop.resample(np, images, boxes[:, 0], flips[:, 0], size)
  return np.floor(pixels * np.float32(255) + np.float32(0.5)).astype(np.uint8)
