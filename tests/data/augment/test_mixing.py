"""Mixup and CutMix: timm's boxes and labels, hand values, draws."""

import functools

import jax
import numpy as np
import pytest

from byoljax.data.augment import mixing
from byoljax.losses import classification
from tests.paths import GOLDEN

# As in tests/golden/make_finetune.py.
BOXES = ((0.3, 0.5, 0.5), (0.9, 0.0, 0.99), (0.0, 0.2, 0.7), (1.0, 0.5, 0.5), (0.55, 0.95, 0.1))


@pytest.fixture(scope='module')
def golden():
  return dict(np.load(GOLDEN / 'finetune.npz'))


def test_boxes_are_timms(golden):
  share, down, across = (np.array(x, np.float32) for x in zip(*BOXES, strict=True))
  draw = jax.jit(jax.vmap(lambda s, c: mixing.outside_box(12, 9, s, c)))
  np.testing.assert_array_equal(draw(share, np.stack([down, across], 1)), golden['boxes'])


def test_labels_are_timms(golden):
  smoothed = jax.jit(classification.smoothed, static_argnums=(1, 2))
  labels = smoothed(np.array([2, 0, 1, 1]), 3, 0.1)
  mixed = np.asarray(jax.jit(mixing.mixed_labels)(labels, np.full((2, 2), 0.3, np.float32)))
  np.testing.assert_allclose(mixed[:2], golden['labels0'], atol=1e-6)
  np.testing.assert_allclose(mixed[2:], golden['labels2'], atol=1e-6)
  # By hand: 0.9 and 0.1 / 3 on every class.
  np.testing.assert_allclose(np.asarray(labels)[0], [1 / 30, 1 / 30, 0.9 + 1 / 30], atol=1e-6)
  np.testing.assert_allclose(smoothed(np.array([-1]), 3, 0.1), [[0, 0, 0]])


def test_images_are_mixed_with_their_neighbors():
  images = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1) * np.ones((1, 2, 3, 1), np.float32)
  kept = np.array([[1, 1, 0], [1, 0.25, 1]], np.float32)
  mixed = np.asarray(jax.jit(mixing.mixed_images)(images, kept))[..., 0]
  np.testing.assert_allclose(mixed[0], [[0, 0, 1], [0, 0.75, 0]], atol=1e-6)
  np.testing.assert_allclose(mixed[3], [[3, 3, 2], [3, 2.25, 3]], atol=1e-6)
  with pytest.raises(ValueError, match='an even number of images on each device, not 3'):
    mixing.partners(images[:3])


def test_draws_are_one_of_both_kinds():
  keys = jax.random.split(jax.random.key(0), 2000)

  def draw(mixup, cutmix):
    one = functools.partial(mixing.weights, height=8, width=8, mixup=mixup, cutmix=cutmix)
    return np.asarray(jax.jit(jax.vmap(one))(keys)).reshape(2000, 64)

  both = draw(0.8, 1.0)
  flat = (both == both[:, :1]).all(1) & (both[:, 0] > 0) & (both[:, 0] < 1)
  # Half of them, standard deviation 22; a few boxes cover all or nothing.
  assert 1000 - 5 * 22 < flat.sum() < 1000 + 5 * 22
  assert set(np.unique(both[~flat])) == {0.0, 1.0}
  # Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2 a + 1)): 0.096, errors of 0.007, 0.002.
  levels = draw(0.8, 0.0)[:, 0]
  assert abs(levels.mean() - 0.5) < 5 * 0.007 and abs(levels.var() - 0.0962) < 5 * 0.002
  with pytest.raises(ValueError, match='must not be negative, and not both be 0'):
    mixing.weights(keys[0], 8, 8, mixup=0.0, cutmix=0.0)
