"""A contact sheet: each image beside the augmented views that training makes of it."""

from collections.abc import Sequence
import math
import os
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from byoljax.data.sources import pixels
from byoljax.report import fonts
from byoljax.workdir.files import replacing

_CELL = 96  # Least side of a picture on the sheet, in pixels.
_GAP = 6
_BETWEEN = 24  # two blocks of rows
_WIDTH = 1100  # Rows stand side by side as far as they are no wider together.
_HEADER = 22
_CAPTION = 16
_SWATCH, _LINE = 12, 20  # a legend's colors and lines
_PAPER, _INK = (255, 255, 255), (40, 40, 40)
Color = tuple[int, int, int]


def write(
  path: str | os.PathLike[str],
  originals: Sequence[np.ndarray],
  views: Sequence[Sequence[np.ndarray]],
  names: Sequence[str],
  *,
  first: str = 'image',
  captions: Sequence[Sequence[str]] = (),
  legend: Sequence[tuple[Color, str]] = (),
  cell: int = _CELL,
) -> None:
  """Draws one row an image: the original, then its views; narrow rows stand side by side.

  Args:
    path: the PNG to write.
    originals: n images, uint8 or float in [0, 1], [H, W, C]; sizes may differ.
    views: one sequence of n images for each view, float in [0, 1] or uint8, [S, S, C].
    names: a heading for each view.
    first: the heading of the originals.
    captions: what stands under the pictures, one sequence of n texts for each column, that of the
      originals first; () for nothing. What is too long loses its middle.
    legend: what colors mean, below everything.
    cell: least side of a picture, in pixels.

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
  cell = max([cell, *(image.shape[0] for view in views for image in view)])
  columns = [originals, *views]
  pitch = cell + _GAP + (_CAPTION if captions else 0)
  block = len(columns) * (cell + _GAP) + _GAP
  across = max(1, min(len(originals), (_WIDTH + _BETWEEN) // (block + _BETWEEN)))
  rows = -(-len(originals) // across)
  across = -(-len(originals) // rows)  # No empty block at the end.
  width = across * (block + _BETWEEN) - _BETWEEN
  font = fonts.sans(12)
  bottom = rows * pitch + _GAP + _HEADER
  entries = _arranged(legend, width, font)
  height = bottom + (entries[-1][0][1] + _LINE if entries else 0)
  sheet = Image.new('RGB', (width, height), _PAPER)
  pen = ImageDraw.Draw(sheet)
  for (x, y), color, text in entries:
    pen.rectangle((x, bottom + y, x + _SWATCH, bottom + y + _SWATCH), fill=color)
    pen.text((x + _SWATCH + 5, bottom + y - 1), text, fill=_INK, font=font)
  for column, (title, images) in enumerate(zip((first, *names), columns, strict=True)):
    for number, image in enumerate(images):
      side, row = divmod(number, rows)
      left = side * (block + _BETWEEN) + _GAP + column * (cell + _GAP)
      if row == 0:
        pen.text((left, 4), shortened(title, cell, font), fill=_INK, font=font)
      picture = _fit(pixels.shown(image), cell)
      # Pictures that are not square sit in the middle of their cell.
      x = left + (cell - picture.width) // 2
      y = _HEADER + row * pitch + (cell - picture.height) // 2
      sheet.paste(picture, (x, y))
      if captions:
        place = (left, _HEADER + row * pitch + cell)
        pen.text(place, shortened(captions[column][number], cell, font), fill=_INK, font=font)
  with replacing(path) as file:
    sheet.save(file, format='PNG')


def _arranged(
  legend: Sequence[tuple[Color, str]], width: int, font: Any
) -> list[tuple[tuple[int, int], Color, str]]:
  """Where each entry of a legend stands below the pictures, line by line."""
  made, x, y = [], _GAP, 4
  for color, text in legend:
    text = shortened(text, width - 3 * _GAP - _SWATCH, font)
    wide = _SWATCH + 5 + math.ceil(font.getlength(text))
    if x > _GAP and x + wide + _GAP > width:
      x, y = _GAP, y + _LINE
    made.append(((x, y), color, text))
    x += wide + 3 * _GAP
  return made


def write_grid(
  path: str | os.PathLike[str], images: Sequence[np.ndarray], *, cell: int = _CELL
) -> None:
  """Draws n images, uint8 [H, W, 3], side by side in a square, row by row.

  Args:
    path: the PNG to write.
    images: of one size.
    cell: least side of a picture, in pixels.
  """
  across = math.isqrt(len(images) - 1) + 1
  down = -(-len(images) // across)
  cell = max(cell, *images[0].shape[:2])
  pitch, gap = cell + _GAP // 3, _GAP // 3
  sheet = Image.new('RGB', (across * pitch + gap, down * pitch + gap), _PAPER)
  for number, image in enumerate(images):
    row, column = divmod(number, across)
    sheet.paste(_fit(pixels.shown(image), cell), (column * pitch + gap, row * pitch + gap))
  with replacing(path) as file:
    sheet.save(file, format='PNG')


def shortened(text: str, width: float, font: Any) -> str:
  """A text that is at most `width` pixels wide: its middle gives way to '…'."""
  text = fonts.composed(text)
  if font.getlength(text) <= width:
    return text
  keep = len(text) - 1
  while keep > 1 and font.getlength(f'{text[: -(-keep // 2)]}…{text[-(keep // 2) :]}') > width:
    keep -= 1
  return f'{text[: -(-keep // 2)]}…{text[-(keep // 2) :]}'


def _fit(image: np.ndarray, cell: int) -> Image.Image:
  """Scales to the cell; small images are enlarged without smoothing: pixels stay visible."""
  picture = Image.fromarray(image)
  scale = cell / max(picture.size)
  width, height = (max(1, round(side * scale)) for side in picture.size)
  method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
  return picture.resize((width, height), method)
