"""Alignment and uniformity: by hand, against an independent float64 form, and in blocks."""

import jax
import numpy as np
import pytest

from byoljax.data.augment import device, views
from byoljax.data.batches import pipeline
from byoljax.data.batches.order import Order
from byoljax.data.sources import arrays
from byoljax.evals import hypersphere


def random(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference(x, t):
  """The definition, over a list of all pairs, in float64."""
  x = np.asarray(x, np.float64)
  x = x / np.sqrt((x**2).sum(1, keepdims=True))
  values = [
    np.exp(-t * np.sum((x[i] - x[j]) ** 2)) for i in range(len(x)) for j in range(i + 1, len(x))
  ]
  return np.log(np.mean(values))


class TestAlignment:
  def test_by_hand(self):
    # Distances: 0 (equal directions), sqrt 2 (orthogonal), 2 (opposite).
    first = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    second = np.array([[5.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert hypersphere.alignment(first, second) == pytest.approx((0 + 2 + 4) / 3)
    assert hypersphere.alignment(first, second, 1.0) == pytest.approx((0 + 2**0.5 + 2) / 3)
    assert hypersphere.alignment(first, second, 4.0) == pytest.approx((0 + 4 + 16) / 3)

  def test_small_distances_keep_their_digits(self):
    first = random(0, 5000, 16)
    second = first + 1e-4 * random(1, 5000, 16)
    u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in map(np.float64, (first, second)))
    expected = np.mean(np.linalg.norm(u - v, axis=1) ** 2)
    assert hypersphere.alignment(first, second) == pytest.approx(expected, rel=1e-9)


class TestUniformity:
  def test_by_hand(self):
    # Squared distances of e1, e2, -e1: 2, 4, 2.
    x = np.array([[3.0, 0.0], [0.0, 0.5], [-1.0, 0.0]])
    expected = np.log((2 * np.exp(-4.0) + np.exp(-8.0)) / 3)
    assert hypersphere.uniformity(x) == pytest.approx(expected, abs=1e-6)
    assert hypersphere.uniformity(np.eye(9)) == pytest.approx(-4.0, abs=1e-6)
    assert hypersphere.uniformity(np.ones((7, 3))) == pytest.approx(0.0, abs=1e-6)

  @pytest.mark.parametrize('t', [0.5, 2.0, 100.0])
  @pytest.mark.parametrize('block', [7, 16, 45, 2048])
  def test_equals_the_definition_whatever_the_blocks(self, t, block):
    x = random(0, 45, 6) + 0.5
    assert hypersphere.uniformity(x, t, block=block) == pytest.approx(reference(x, t), abs=1e-5 * t)

  def test_random_directions_in_many_dimensions(self):
    # cos has variance 1 / D: log E exp(2 t cos) = 2 t^2 / D to second order.
    got = hypersphere.uniformity(random(0, 600, 512))
    assert got == pytest.approx(-4 + 2 * 2.0**2 / 512, abs=2e-3)


@pytest.mark.parametrize(
  ('call', 'sentence'),
  [
    (lambda: hypersphere.uniformity(np.ones((1, 3))), 'at least two'),
    (lambda: hypersphere.uniformity(np.ones((4, 3)), 0.0), 't=0.0'),
    (lambda: hypersphere.alignment(np.ones((4, 3)), np.ones((3, 3))), 'two views'),
    (lambda: hypersphere.alignment(np.ones((4, 3)), np.ones((4, 3)), -1.0), 'alpha=-1.0'),
  ],
)
def test_bad_input(call, sentence):
  with pytest.raises(ValueError, match=sentence):
    call()


def test_views_are_those_of_training_whatever_the_batch():
  """Every image once, in order, with the pictures that the first epoch would make of it."""
  images = np.random.default_rng(0).integers(0, 256, (24, 12, 12, 3), dtype=np.uint8)
  source = arrays.from_arrays(images, np.arange(24) % 3, name='noise')
  specs = (views.ViewSpec(size=12, blur_prob=0.0, solarize_prob=0.0),
           views.ViewSpec(size=8, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0))  # fmt: skip
  augment = jax.jit(device.make_augment(specs, seed=5, mean=(0.5,) * 3, std=(0.2,) * 3))
  expected = [np.zeros((24, spec.size, spec.size, 3)) for spec in specs]
  for batch in pipeline.train_batches(
    source, specs, order=Order(24, 8, seed=5), seed=5, start_step=0, stop_step=3
  ):
    for to, view in zip(expected, augment(batch)['views'], strict=True):
      to[batch['index']] = view
  made = list(pipeline.view_batches(source, specs, batch_size=16, seed=5))
  index, valid = (np.concatenate([batch[name] for batch in made]) for name in ('index', 'valid'))
  np.testing.assert_array_equal(index[valid], np.arange(24))
  assert (index[~valid] == -1).all() and len(valid) == 32
  pictures = [augment(batch)['views'] for batch in made]
  for number, goal in enumerate(expected):
    got = np.concatenate([each[number] for each in pictures])
    np.testing.assert_allclose(got[valid], goal, atol=1e-5)
