"""Batches for training and evaluation, from any source, from any step, on any number of processes.

    batches = pipeline.train_batches(source, specs, batch_size=256, seed=0, start_step=0,
                                     stop_step=1000)
    for batch in batches: ...
    batches.close()

Sources of image files give cropped, resized and mirrored views, uint8: only what the accelerator
needs travels to it. Sources of arrays give the whole images, and the crop is made on the
accelerator: that needs neither TensorFlow nor a fast host. Either way the pictures are the same,
because crops and draws are functions of (seed, epoch, example, view). `photometric_on='host'` makes
finished views on the host for both.

Batches are made ahead of the one that is asked for: from image files by a tf.data graph, with every
core; from arrays by one thread. What a batch holds depends on neither.
"""

from collections.abc import Sequence
import os
from typing import Any

import numpy as np

from byoljax.data.augment import crop, photometric, views
from byoljax.data.batches import decode, examples, order
from byoljax.data.batches.ahead import Batch, Batches, ThreadBatches
from byoljax.data.batches.file_batches import FileBatches
from byoljax.data.sources import arrays
from byoljax.data.sources.source import Source


def train_batches(
  source: Source,
  specs: Sequence[views.ViewSpec],
  *,
  batch_size: int,
  seed: int,
  start_step: int,
  stop_step: int,
  process_index: int = 0,
  process_count: int = 1,
  photometric_on: str = 'accelerator',
  threads: int = 0,
) -> Batches:
  """This process's share of the batches of steps start_step, ..., stop_step - 1.

  Args:
    source: the data.
    specs: one per view.
    batch_size: global batch B, a multiple of process_count and at most N.
    seed: 0 <= seed < 2^32.
    start_step: first step, >= 0; as fast to reach as step 0.
    stop_step: one beyond the last step.
    process_index: this process.
    process_count: number of processes P.
    photometric_on: 'accelerator' leaves the photometric augmentation to the train step, 'host' does
      it here.
    threads: for decoding; 0 means one for every core that this process may use.

  Returns:
    Dicts of b = B / P rows: 'index' int32 [b], 'label' int32 [b, *source.label_shape] (-1: none),
    and 'views', a tuple of uint8 [b, S, S, 3]; or, for a source of arrays with the photometric part
    on the accelerator, 'image' uint8 [b, H, W, 3].

  Raises:
    ValueError: an argument out of range; or, while iterating, data that cannot be read at all.
  """
  source = source.opened()
  plan = order.Order(source.size, batch_size, seed, process_index, process_count)
  if photometric_on not in ('accelerator', 'host'):
    raise ValueError(
      f"photometric_on is {photometric_on!r}, but it must be 'accelerator' or 'host'."
    )
  if not 0 <= start_step <= stop_step:
    raise ValueError(f'start_step {start_step} must lie in [0, stop_step], which is {stop_step}.')
  if not specs:
    raise ValueError('there is no view: give at least one ViewSpec.')
  steps = range(start_step, stop_step)
  host_specs = tuple(specs) if photometric_on == 'host' else ()
  geometry_of = examples.random_geometry(specs, seed)
  if source.encoded:
    sizes = tuple(spec.size for spec in specs)
    return FileBatches(
      steps,
      plan.at,
      examples.Planner(source, geometry_of, replace=True),
      decode.make_decoder(sizes, source.image_shape, host_specs),
      sizes=sizes,
      threads=threads or _cores(),
    )

  def make(step: int) -> Batch:
    epoch, index = plan.at(step)
    images, labels = source.read(index)
    rest = {'index': index.astype(np.int32), 'label': labels}
    if not host_specs:
      return {'image': images, **rest}
    made = _views_of_arrays(images, index, epoch, geometry_of, host_specs)
    return {'views': made, **rest}

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
    [b, *source.label_shape] (-1: none) and 'mask' bool [b]: False for padding and for examples that
    cannot be read, whose index is -1 and whose image is black.

  Raises:
    ValueError: an argument out of range.
  """
  order.check_processes(batch_size, process_index, process_count)
  if image_size < 1:
    raise ValueError(f'image_size is {image_size}, but an image needs at least one pixel.')
  source = source.opened()
  geometry_of = examples.center_geometry(image_size)
  steps = range(-(-source.size // batch_size))

  def indices(step: int) -> np.ndarray:
    return order.eval_indices(source.size, batch_size, process_index, process_count, step)

  if source.encoded:
    return FileBatches(
      steps,
      lambda step: (0, indices(step)),
      examples.Planner(source, geometry_of, replace=False),
      decode.make_decoder((image_size,), source.image_shape),
      sizes=(image_size,),
      threads=threads or _cores(),
      finish=_for_evaluation,
    )

  def make(step: int) -> Batch:
    index = indices(step)
    inside = index >= 0
    image = np.zeros((len(index), image_size, image_size, 3), np.uint8)
    label = np.full((len(index), *source.label_shape), -1, np.int32)
    if inside.any():
      pixels, label[inside] = source.read(index[inside])
      if pixels.shape[1:3] != (image_size, image_size):
        made, _ = _resampled(pixels, index[inside], 0, geometry_of, (image_size,))
        pixels = _to_bytes(made[0])
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
    Dicts of b = B / P rows: what `device.make_augment` takes ('index' int32 [b], and 'views' or
    'image' as from `train_batches`) under 'image', and 'index', 'label' and 'mask' as from
    `eval_batches`.

  Raises:
    ValueError: an argument out of range.
  """
  order.check_processes(batch_size, process_index, process_count)
  geometry_of = examples.random_geometry(specs, seed)
  steps = range(-(-source.size // batch_size))

  def indices(step: int) -> np.ndarray:
    return order.eval_indices(source.size, batch_size, process_index, process_count, step)

  if source.encoded:
    sizes = tuple(spec.size for spec in specs)
    return FileBatches(
      steps,
      lambda step: (0, indices(step)),
      examples.Planner(source, geometry_of, replace=False),
      decode.make_decoder(sizes, source.image_shape),
      sizes=sizes,
      threads=threads or _cores(),
      finish=lambda batch: _masked(batch, {'views': batch['views']}),
    )

  def make(step: int) -> Batch:
    index = indices(step)
    images, label = source.read(np.maximum(index, 0))
    rest = {'index': index.astype(np.int32), 'label': np.where(index < 0, -1, label)}
    return _masked(rest, {'image': images})

  return ThreadBatches(steps, make)


def _masked(batch: Batch, pictures: dict[str, Any]) -> Batch:
  index = batch['index']
  rest = {'index': index, 'label': batch['label'].astype(np.int32), 'mask': index >= 0}
  return {'image': {**pictures, 'index': np.maximum(index, 0)}, **rest}


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
    images.append(batch['image'][batch['mask']])
    labels.append(batch['label'][batch['mask']])
  return arrays.from_arrays(
    np.concatenate(images),
    np.concatenate(labels) if source.num_classes else None,
    name=source.name,
    class_names=source.class_names,
    num_classes=source.num_classes,
  )


def _for_evaluation(batch: Batch) -> Batch:
  index, label, (image,) = batch['index'], batch['label'], batch['views']
  return {'image': image, 'index': index, 'label': label, 'mask': index >= 0}


def _cores() -> int:
  affinity = getattr(os, 'sched_getaffinity', None)
  return len(affinity(0)) if affinity else os.cpu_count() or 1


def _resampled(
  images: np.ndarray,
  index: np.ndarray,
  epoch: int,
  geometry_of: examples.GeometryOf,
  sizes: Sequence[int],
) -> tuple[list[np.ndarray], np.ndarray]:
  """Views float32 [b, S, S, 3] of images uint8 [b, H, W, 3], and their draws."""
  height, width = (np.full(len(index), side, np.int32) for side in images.shape[1:3])
  boxes, flips, numbers = geometry_of(index, height, width, epoch)
  made = [
    crop.resample(np, images, boxes[:, view], flips[:, view], size)
    for view, size in enumerate(sizes)
  ]
  return made, numbers


def _views_of_arrays(
  images: np.ndarray,
  index: np.ndarray,
  epoch: int,
  geometry_of: examples.GeometryOf,
  specs: Sequence[views.ViewSpec],
) -> tuple[np.ndarray, ...]:
  """Finished views uint8 [b, S, S, 3] of images uint8 [b, H, W, 3]."""
  made, numbers = _resampled(images, index, epoch, geometry_of, [spec.size for spec in specs])
  return tuple(
    _to_bytes(photometric.photometric(np, pixels, numbers[:, view], spec))
    for view, (pixels, spec) in enumerate(zip(made, specs, strict=True))
  )


def _to_bytes(pixels: np.ndarray) -> np.ndarray:
  return np.floor(pixels * np.float32(255) + np.float32(0.5)).astype(np.uint8)
