"""Boxes, suppression, RoIAlign, matching: torchvision's values, NumPy's loops, and properties."""

import functools
import sys

import jax
import numpy as np
import pytest

from byoljax.ops import boxes, matching, nms, proposals
from byoljax.ops.roi_align import roi_align
from tests.paths import GOLDEN

sys.path.insert(0, str(GOLDEN))
import box_tensors  # noqa: E402

XY = [1, 0, 3, 2]  # Between torchvision's order of coordinates and ours.
BOXES, OTHERS, CODES, FEATURES, ROIS = box_tensors.everything()
KEY = jax.random.key(0)

# Compiled: operation by operation they take longer.
area, iou = jax.jit(boxes.area), jax.jit(boxes.iou)
encode, decode = (jax.jit(each, static_argnums=2) for each in (boxes.encode, boxes.decode))
align = jax.jit(roi_align, static_argnames=('bins', 'scale', 'samples'))


@pytest.fixture(scope='module')
def golden():
  with np.load(GOLDEN / 'boxes.npz') as file:
    return dict(file)


def test_areas_and_overlaps_by_hand():
  some = np.array([[0, 0, 2, 3], [1, 1, 3, 4], [5, 5, 4, 9], [0, 0, 0, 0]], np.float32)
  assert area(some).tolist() == [6, 6, 0, 0]
  found = np.asarray(iou(some, some))
  assert found[0].tolist() == [1, pytest.approx(2 / 10), 0, 0]
  assert found[3].tolist() == [0, 0, 0, 0], 'without an area there is no overlap, and no NaN'


def test_overlaps_and_codes_are_torchvisions(golden):
  ours, others, codes = (x[:, XY] for x in (BOXES, OTHERS, CODES))
  weights = (10.0, 10.0, 5.0, 5.0)
  np.testing.assert_allclose(iou(ours, others), golden['iou'], atol=1e-6)
  found = encode(others, ours[: len(others)], weights)
  np.testing.assert_allclose(found, golden['encoded'][:, XY], rtol=1e-5, atol=1e-5)
  back = decode(codes, ours[: len(codes)], weights)
  # Sides up to 1,500, of exponentials of up to 4.1.
  np.testing.assert_allclose(back, golden['decoded'][:, XY], rtol=1e-5, atol=2e-3)
  same = decode(found, ours[: len(others)], weights)
  np.testing.assert_allclose(same, others, atol=1e-4)


def test_codes_of_what_is_no_box_are_finite():
  def total(box):
    return encode(box, np.array([0, 0, 2, 2], np.float32)).sum()

  value, gradient = jax.jit(jax.value_and_grad(total))(np.zeros(4, np.float32))
  assert np.isfinite(value) and np.isfinite(gradient).all()


def sequential(box, score, threshold, classes):
  """Suppression as it is told: the best, then the best of what is left."""
  area = np.prod(box[:, 2:] - box[:, :2], axis=1)
  kept = []
  for i in np.argsort(-score, kind='stable'):
    for j in kept:
      low, high = np.maximum(box[i, :2], box[j, :2]), np.minimum(box[i, 2:], box[j, 2:])
      shared = np.prod(np.maximum(high - low, 0))
      if classes[i] == classes[j] and shared / (area[i] + area[j] - shared) > threshold:
        break
    else:
      kept.append(i)
  return kept


@pytest.mark.parametrize('threshold', [0.1, 0.3, 0.5, 0.9])
def test_suppression_is_the_sequential_one(threshold):
  rng = np.random.default_rng(int(10 * threshold))
  find = jax.jit(functools.partial(nms.select, threshold=threshold, count=60))
  for number in range(20):
    score = rng.uniform(size=60).round(1)  # With ties.
    classes = rng.integers(0, 1 + number % 3, 60)
    box = (BOXES + rng.normal(size=BOXES.shape) * 0.1).astype(np.float32)
    index, kept = find(box, score, np.ones(60, bool), classes=classes)
    wanted = sequential(box.astype(np.float64), score, threshold, classes)
    assert np.asarray(index)[np.asarray(kept)].tolist() == wanted


def test_suppression_ignores_what_is_not_valid():
  valid = np.arange(60) % 3 > 0
  score = np.linspace(1, 0, 60)
  part = sequential(BOXES[valid], score[valid], 0.3, np.zeros(60))
  select = jax.jit(nms.select, static_argnames=('threshold', 'count'))
  index, kept = map(np.asarray, select(BOXES, score, valid, threshold=0.3, count=100))
  assert index.shape == kept.shape == (100,)
  assert index[kept].tolist() == np.flatnonzero(valid)[part].tolist()
  assert not index[~kept].any()
  index, kept = select(BOXES, score, np.zeros(60, bool), threshold=0.3, count=7)
  assert not np.any(kept) and index.tolist() == [0] * 7


def test_regions_are_torchvisions(golden):
  features, regions = FEATURES.transpose(1, 2, 0), ROIS[:, XY]
  for bins, samples in box_tensors.GRIDS:
    made = align(features, regions, bins=bins, scale=0.25, samples=samples)
    wanted = golden[f'roi_{bins}_{samples}'].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(made, wanted, atol=5e-6)

  def total(features, regions):
    return (roi_align(features, regions, bins=7, scale=0.25) ** 2).sum()

  found, of_regions = jax.jit(jax.grad(total, (0, 1)))(features, regions)
  found = np.asarray(found)
  np.testing.assert_allclose(found.transpose(2, 0, 1), golden['roi_grad'], rtol=1e-4, atol=1e-4)
  assert not np.any(of_regions)


def test_what_is_outside_of_the_map_is_zero():
  ones = np.ones((4, 4, 1), np.float32)
  box = np.array([[-4, 0, 4, 4]], np.float32)
  made = np.asarray(align(ones, box, bins=8, scale=1, samples=1))[0, ..., 0]
  # Points at -3.5 ... 3.5, between pixels at 0.5 ... 3.5: those above -0.5 are within one of them.
  assert made[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_regions_of_a_plane_are_its_values():
  """Bilinear interpolation is exact on a + b y + c x; what is mirrored comes out mirrored."""
  y, x = np.meshgrid(np.arange(8) + 0.5, np.arange(10) + 0.5, indexing='ij')
  plane = (1 + 2 * y - 3 * x).astype(np.float32)[..., None]
  box = np.array([[4, 6, 24, 30]], np.float32)
  made = np.asarray(align(plane, box, bins=4, scale=0.25))[0, ..., 0]
  centers = (np.arange(4) + 0.5) / 4
  wanted = 1 + 2 * (1 + 5 * centers)[:, None] - 3 * (1.5 + 6 * centers)
  np.testing.assert_allclose(made, wanted, atol=2e-5)
  box = np.array([[4, 10, 24, 34]], np.float32)
  mirrored = np.asarray(align(plane[:, ::-1], box, bins=4, scale=0.25))
  np.testing.assert_allclose(mirrored[0, :, ::-1, 0], wanted, atol=2e-5)


def test_matching_by_hand():
  overlaps = np.array([[0.8, 0.1], [0.4, 0.2], [0, 0.2], [0, 0], [0.5, 0.1]], np.float32)
  valid = np.array([True, True])
  match = jax.jit(matching.match, static_argnames=('low', 'high', 'best'))
  plain = match(overlaps, valid, low=0.3, high=0.7)
  assert plain.positive.tolist() == [True, False, False, False, False]
  assert plain.negative.tolist() == [False, False, True, True, False]
  assert plain.object.tolist() == [0, 0, 1, 0, 0]
  best = match(overlaps, valid, low=0.3, high=0.7, best=True)
  assert best.positive.tolist() == [True, True, True, False, False], 'both ties of the second'
  assert best.object.tolist() == [0, 0, 1, 0, 0]
  alone = match(overlaps, np.array([True, False]), low=0.3, high=0.7, best=True)
  assert alone.positive.tolist() == [True, False, False, False, False]
  none = match(overlaps, np.array([False, False]), low=0.3, high=0.7, best=True)
  assert not np.any(none.positive) and np.all(none.negative)


def test_samples_have_their_shares():
  draw = jax.jit(functools.partial(matching.sample, count=16, share=0.25))
  positive = np.arange(50) < 20
  index, there = draw(KEY, positive, ~positive)
  assert np.all(there) and len(set(index.tolist())) == 16
  assert positive[np.asarray(index)].tolist() == [True] * 4 + [False] * 12
  other, _ = draw(jax.random.key(1), positive, ~positive)
  assert set(other.tolist()) != set(index.tolist())
  few = np.arange(50) < 2
  index, there = map(np.asarray, draw(KEY, few, np.arange(50) >= 45))
  assert there.sum() == 7 and sorted(index[:2].tolist()) == [0, 1]
  assert (index[2:7] >= 45).all()
  index, there = draw(KEY, np.zeros(3, bool), np.zeros(3, bool))
  assert index.shape == (16,) and not np.any(there)
  counts = np.zeros(50)
  for seed in range(300):
    index, _ = draw(jax.random.key(seed), positive, ~positive)
    counts[np.asarray(index)] += 1
  # 60 and 120 draws of each, by chance within 40 and 45 of them.
  assert counts[:20].min() > 20 and counts[20:].min() > 75


def test_an_overlap_of_the_threshold_itself_is_allowed():
  """Half of the first box is the second, and no more."""
  two = np.float32([[0.0, 0.0, 1.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
  for threshold, stays in ((0.5, True), (0.49, False)):
    found = jax.jit(nms.staying, static_argnums=2)(two, np.ones(2, bool), threshold)
    assert found.tolist() == [True, stays]


def test_what_is_outside_of_the_image_is_no_proposal():
  """The better one of two lies beyond the edge, and nothing is left of it when it is clipped."""
  anchors = np.array([[20.0, 0.0, 30.0, 10.0], [2.0, 2.0, 6.0, 7.0]], np.float32)
  options = proposals.ProposalOptions(before=2, after=2)
  propose = jax.jit(lambda scores: proposals.propose(
    scores, np.zeros((2, 4), np.float32), anchors, (2,), (16, 16), options))  # fmt: skip
  found, there = propose(np.float32([3.0, 1.0]))
  assert there.tolist() == [True, False]
  np.testing.assert_allclose(found[0], anchors[1], rtol=1e-6)
