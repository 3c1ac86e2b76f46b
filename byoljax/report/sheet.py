"""A contact sheet: each image beside the augmented views that training makes of it."""

from collections.abc import Sequence
import os

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from byoljax.workdir.files import replacing

_CELL = 96  # Least side of a picture on the sheet, in pixels.
_GAP = 6
_HEADER = 22
_CAPTION = 16
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


def write(
  path: str | os.PathLike[str],
  originals: Sequence[np.ndarray],
  views: Sequence[Sequence[np.ndarray]],
  names: Sequence[str],
  *,
  first: str = 'image',
  captions: Sequence[Sequence[str]] = (),
) -> None:
  """Draws one row an image: the original, then its views.

  Args:
    path: the PNG to write.
    originals: n images, uint8 [H, W, 3]; sizes may differ.
    views: one sequence of n images for each view, float in [0, 1] or uint8, [S, S, 3].
    names: a heading for each view.
    first: the heading of the originals.
    captions: what stands under the pictures, one sequence of n texts for each column, that of the
      originals first; () for nothing.

  Raises:
    ValueError: the lengths do not fit together.
  """
  if len(names) != len(views) or any(len(view) != len(originals) for view in views):
    raise ValueError(
      f'{len(originals)} originals, {len(names)} names and views of '
      f'{[len(view) for view in views]} images do not make a sheet.'
    )
  if captions and [len(texts) for texts in captions] != [len(originals)] * (len(views) + 1):
    raise ValueError(f'{[len(texts) for texts in captions]} captions do not fit the sheet.')
  cell = max(_CELL, *(image.shape[0] for view in views for image in view))
  columns = [originals, *views]
  pitch = cell + _GAP + (_CAPTION if captions else 0)
  width = len(columns) * (cell + _GAP) + _GAP
  height = len(originals) * pitch + _GAP + _HEADER
  sheet = Image.new('RGB', (width, height), _PAPER)
  pen = ImageDraw.Draw(sheet)
  font = ImageFont.load_default(size=13)
  for column, (title, images) in enumerate(zip((first, *names), columns, strict=True)):
    left = _GAP + column * (cell + _GAP)
    pen.text((left, 4), title, fill=_INK, font=font)
    for row, image in enumerate(images):
      picture = _fit(_to_uint8(image), cell)
      # Pictures that are not square sit in the middle of their cell.
      x = left + (cell - picture.width) // 2
      y = _HEADER + row * pitch + (cell - picture.height) // 2
      sheet.paste(picture, (x, y))
      if captions:
        place = (left, _HEADER + row * pitch + cell)
        pen.text(place, captions[column][row], fill=_INK, font=font)
  with replacing(path) as file:
    sheet.save(file, format='PNG')


def _to_uint8(image: np.ndarray) -> np.ndarray:
  if image.dtype == np.uint8:
    return image
  return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def _fit(image: np.ndarray, cell: int) -> Image.Image:
  """Scales to the cell; small images are enlarged without smoothing: pixels stay visible."""
  picture = Image.fromarray(image)
  scale = cell / max(picture.size)
  width, height = (max(1, round(side * scale)) for side in picture.size)
  method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
  return picture.resize((width, height), method)
