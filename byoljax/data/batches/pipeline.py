"""Batches for training and evaluation, from any source, from any step, on any number of processes.

    which = order.Order(source.size, batch_size=256, seed=0)
    batches = pipeline.train_batches(source, specs, order=which, seed=0, start_step=0,
                                     stop_step=1000)
    for batch in batches: ...
    batches.close()

What a batch of b examples holds, on its way through the program:

    name         from `train_batches`                     after `device.make_augment`
    index        int32 [b], number in the source          the same
    epoch        int32 [b], how often it was seen         the same
    label        int32 [b, ...], -1: none                 the same
    views        files: tuple of images [b, S, S, C]      tuple of float32 [b, S, S, C], normalized
    window       files: tuple, one array for each view    -
    drawn        -                                        tuple of float32 [b, 12], `augment.drawn`
    image        arrays: images [b, H, W, C], no views    -
    further      files: tuple, one array for each view    tuple, one array for each view
    fields       arrays: of whole images, [b, ...]
    kind label   [b, ...]                                 the same

A further field, such as 'depth' or 'boxes', is there under its own name where it is asked for
(`byoljax.data.fields` says what each kind becomes in a view). Batches for evaluation hold one clean
'image' [b, S, S, C], further fields without a tuple around them, and 'valid' bool [b]: False
for padding and for what cannot be read.

Images are uint8, or float32 in [0, 1] where the field says so. Sources of files give views: only
what is needed travels. Sources of arrays give whole images, and crops are made on the accelerator,
without TensorFlow. The pictures are the same: functions of (seed, epoch, example, view).

Batches are made ahead of the one that is asked for: from image files by a tf.data graph, with every
core; from arrays by one thread. What a batch holds depends on neither.
"""

from collections.abc import Callable, Sequence
import os
from typing import Any

import jax
import numpy as np

from byoljax.data.augment import crop, resize, views
from byoljax.data.batches import aligned, decode, examples
from byoljax.data.batches import order as order_lib
from byoljax.data.batches.ahead import Batch, Batches, ThreadBatches
from byoljax.data.batches.file_batches import At, FileBatches
from byoljax.data.sources.source import Source


def train_batches(
  source: Source,
  specs: Sequence[views.ViewSpec],
  *,
  order: order_lib.AnyOrder,
  seed: int,
  start_step: int,
  stop_step: int,
  fields: Sequence[str] = (),
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
    fields: names of further fields.
    threads: for decoding; 0 means one for every core that this process may use.

  Returns:
    Batches of b = order.local_size rows, see the module.

  Raises:
    ValueError: an argument out of range; or, while iterating, data that cannot be read at all.
  """
  source = source.opened()
  if not 0 <= start_step <= stop_step:
    raise ValueError(f'start_step {start_step} must lie in [0, stop_step], which is {stop_step}.')
  steps = range(start_step, stop_step)
  return _view_batches(source, specs, seed, steps, order.at, fields, threads, replace=True)


def view_batches(
  source: Source,
  specs: Sequence[views.ViewSpec],
  *,
  batch_size: int,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
  fields: Sequence[str] = (),
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
    fields: names of further fields.
    threads: for decoding; 0 means one for every core that this process may use.

  Returns:
    Batches of b = B / P rows as from `train_batches`, which `device.make_augment` takes, with
    'valid' bool [b]; where it is False, 'index' and 'label' are -1.

  Raises:
    ValueError: an argument out of range.
  """
  steps, at = _once(source.size, batch_size, process_index, process_count)

  def finish(batch: Batch) -> Batch:
    return {**batch, 'valid': batch['index'] >= 0}

  return _view_batches(source, specs, seed, steps, at, fields, threads, finish=finish)


def _view_batches(
  source: Source,
  specs: Sequence[views.ViewSpec],
  seed: int,
  steps: range,
  at: At,
  fields: Sequence[str],
  threads: int,
  *,
  replace: bool = False,
  finish: Callable[[Batch], Batch] = dict,
) -> Batches:
  """Batches to be augmented; indices of -1 are padding."""
  views.check(specs)
  wanted = aligned.for_views(source, specs, fields)
  if source.encoded:
    sizes = tuple(spec.size for spec in specs)
    geometry_of = examples.random_geometry(specs, seed)
    return FileBatches(
      steps,
      at,
      examples.Planner(source, geometry_of, replace=replace, wanted=wanted),
      decode.make_decoder(
        tuple((spec.size, spec.kernel) for spec in specs),
        source.image_shape,
        source.field('image'),
      ),
      source.field('image'),
      sizes=sizes,
      threads=threads or _cores(),
      wanted=wanted,
      finish=finish,
    )
  names = ('image', 'label', *dict.fromkeys(one.name for one in wanted))

  def make(step: int) -> Batch:
    epoch, index = at(step)
    values = dict(zip(names, source.read(np.maximum(index, 0), names), strict=True))
    values['label'][index < 0] = -1
    return finish({**values, 'index': index.astype(np.int32), 'epoch': epoch})

  return ThreadBatches(steps, make)


def batch_shapes(
  source: Source, specs: Sequence[views.ViewSpec], rows: int, fields: Sequence[str] = ()
) -> dict[str, Any]:
  """What a batch of `train_batches` with so many rows looks like; nothing is read.

  `jax.eval_shape(augment, shapes)` tells what the method is given.

  Args:
    source: the data, as `Source.opened` gives it: what was decoded into memory is arrays.
    specs: one per view.
    rows: of the batch.
    fields: names of further fields.

  Raises:
    ValueError: as `train_batches`.
  """
  views.check(specs)
  wanted = aligned.for_views(source, specs, fields)

  def shaped(shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, *shape), np.dtype(dtype))

  batch: dict[str, Any] = {name: shaped((), 'int32') for name in ('index', 'epoch')}
  batch['label'] = shaped(source.label_shape, 'int32')
  if source.encoded:
    image = source.field('image')
    made = [shaped(image.shape(spec.size, spec.size), image.dtype) for spec in specs]
    return (
      batch
      | {'views': tuple(made)}
      | aligned.packed(wanted, [shaped(one.shape, one.dtype) for one in wanted])
    )
  whole = [source.field('image'), *(one.field for one in wanted if one.field)]
  return batch | {field.name: shaped(source.shape_of(field.name), field.dtype) for field in whole}


def eval_batches(
  source: Source,
  *,
  image_size: int,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  fields: Sequence[str] = (),
  threads: int = 0,
  whole: bool = False,
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
    fields: names of further fields, which are cropped as the image is.
    threads: for decoding; 0 means one for every core that this process may use.
    whole: whether it is the whole image instead, stretched to S x S.

  Returns:
    Dicts of b = B / P rows: 'image' uint8 or float32 [b, S, S, C], 'index' int32 [b], 'label' int32
    [b, *source.label_shape] (-1: none), 'valid' bool [b]: False for padding and for examples that
    cannot be read, whose index is -1 and whose image is black; and the further fields.

  Raises:
    ValueError: an argument out of range.
  """
  if image_size < 1:
    raise ValueError(f'image_size is {image_size}, but an image needs at least one pixel.')
  steps, at = _once(source.size, batch_size, process_index, process_count)
  source = source.opened()
  geometry_of = examples.whole_geometry if whole else examples.center_geometry(image_size)
  wanted = tuple(
    aligned.Aligned(field, -1 if field.kind == 'label' else 0, image_size)
    for field in aligned.further(source, fields)
  )
  if source.encoded:
    return FileBatches(
      steps,
      at,
      examples.Planner(source, geometry_of, replace=False, wanted=wanted),
      decode.make_decoder(
        ((image_size, resize.DEFAULT),), source.image_shape, source.field('image')
      ),
      source.field('image'),
      sizes=(image_size,),
      threads=threads or _cores(),
      wanted=wanted,
      finish=_for_evaluation,
    )
  pixels = aligned.Aligned(source.field('image'), 0, image_size)
  names = ('image', *(one.name for one in wanted), 'label')

  def make(step: int) -> Batch:
    epoch, index = at(step)
    inside = index >= 0
    image, *further = (one.empty(len(index)) for one in (pixels, *wanted))
    label = np.full((len(index), *source.label_shape), -1, np.int32)
    if inside.any():
      *read, label[inside] = source.read(index[inside], names)
      sides = read[0].shape[1:3]
      height, width = (np.full(inside.sum(), side, np.int32) for side in sides)
      geometry = geometry_of(index[inside], epoch[inside], height, width)
      for one, out, values in zip((pixels, *wanted), (image, *further), read, strict=True):
        # An image that has the size already is whole in its crop.
        unchanged = one.kind == 'image' and sides == (image_size, image_size)
        out[inside] = values if unchanged else _cropped(one, values, geometry, height, width)
    batch = {'index': index.astype(np.int32), 'label': label, 'views': (image,)}
    return _for_evaluation(batch | aligned.packed(wanted, further))

  return ThreadBatches(steps, make)


def _cropped(
  one: aligned.Aligned,
  values: np.ndarray,
  geometry: examples.Geometry,
  height: np.ndarray,
  width: np.ndarray,
) -> np.ndarray:
  """A field of arrays as the one view of a geometry shows it."""
  if one.kind == 'label':
    return values
  assert one.field is not None, 'an evaluation has no windows'
  window = (geometry.boxes[:, 0], geometry.flips[:, 0], one.size)
  made = crop.crop_field(np, one.field, values, *window, height, width)
  return one.stored(made)


def _for_evaluation(batch: Batch) -> Batch:
  """With a single image in place of views, and each further field without a tuple around it."""
  made = {
    name: value[0] if isinstance(value, tuple) else value
    for name, value in batch.items()
    if name not in ('views', 'epoch')
  }
  return {'image': batch['views'][0], **made, 'valid': batch['index'] >= 0}


def _once(size: int, batch_size: int, process_index: int, process_count: int) -> tuple[range, At]:
  """The steps of one pass over N examples in order, and what each consists of."""
  order_lib.check_processes(batch_size, process_index, process_count)

  def at(step: int) -> tuple[np.ndarray, np.ndarray]:
    index = order_lib.eval_indices(size, batch_size, process_index, process_count, step)
    return np.zeros(len(index), np.int32), index

  return range(-(-size // batch_size)), at


def _cores() -> int:
  affinity = getattr(os, 'sched_getaffinity', None)
  return len(affinity(0)) if affinity else os.cpu_count() or 1
