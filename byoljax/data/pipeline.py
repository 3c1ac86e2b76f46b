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
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent import futures
import os
from typing import Any

import numpy as np

from byoljax.data import arrays, crop, decode_graph, image_file, photometric, plans, views
from byoljax.data import source as source_lib

_AHEAD = 2
Batch = dict[str, Any]


def train_batches(
  source: source_lib.Source,
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
) -> Generator[Batch, None, None]:
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
    threads: for decoding; 0 means every core that this process may use.

  Returns:
    A generator of dicts of b = B / P rows: 'index' int32 [b], 'label' int32 [b] (-1: none), and
    'views', a tuple of uint8 [b, S, S, 3]; or, for a source of arrays with the photometric part on
    the accelerator, 'image' uint8 [b, H, W, 3]. `close()` ends its threads early.

  Raises:
    ValueError: an argument out of range; or, while iterating, data that cannot be read at all.
  """
  order = plans.Order(source.size, batch_size, seed, process_index, process_count)
  if photometric_on not in ('accelerator', 'host'):
    raise ValueError(
      f"photometric_on is {photometric_on!r}, but it must be 'accelerator' or 'host'."
    )
  if not 0 <= start_step <= stop_step:
    raise ValueError(f'start_step {start_step} must lie in [0, stop_step], which is {stop_step}.')
  if not specs:
    raise ValueError('there is no view: give at least one ViewSpec.')
  host_specs = tuple(specs) if photometric_on == 'host' else ()
  geometry = plans.random_geometry(specs, seed, keep_draws=bool(host_specs))
  steps = range(start_step, stop_step)
  if not source.encoded:
    make = _array_batch(source, order, geometry if host_specs else None, host_specs)
    return _ahead(make, steps)
  plan = plans.train_plan(source, order, geometry)
  sizes = tuple(spec.size for spec in specs)
  decoded = _decoded(source, plan, steps, sizes, host_specs, threads)

  def repair(made: plans.Plan, row: int, step: int) -> tuple[int, int, list[np.ndarray]]:
    epoch = order.at(step)[0]
    index, label, image = _readable(source, int(made.index[row]), int(made.label[row]))
    return index, label, _views_of(image, index, epoch, geometry, sizes, host_specs)

  return _train(decoded, plan, steps, sizes, repair)


def eval_batches(
  source: source_lib.Source,
  *,
  image_size: int,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  threads: int = 0,
) -> Generator[Batch, None, None]:
  """Every example once, in order, over all processes; each process gets ceil(N / B) batches.

  The picture is the centre crop that "shorter side to S / 0.875, then S x S" shows; an S x S image
  is unchanged.

  Args:
    source: the data.
    image_size: side S of the images in pixels.
    batch_size: global batch B, a multiple of process_count; the last batch is padded.
    process_index: this process.
    process_count: number of processes P.
    threads: for decoding; 0 means every core that this process may use.

  Returns:
    A generator of dicts of b = B / P rows: 'image' uint8 [b, S, S, 3], 'index' int32 [b], 'label'
    int32 [b] (-1: none) and 'mask' bool [b]: False for padding and for examples that cannot be
    read, whose index is -1 and whose image is black.

  Raises:
    ValueError: an argument out of range.
  """
  plans.check_processes(batch_size, process_index, process_count)
  if image_size < 1:
    raise ValueError(f'image_size is {image_size}, but an image needs at least one pixel.')
  geometry = plans.centre_geometry(image_size)
  share = (batch_size, process_index, process_count)
  steps = range(-(-source.size // batch_size))
  if not source.encoded:
    return _ahead(_array_eval_batch(source, geometry, image_size, share), steps)
  plan = plans.eval_plan(source, geometry, *share)
  decoded = _decoded(source, plan, steps, (image_size,), (), threads)
  return _evaluate(source, decoded, plan, steps, geometry, image_size)


def in_memory(source: source_lib.Source, *, image_size: int, threads: int = 0) -> source_lib.Source:
  """Decodes a whole data set into arrays: for sets that fit, which then need no TensorFlow again.

  Args:
    source: the data; examples that cannot be read are left out.
    image_size: side S of the images in pixels, as for `eval_batches`.
    threads: for decoding; 0 means every core that this process may use.

  Returns:
    A source of uint8 [S, S, 3] images in memory.
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


def _decoded(source, plan, steps, sizes, host_specs, threads):
  return decode_graph.batches(
    plan,
    steps,
    sizes,
    image_shape=source.image_shape,
    host_specs=host_specs,
    threads=threads or _cores(),
  )


def _cores() -> int:
  affinity = getattr(os, 'sched_getaffinity', None)
  return len(affinity(0)) if affinity else os.cpu_count() or 1


def _ahead(make: Callable[[int], Batch], steps: range) -> Generator[Batch, None, None]:
  """make(step) for every step in order, computed two batches ahead by one thread."""
  pool = futures.ThreadPoolExecutor(1, thread_name_prefix='batches')
  waiting: deque[futures.Future[Batch]] = deque()
  try:
    for step in steps:
      waiting.append(pool.submit(make, step))
      if len(waiting) > _AHEAD:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


def _array_batch(
  source: source_lib.Source,
  order: plans.Order,
  geometry: plans.Geometry | None,
  host_specs: Sequence[views.ViewSpec],
) -> Callable[[int], Batch]:
  """Training batches of a source of arrays; finished views where there is a geometry."""

  def make(step: int) -> Batch:
    epoch, index = order.at(step)
    images, labels = source.read(index)
    batch = {'index': index.astype(np.int32), 'label': labels}
    if geometry is None:
      return {'image': images, **batch}
    sizes = [spec.size for spec in host_specs]
    made = _numpy_views(images, index, epoch, geometry, sizes, host_specs)
    return {'views': tuple(made), **batch}

  return make


def _array_eval_batch(
  source: source_lib.Source, geometry: plans.Geometry, image_size: int, share: tuple[int, int, int]
) -> Callable[[int], Batch]:
  def make(step: int) -> Batch:
    index = plans.eval_indices(source.size, *share, step)
    mask = index >= 0
    images = np.zeros((len(index), image_size, image_size, 3), np.uint8)
    labels = np.full(len(index), -1, np.int32)
    if mask.any():
      content, labels[mask] = source.read(index[mask])
      if content.shape[1:3] != (image_size, image_size):
        (content,) = _numpy_views(content, index[mask], 0, geometry, [image_size], ())
      images[mask] = content
    return {'image': images, 'index': index.astype(np.int32), 'label': labels, 'mask': mask}

  return make


def _numpy_views(
  images: np.ndarray,
  index: np.ndarray,
  epoch: int,
  geometry: plans.Geometry,
  sizes: Sequence[int],
  host_specs: Sequence[views.ViewSpec],
) -> list[np.ndarray]:
  """Views uint8 [b, S, S, 3] of images that are decoded already, uint8 [b, H, W, 3]."""
  sides = [np.full(len(index), side, np.int32) for side in images.shape[1:3]]
  boxes, flips, numbers = geometry(index, *sides, epoch)
  made = []
  for view, size in enumerate(sizes):
    pixels = crop.resample(np, images, boxes[:, view], flips[:, view], size)
    if host_specs:
      pixels = photometric.photometric(np, pixels, numbers[:, view], host_specs[view])
    made.append(np.floor(pixels * np.float32(255) + np.float32(0.5)).astype(np.uint8))
  return made


def _views_of(
  image: np.ndarray,
  index: int,
  epoch: int,
  geometry: plans.Geometry,
  sizes: Sequence[int],
  host_specs: Sequence[views.ViewSpec],
) -> list[np.ndarray]:
  """Views uint8 [S, S, 3] of one image."""
  made = _numpy_views(image[None], np.array([index]), epoch, geometry, sizes, host_specs)
  return [view[0] for view in made]


def _readable(source: source_lib.Source, index: int, label: int) -> tuple[int, int, np.ndarray]:
  """An example that failed to decode, by Pillow, or else the next that Pillow can decode."""
  try:
    return index, label, image_file.decode(source.read(np.array([index]))[0][0])
  except image_file.UnreadableImageError as error:
    plans.note(source, index, error)
  index, label, _, image = plans.next_readable(source, index, image_file.decode)
  return index, label, image


def _train(
  decoded: Iterator[Any],
  plan: Callable[[int], plans.Plan],
  steps: range,
  sizes: Sequence[int],
  repair: Callable[[plans.Plan, int, int], tuple[int, int, list[np.ndarray]]],
) -> Generator[Batch, None, None]:
  """The decoded batches, with the rows that failed in them made good."""
  for step, made in _each_step(decoded, steps):
    if made is not None and len(made.row) == len(made.index):
      yield {'views': made.views, 'index': made.index, 'label': made.label}
      continue
    whole = plan(step)
    index, label = whole.index.copy(), whole.label.copy()
    pixels = [np.zeros((len(index), size, size, 3), np.uint8) for size in sizes]
    there = np.zeros(0, np.int32) if made is None else made.row
    if made is not None:
      for out, view in zip(pixels, made.views, strict=True):
        out[there] = view
    for row in np.setdiff1d(np.arange(len(index)), there):
      index[row], label[row], repaired = repair(whole, int(row), step)
      for out, view in zip(pixels, repaired, strict=True):
        out[row] = view
    yield {'views': tuple(pixels), 'index': index, 'label': label}


def _evaluate(
  source: source_lib.Source,
  decoded: Iterator[Any],
  plan: Callable[[int], plans.Plan],
  steps: range,
  geometry: plans.Geometry,
  size: int,
) -> Generator[Batch, None, None]:
  """The decoded batches, padded; rows that failed get Pillow's picture, or none."""
  for step, made in _each_step(decoded, steps):
    whole = plan(step) if made is None else made
    index, label = whole.index.copy(), whole.label.copy()
    image = np.zeros((len(index), size, size, 3), np.uint8)
    there = np.zeros(0, np.int32) if made is None else made.row
    if made is not None:
      image[whole.position[there]] = made.views[0]
    for row in np.setdiff1d(np.arange(len(whole.position)), there):
      place = int(whole.position[row])
      number = int(index[place])
      try:
        pixels = image_file.decode(source.read(np.array([number]))[0][0])
        image[place] = _views_of(pixels, number, 0, geometry, (size,), ())[0]
      except image_file.UnreadableImageError as error:
        plans.note(source, number, error)
        index[place], label[place] = -1, -1
    yield {'image': image, 'index': index, 'label': label, 'mask': index >= 0}


def _each_step(decoded: Iterator[Any], steps: range) -> Iterator[tuple[int, Any]]:
  """(step, batch) for every step; None for a batch of which nothing could be decoded."""
  following = next(decoded, None)
  for step in steps:
    if following is not None and following.step == step:
      yield step, following
      following = next(decoded, None)
    else:
      yield step, None
