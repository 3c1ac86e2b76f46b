"""Errors of reconstructions by hand, and their values and gradients against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.losses import reconstruction as losses

SHAPE = (3, 4, 5, 2)


def arrays(seed=0):
  rng = np.random.default_rng(seed)
  output, target = rng.normal(size=SHAPE), rng.uniform(size=SHAPE)
  weight = rng.integers(0, 3, (*SHAPE[:3], 1)).astype(float)
  weight[1] = 0
  return output, target, weight


def error_of(name, output, target):
  """Errors and their derivatives, in float64."""
  if name == 'squared_error':
    return (output - target) ** 2, 2 * (output - target)
  p = 1 / (1 + np.exp(-output))
  return -target * np.log(p) - (1 - target) * np.log(1 - p), p - target


@pytest.mark.parametrize('name', ['squared_error', 'binary_cross_entropy'])
@pytest.mark.parametrize('kind', ['none', 'by place', 'by value'])
def test_values_and_gradients(name, kind):
  output, target, weight = arrays()
  if kind == 'none':
    weight = np.ones_like(weight)
  elif kind == 'by value':
    weight = weight * np.random.default_rng(1).uniform(size=SHAPE)
  error, slope = error_of(name, output, target)
  whole = np.broadcast_to(weight, SHAPE)
  total = whole.sum((1, 2, 3), keepdims=True)
  share = whole / np.where(total > 0, total, 1) / len(output)
  given = None if kind == 'none' else jnp.asarray(weight)
  value, gradient = jax.value_and_grad(
    lambda x: getattr(losses, name)(x, jnp.asarray(target), given)
  )(jnp.asarray(output))
  np.testing.assert_allclose(value, (share * error).sum(), rtol=2e-6)
  # Entries up to 0.1; rounding of float32 inputs: 3e-9 seen.
  np.testing.assert_allclose(gradient, share * slope, rtol=1e-5, atol=2e-8)
  if kind != 'none':
    assert not np.any(gradient[1]), 'an image of weight 0 has no gradient'


def test_by_hand():
  target = jnp.zeros((2, 1, 2, 1))
  output = target.at[0, 0, 0].set(2.0).at[1, 0, 1].set(1.0)
  assert float(losses.squared_error(output, target)) == (4 / 2 + 1 / 2) / 2
  left = jnp.array([1.0, 0.0]).reshape(1, 1, 2, 1)
  assert float(losses.squared_error(output, target, jnp.tile(left, (2, 1, 1, 1)))) == (4 + 0) / 2
  half = jnp.full_like(target, 0.5)
  # At s(l) = t it is the target's entropy, and at large logits it is finite.
  assert float(losses.binary_cross_entropy(target, half)) == pytest.approx(np.log(2))
  assert float(losses.binary_cross_entropy(target + 200, target)) == 200.0
  assert float(losses.binary_cross_entropy(target - 200, target)) == 0.0


def test_low_precision_is_summed_in_float32():
  output = jnp.full((1, 64, 64, 3), 0.1, jnp.bfloat16)
  value = losses.squared_error(output, jnp.zeros_like(output))
  assert value.dtype == jnp.float32
  assert float(value) == pytest.approx(float(output[0, 0, 0, 0]) ** 2, rel=1e-5)


@pytest.mark.parametrize(
  ('target', 'weight'),
  [((3, 4, 5, 1), None), (SHAPE, (3, 4, 5)), (SHAPE, (1, 4, 5, 1)), (SHAPE, (3, 4, 5, 3))],
)
def test_shapes_that_do_not_fit(target, weight):
  given = None if weight is None else jnp.ones(weight)
  with pytest.raises(ValueError, match='of one shape'):
    losses.squared_error(jnp.zeros(SHAPE), jnp.zeros(target), given)
