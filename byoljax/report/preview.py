"""What training really sees: the views of the first images, as the run itself makes them."""

import contextlib
import pathlib

import jax
import numpy as np

from byoljax.data.batches import pipeline
from byoljax.report import sheet
from byoljax.train import loop
from byoljax.train.assemble import Run, augmentation, view_names


def write_sheet(run: Run, path: pathlib.Path, count: int = 8) -> None:
  """Writes a contact sheet of `count` images of the first batch beside their augmented views."""
  originals, views = example_views(run, min(count, run.source.size))
  sheet.write(path, originals, views, names=_names(run))


def _names(run: Run) -> list[str]:
  """One name per view; repeated views are counted: view3 1, view3 2, ..."""
  names = []
  for name in view_names(run.config):
    repeat = run.config.views[name].get('repeat', 1)
    names += [name] if repeat == 1 else [f'{name} {i + 1}' for i in range(repeat)]
  return names


def example_views(run: Run, count: int) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
  """The first `count` images of the first batch, and what step 0 makes of them, for looking at.

  Returns:
    Original images, uint8, and for every view a list of float32 images in [0, 1].
  """
  with contextlib.closing(loop.batches(run, 0)) as source:
    batch = jax.tree.map(lambda x: x[:count], next(source))
  augment = augmentation(run.config, run.specs, mean=(0.0,) * 3, std=(1.0,) * 3)
  views = jax.jit(augment)(batch)['views']
  # A batch, or this process's part of it, may hold fewer than were asked for.
  clean = pipeline.eval_batches(
    run.source.subset(batch['index']),
    image_size=run.specs[0].size,
    batch_size=len(batch['index']),
  )
  with contextlib.closing(clean) as source:
    originals = next(source)['image']
  return list(originals), [list(np.asarray(view)) for view in views]
