"""New images over training: a column for each checkpoint that was kept, from the same draws."""

import pathlib

import numpy as np

from byoljax.encoders.samples import Sampler
from byoljax.ops.sampling import Sampling
from byoljax.report import sheet
from byoljax.report.reconstructions import Strips, as_bytes

_COUNT = 16  # images of each checkpoint


def write(sampler: Sampler, path: pathlib.Path) -> Strips:
  """Draws what a run's method draws at each of its checkpoints.

  Args:
    sampler: of the run.
    path: the PNG to write; its folder is made.
  """
  made = {step: sampler.draw(step, Sampling(_COUNT)) for step in sampler.steps()}
  path.parent.mkdir(parents=True, exist_ok=True)
  first, *others = (
    [as_bytes(image) for image in sampler.as_pictures(images)] for images in made.values()
  )
  title, *titles = (f'step {step:,}' for step in made)
  sheet.write(path, first, others, titles, first=title)
  note = (
    f'{_COUNT} images drawn at each checkpoint with the same random numbers, at temperature 1 and '
    'from all values: byoljax sample draws others.'
  )
  return Strips(path, [], note)


def grid(path: str | pathlib.Path, images: np.ndarray, cell: int = 64) -> None:
  """Draws images [n, H, W, 1 or 3] in [0, 1] as a square of pictures, row by row."""
  sheet.write_grid(path, [as_bytes(image) for image in images], cell=cell)
