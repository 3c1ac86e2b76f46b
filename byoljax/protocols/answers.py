"""What a classifier says of images that it was not trained on, and how far it can be believed.

Every protocol that trains a classifier leaves its scores of held-out images, which fit the
temperature, and of test images. Where there is no test split the test images of each part of the
cross-validation are the held-out images of all others.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from byoljax.encoders.classifier import Classifier, Origin
from byoljax.encoders.encoder import Encoder
from byoljax.evals import calibration, scores
from byoljax.ops import readouts
from byoljax.ops.readouts import Readout
from byoljax.protocols.extraction import EvalData

# Scores float [n, C] and labels int [n].
Scored = tuple[np.ndarray, np.ndarray]


class Answers(NamedTuple):
  """Scores of a classifier, see the module.

  Attributes:
    tested: of test images.
    held: of images held out from its training, or None.
  """

  tested: Scored
  held: Scored | None = None


class Trained(NamedTuple):
  """What a protocol leaves.

  Attributes:
    result: its numbers, of all parts of a cross-validation.
    encoder: what the readout reads, with its weights; fine-tuning has changed them.
    readout: trained on all labelled images; None where it was not asked for, or where images have
      several labels each.
    answers: of each part.
    trunk: see `classifier.Origin`.
  """

  result: dict[str, Any]
  encoder: Encoder
  readout: Readout | None
  answers: tuple[Answers, ...]
  trunk: Mapping[str, Any] | None = None

  @property
  def tested(self) -> Scored:
    """The test images of all parts."""
    return joined([each.tested for each in self.answers])


def calibrated(answers: Sequence[Answers]) -> dict[str, Any]:
  """The temperature, and the calibration error of test images that had no part in it.

  With one part T is fitted to its held-out images; with several, to the test images of all parts,
  while the error of each part is measured with the T of the others.

  Returns:
    As `calibration.report`, with 'images', how many T was fitted to; 0: none, and T is 1.
  """
  if len(answers) == 1:
    held = answers[0].held
    temperature = calibration.fit_temperature(*held) if held else 1.0
    made = calibration.report(*answers[0].tested, temperature)
    return made | {'images': int((held[1] >= 0).sum()) if held else 0}
  scaled = []
  for number, part in enumerate(answers):
    others = joined([other.tested for at, other in enumerate(answers) if at != number])
    scaled.append((part.tested[0] / calibration.fit_temperature(*others), part.tested[1]))
  every = joined([each.tested for each in answers])
  made = calibration.report(*every, calibration.fit_temperature(*every))
  logits, labels = joined(scaled)
  error = calibration.calibration_error(calibration.probabilities(logits), labels)
  return made | {'ece': error, 'images': int((every[1] >= 0).sum())}


def joined(pairs: Sequence[Scored]) -> Scored:
  """The images of several parts."""
  return np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])


def answers_of(
  readout: Readout, test: tuple[np.ndarray, np.ndarray], held: Scored | None = None
) -> Answers:
  """The scores of test features [n, D] with labels [n]."""
  return Answers((readouts.logits_of(readout, test[0]), test[1]), held)


def classifier_of(
  trained: Trained,
  data: EvalData,
  origin: Origin,
  protocol: Mapping[str, Any],
) -> Classifier | None:
  """The classifier that a protocol leaves, calibrated; None where it leaves none.

  Args:
    trained: see `Trained`; its result gets the fields of `calibrated` as 'calibration'.
    data: what it was trained on.
    origin: of its network; the trunk is that of `trained`.
    protocol: how it was made, for JSON.
  """
  if trained.readout is None:
    return None
  found = calibrated(trained.answers)
  trained.result['calibration'] = found
  kept = (*scores.METRICS, 'majority', 'train_examples', 'test_examples', 'queries', 'calibration')
  preprocessing = trained.encoder.preprocessing._replace(image_size=data.image_size)
  return Classifier(
    encoder=dataclasses.replace(trained.encoder, preprocessing=preprocessing),
    readout=trained.readout,
    classes=class_names(data),
    temperature=found['temperature'],
    protocol={
      **protocol,
      'data': data.train.name,
      'fingerprint': data.train.fingerprint,
      'result': {name: trained.result[name] for name in kept if name in trained.result},
    },
    origin=origin._replace(trunk=trained.trunk),
  )


def class_names(data: EvalData) -> tuple[str, ...]:
  """The names of the classes, their numbers where they have none."""
  return tuple(data.train.class_names) or tuple(map(str, range(data.train.num_classes)))


def confusion(trained: Trained) -> np.ndarray:
  """Counts int64 [C, C] of the test images of all parts; rows are true classes."""
  logits, labels = trained.tested
  return scores.confusion(logits.argmax(1), labels, logits.shape[1])
