"""The answers of a classifier about images that nobody has labelled."""

from typing import NamedTuple

import numpy as np

from byoljax.data.batches import pipeline
from byoljax.data.sources import pixels
from byoljax.data.sources.source import Source
from byoljax.encoders.classifier import Classifier
from byoljax.evals import calibration, features
from byoljax.ops import readouts
from byoljax.protocols import extraction
from byoljax.protocols.extraction import EvalData


class Predictions(NamedTuple):
  """What a classifier says of the images of a source.

  Attributes:
    index: int [n], positions in the source of those that can be read, ascending.
    chances: probabilities float64 [n, C].
  """

  index: np.ndarray
  chances: np.ndarray


def predict(
  classifier: Classifier, source: Source, *, batch_size: int = 128, threads: int = 0
) -> Predictions:
  """Probabilities of all images that can be read; the others are in `source.unreadable`.

  Args:
    classifier: see `Classifier`.
    source: images of any size, labelled or not.
    batch_size: global; it does not change results.
    threads: for decoding; 0 means one for every core.
  """
  encoder, shape = classifier.encoder, classifier.encoder.preprocessing
  size = extraction.fit_to_devices(min(batch_size, source.size))
  data = EvalData(
    source, source, shape.image_size, shape.mean, shape.std, batch_size=size, threads=threads
  )
  batches = features.with_index_as_label(extraction.eval_batches(source, data))
  try:
    found, index = extraction.extractor(encoder)(encoder.params, encoder.bn, batches)
  except features.NoExampleError:
    return Predictions(np.zeros(0, np.int64), np.zeros((0, len(classifier.classes))))
  logits = readouts.logits_of(classifier.readout, found)
  return Predictions(
    index.astype(np.int64), calibration.probabilities(logits, classifier.temperature)
  )


def thumbnails(source: Source, rows: np.ndarray, side: int) -> dict[int, np.ndarray]:
  """Center crops uint8 [side, side, 3] of the images at these rows, of those that can be read."""
  made: dict[int, np.ndarray] = {}
  if not len(rows):
    return made
  for batch in pipeline.eval_batches(source.subset(rows), image_size=side, batch_size=64):
    for row, image in zip(batch['index'], batch['image'], strict=True):
      if row >= 0:
        made[int(rows[row])] = pixels.shown(image)
  return made
