"""Detectors trained on an encoder, and how well they find what is there."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from byoljax.config import ConfigError, choose, user_errors
from byoljax.data.augment import device
from byoljax.data.sources import field_file, image_file
from byoljax.data.sources import pixels as pixels_lib
from byoljax.data.sources.source import Source
from byoljax.encoders.detector import DetectorModel
from byoljax.encoders.encoder import Encoder
from byoljax.evals import detection as scoring
from byoljax.evals import features
from byoljax.evals.detection import Detections, Objects
from byoljax.methods.supervised import detection
from byoljax.models import faster_rcnn
from byoljax.protocols import extraction, found_boxes, training
from byoljax.protocols.extraction import EvalData
from byoljax.step import TrainState
from byoljax.train.record import Logging
from byoljax.train.run import Run
from byoljax.wording import counted

FIELD, KINDS, AREAS = detection.FIELD, detection.KINDS, 'areas'
_READ_AT_ONCE = 512


@dataclasses.dataclass(frozen=True)
class DetectProtocol:
  """How a detector is trained; `configs/detect.py` has the values.

  Attributes:
    protocol: what to call it in results.
    length: a duration.
    batch_size: global; at most the number of images is used.
    optim: fields as in `configs.base.optimizer`.
    frozen: whether the encoder stays as it is.
    batch_norm: 'batch', or 'frozen' for the running statistics of pretraining.
    crop_scale: smallest and largest share of the area that a crop keeps.
    fit: how whole images become squares, a key of `found_boxes.FITS`.
    detector: fields of `methods.supervised.detection.Detector`.
    seed: of the order, the crops, the heads and what losses see.
  """

  protocol: str
  length: str
  batch_size: int
  optim: Mapping[str, Any]
  frozen: bool
  batch_norm: str
  crop_scale: tuple[float, float]
  fit: str
  detector: Mapping[str, Any]
  seed: int


class Trained(NamedTuple):
  """A detector and what it scored.

  Attributes:
    result: scores of the test images, and how it was trained.
    model: None where the encoder is a module of one's own.
    found: {index: detections} of the test images, see `ops.proposals.detections`.
  """

  result: dict[str, Any]
  model: DetectorModel | None
  found: dict[int, np.ndarray]


def class_names(train: Source, test: Source) -> tuple[str, ...]:
  """The classes of the boxes: as the source names them, as its images' labels, or by number.

  Raises:
    ConfigError: boxes that are none, or of a class that there is not, of which the first one is
      named; images without any box, or test images of other classes.
  """
  named, own = (source.field(FIELD).names for source in (train, test))
  if named != own:
    raise ConfigError(
      f'the classes of {train.name} are {", ".join(named) or "numbers"}, but those of {test.name} '
      f'{", ".join(own) or "numbers"}: a number would mean two classes; name the same ones in both.'
    )
  known = named or train.class_names
  largest = [_largest(source, len(known)) for source in (train, test)]
  return known or tuple(map(str, range(max(largest) + 1)))


def _largest(source: Source, classes: int) -> int:
  """The largest class of the boxes of some images; ConfigError where there is no box."""
  most = -1
  for start in range(0, source.size, _READ_AT_ONCE):
    rows = np.arange(start, min(source.size, start + _READ_AT_ONCE))
    (values,) = _read(source, rows, (FIELD,))
    most = max(most, _check_boxes(source, rows, values, classes))
  if most < 0:
    raise ConfigError(f'{source.name} has no box in any of its {counted(source.size, "image")}.')
  return most


def _read(source: Source, rows: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, ...]:
  """Fields without pixels of some examples, decoded.

  Raises:
    ConfigError: one of them cannot be.
  """
  found = source.read(rows, names)
  if not source.encoded:
    return found
  made = []
  for name, values in zip(names, found, strict=True):
    each = []
    for row, value in zip(rows, values, strict=True):
      try:
        each.append(field_file.decode(source.field(name), value, (0, 0)))
      except image_file.UnreadableImageError as error:
        raise ConfigError(f'{source.locate(int(row))}: {error}.') from error
    made.append(np.stack(each))
  return tuple(made)


def _check_boxes(source: Source, rows: np.ndarray, boxes: Any, classes: int) -> int:
  """The largest class of some examples' boxes."""
  most = -1
  for row, own in zip(rows, boxes, strict=True):
    own = np.asarray(own, np.float64).reshape(-1, 5)
    own = own[own[:, 4] >= 0] if np.isfinite(own[:, 4]).all() else own
    low, high, kind = own[:, :2], own[:, 2:4], own[:, 4]
    right = (low >= 0).all(1) & (high <= 1 + 1e-6).all(1) & (high > low).all(1)
    right &= (kind == np.round(kind)) & (np.isfinite(own).all(1))
    if not right.all():
      text = ', '.join(f'{value:g}' for value in own[~right][0])
      raise ConfigError(
        f'{source.locate(int(row))} has the box ({text}), but a box is (y_min, x_min, y_max, '
        'x_max, class) with corners as fractions of height and width from 0 to 1, the smaller ones '
        'first, and the number of a class, or -1 for none.'
      )
    if classes and kind.max(initial=-1) >= classes:
      raise ConfigError(
        f'{source.locate(int(row))} has a box of class {int(kind.max())}, but there are {classes} '
        'classes, from 0.'
      )
    most = max(most, int(kind.max(initial=-1)))
  return most


def fit(
  encoder: Encoder,
  data: EvalData,
  classes: Sequence[str],
  protocol: DetectProtocol,
  *,
  logging: Logging,
  workdir: pathlib.Path | None = None,
) -> Trained:
  """Trains a detector on `data.train` and tests it at the last step.

  Args:
    encoder: where it starts; a random one trains from scratch.
    data: sources with the field 'boxes', and perhaps 'kinds' and 'areas', see `evals.detection`.
    classes: names, see `class_names`.
    protocol: see `DetectProtocol`.
    logging: see `train.record.Logging`.
    workdir: where the run can be resumed; None keeps it in memory.

  Raises:
    Stopped: the process was asked to stop; in a directory everything is saved.
    ConfigError: a protocol that does not fit the data.
  """
  run = make_run(encoder, data, len(classes), protocol, logging)
  state = training.train(run, workdir, logging)
  found = detections(run, state, found_boxes.fitted(data.test, protocol.fit), data)
  found = found_boxes.restored(found, data.test, protocol.fit)
  result = scores(found, data.test, len(classes))
  result |= {
    'train_images': data.train.size,
    'test_images': data.test.size,
    'steps': run.length.total_steps,
    'batch_size': run.length.batch_size,
    'image_size': data.image_size,
    'frozen': protocol.frozen,
  }
  return Trained(result, _model(encoder, data, tuple(classes), protocol, state, result), found)


def _model(
  encoder: Encoder,
  data: EvalData,
  classes: tuple[str, ...],
  protocol: DetectProtocol,
  state: TrainState,
  result: Mapping[str, Any],
) -> DetectorModel | None:
  """The trained detector, to be kept."""
  if not encoder.fields:
    return None
  params, bn = jax.device_get((dict(state.params), dict(state.method_state.bn)))
  return DetectorModel(
    dict(encoder.fields),
    encoder.preprocessing._replace(image_size=data.image_size),
    detection.detector_of(protocol.detector),
    params,
    bn,
    classes,
    protocol.fit,
    {'data': data.train.name, 'fingerprint': data.train.fingerprint, 'result': dict(result)},
  )


def make_run(
  encoder: Encoder, data: EvalData, classes: int, protocol: DetectProtocol, logging: Logging
) -> Run:
  """The training run of a detector; raises ConfigError as `fit`, before anything is computed."""
  with user_errors():
    choose('detect.fit', protocol.fit, found_boxes.FITS)
    fields = [FIELD, *([KINDS] if _has(data.train, KINDS) else [])]
    train = found_boxes.fitted(data.train, protocol.fit)

  def method(setting: Any) -> Any:
    return detection.build(
      encoder.make_encoder,
      setting,
      classes=classes,
      frozen=protocol.frozen,
      batch_norm=protocol.batch_norm,
      **protocol.detector,
    )

  chosen = training.set_up(
    train,
    data,
    optimizer=protocol.optim,
    length=protocol.length,
    batch_size=protocol.batch_size,
    crop_scale=protocol.crop_scale,
    logging=logging,
    where='detect',
  )
  return training.classifier_run(
    train, data, method, chosen, encoder=encoder, seed=protocol.seed, fields=fields
  )


def detections(
  run: Run, state: TrainState, source: Source, data: EvalData
) -> dict[int, np.ndarray]:
  """What is found in whole images: {index: float32 [most, 6]}, see `ops.proposals.detections`.

  Images that cannot be read are left out.
  """
  transform = device.make_eval_transform(data.mean, data.std)
  extract = features.make_extractor(run.method.embed, transform, tap=faster_rcnn.DETECTIONS)
  batches = extraction.eval_batches(source, data, whole=True)
  found, index = extract(state.params, state.method_state, features.with_index_as_label(batches))
  return {int(row): own.reshape(-1, 6) for row, own in zip(index, found, strict=True)}


def scores(found: Mapping[int, np.ndarray], source: Source, classes: int) -> dict[str, Any]:
  """COCO's and VOC's average precision, of images that could be read; see `evals.detection`.

  What no object counts for is left out.
  """
  truth = objects(source, sorted(found))
  pairs = [
    (pixels(found[row], size), own) for row, (own, size) in zip(sorted(found), truth, strict=True)
  ]
  some, there = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
  made = scoring.coco_ap(some, there, classes) | scoring.voc_ap(some, there, classes)
  return {name: value for name, value in made.items() if value == value}


def pixels(rows: np.ndarray, size: tuple[int, int]) -> Detections:
  """Detections of `ops.proposals.detections` in pixels of an image (H, W)."""
  own = rows[rows[:, 4] >= 0]
  scale = np.array([*size, *size], np.float64)
  return Detections(own[:, :4] * scale, own[:, 5], own[:, 4].astype(int))


def objects(source: Source, rows: Sequence[int]) -> list[tuple[Objects, tuple[int, int]]]:
  """What is in some images, in pixels, with their sizes (H, W)."""
  names = [FIELD, *(name for name in (KINDS, AREAS) if _has(source, name))]
  sized = source.image_shape is None
  made = []
  for start in range(0, len(rows), _READ_AT_ONCE):
    chosen = np.asarray(rows[start : start + _READ_AT_ONCE])
    values = dict(zip(names, _read(source, chosen, names), strict=True))
    images = source.read(chosen, ('image',))[0] if sized else [b''] * len(chosen)
    for number, image in enumerate(images):
      size = source.image_shape or pixels_lib.inspect(image, source.field('image'))[1:]
      own = np.asarray(values[FIELD][number], np.float64).reshape(-1, 5)
      there = own[:, 4] >= 0
      further = {
        name: np.asarray(values[name][number]).reshape(-1)[: len(own)][there] if name in values
        else None for name in (KINDS, AREAS)
      }  # fmt: skip
      kinds, areas = further[KINDS], further[AREAS]
      kinds = np.zeros(int(there.sum()), int) if kinds is None else kinds
      boxes = own[there, :4] * np.array([*size, *size])
      made.append((Objects(boxes, own[there, 4].astype(int), kinds, areas), size))
  return made


def true_boxes(source: Source, rows: Sequence[int]) -> np.ndarray:
  """The boxes of some images as the source has them, float32 [r, n, 5]."""
  return _read(source, np.asarray(rows), (FIELD,))[0]


def _has(source: Source, name: str) -> bool:
  return any(field.name == name for field in source.fields)
