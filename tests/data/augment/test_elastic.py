"""Elastic distortions: what the displacements are, and what they do to an image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from byoljax.data.augment import device, draws, elastic, randaugment, reorient, view_checks, views
from byoljax.data.augment.views import ViewSpec
from byoljax.data.fields import Field

PLAIN = ViewSpec(
  size=16,
  crop_scale=(1, 1),
  crop_ratio=(1, 1),
  flip_prob=0,
  jitter_prob=0,
  gray_prob=0,
  blur_prob=0,
)
SPEC = dataclasses.replace(PLAIN, elastic=0.05, elastic_smooth=0.125)


def uniforms(spec, count):
  return draws.uniforms(np, 3, 0, np.arange(count), 0, spec.num_draws)


def test_displacements_have_the_strength_and_the_smoothness_that_are_asked():
  """Standard deviation 0.05 x 16 at every pixel; 2 pixels, one width, apart exp(-1/4)."""
  field = np.asarray(elastic.displacements(jnp.asarray(uniforms(SPEC, 2000)), SPEC))
  assert field.shape == (2000, 2, 16, 16)
  # Of 2,000 draws: five standard errors of a mean, of a standard deviation, of a correlation.
  np.testing.assert_allclose(field.mean(0), 0, atol=5 * 0.8 / 2000**0.5)
  np.testing.assert_allclose(field.std(0), 0.8, rtol=5 / 4000**0.5)
  for distance in (1, 2, 4):
    near = (field[..., distance:] * field[..., :-distance]).mean((0, 1)) / 0.8**2
    np.testing.assert_allclose(near, np.exp(-((distance / 4) ** 2)), atol=5 / 2000**0.5)
  across = (field[:, 0] * field[:, 1]).mean(0) / 0.8**2
  np.testing.assert_allclose(across, 0, atol=5 / 2000**0.5)


def test_a_field_is_the_same_at_any_size():
  larger = dataclasses.replace(SPEC, size=48)
  u = jnp.asarray(uniforms(SPEC, 2))
  field, fine = (np.asarray(elastic.displacements(u, spec)) / spec.size for spec in (SPEC, larger))
  np.testing.assert_allclose(fine[:, :, 1::3, 1::3], field, atol=1e-6)


def test_an_image_is_read_where_the_field_says():
  """As SciPy interpolates; a field of one number in every pixel moves it by whole pixels."""
  image = np.random.default_rng(0).random((1, 16, 16, 2)).astype(np.float32)
  u = jnp.asarray(uniforms(SPEC, 1))
  found = np.asarray(elastic.distort(image, u, SPEC))
  place = np.indices((16, 16)) + np.asarray(elastic.displacements(u, SPEC))[0]
  for channel in range(2):
    wanted = ndimage.map_coordinates(image[0, ..., channel], place, order=1, mode='reflect')
    np.testing.assert_allclose(found[0, ..., channel], wanted, atol=1e-5)
  assert np.abs(found - image).max() > 0.1
  assert elastic.distort(image, u, PLAIN) is image
  faint = dataclasses.replace(SPEC, elastic=1e-9)
  np.testing.assert_allclose(elastic.distort(image, u, faint), image, atol=1e-6)


def test_it_is_part_of_the_augmentation_and_shared_with_the_geometry():
  """A view that follows another, at its own colors, is distorted as that one; RandAugment stays."""
  follower = dataclasses.replace(PLAIN, geometry_of=0)
  images = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
  batch = {'image': images, 'index': np.arange(4), 'epoch': np.int32(0)}
  augment = device.make_augment([SPEC, follower, PLAIN], seed=3, mean=(0.5,), std=(0.25,))
  first, second, plain = jax.jit(augment)(batch)['views']
  np.testing.assert_array_equal(first, second)
  wanted = reorient.orient(plain, jnp.asarray(uniforms(SPEC, 4)), SPEC)
  np.testing.assert_allclose(first, wanted, atol=1e-5)
  some = dataclasses.replace(PLAIN, randaugment_ops=2)
  both = dataclasses.replace(SPEC, randaugment_ops=2)
  drawn = [randaugment.drawn(jnp.asarray(uniforms(spec, 4)), spec) for spec in (some, both)]
  jax.tree.map(np.testing.assert_array_equal, *drawn)


@pytest.mark.parametrize('moved', [{'elastic': 0.1}, {'shift': 0.25}])
def test_a_shared_geometry_moves_each_view_by_its_own_pixels(moved):
  """Of a ramp, the smaller view is the larger one at half its size, wherever that was moved."""
  ramp = np.arange(32, dtype=np.uint8)
  image = np.stack([*np.meshgrid(ramp, ramp), np.zeros((32, 32), np.uint8)], -1)[None]
  batch = {'image': image, 'index': np.arange(1), 'epoch': np.int32(0)}
  large = dataclasses.replace(PLAIN, size=32, **moved)
  small = dataclasses.replace(PLAIN, size=16, geometry_of=0)
  augment = device.make_augment([large, small], seed=3, mean=(0,), std=(1 / 255,))
  first, second = (np.asarray(view)[0] for view in jax.jit(augment)(batch)['views'])
  halved = first.reshape(16, 2, 16, 2, 3).mean((1, 3))
  whole = np.s_[5:-5, 5:-5]  # Up to a quarter of the edge comes from outside.
  # A shift is a whole number of pixels, at either size: half of one of 32 is a difference of 1.
  np.testing.assert_allclose(second[whole], halved[whole], atol=1.0 + 1e-3)
  unmoved = image[0].reshape(16, 2, 16, 2, 3).mean((1, 3))
  assert np.abs(second - unmoved)[whole].max() > 1.1


def test_what_cannot_be_is_refused():
  for wrong in ({'elastic': 0.3}, {'elastic': -0.1}, {'elastic_smooth': 0.0}):
    with pytest.raises(ValueError, match=next(iter(wrong))):
      dataclasses.replace(PLAIN, **wrong)
  with pytest.raises(ValueError, match=r'elastic and randaugment_ops must be 0 .*\(boxes\)'):
    device.make_augment([SPEC], seed=0, mean=(0,), std=(1,), fields=[Field('boxes', 'boxes', 2)])
  for changes in ({'elastic': 0.1}, {'shift': 0.1}, {'zoom': (2.0, 4.0)}):
    with pytest.raises(ValueError, match=f'set {next(iter(changes))}=(0|None)'):
      view_checks.require_whole(dataclasses.replace(PLAIN, **changes), 'series')
  assert view_checks.require_whole(PLAIN, 'series') is None
  assert SPEC.num_draws == views.ELASTIC + 2 * SPEC.elastic_nodes**2
