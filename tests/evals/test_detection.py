"""Average precision: pycocotools' values, VOC's by hand and by loops, and what must not matter."""

import sys

import numpy as np
import pytest

from byoljax.evals import detection
from byoljax.evals.detection import CROWD, DIFFICULT, Detections, Objects
from tests.paths import GOLDEN

sys.path.insert(0, str(GOLDEN))
import detection_cases  # noqa: E402


def pairs():
  cases = detection_cases.cases()
  found = [Detections(*each) for each, _ in cases]
  truth = [
    Objects(boxes, classes, np.where(crowd, CROWD, 0), areas)
    for _, (boxes, classes, crowd, areas) in cases
  ]
  return found, truth


def test_coco_is_pycocotools():
  with np.load(GOLDEN / 'detection.npz') as file:
    stats, each = file['stats'], file['each']
  found, truth = pairs()
  made = detection.coco_ap(found, truth, detection_cases.CLASSES)
  names = ('ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large')
  np.testing.assert_allclose(
    np.nan_to_num([made[name] for name in names], nan=-1), stats, atol=1e-12
  )
  assert 0.2 < made['ap'] < 0.8 and len(set(made.values())) == 6, 'the cases tell them apart'
  for number in range(detection_cases.CLASSES):
    images = [detection._of_class(*pair, number, 100) for pair in zip(found, truth, strict=True)]
    for column, limits in enumerate(detection.RANGES.values()):
      made = np.nan_to_num(detection._coco_class(images, limits), nan=-1)
      np.testing.assert_allclose(made, each[:, number, column], atol=1e-12)


def box(top, left, side=10):
  return (top, left, top + side, left + side)


def one_image(found, scores, objects, kinds=None):
  found, objects = np.array(found, float).reshape(-1, 4), np.array(objects, float).reshape(-1, 4)
  kinds = np.zeros(len(objects), int) if kinds is None else np.array(kinds)
  return (
    [Detections(found, np.array(scores), np.zeros(len(found), int))],
    [Objects(objects, np.zeros(len(objects), int), kinds)],
  )


def test_by_hand():
  """Right, wrong, a second one of the same object, right: of three objects two are found."""
  found, truth = one_image(
    [box(0, 0), box(50, 50), box(0, 1), box(20, 20)],
    [0.9, 0.8, 0.7, 0.6],
    [box(0, 0), box(20, 20), box(80, 80)],
  )
  # Precision 1 up to recall 1/3, then 2/4 up to 2/3.
  made = detection.voc_ap(found, truth, 1)
  assert made['ap50_voc'] == pytest.approx(1 / 3 + 0.5 / 3)
  assert made['ap50_voc07'] == pytest.approx((4 * 1 + 3 * 0.5) / 11)
  coco = detection.coco_ap(found, truth, 1)
  assert coco['ap50'] == pytest.approx((34 * 1 + 33 * 0.5) / 101)
  assert coco['ap'] == coco['ap75'] == coco['ap_small'] == coco['ap50'], 'all exact, all small'
  assert np.isnan(coco['ap_medium']) and np.isnan(coco['ap_large'])


@pytest.mark.parametrize('hits', range(11))
def test_the_eleven_recalls_are_tenths(hits):
  """`hits` of ten objects are found and nothing else: 0, .1, ..., hits / 10 are reached."""
  objects = [box(0, 20 * number) for number in range(10)]
  pair = one_image(objects[:hits], np.linspace(1, 0.5, hits), objects)
  assert detection.voc_ap(*pair, 1)['ap50_voc07'] == pytest.approx((hits + 1 if hits else 0) / 11)


def test_voc_and_coco_differ_in_which_object_a_detection_belongs_to():
  """Both overlap the first object most; COCO gives the second what is left."""
  objects = [box(0, 0), (0, 3, 10, 13)]
  found, truth = one_image([box(0, 0), (0, 1, 10, 11)], [0.9, 0.8], objects)
  assert detection.voc_ap(found, truth, 1)['ap50_voc'] == pytest.approx(0.5)
  # Its overlap with the second is 8 of 12.
  assert detection.coco_ap(found, truth, 1)['ap50'] == pytest.approx(1)


def test_what_does_not_count():
  objects, scores = [box(0, 0), box(50, 50)], [0.9, 0.8, 0.7]
  found = [box(50, 50), box(50, 51), box(0, 0)]
  for kind in (DIFFICULT, CROWD):
    pair = one_image(found, scores, objects, [0, kind])
    assert detection.voc_ap(*pair, 1)['ap50_voc'] == pytest.approx(1)
    missed = one_image(found[:2], scores[:2], objects, [0, kind])
    assert detection.coco_ap(*missed, 1)['ap50'] == 0
  # A crowd takes any number, also by a small part of it; what is difficult takes one.
  crowd = one_image(found, scores, [box(0, 0), box(40, 40, 40)], [0, CROWD])
  assert detection.coco_ap(*crowd, 1)['ap50'] == pytest.approx(1)
  difficult = one_image(found, scores, objects, [0, DIFFICULT])
  assert detection.coco_ap(*difficult, 1)['ap50'] == pytest.approx(0.5)


def test_nothing_found_and_nothing_there():
  nothing, objects = one_image([], [], [box(0, 0)])
  assert detection.coco_ap(nothing, objects, 1)['ap'] == 0
  assert detection.voc_ap(nothing, objects, 1) == {'ap50_voc': 0, 'ap50_voc07': 0}
  found, empty = one_image([box(0, 0)], [0.5], [])
  assert np.isnan(detection.coco_ap(found, empty, 1)['ap'])
  assert all(np.isnan(value) for value in detection.voc_ap(found, empty, 1).values())
  # A wrong detection in an empty image costs precision.
  both = detection.voc_ap(found + [Detections(np.array([box(0, 0)]), np.array([0.4]), np.zeros(1))],
                          empty + objects, 1)  # fmt: skip
  assert both['ap50_voc'] == pytest.approx(0.5)
  with pytest.raises(ValueError, match='detections of 2 images and objects of 1'):
    detection.coco_ap(found + found, empty, 1)
  assert detection.format_scores(both | {'ap': float('nan')}) == (
    'VOC AP50 50.00%, VOC AP50, 11-point 50.00%'
  )


def voc_reference(found, truth, number):
  """The development kit's procedure, in loops, without its + 1."""
  total, rows = 0, []
  for image, (some, there) in enumerate(zip(found, truth, strict=True)):
    total += int(np.sum((there.classes == number) & (there.kinds == 0)))
    for place in np.flatnonzero(some.classes == number):
      rows.append((-some.scores[place], image, place))
  rows.sort()
  used, hits, misses, curve = set(), 0, 0, []
  for _, image, place in rows:
    best, at = -1.0, -1
    for other in np.flatnonzero(truth[image].classes == number):
      a, b = found[image].boxes[place], truth[image].boxes[other]
      height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
      if height > 0 and width > 0:
        sides = [(v[2] - v[0]) * (v[3] - v[1]) for v in (a, b)]
        share = height * width / (sum(sides) - height * width)
        if share > best:
          best, at = share, other
    if best >= 0.5 and truth[image].kinds[at]:
      continue
    right = best >= 0.5 and (image, at) not in used
    if right:
      used.add((image, at))
    hits, misses = hits + right, misses + (not right)
    curve.append((hits / total, hits / (hits + misses)))
  area, last = 0.0, 0.0
  for k, (recall, _) in enumerate(curve):
    area += (recall - last) * max(p for _, p in curve[k:])
    last = recall
  points = [max([p for r, p in curve if r >= t / 10], default=0.0) for t in range(11)]
  return area, np.mean(points)


def test_voc_is_the_development_kits():
  found, truth = pairs()
  truth = [each._replace(kinds=np.minimum(each.kinds, DIFFICULT)) for each in truth]
  rng = np.random.default_rng(0)  # Without ties: their order is nobody's.
  found = [each._replace(scores=rng.uniform(size=len(each.scores))) for each in found]
  wanted = [voc_reference(found, truth, number) for number in range(3)]
  made = detection.voc_by_class(found, truth, 3)
  np.testing.assert_allclose(np.stack(list(made.values()), 1), wanted, atol=1e-12)


def test_neither_order_nor_scale_matters():
  found, truth = pairs()
  rng = np.random.default_rng(0)
  found = [each._replace(scores=rng.uniform(size=len(each.scores))) for each in found]
  plain = detection.coco_ap(found, truth, 3) | detection.voc_ap(found, truth, 3)
  turned = [Detections(*(part[::-1] for part in each)) for each in found[::-1]]
  moved = detection.coco_ap(turned, truth[::-1], 3) | detection.voc_ap(turned, truth[::-1], 3)
  assert moved == pytest.approx(plain, abs=1e-12)
  factor = np.array([2.0, 0.5, 2.0, 0.5])  # Areas stay.
  wide = [each._replace(boxes=each.boxes * factor) for each in found]
  long = [each._replace(boxes=each.boxes * factor) for each in truth]
  assert detection.coco_ap(wide, long, 3)['ap'] == pytest.approx(plain['ap'], abs=1e-12)
