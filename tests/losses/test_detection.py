"""The losses of a detector's two stages: values and gradients by hand, and what costs nothing."""

import jax
import jax.numpy as jnp
import numpy as np

from byoljax.losses import detection as losses

SOME = jnp.array([[0.0, 0, 10, 10], [20, 20, 40, 30], [5, 5, 15, 25]])
TARGETS = jnp.array([[1.0, 0, 11, 10], [18, 20, 42, 32], [0, 0, 0, 0]])


def encoded(boxes, anchors, weights=(1, 1, 1, 1)):
  """Codes in float64."""
  boxes, anchors = np.asarray(boxes, np.float64), np.asarray(anchors, np.float64)
  size, own = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
  center, at = (boxes[:, :2] + boxes[:, 2:]) / 2, (anchors[:, :2] + anchors[:, 2:]) / 2
  return np.concatenate([(center - at) / own, np.log(size / own)], 1) * weights


def l1(x, beta):
  x = np.abs(x)
  return np.where(x < beta, x * x / (2 * beta), x - beta / 2)


def test_smooth_l1_by_hand():
  x = jnp.array([-2.0, -0.5, 0.0, 0.5, 2.0])
  assert losses.smooth_l1(x, 1.0).tolist() == [1.5, 0.125, 0, 0.125, 1.5]
  slope = jax.vmap(jax.grad(lambda v: losses.smooth_l1(v, 0.5)))(x)
  assert slope.tolist() == [-1, -1, 0, 1, 1]


def test_first_stage_is_float64s():
  logits, codes = jnp.array([2.0, -1.0, 0.5]), jnp.array([[0.3, 0, -0.2, 0.1]] * 3)
  positive, there = jnp.array([True, True, False]), jnp.array([True, True, True])
  something, place = losses.first_stage(logits, codes, SOME, TARGETS, positive, there)
  p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
  np.testing.assert_allclose(something, -np.log([p[0], p[1], 1 - p[2]]).mean(), rtol=1e-5)
  wanted = encoded(TARGETS[:2], SOME[:2])
  distance = l1(np.asarray(codes[:2], np.float64) - wanted, 1 / 9).sum() / 3
  np.testing.assert_allclose(place, distance, rtol=1e-5)


def test_second_stage_is_float64s():
  logits = jnp.array([[1.0, 0.0, -1.0], [0.2, 0.4, 0.0], [0.0, 0.0, 3.0]])
  codes = jnp.arange(24.0).reshape(3, 2, 4) / 10
  labels, there = jnp.array([1, 0, 2]), jnp.array([True, True, True])
  kind, exact = losses.second_stage(logits, codes, SOME, TARGETS, labels, there)
  log = np.asarray(logits, np.float64)
  log -= np.log(np.exp(log).sum(1, keepdims=True))
  np.testing.assert_allclose(kind, -np.mean(log[[0, 1, 2], [1, 0, 2]]), rtol=1e-5)
  wanted = encoded(TARGETS[:2], SOME[:2], (10, 10, 5, 5))
  own = np.stack([codes[0, 1], codes[1, 0]]).astype(np.float64)
  np.testing.assert_allclose(exact, l1(own - wanted, 1.0).sum() / 3, rtol=1e-5)


def test_what_is_not_there_costs_nothing():
  """Not even where it is infinite; images without anything cost 0, with a gradient of 0."""
  logits, codes = jnp.array([2.0, jnp.inf, 0.5]), jnp.ones((3, 4))
  positive = jnp.array([True, True, False])

  def first(logits, codes, there):
    return sum(losses.first_stage(logits, codes, SOME, TARGETS, positive, there))

  part = first(logits, codes, jnp.array([True, False, True]))
  assert np.isfinite(part) and part > 0
  none = jnp.zeros(3, bool)
  value, gradient = jax.value_and_grad(first, (0, 1))(jnp.ones(3), codes, none)
  assert value == 0 and not any(map(np.any, gradient))
  many = jnp.ones((3, 2, 4))

  def second(logits, codes):
    labels = jnp.array([2, 2, 2])
    return sum(losses.second_stage(logits, codes, SOME, TARGETS, labels, none))

  value, gradient = jax.value_and_grad(second, (0, 1))(jnp.ones((3, 3)), many)
  assert value == 0 and not any(map(np.any, gradient))
