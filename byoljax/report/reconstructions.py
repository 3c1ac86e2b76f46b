"""Reconstructed images over training: a column for each checkpoint that was kept, and the quality.

Of held-out images, always the same ones with the same noise or mask: what a column shows differs
from the one before it by training alone.
"""

from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from byoljax import streams
from byoljax.data.sources.source import Source
from byoljax.encoders.pictures import Painter, Shown
from byoljax.evals import image_quality
from byoljax.report import sheet
from byoljax.wording import counted

IMAGE, INPUT, OUTPUT, TARGET = 'image', 'input', 'output', 'target'
_MEASURED, _SHOWN = 64, 8  # images


class Strips(NamedTuple):
  """What the report shows.

  Attributes:
    path: of the sheet; None where there is but a table.
    rows: of a table: the quality at every checkpoint.
    note: what was measured.
  """

  path: pathlib.Path | None
  rows: list[dict[str, str]]
  note: str


def write(painter: Painter, source: Source, path: pathlib.Path) -> Strips:
  """Draws what a run's method makes of images at each of its checkpoints.

  Args:
    painter: of the run.
    source: held-out images, with the fields that the method asks for.
    path: the PNG to write; its folder is made.
  """
  order = np.random.default_rng((0, streams.REPORT_SAMPLE, 2)).permutation(source.size)
  chosen = source.subset(order[:_MEASURED])
  batch = painter.batch(chosen)
  made = {step: painter.paint(step, batch, chosen) for step in painter.steps()}
  path.parent.mkdir(parents=True, exist_ok=True)
  few = slice(0, _SHOWN)
  shown = {s: {name: x[few] for name, x in found.items()} for s, found in made.items()}
  draw(path, shown, look=painter.as_pictures)
  count = len(next(iter(made.values()))[IMAGE])
  return Strips(path, _rows(made), _note(source, min(count, _SHOWN), count))


def draw(
  path: str | pathlib.Path,
  made: Mapping[int, Shown],
  *,
  names: Sequence[str] = (),
  cell: int = 96,
  look: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> None:
  """One row an image: what is the same at all steps, then the rest of each step.

  Args:
    path: the PNG to write.
    made: pictures by step, of the same images with the same key.
    names: of the images; () for none.
    cell: least side of a picture, in pixels.
    look: images -> what they look like, `Painter.as_pictures`.
  """
  first, *others = made.values()
  fixed = [name for name in first if name != OUTPUT]
  fixed = [name for name in fixed if all(np.array_equal(first[name], o[name]) for o in others)]
  columns = [(name, first, name) for name in fixed if name != IMAGE]
  moving = [name for name in first if name not in fixed]
  for step, shown in made.items():
    for name in moving:
      title = f'step {step:,}' if moving == [OUTPUT] and len(made) > 1 else name
      if len(moving) > 1 and len(made) > 1:
        title = f'{name}, {step:,}'
      columns.append((name, shown, title))
  captions = [list(names) or [''] * len(first[IMAGE])]
  captions += [captions_of(shown, name) for name, shown, _ in columns]
  sheet.write(
    path,
    [as_bytes(image) for image in look(first[IMAGE])],
    [[as_bytes(image) for image in look(shown[name])] for name, shown, _ in columns],
    [title for *_, title in columns],
    captions=captions,
    cell=cell,
  )


def captions_of(shown: Shown, name: str) -> list[str]:
  """'23.1 dB  0.81' under each picture that is compared with another, '' under the others."""
  found = quality(shown).get(name)
  if found is None:
    return [''] * len(shown[name])
  return [f'{p:.1f} dB  {s:.2f}' for p, s in zip(found['psnr'], found['ssim'], strict=True)]


def quality(shown: Shown) -> dict[str, dict[str, np.ndarray]]:
  """{'input': {'psnr': [b], 'ssim': [b]}, 'output': ...}, against the target, or the image.

  What has other sides or channels than that, such as a mask or a gray input, is left out.
  """
  truth = jnp.asarray(shown.get(TARGET, shown[IMAGE]))
  measures = {'psnr': image_quality.psnr, 'ssim': image_quality.ssim}
  return {
    name: {kind: np.asarray(m(jnp.asarray(shown[name]), truth)) for kind, m in measures.items()}
    for name in (INPUT, OUTPUT)
    if name in shown and shown[name].shape == truth.shape
  }


def as_bytes(image: np.ndarray) -> np.ndarray:
  """A picture [H, W, 1 or 3] in [0, 1] as uint8 [H, W, 3]."""
  rounded = np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
  return np.broadcast_to(rounded, (*rounded.shape[:2], 3))


def _rows(made: Mapping[int, Shown]) -> list[dict[str, str]]:
  rows = []
  for step, shown in made.items():
    row = {'step': f'{step:,}'}
    for name, found in quality(shown).items():
      row[f'PSNR of the {name}'] = f'{found["psnr"].mean():.2f} dB'
      row[f'SSIM of the {name}'] = f'{found["ssim"].mean():.3f}'
    rows.append(row)
  return rows if len(rows[0]) > 1 else []


def _note(source: Source, shown: int, count: int) -> str:
  return (
    f'{counted(shown, "image")} of {source.name} that training did not see, as far as there are '
    'any, with the same noise or mask at every step. Under a picture its PSNR in dB and its SSIM; '
    f'the table has the means over {counted(count, "image")}.'
  )
