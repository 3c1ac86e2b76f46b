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
from byoljax.report import sheet
from byoljax.train import loop
from byoljax.train.run import Run


def write_sheet(run: Run, path: pathlib.Path, names: Sequence[str] = (), count: int = 8) -> None:
  """Writes a contact sheet of `count` images of the first batch beside what the network sees.

  Args:
    run: see `byoljax.train.run`.
    path: the picture.
    names: of the views; () numbers them.
    count: rows.
  """
  originals, views = example_views(run, min(count, run.source.size))
  numbered = [f'view{number + 1}' for number in range(len(views))]
  names = names if len(names) == len(views) else numbered
  sheet.write(path, originals, views, names=list(names))


def example_views(run: Run, count: int) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
  """The first `count` images of the first batch, and what step 0 makes of them, for looking at.

  Returns:
    Original images, uint8, and for every view a list of float32 images in [0, 1].
  """
  with contextlib.closing(loop.batches(run, 0)) as source:
    batch = jax.tree.map(lambda x: x[:count], next(source))
  views = _seen(run, batch)
  # A batch, or this process's part of it, may hold fewer than were asked for.
  clean = pipeline.eval_batches(
    run.source.subset(batch['index']),
    image_size=run.specs[0].size,
    batch_size=len(batch['index']),
  )
  with contextlib.closing(clean) as source:
    originals = next(source)['image']
  return list(originals), [list(view) for view in views]


def _seen(run: Run, batch: dict[str, Any]) -> list[np.ndarray]:
  """The views of step 0 as the method's network sees them, after `Method.transform`, in [0, 1].

  Views that a transform has stacked along the batch (the turns of an image, say) are taken apart.
  """
  augment = device.make_augment(run.specs, seed=run.seed, mean=run.data.mean, std=run.data.std)
  step = micro_batch = jnp.zeros((), jnp.int32)
  key = jax.random.fold_in(jax.random.key(run.seed), streams.STEPS)
  key = jax.random.fold_in(jax.random.fold_in(key, step), streams.TRANSFORM)
  key = jax.random.fold_in(key, micro_batch)

  def see(batch: dict[str, Any]) -> Any:
    return transformed(run.method, augment(batch, step), key, step)['views']

  mean, std = (np.asarray(numbers, np.float32) for numbers in (run.data.mean, run.data.std))
  count, seen = len(batch['index']), []
  for view in jax.jit(see)(batch):
    pixels = np.asarray(view) * std + mean
    seen += np.split(np.clip(pixels, 0.0, 1.0), max(1, len(pixels) // count))
  return seen
