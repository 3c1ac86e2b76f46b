"""Views upside down, turned, and with a square cut out."""

import dataclasses

import jax
import numpy as np
import pytest

from byoljax.data.augment import device, draws, reorient, views
from byoljax.data.augment.views import ViewSpec
from byoljax.data.fields import Field

IMAGES = np.random.default_rng(0).random((400, 8, 8, 3)).astype(np.float32)
DRAWS = np.random.default_rng(1).random((400, views.NUM_DRAWS)).astype(np.float32)
PLAIN = ViewSpec(
  size=8, crop_scale=(1, 1), crop_ratio=(1, 1), flip_prob=0, jitter_prob=0, gray_prob=0, blur_prob=0
)
orient = jax.jit(reorient.orient, static_argnums=2)


def test_an_image_is_one_of_its_orientations_as_often_as_asked():
  spec = dataclasses.replace(PLAIN, vflip_prob=0.25, turn_prob=0.6)
  found = np.asarray(orient(IMAGES, DRAWS, spec))
  counts = np.zeros((2, 4))
  for image, made in zip(IMAGES, found, strict=True):
    upside = (image, image[::-1])
    (where,) = [
      (over, k) for over in (0, 1) for k in range(4) if (np.rot90(upside[over], k) == made).all()
    ]
    counts[where] += 1
  # Of 400 draws; five standard deviations of a share are 0.125.
  np.testing.assert_allclose(counts.sum(1) / 400, [0.75, 0.25], atol=0.125)
  np.testing.assert_allclose(counts.sum(0) / 400, [0.4, 0.2, 0.2, 0.2], atol=0.125)
  assert reorient.orient(IMAGES, DRAWS, PLAIN) is IMAGES


def test_a_square_of_the_asked_area_is_cut_out():
  spec = dataclasses.replace(PLAIN, cutout_prob=0.5, cutout_scale=(0.1, 0.5))
  found = np.asarray(jax.jit(reorient.cut_out, static_argnums=2)(IMAGES, DRAWS, spec))
  gone = (found == 0).all(-1)
  hit = gone.any((1, 2))
  np.testing.assert_array_equal(hit, DRAWS[:, views.CUTOUT] < 0.5)
  np.testing.assert_array_equal(found[~gone], IMAGES[~gone])
  share = 0.1 + DRAWS[:, views.CUTOUT_AREA] * 0.4
  sides = np.round(8 * np.sqrt(share)).astype(int)
  for mask, side in zip(gone[hit], sides[hit], strict=True):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert mask.sum() == side**2 and np.ptp(rows) == np.ptp(columns) == side - 1
  assert gone[:, 0, 0].any() and gone[:, -1, -1].any(), 'it reaches the corners'
  assert reorient.cut_out(IMAGES, DRAWS, PLAIN) is IMAGES


def test_they_are_part_of_the_augmentation_and_shared_with_the_geometry():
  turning = dataclasses.replace(PLAIN, turn_prob=0.8)
  follower = dataclasses.replace(PLAIN, geometry_of=0)
  pixels = (IMAGES[:6] * 255).astype(np.uint8)
  batch = {
    'image': pixels, 'index': np.arange(6), 'epoch': np.int32(0), 'label': np.zeros(6, np.int32)
  }  # fmt: skip
  augment = device.make_augment([turning, follower, PLAIN], seed=0, mean=(0.5,), std=(0.25,))
  first, second, plain = jax.jit(augment)(batch)['views']
  np.testing.assert_array_equal(first, second)
  u = draws.uniforms(np, 0, 0, np.arange(6), 0, views.NUM_DRAWS)
  np.testing.assert_allclose(first, orient(plain, u, turning), atol=1e-6)
  assert np.abs(first - plain).max() > 0.1


def test_what_cannot_be_is_refused():
  with pytest.raises(ValueError, match='turn_prob'):
    ViewSpec(turn_prob=1.5)
  with pytest.raises(ValueError, match='cutout_scale'):
    ViewSpec(cutout_scale=(0.5, 1.5))
  turning = dataclasses.replace(PLAIN, vflip_prob=0.5)
  with pytest.raises(ValueError, match=r'where fields follow the views \(depth\)'):
    device.make_augment([turning], seed=0, mean=(0,), std=(1,), fields=[Field('depth', 'map', 1)])


def test_any_angle_turns_a_ramp_as_geometry_says():
  """A ramp is linear, so bilinear interpolation is exact within the inscribed circle."""
  y, x = np.mgrid[:9, :9].astype(np.float32) - 4
  ramp = np.stack([x, y, x + y], -1)
  inside = np.hypot(y, x) <= 4
  u = np.zeros((3, views.NUM_DRAWS), np.float32)
  u[:, views.ROTATE] = [0.5, 0.75, 1.0]
  spec = dataclasses.replace(PLAIN, rotate_degrees=90.0)
  found = np.asarray(orient(np.stack([ramp] * 3), u, spec))
  np.testing.assert_allclose(found[0], ramp, atol=1e-5)
  np.testing.assert_allclose(found[2], np.rot90(ramp), atol=1e-5)
  half = np.sqrt(0.5)
  expected = half * np.stack([x - y, x + y, 2 * x], -1)
  np.testing.assert_allclose(found[1][inside], expected[inside], atol=1e-5)
  assert found[1].min() >= ramp.min() and found[1].max() <= ramp.max(), 'mirrored, not filled'


def test_angles_are_spread_and_the_same_images_stay():
  spec = dataclasses.replace(PLAIN, rotate_degrees=10.0)
  assert spec.reorients and not PLAIN.reorients
  with pytest.raises(ValueError, match='rotate_degrees is 181'):
    dataclasses.replace(PLAIN, rotate_degrees=181)
