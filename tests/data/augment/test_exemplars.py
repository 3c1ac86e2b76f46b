"""Exemplar-CNN's transformations against values computed by hand, NumPy in float64 and colorsys."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.augment import exemplars
from byoljax.data.augment.exemplars import ExemplarSpec
from byoljax.suggest import from_fields


def noise(*shape):
  return np.random.default_rng(1).uniform(size=shape).astype(np.float32)


resampled = jax.jit(exemplars.resampled, static_argnums=4)


def test_a_patch_that_is_not_moved_is_a_slice():
  image = noise(9, 9, 3)
  found = resampled(image, np.float32([3.5, 4.5]), 1.0, 0.0, 4)
  np.testing.assert_allclose(found, image[2:6, 3:7], rtol=0, atol=1e-6)


def test_a_quarter_turn_is_counterclockwise():
  image = noise(5, 5, 3)
  found = resampled(image, np.float32([2, 2]), 1.0, np.float32(np.pi / 2), 5)
  # The sine and cosine of a float32 angle are off by 1e-7, times 2 pixels.
  np.testing.assert_allclose(found, np.rot90(image), rtol=0, atol=5e-6)


def test_enlarging_interpolates_and_the_border_repeats():
  image = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
  found = np.asarray(resampled(image, np.float32([1.5, 1.5]), 2.0, 0.0, 4))[..., 0]
  place = 1.5 + (np.arange(4) - 1.5) / 2
  np.testing.assert_allclose(found, 4 * place[:, None] + place[None], rtol=0, atol=2e-5)
  outside = np.asarray(resampled(image, np.float32([-8.0, 1.5]), 1.0, 0.0, 4))[..., 0]
  np.testing.assert_array_equal(outside, np.tile(image[0, :, 0], (4, 1)))


def test_patches_are_where_the_gradient_is():
  image = np.full((2, 16, 16, 3), 0.5, np.float32)
  image[0, 6, 9] = 1.0
  indices = np.arange(200, dtype=np.int32)
  images = np.repeat(image[:1], 200, axis=0)
  seeds = jax.jit(exemplars.seed_corners, static_argnums=(2, 3))
  corners = np.asarray(seeds(images, indices, 4, 0))
  # The central difference of a dot is at its four neighbors, in equal shares.
  places, counts = np.unique(corners + 2, axis=0, return_counts=True)
  assert places.tolist() == [[5, 9], [6, 8], [6, 10], [7, 9]]
  assert counts.min() > 200 / 4 - 6 * np.sqrt(200 * 3 / 16)
  # A function of index and seed; anywhere in an image without gradient.
  np.testing.assert_array_equal(corners[::-1], seeds(images, indices[::-1], 4, 0))
  assert (corners != np.asarray(seeds(images, indices, 4, 1))).any()
  flat = np.asarray(seeds(np.repeat(image[1:], 200, axis=0), indices, 4, 0))
  assert flat.min() == 0 and flat.max() == 12 and len(np.unique(flat, axis=0)) > 80


def test_components_are_scaled_about_the_mean():
  patch = 0.5 + 0.2 * (noise(6, 6, 3) - 0.5)
  factors = np.float32([0.6, 1.0, 1.7])
  found = jax.jit(exemplars.scale_components)(patch, factors)
  pixels = patch.reshape(-1, 3).astype(np.float64)
  mean = pixels.mean(0)
  _, values, vectors = np.linalg.svd(pixels - mean, full_matrices=False)
  assert (np.diff(values) < 0).all()
  expected = mean + ((pixels - mean) @ vectors.T * factors[::-1]) @ vectors
  # Directions of components are known to 1e-7 over the gap between their variances, 1e-2 of them.
  np.testing.assert_allclose(found.reshape(-1, 3), expected, rtol=0, atol=2e-5)
  # A gray patch has one component: the largest factor counts.
  gray = np.repeat(patch[..., :1], 3, axis=2)
  found = jax.jit(exemplars.scale_components)(gray, factors)
  np.testing.assert_allclose(found, gray.mean() + 1.7 * (gray - gray.mean()), rtol=0, atol=5e-6)


def test_saturation_and_value_are_those_of_colorsys():
  patch = noise(4, 4, 3)
  powers, factors, offsets, turn = np.float32([0.5, 3.0]), np.float32([1.2, 0.8]), \
    np.float32([-0.05, 0.1]), np.float32(0.6)  # fmt: skip
  found = jax.jit(exemplars.curve_saturation_and_value)(patch, powers, factors, offsets, turn)
  for pixel, own in zip(patch.reshape(-1, 3), np.asarray(found).reshape(-1, 3), strict=True):
    hue, saturation, value = colorsys.rgb_to_hsv(*map(float, pixel))
    saturation, value = (
      min(max(x ** float(p) * float(f) + float(o), 0.0), 1.0)
      for x, p, f, o in zip((saturation, value), powers, factors, offsets, strict=True)
    )
    # float32's pow, five times.
    np.testing.assert_allclose(
      own, colorsys.hsv_to_rgb((hue + 0.1) % 1.0, saturation, value), rtol=0, atol=1e-5
    )


def test_samples_differ_stay_in_range_and_are_functions_of_the_position():
  images = noise(3, 16, 16, 3)
  corners = np.int32([[2, 3], [0, 8], [8, 0]])
  make = jax.jit(exemplars.make_exemplars, static_argnums=(4, 5))
  key, spec = jax.random.key(0), ExemplarSpec(patch=8)
  found = np.asarray(make(images, key, np.arange(3), corners, spec, 4))
  assert found.shape == (4, 3, 8, 8, 3) and found.min() >= 0 and found.max() <= 1
  assert np.abs(found[0] - found[1]).mean() > 0.05
  again = make(images[::-1], key, np.arange(3)[::-1], corners[::-1], spec, 4)
  np.testing.assert_allclose(found, again[:, ::-1], rtol=0, atol=1e-5)
  # Without any change it is the patch.
  ones = dict.fromkeys(('scale', 'components', 'power', 'factor'), (1.0, 1.0))
  still = ExemplarSpec(patch=8, translation=0.0, rotation=0.0, offset=0.0, hue=0.0, **ones)
  found = make(images, key, np.arange(3), corners, still, 4)
  np.testing.assert_allclose(found[3, 0], images[0, 2:10, 3:11], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'patch': 3}, 'patch=3'),
    ({'scale': (1.4, 0.7)}, 'low, high'),
    ({'power': (0.0, 1.0)}, 'both above 0'),
    ({'rotation': 200.0}, r'rotation=200.0 .* \[0, 180.0\]'),
    ({'rotate': 20.0}, "did you mean 'rotation'"),
  ],
)
def test_what_cannot_be_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    from_fields(ExemplarSpec, 'field of exemplars', fields)


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match='patch=20 does not fit into views of 16'):
    exemplars.seed_corners(jnp.zeros((1, 16, 16, 3)), jnp.zeros(1, int), 20, 0)
  with pytest.raises(ValueError, match='3 channels are changed, but these have 1'):
    exemplars.seed_corners(jnp.zeros((1, 16, 16, 1)), jnp.zeros(1, int), 8, 0)


def test_the_defaults_are_the_papers():
  """arXiv 1406.6909, section 3.1: as the module's header has them."""
  assert ExemplarSpec() == ExemplarSpec(
    patch=32, translation=0.2, scale=(0.7, 1.4), rotation=20.0, components=(0.5, 2.0),
    power=(0.25, 4.0), factor=(0.7, 1.4), offset=0.1, hue=0.1,
  )  # fmt: skip


def test_changes_of_color_are_drawn_from_all_of_their_ranges(monkeypatch):
  """The hue's in sextants, of which the circle has six."""
  monkeypatch.setattr(exemplars, 'curve_saturation_and_value', lambda patch, *drawn: drawn)
  keys, image = jax.random.split(jax.random.key(0), 200), jnp.zeros((4, 4, 3))
  spec = ExemplarSpec(patch=4, power=(0.5, 3.0), factor=(0.8, 1.2), offset=0.2, hue=0.25)
  draw = jax.vmap(lambda key: exemplars.sample(image, key, jnp.zeros(2, jnp.int32), spec))
  ranges = ((0.5, 3.0), (0.8, 1.2), (-0.2, 0.2), (-1.5, 1.5))
  for found, (low, high) in zip(jax.jit(draw)(keys), ranges, strict=True):
    # Of 200 draws or more each end's nearest twentieth has one but for once in 28,000 times.
    margin = 0.05 * (high - low)
    assert low <= found.min() < low + margin and high - margin < found.max() <= high
