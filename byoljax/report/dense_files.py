"""Masks and depth maps of new images as files, one for each, and a sheet to look at."""

from collections import Counter
import os
import pathlib

import numpy as np
from PIL import Image

from byoljax.config import ConfigError, expanded
from byoljax.data.batches import whole
from byoljax.data.sources.source import Source
from byoljax.encoders.dense import DEPTH, DenseModel
from byoljax.protocols import dense_evaluation
from byoljax.report import dense
from byoljax.workdir.files import replacing, write_json

SHEET, CLASSES = 'sheet.png', 'classes.json'
_SHOWN = 24  # images of the sheet


def write(
  model: DenseModel, source: Source, out: pathlib.Path, root: str, sheet: str, batch_size: int
) -> int:
  """Writes what a model says of every image that can be read.

  Masks are PNGs whose palette's numbers are the classes, named in 'classes.json'; depths are `.npy`
  files, float32 in the unit of training, with a picture of each beside them.

  Args:
    model: see `DenseModel`.
    source: images of any sizes.
    out: the folder; made where it is missing.
    root: files are named by their image's path below this folder.
    sheet: of some images, a PNG; '' for 'sheet.png' in the folder.
    batch_size: images at a time; changes nothing.

  Returns:
    How many images there are.

  Raises:
    ConfigError: the folder is that of the images.
    ValueError: no image can be read.
  """
  if out.resolve().is_relative_to(pathlib.Path(root).resolve()) and pathlib.Path(root).is_dir():
    raise ConfigError(f'{out} lies among the images: they would count as such the next time.')
  out.mkdir(parents=True, exist_ok=True)
  names = file_names(source, root)
  shown: dict[int, np.ndarray] = {}
  count = 0
  for row, numbers in dense_evaluation.predictions(
    model.design, model.params, model.bn, source, batch_size
  ):
    path = out / names[row]
    path.parent.mkdir(parents=True, exist_ok=True)
    if model.kind == DEPTH:
      dense.write_depth(f'{path}.npy', numbers)
      picture = Image.fromarray(dense.colored_depth(numbers, *dense.range_of([numbers])))
      with replacing(f'{path}.png') as file:
        picture.save(file, format='PNG')
    else:
      dense.write_masks(f'{path}.png', numbers)
    if len(shown) < _SHOWN:
      shown[row] = numbers
    count += 1
  if model.classes:
    write_json(out / CLASSES, {'classes': list(model.classes)})
  _sheet(expanded(sheet) if sheet else out / SHEET, model, source, shown, names)
  return count


def file_names(source: Source, root: str) -> list[str]:
  """The path of every image below a folder without its suffix.

  With it where two would be equal, or one would be the sheet's.
  """
  where = [source.locate(row) for row in range(source.size)]
  paths = [
    os.path.relpath(path, root) if path.startswith(root + os.sep) else os.path.basename(path)
    for path in where
  ]
  stems = [os.path.splitext(path)[0] for path in paths]
  found = Counter([*stems, os.path.splitext(SHEET)[0]])
  return [path if found[stem] > 1 else stem for path, stem in zip(paths, stems, strict=True)]


def _sheet(
  path: pathlib.Path,
  model: DenseModel,
  source: Source,
  shown: dict[int, np.ndarray],
  names: list[str],
) -> None:
  rows = sorted(shown)
  few = source.subset(np.array(rows))
  images = {}
  for batch in whole.whole_batches(few, whole.groups(few, multiple=1), batch_size=1):
    images[rows[int(batch['index'][0])]] = batch['image'][0]
  title = 'depth' if model.kind == DEPTH else 'classes'
  dense.write_sheet(
    path,
    [images[row] for row in rows],
    {title: [shown[row] for row in rows]},
    depth=model.kind == DEPTH,
    classes=model.classes,
    captions=[names[row] for row in rows],
    cell=128,
  )
