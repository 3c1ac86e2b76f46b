"""Boxes drawn into images: what is found beside the truth; and as a table."""

from collections.abc import Mapping, Sequence
import csv
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from byoljax.data.sources import pixels
from byoljax.report import fonts, sheet
from byoljax.workdir.files import replacing

_SIDE = 160  # Least side of an image with boxes, in pixels.
_MOST_SIDE = 480
_COLORS = (
  (230, 60, 50), (60, 140, 235), (70, 180, 70), (240, 160, 30), (160, 90, 210),
  (20, 180, 180), (235, 90, 170), (140, 110, 60), (110, 110, 120), (190, 200, 40),
)  # fmt: skip
COLUMNS = ('file', 'class', 'score', 'x_min', 'y_min', 'x_max', 'y_max')


class Box(NamedTuple):
  """A box in an image.

  Attributes:
    corners: (y_min, x_min, y_max, x_max), fractions of height and width.
    kind: number of its class.
    score: None of the truth.
  """

  corners: tuple[float, float, float, float]
  kind: int
  score: float | None = None


def boxes_of(rows: np.ndarray, least: float = 0.0) -> list[Box]:
  """The boxes of rows [n, 5] or [n, 6], see `ops.proposals.detections`; those of a class."""
  made = []
  for row in np.asarray(rows):
    top, left, bottom, right, kind, *rest = (float(value) for value in row)
    score = rest[0] if rest else None
    if kind >= 0 and (score is None or score >= least):
      made.append(Box((top, left, bottom, right), int(kind), score))
  return made


def drawn(image: np.ndarray, boxes: Sequence[Box], classes: Sequence[str]) -> np.ndarray:
  """An image, uint8 or float in [0, 1], enlarged or reduced, with boxes and their classes."""
  picture = Image.fromarray(np.ascontiguousarray(pixels.shown(image)))
  scale = max(1.0, _SIDE / max(picture.size)) * min(1.0, _MOST_SIDE / max(picture.size))
  width, height = picture.size
  size = max(1, round(width * scale)), max(1, round(height * scale))
  method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
  picture = picture.resize(size, method)
  pen, font = ImageDraw.Draw(picture), fonts.sans(11)
  for box in reversed(boxes):  # The best on top.
    color = _COLORS[box.kind % len(_COLORS)]
    y, x, bottom, right = box.corners
    x, y, right, bottom = x * size[0], y * size[1], right * size[0] - 1, bottom * size[1] - 1
    # What is narrower than a pixel is one pixel wide.
    pen.rectangle((x, y, max(x, right), max(y, bottom)), outline=color, width=2)
    text = classes[box.kind] + ('' if box.score is None else f' {box.score:.0%}')
    wide = font.getlength(text)
    left = min(max(0.0, x), max(0.0, size[0] - wide - 4))
    top = y - 14 if y >= 14 else y
    pen.rectangle((left, top, left + wide + 3, top + 13), fill=color)
    pen.text((left + 2, top), text, fill=(255, 255, 255), font=font)
  return np.asarray(picture)


def write_sheet(
  path: str | os.PathLike[str],
  images: Sequence[np.ndarray],
  columns: Mapping[str, Sequence[Sequence[Box]]],
  classes: Sequence[str],
  *,
  captions: Sequence[str] = (),
) -> None:
  """Draws a row for each image: itself with the boxes of each column.

  Args:
    path: the PNG to write.
    images: uint8 or float in [0, 1], [H, W, C].
    columns: heading -> boxes of every image.
    classes: names.
    captions: what stands under the first column's pictures; () for nothing.
  """
  views = [
    [drawn(image, boxes, classes) for image, boxes in zip(images, column, strict=True)]
    for column in columns.values()
  ]
  first, *names = columns
  empty = [[''] * len(images)] * len(names)
  texts = [list(captions), *empty] if captions else ()
  sheet.write(path, views[0], views[1:], names, first=first, captions=texts, cell=_SIDE)


def write_table(
  path: str | os.PathLike[str],
  found: Sequence[tuple[str, tuple[int, int], Sequence[Box]]],
  classes: Sequence[str],
) -> None:
  """Writes boxes in pixels: CSV with a row for each, or JSON with an entry for each image.

  Args:
    path: ends in .json for JSON.
    found: (file, (H, W), boxes) of each image.
    classes: names.
  """
  entries = [
    {
      'file': file,
      'height': size[0],
      'width': size[1],
      'boxes': [_entry(box, size, classes) for box in own],
    }
    for file, size, own in found
  ]
  with replacing(path, 'w') as opened:
    if pathlib.PurePath(path).suffix == '.json':
      json.dump(entries, opened, indent=1)
      return
    writer = csv.DictWriter(opened, COLUMNS, lineterminator='\n')
    writer.writeheader()
    for entry in entries:
      for box in entry['boxes']:
        writer.writerow({'file': entry['file'], **box})


def _entry(box: Box, size: tuple[int, int], classes: Sequence[str]) -> dict[str, Any]:
  y, x, bottom, right = box.corners
  height, width = size
  return {
    'class': classes[box.kind],
    'score': None if box.score is None else round(box.score, 4),
    'x_min': round(x * width, 2),
    'y_min': round(y * height, 2),
    'x_max': round(right * width, 2),
    'y_max': round(bottom * height, 2),
  }
