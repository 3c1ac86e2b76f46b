"""What training really sees: the views of the first images, as the run itself makes them."""

from collections.abc import Sequence
import contextlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byoljax import streams
from byoljax.data.augment import device
from byoljax.data.batches import pipeline
from byoljax.method import transformed
from byoljax.methods import dropped_tokens
from byoljax.report import sheet
from byoljax.train import loop
from byoljax.train.run import Run
from byoljax.workdir import activity


def write_sheet(run: Run, path: pathlib.Path, names: Sequence[str] = (), count: int = 8) -> None:
  """Writes a contact sheet of `count` images of the first batch beside what the network sees.

  Where a run begins with smaller views, they stand before the others, with their size.

  Args:
    run: see `byoljax.train.run`.
    path: the picture.
    names: of the views; () numbers them.
    count: rows.
  """
  originals, shown, titles, captions = [], [], [], []
  for stage in run.stages:
    with activity.doing('previews of the views'):
      alone = run._replace(specs=stage.specs, earlier=())
      originals, views, labels = example_views(alone, min(count, run.source.size))
    numbered = [f'view{number + 1}' for number in range(len(views))]
    named = list(names) if len(names) == len(views) else numbered
    if run.earlier:
      named = [f'{name}, {view[0].shape[1]} px' for name, view in zip(named, views, strict=True)]
    if labels is not None:
      first, *rest = captions_of(labels, len(views))
      captions = [first, *captions[1:], *rest]
    shown, titles = shown + views, titles + named
  if run.method.show is not None:
    originals = list(run.method.show(np.stack(originals) / np.float32(255)))
    shown = [list(run.method.show(np.stack(view))) for view in shown]
  sheet.write(path, originals, shown, names=titles, captions=captions)


def captions_of(labels: np.ndarray, views: int) -> list[list[str]]:
  """The labels of a pretext task where they belong on a sheet: under the originals and each view.

  Args:
    labels: [k, n], of n images: one for each picture (k = views), or k for each image.
    views: how many pictures an image has.
  """
  if len(labels) == views:
    return [[''] * labels.shape[1], *([f'label {label}' for label in own] for own in labels)]
  texts = [f'label {", ".join(map(str, own))}' for own in labels.T]
  return [texts, *[[''] * len(texts)] * views]


def example_views(
  run: Run, count: int
) -> tuple[list[np.ndarray], list[list[np.ndarray]], np.ndarray | None]:
  """The first `count` different images of the first batch, and what step 0 makes of them.

  Returns:
    Original images, uint8; for every view a list of float32 images in [0, 1]; and the labels of a
    pretext task, [k, n] for n images, or None.
  """
  with contextlib.closing(loop.batches(run, 0)) as source:
    batch = next(source)
    places = [run.source.locate(int(i)) for i in batch['index']]
    rows = sorted({place: row for row, place in reversed(list(enumerate(places)))}.values())
    batch = jax.tree.map(lambda x: x[np.array(rows[:count])], batch)
  views, labels = _seen(run, batch)
  # A batch, or this process's part of it, may hold fewer than were asked for.
  clean = pipeline.eval_batches(
    run.source.subset(batch['index']),
    image_size=run.specs[0].size,
    batch_size=len(batch['index']),
  )
  with contextlib.closing(clean) as source:
    originals = next(source)['image']
  return list(originals), [list(view) for view in views], labels


def _seen(run: Run, batch: dict[str, Any]) -> tuple[list[np.ndarray], np.ndarray | None]:
  """The views of step 0 as the method's network sees them, after `Method.transform`, in [0, 1].

  With the labels that it made, if any, [k, n]. Views that a transform has stacked along the batch
  (the turns of an image, say) are taken apart.
  """
  augment = device.make_augment(run.specs, seed=run.seed, mean=run.data.mean, std=run.data.std)
  step = micro_batch = jnp.zeros((), jnp.int32)
  key = jax.random.fold_in(jax.random.key(run.seed), streams.STEPS)
  key = jax.random.fold_in(jax.random.fold_in(key, step), streams.TRANSFORM)
  key = jax.random.fold_in(key, micro_batch)

  def see(batch: dict[str, Any]) -> Any:
    seen = transformed(run.method, augment(batch, step), key, step)
    return seen['views'], seen.get('pretext_label')

  mean, std = (np.asarray(numbers, np.float32) for numbers in (run.data.mean, run.data.std))
  count, seen = len(batch['index']), []
  views, labels = jax.jit(see)(batch)
  for view in views:
    pixels = dropped_tokens.visible(np.asarray(view), run.source.channels) * std + mean
    seen += np.split(np.clip(pixels, 0.0, 1.0), max(1, len(pixels) // count))
  return seen, None if labels is None else np.asarray(labels).reshape(-1, count)
