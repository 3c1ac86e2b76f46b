"""What a detector finds in new images, as a table and as a sheet."""

from collections.abc import Mapping
import os
import pathlib

import numpy as np

from byoljax.data.sources.source import Source
from byoljax.encoders.detector import DetectorModel
from byoljax.protocols import found_boxes
from byoljax.report import boxes, predictions


def write(
  model: DetectorModel,
  source: Source,
  found: Mapping[int, np.ndarray],
  out: str | os.PathLike[str],
  root: str,
  sheet: str = '',
  *,
  least: float = 0.0,
  shown: int = 24,
  shown_least: float = 0.5,
) -> int:
  """Writes the table of what was found and, where one is named, a sheet; returns how many boxes.

  Args:
    model: that found it.
    source: the images.
    found: see `protocols.found_boxes.find`.
    out: the table, see `report.boxes.write_table`.
    root: folder that file names are told from.
    sheet: the PNG with the first images, or ''.
    least: the least score of what is written.
    shown: images of the sheet.
    shown_least: the least score of what is drawn on it.
  """
  rows = np.array(sorted(found))
  of_row = {row: boxes.boxes_of(found[row], least) for row in found}
  size = found_boxes.sizes(source, rows)
  entries = [
    (predictions.short(source.locate(int(row)), root), size[int(row)], of_row[int(row)])
    for row in rows
  ]
  boxes.write_table(out, entries, model.classes)
  if sheet and len(rows):
    images = found_boxes.pictures(source, rows[:shown])
    order = sorted(images)
    least = max(least, shown_least)
    columns = {f'found (from {least:.0%} on)': [boxes.boxes_of(found[row], least) for row in order]}
    names = [predictions.short(source.locate(row), root) for row in order]
    boxes.write_sheet(
      pathlib.Path(sheet), [images[row] for row in order], columns, model.classes, captions=names
    )
  return sum(map(len, of_row.values()))
