"""`DetectorModel`: a trained detector as one value and as a directory.

    model = detector.load('runs/byol/evals/detect-online-6250-sprites')
    found = model.predict(images)  # uint8 [b, S, S, 3] -> float32 [b, most, 6]

Network, weights, preprocessing and classes, and where all that is from. The directory holds
everything, so it can be copied to another machine, and it outlives the checkpoint:

    detector.json        classes, detector, protocol, scores, the encoder's options
    weights-<mark>.npz   arrays of the network, NumPy only
"""

from collections.abc import Mapping
import dataclasses
import functools
import os
import pathlib
from typing import Any

import jax
import numpy as np

from byoljax.config import ConfigError, user_errors
from byoljax.encoders import encoder as encoder_lib
from byoljax.encoders import stored_arrays
from byoljax.encoders.encoder import Preprocessing
from byoljax.encoders.images import checked
from byoljax.models import faster_rcnn
from byoljax.models.faster_rcnn import DETECTIONS, Detector, Stages
from byoljax.version import versions
from byoljax.workdir import stored_config

PyTree = Any
FILE, FOLDER = 'detector.json', 'detector'
_FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class DetectorModel:
  """A trained detector.

  Attributes:
    encoder: options of the encoder, as in `config.encoder`.
    preprocessing: of its images, squares of its `image_size` that show whole images.
    detector: see `faster_rcnn.Detector`.
    params: parameters by role.
    bn: running statistics by role.
    classes: names.
    fit: how images of other shapes become squares, see `protocols.found_boxes.FITS`.
    protocol: how it was made and what it scored, for JSON.
  """

  encoder: Mapping[str, Any]
  preprocessing: Preprocessing
  detector: Detector
  params: PyTree = dataclasses.field(repr=False)
  bn: PyTree = dataclasses.field(repr=False)
  classes: tuple[str, ...]
  fit: str
  protocol: Mapping[str, Any]

  @functools.cached_property
  def stages(self) -> Stages:
    """The network as functions."""
    module = encoder_lib.network(self.encoder, self.preprocessing).parts[0][2]
    return faster_rcnn.stages_of(
      module,
      self.detector,
      len(self.classes),
      channels=self.preprocessing.channels,
      dtype=self.encoder.get('dtype', 'float32'),
    )

  def embed(self, params: PyTree, bn: PyTree, images: jax.Array) -> dict[str, jax.Array]:
    """'detections' [b, most * 6] of normalized images, a pure function of the weights."""
    return {DETECTIONS: self.stages.detect(params, bn, images)[DETECTIONS]}

  def predict(self, images: Any) -> np.ndarray:
    """What is in images, float32 [b, most, 6], best first; see `ops.proposals.detections`.

    Args:
      images: uint8 [b, S, S, C], or float in [0, 1]; see `Encoder.__call__`.

    Raises:
      ValueError: another shape or type.
    """
    given = checked(images, self.preprocessing.channels, self.preprocessing.range)
    found = self._compiled(self.params, self.bn, given)
    return np.asarray(found).reshape(len(found), -1, 6)

  @functools.cached_property
  def _compiled(self) -> Any:
    def answer(params: PyTree, bn: PyTree, images: jax.Array) -> jax.Array:
      return self.embed(params, bn, self.preprocessing.normalize(images))[DETECTIONS]

    return jax.jit(answer)


def save(model: DetectorModel, path: str | os.PathLike[str]) -> pathlib.Path:
  """Writes a detector's directory, or replaces the one that is there.

  Raises:
    ConfigError: its encoder is a module of one's own, which no file says how to make again.
    OSError: it cannot be written.
  """
  if not model.encoder:
    raise ConfigError('an encoder of your own cannot be stored in a detector: keep it in memory.')
  home = pathlib.Path(path)
  about = {
    'format': _FORMAT,
    'classes': list(model.classes),
    'fit': model.fit,
    'encoder': dict(model.encoder),
    'detector': model.detector._asdict() | {'found': list(model.detector.found)},
    'preprocessing': model.preprocessing._asdict(),
    'protocol': dict(model.protocol),
    'versions': versions(),
  }
  stored_arrays.write(home, FILE, about, {'params': model.params, 'bn': model.bn})
  return home


def load(path: str | os.PathLike[str]) -> DetectorModel:
  """Reads a detector: its directory, that of the evaluation that left it, or a run's.

  Raises:
    ConfigError: there is none, or it is damaged.
  """
  home = find(path)
  with stored_arrays.opened(home, FILE, _FORMAT, 'detector') as (about, arrays):
    fields = stored_arrays.tuples(about['detector'])
    detector = Detector(**fields)._replace(found=faster_rcnn.DetectionOptions(*fields['found']))
    model = DetectorModel(
      stored_config.stored_encoder(about['encoder']),
      Preprocessing(**stored_arrays.tuples(about['preprocessing'])),
      detector,
      {},
      {},
      tuple(about['classes']),
      about['fit'],
      about['protocol'],
    )
    with user_errors(f"the network of '{home}'"):
      net = model.stages.whole
    params, bn = stored_arrays.of_roles(arrays, net)
    return dataclasses.replace(model, params=params, bn=bn)


def find(path: str | os.PathLike[str]) -> pathlib.Path:
  """The directory of a detector; of several that evaluations left in a run, the newest.

  Args:
    path: the directory itself, of an evaluation, or of a run.

  Raises:
    ConfigError: there is none.
  """
  return stored_arrays.find(
    path,
    FILE,
    every,
    what='detector',
    made_by='`byoljax detect` makes one from a run and images with boxes.',
  )


def every(home: pathlib.Path) -> list[pathlib.Path]:
  """All detectors of an evaluation or a run, the newest first, those from scratch last."""
  return stored_arrays.every(home, FOLDER, FILE, lambda name: name == 'random')
