"""What a detector finds in images that nobody has labelled, and those images to be shown."""

import numpy as np

from byoljax.data.sources import image_file, pixels
from byoljax.data.sources.source import Source
from byoljax.encoders.detector import DetectorModel
from byoljax.evals import features
from byoljax.models.faster_rcnn import DETECTIONS
from byoljax.protocols import extraction
from byoljax.protocols.extraction import EvalData

_SIDE = 480  # Of images that are shown.


def find(model: DetectorModel, source: Source, *, batch_size: int = 32) -> dict[int, np.ndarray]:
  """{index: float32 [most, 6]} of all images that can be read; see `ops.proposals.detections`.

  Args:
    model: see `DetectorModel`.
    source: images of any size; they are stretched to the model's.
    batch_size: global; it does not change results.
  """
  shape = model.preprocessing
  size = extraction.fit_to_devices(min(batch_size, source.size))
  data = EvalData(source, source, shape.image_size, shape.mean, shape.std, batch_size=size)
  batches = features.with_index_as_label(extraction.eval_batches(source, data, whole=True))
  extract = features.make_extractor(model.embed, shape.normalize, tap=DETECTIONS)
  try:
    found, index = extract(model.params, model.bn, batches)
  except ValueError:
    if len(source.unreadable) < source.size:
      raise
    return {}
  return {int(row): own.reshape(-1, 6) for row, own in zip(index, found, strict=True)}


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
