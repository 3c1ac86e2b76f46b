"""Images to read and augment: drawn here, or taken from a folder of JPEGs."""

import os
import pathlib

import numpy as np
from PIL import Image

_SIDES = (160, 260)  # of drawn JPEGs, as in Imagenette's 160-pixel version
_SUFFIXES = ('.jpg', '.jpeg')


def draw(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """A smooth random pattern with some grain, uint8 [height, width, 3]."""
  coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
  smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
  grain = rng.normal(0, 12, (height, width, 3))
  return np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)


def folder(directory: pathlib.Path, count: int, data: pathlib.Path | None) -> str:
  """Fills a folder with `count` JPEGs and reads them once, so that all find them in the page cache.

  Args:
    directory: made if it is missing; an existing one is taken as it is.
    count: how many.
    data: where to take them from, evenly over its sorted files, by links; None draws them.

  Returns:
    A sentence about the images.

  Raises:
    ValueError: there are no JPEGs in `data`.
  """
  directory.mkdir(parents=True, exist_ok=True)
  if data is None:
    rng = np.random.default_rng(0)
    for i in range(count):
      height, width = rng.integers(*_SIDES, 2)
      Image.fromarray(draw(rng, height, width)).save(directory / f'{i:05d}.jpg', quality=90)
    what = 'drawn'
  else:
    found = sorted(p for p in data.rglob('*') if p.suffix.lower() in _SUFFIXES)
    if not found:
      raise ValueError(f'there are no JPEGs below {data}: name a folder that has some.')
    for i in range(count):
      chosen = found[i * len(found) // count]
      os.symlink(chosen.resolve(), directory / f'{i:05d}.jpg')
    what = f'of {data.name}'
  files = sorted(directory.iterdir())
  size = sum(len(path.read_bytes()) for path in files) / len(files)
  with Image.open(files[0]) as image:
    sides = 'x'.join(map(str, image.size))
  return f'{len(files)} JPEGs {what}, {size / 1000:.1f} kB on average, the first {sides}'


def arrays(path: pathlib.Path, count: int, side: int = 32) -> str:
  """Writes `x_train`, uint8 [count, side, side, 3], to an uncompressed .npz; returns a sentence."""
  rng = np.random.default_rng(0)
  np.savez(path, x_train=np.stack([draw(rng, side, side) for _ in range(count)]))
  return f'{count} drawn arrays of {side}x{side}'
