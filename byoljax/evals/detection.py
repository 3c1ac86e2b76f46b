"""Average precision of detections: COCO's and PASCAL VOC's, exact, on the host.

    scores = coco_ap(found, truth, num_classes=20)     # 'ap', 'ap50', 'ap75', 'ap_small', ...
    scores = voc_ap(found, truth, num_classes=20)      # 'ap50_voc', 'ap50_voc07'

Both sort all detections of a class by score, call each right or wrong, and integrate the curve of
precision over recall. They differ in who is right:

COCO (Lin et al., arXiv 1405.0312; pycocotools): a detection takes, of the objects that no better
detection has taken, the one that it overlaps most and by at least the threshold; objects that do
not count (crowds, those outside of the range of areas) only where there is no other. Precision is
made monotonic and read at the recalls 0, .01, ..., 1. AP is the mean over thresholds .5, .55, ...,
.95 and classes. Of an image and class the 100 best detections are looked at. A crowd is overlapped
by its share of the detection's own area, and may be taken any number of times.

VOC (Everingham et al., IJCV 2010; its development kit): a detection belongs to the object that it
overlaps most, taken or not, and is wrong where that one is taken already; threshold .5; objects
marked difficult do not count, nor do detections that belong to them. AP is the area under the
monotonic curve (from 2010 on), or the mean of its values at the recalls 0, .1, ..., 1 (2007).

Different from the development kit: it counts a box's pixels, x_max - x_min + 1, for which its
coordinates are whole; here sides are x_max - x_min, as COCO's and torchvision's are. Its eleven
recalls are multiples of 0.1 in floating point, and 3 times 0.1 is above 3/10: there 3 of 10 objects
miss that recall, here they reach it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
# Areas in pixels of the image, COCO's small, medium and large.
RANGES = {
  'all': (0.0, 1e10),
  'small': (0.0, 32.0**2),
  'medium': (32.0**2, 96.0**2),
  'large': (96.0**2, 1e10),
}
COUNTED, DIFFICULT, CROWD = 0, 1, 2
METRICS = {
  'ap': 'AP',
  'ap50': 'AP50',
  'ap75': 'AP75',
  'ap_small': 'AP small',
  'ap_medium': 'AP medium',
  'ap_large': 'AP large',
  'ap50_voc': 'VOC AP50',
  'ap50_voc07': 'VOC AP50, 11-point',
}
_Array = np.ndarray


class Detections(NamedTuple):
  """What was found in one image.

  Attributes:
    boxes: [d, 4], (y_min, x_min, y_max, x_max) in pixels.
    scores: [d].
    classes: int [d].
  """

  boxes: _Array
  scores: _Array
  classes: _Array


class Objects(NamedTuple):
  """What is in one image.

  Attributes:
    boxes: [n, 4], (y_min, x_min, y_max, x_max) in pixels.
    classes: int [n].
    kinds: int [n]: `COUNTED`, `DIFFICULT` or `CROWD`, of which the last two do not count.
    areas: [n], of the objects, which COCO takes from their outlines; None: of the boxes.
  """

  boxes: _Array
  classes: _Array
  kinds: _Array
  areas: _Array | None = None

  @property
  def sizes(self) -> _Array:
    """The areas, float64 [n]."""
    return _area(self.boxes) if self.areas is None else np.asarray(self.areas, np.float64)


def coco_ap(
  found: Sequence[Detections],
  truth: Sequence[Objects],
  num_classes: int,
  *,
  most: int = 100,
) -> dict[str, float]:
  """COCO's average precision over a whole set.

  Args:
    found: of every image.
    truth: of every image, in the same order.
    num_classes: C. The mean is over the classes that occur in the truth.
    most: detections of an image and class that are looked at, the best ones.

  Returns:
    'ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large' in [0, 1]; NaN where no object counts.

  Raises:
    ValueError: lists of two lengths.
  """
  _check(found, truth)
  each = {name: np.full((len(THRESHOLDS), num_classes), np.nan) for name in RANGES}
  for number in range(num_classes):
    images = _images(found, truth, number, most)
    for name, limits in RANGES.items():
      each[name][:, number] = _coco_class(images, limits)
  means = {name: _mean(values) for name, values in each.items()}
  at = {50: _mean(each['all'][0]), 75: _mean(each['all'][5])}
  return {'ap': means['all'], 'ap50': at[50], 'ap75': at[75]} | {
    f'ap_{name}': means[name] for name in ('small', 'medium', 'large')
  }


def voc_ap(
  found: Sequence[Detections], truth: Sequence[Objects], num_classes: int, *, threshold: float = 0.5
) -> dict[str, float]:
  """VOC's average precision over a whole set, both ways to integrate it.

  Args:
    found: of every image.
    truth: of every image, in the same order.
    num_classes: C. The mean is over the classes that occur in the truth.
    threshold: of the overlap.

  Returns:
    'ap50_voc', the area, and 'ap50_voc07', of 11 points, in [0, 1]; NaN where no object counts.
    The names are those of the usual threshold.

  Raises:
    ValueError: lists of two lengths.
  """
  by_class = voc_by_class(found, truth, num_classes, threshold=threshold)
  return {name: _mean(values) for name, values in by_class.items()}


def voc_by_class(
  found: Sequence[Detections], truth: Sequence[Objects], num_classes: int, *, threshold: float = 0.5
) -> dict[str, _Array]:
  """As `voc_ap`, of every class: float64 [C], NaN where none of its objects counts."""
  _check(found, truth)
  made = {name: np.full(num_classes, np.nan) for name in ('ap50_voc', 'ap50_voc07')}
  for number in range(num_classes):
    images = _images(found, truth, number, None)
    total = sum(int(np.sum(image.kinds == COUNTED)) for image in images)
    if not total:
      continue
    scores = np.concatenate([image.scores for image in images])
    verdicts = np.concatenate([_voc_verdicts(image, threshold) for image in images])
    precision, recall = _curve(scores, verdicts, total)
    made['ap50_voc'][number] = _area_under(precision, recall)
    points = [precision[recall >= at].max(initial=0) for at in np.arange(11) / 10]
    made['ap50_voc07'][number] = np.mean(points)
  return made


class _Image(NamedTuple):
  """One image and class: detections in descending order of scores, and objects."""

  scores: _Array
  found_areas: _Array
  kinds: _Array
  areas: _Array
  overlaps: _Array  # [d, n]; of a crowd the share of the detection


def _images(
  found: Sequence[Detections], truth: Sequence[Objects], number: int, most: int | None
) -> list[_Image]:
  """The images in which the class is or was found: the others have no say in its score."""
  return [
    _of_class(*pair, number, most)
    for pair in zip(found, truth, strict=True)
    if any(np.any(np.asarray(each.classes) == number) for each in pair)
  ]


def _of_class(found: Detections, truth: Objects, number: int, most: int | None) -> _Image:
  chosen = np.flatnonzero(np.asarray(found.classes) == number)
  scores = np.asarray(found.scores, np.float64)[chosen]
  order = np.argsort(-scores, kind='stable')[:most]
  boxes = np.asarray(found.boxes, np.float64).reshape(-1, 4)[chosen][order]
  own = np.asarray(truth.classes) == number
  kinds = np.asarray(truth.kinds)[own]
  objects = np.asarray(truth.boxes, np.float64).reshape(-1, 4)[own]
  overlaps = overlap(boxes, objects, kinds == CROWD)
  return _Image(scores[order], _area(boxes), kinds, truth.sizes[own], overlaps)


def _area(boxes: _Array) -> _Array:
  size = np.maximum(np.asarray(boxes, np.float64).reshape(-1, 4)[:, 2:] - boxes[:, :2], 0)
  return size[:, 0] * size[:, 1]


def overlap(boxes: _Array, objects: _Array, crowd: _Array) -> _Array:
  """Intersection over union, float64 [d, n]; of crowds, intersection over the detection's area."""
  low = np.maximum(boxes[:, None, :2], objects[None, :, :2])
  high = np.minimum(boxes[:, None, 2:], objects[None, :, 2:])
  shared = np.prod(np.maximum(high - low, 0), axis=2)
  own, other = _area(boxes)[:, None], _area(objects)[None]
  whole = np.where(crowd[None], own, own + other - shared)
  return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def _coco_class(images: Sequence[_Image], limits: tuple[float, float]) -> _Array:
  """AP of a class at every threshold, [T]; NaN where none of its objects counts."""
  low, high = limits
  ignored = [(i.kinds != COUNTED) | (i.areas < low) | (i.areas > high) for i in images]
  total = sum(int(np.sum(~each)) for each in ignored)
  made = np.full(len(THRESHOLDS), np.nan)
  if not total:
    return made
  scores = np.concatenate([image.scores for image in images])
  areas = np.concatenate([image.found_areas for image in images])
  outside = (areas < low) | (areas > high)
  pairs = list(zip(images, ignored, strict=True))
  for number, threshold in enumerate(THRESHOLDS):
    verdicts = np.concatenate([_coco_verdicts(*pair, threshold) for pair in pairs])
    verdicts[(verdicts == _WRONG) & outside] = _NOTHING
    precision, recall = _curve(scores, verdicts, total)
    made[number] = np.mean(_at_recalls(precision, recall))
  return made


_RIGHT, _WRONG, _NOTHING = 1, 0, -1


def _coco_verdicts(image: _Image, ignored: _Array, threshold: float) -> _Array:
  """Whether each detection is right, wrong, or counts for nothing: int [d]."""
  taken = np.zeros(len(ignored), bool)
  verdicts = np.full(len(image.scores), _WRONG)
  reached = image.overlaps >= min(threshold, 1 - 1e-10)
  for row in np.flatnonzero(reached.any(1)):
    overlaps = image.overlaps[row]
    free = (~taken | (image.kinds == CROWD)) & reached[row]
    for kind, verdict in ((free & ~ignored, _RIGHT), (free & ignored, _NOTHING)):
      if kind.any():
        # The last of equal ones, as in pycocotools.
        best = len(kind) - 1 - np.argmax(np.where(kind, overlaps, -1.0)[::-1])
        taken[best] = True
        verdicts[row] = verdict
        break
  return verdicts


def _voc_verdicts(image: _Image, threshold: float) -> _Array:
  taken = np.zeros(len(image.kinds), bool)
  verdicts = np.full(len(image.scores), _WRONG)
  for row in np.flatnonzero((image.overlaps >= threshold).any(1)):
    best = int(np.argmax(image.overlaps[row]))
    if image.kinds[best] != COUNTED:
      verdicts[row] = _NOTHING
    elif not taken[best]:
      taken[best] = True
      verdicts[row] = _RIGHT
  return verdicts


def _curve(scores: _Array, verdicts: _Array, total: int) -> tuple[_Array, _Array]:
  """Precision, made monotonic from the right, and recall, best detections first."""
  order = np.argsort(-scores, kind='stable')
  right = verdicts[order] == _RIGHT
  wrong = verdicts[order] == _WRONG
  hits, misses = np.cumsum(right), np.cumsum(wrong)
  precision = hits / np.maximum(hits + misses, 1)
  return np.maximum.accumulate(precision[::-1])[::-1], hits / total


def _at_recalls(precision: _Array, recall: _Array) -> _Array:
  """The precision at each of `RECALLS`, 0 at those that are not reached."""
  place = np.searchsorted(recall, RECALLS, side='left')
  return np.append(precision, 0.0)[np.minimum(place, len(precision))]


def _area_under(precision: _Array, recall: _Array) -> float:
  return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def _mean(values: _Array) -> float:
  there = ~np.isnan(values)
  return float(np.mean(values[there])) if there.any() else float('nan')


def _check(found: Sequence[Detections], truth: Sequence[Objects]) -> None:
  if len(found) != len(truth):
    raise ValueError(f'detections of {len(found)} images and objects of {len(truth)}.')


def format_scores(result: Mapping[str, float]) -> str:
  """'AP 31.20%, AP50 52.10%, ...': the scores among a result's fields that are numbers."""
  known = {name: result[name] for name in METRICS if name in result}
  shown = [f'{METRICS[name]} {value:.2%}' for name, value in known.items() if value == value]
  return ', '.join(shown)
