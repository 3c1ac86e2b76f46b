"""What a detector finds in images of any shape, in these images' fractions; and they to be shown.

A detector sees squares. `FITS` are the ways into them: 'pad' keeps what things look like and fills
an image up to a square, 'stretch' leaves no pixel unused.
"""

from collections.abc import Mapping

import numpy as np

from byoljax.data.sources import image_file, pixels, squared
from byoljax.data.sources.source import Source
from byoljax.encoders.detector import DetectorModel
from byoljax.evals import features
from byoljax.models.faster_rcnn import DETECTIONS
from byoljax.protocols import extraction
from byoljax.protocols.extraction import EvalData

FITS = ('pad', 'stretch')
_SIDE = 480  # Of images that are shown.


def fitted(source: Source, fit: str) -> Source:
  """The source as a detector is to see it, see `FITS`."""
  return squared.squared(source) if fit == 'pad' else source


def restored(found: Mapping[int, np.ndarray], source: Source, fit: str) -> dict[int, np.ndarray]:
  """Detections {index: [most, 6]} in a fitted source's squares, in fractions of its own images."""
  if fit != 'pad':
    return dict(found)
  size = sizes(source, np.array(sorted(found), np.int64))
  return {row: squared.restored(rows, size[row]) for row, rows in found.items()}


def find(model: DetectorModel, source: Source, *, batch_size: int = 32) -> dict[int, np.ndarray]:
  """{index: float32 [most, 6]} of all images that can be read; see `ops.proposals.detections`.

  Args:
    model: see `DetectorModel`.
    source: images of any size.
    batch_size: global; it does not change results.
  """
  shape = model.preprocessing
  size = extraction.fit_to_devices(min(batch_size, source.size))
  seen = fitted(source, model.fit)
  data = EvalData(seen, seen, shape.image_size, shape.mean, shape.std, batch_size=size)
  batches = features.with_index_as_label(extraction.eval_batches(seen, data, whole=True))
  extract = features.make_extractor(model.embed, shape.normalize, tap=DETECTIONS)
  try:
    found, index = extract(model.params, model.bn, batches)
  except features.NoExampleError:
    return {}
  made = {int(row): own.reshape(-1, 6) for row, own in zip(index, found, strict=True)}
  return restored(made, source, model.fit)


def pictures(source: Source, rows: np.ndarray) -> dict[int, np.ndarray]:
  """Whole images [H, W, C] at these rows, of those that can be read; large ones reduced."""
  made: dict[int, np.ndarray] = {}
  for row in rows:
    image = source.read(np.array([row]), ('image',))[0][0]
    if source.encoded:
      try:
        image = pixels.decode(image, source.field('image'))
      except image_file.UnreadableImageError:
        continue
    height, width = image.shape[:2]
    step = max(1, max(height, width) // _SIDE)
    made[int(row)] = np.asarray(image)[::step, ::step]
  return made


def sizes(source: Source, rows: np.ndarray) -> dict[int, tuple[int, int]]:
  """(H, W) of images at these rows, of those that can be read."""
  if source.image_shape is not None:
    return {int(row): source.image_shape for row in rows}
  made = {}
  for row in rows:
    file = source.read(np.array([row]), ('image',))[0][0]
    _, height, width = pixels.inspect(file, source.field('image'))
    made[int(row)] = (height, width)
  return made
