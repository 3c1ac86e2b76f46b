"""Losses of outputs at every pixel: values by hand, float64 NumPy, devices, what does not count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.losses import dense


def slow_reverse_huber(predicted, target, known):
  error = np.abs(predicted - target)[known].astype(np.float64)
  c = error.max() / 5
  return np.mean(np.where(error <= c, error, (error**2 + c**2) / (2 * c)))


def slow_cross_entropy(logits, labels):
  logits = logits.astype(np.float64)
  logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  known = (labels >= 0) & (labels < logits.shape[-1])
  return -np.mean(
    np.take_along_axis(logs, np.where(known, labels, 0)[..., None], -1)[..., 0][known]
  )


def test_reverse_huber_by_hand():
  """Errors 0, 1, 5, 10: c = 2, and 0, 1, (25 + 4) / 4, (100 + 4) / 4."""
  target = jnp.array([[3.0, 3.0, 3.0, 3.0, jnp.nan]])
  predicted = jnp.array([[3.0, 2.0, 8.0, 13.0, 7.0]])
  known = jnp.isfinite(target)
  value, slope = jax.value_and_grad(dense.reverse_huber)(predicted, target, known)
  assert value == (0 + 1 + 7.25 + 26) / 4
  np.testing.assert_allclose(slope[0], np.array([0, -1, 2.5, 5, 0]) / 4)
  assert dense.reverse_huber(target, target, known & False) == 0
  same, nothing = jax.value_and_grad(dense.reverse_huber)(predicted, predicted, known)
  assert same == 0 and not np.asarray(nothing).any()


def test_cross_entropy_by_hand():
  logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1.0, 1.0, 1.0]]]))
  value, slope = jax.value_and_grad(dense.pixel_cross_entropy)(logits, jnp.array([[0, 2, 255]]))
  np.testing.assert_allclose(value, (np.log(2) + np.log(10)) / 2, rtol=1e-6)
  np.testing.assert_allclose(slope[0, 0], [-0.25, 0.125, 0.125], atol=1e-6)
  assert not np.asarray(slope[0, 2]).any()
  nothing, slope = jax.value_and_grad(dense.pixel_cross_entropy)(logits, jnp.full((1, 3), -1))
  assert nothing == 0 and not np.asarray(slope).any()


@pytest.mark.parametrize('kind', ['classes', 'depth'])
def test_the_mean_over_devices_is_over_all_known_pixels(kind):
  """Unequally many on four devices, and none at all on one; against float64."""
  rng = np.random.default_rng(0)
  if kind == 'classes':
    loss, slow = dense.pixel_cross_entropy, slow_cross_entropy
    labels = rng.integers(0, 5, (8, 3, 3))
    labels[:2], labels[5, 1] = 255, -1
    arrays = rng.normal(size=(8, 3, 3, 5)).astype(np.float32), labels
  else:
    loss, slow = dense.reverse_huber, slow_reverse_huber
    target = rng.uniform(1, 9, (8, 3, 3)).astype(np.float32)
    target[:2], target[5, 1] = np.nan, np.inf
    arrays = rng.normal(size=(8, 3, 3)).astype(np.float32), target, np.isfinite(target)
  parts = [x.reshape(4, 2, *x.shape[1:]) for x in arrays]
  mapped = jax.vmap(functools.partial(loss, axis='batch'), axis_name='batch')
  each = jax.jit(mapped)(*parts)
  assert each[0] == 0
  # float32 sums of 66 numbers: 2e-7 was found.
  np.testing.assert_allclose(each.mean(), slow(*arrays), rtol=1e-6)
  np.testing.assert_allclose(loss(*map(jnp.asarray, arrays)), slow(*arrays), rtol=1e-6)


def test_wrong_shapes_are_refused():
  with pytest.raises(ValueError, match=r'need logits \[b,H,W,K\]'):
    dense.pixel_cross_entropy(jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 2, 2, 1), int))
  with pytest.raises(ValueError, match='of one shape'):
    dense.reverse_huber(jnp.zeros((1, 2)), jnp.zeros((1, 2, 1)), jnp.ones((1, 2), bool))
