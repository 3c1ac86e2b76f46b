"""Losses of codecs against hand-computed values and float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.losses import codecs

Z, E = (np.random.default_rng(seed).normal(size=(2, 3, 4)) for seed in (0, 1))


def test_each_term_has_a_gradient_for_one_side_alone():
  z, e = jnp.asarray(Z), jnp.asarray(E)
  expected = ((Z - E) ** 2).mean()
  for loss, moved, kept in ((codecs.commitment, 0, 1), (codecs.codebook, 1, 0)):
    value, gradients = jax.value_and_grad(loss, (0, 1))(z, e)
    assert float(value) == pytest.approx(expected, rel=1e-6)
    sign = 1 if moved == 0 else -1
    # Rounding of float32 numbers around 1: 1e-8 seen.
    np.testing.assert_allclose(gradients[moved], sign * 2 * (Z - E) / Z.size, atol=1e-7)
    np.testing.assert_array_equal(gradients[kept], np.zeros_like(Z))
  with pytest.raises(ValueError, match='must have one shape'):
    codecs.commitment(z, e[:1])


def test_the_comparison_of_edges():
  x, y = (np.random.default_rng(seed).normal(size=(2, 4, 5, 3)) for seed in (2, 3))
  expected = sum(np.abs(np.diff(x, axis=axis) - np.diff(y, axis=axis)).mean() for axis in (1, 2))
  found = codecs.gradient_difference(jnp.asarray(x), jnp.asarray(y))
  assert float(found) == pytest.approx(expected, rel=1e-5)
  assert float(codecs.gradient_difference(jnp.asarray(x), jnp.asarray(x) + 1.0)) < 1e-6


def test_maps_are_compared_by_their_angles():
  """By hand: 2 - 2 cos, the mean over places, the sum over maps; a place of zeros is 0 itself."""
  one = jnp.asarray([[[[3.0, 4.0], [0.0, 0.0]]]])
  other = jnp.asarray([[[[8.0, 6.0], [0.0, 2.0]]]])
  # cos = 48 / 50; against nothing the square of a unit.
  first = (0.08 + 1.0) / 2
  tokens = jnp.asarray([[[1.0, 0.0], [0.0, 2.0]]]), jnp.asarray([[[-1.0, 0.0], [0.0, 1.0]]])
  second = (4.0 + 0.0) / 2
  found = codecs.feature_distance((one, tokens[0]), (other, tokens[1]))
  assert float(found) == pytest.approx(first + second, rel=1e-5)
  slopes = jax.grad(lambda y, x: codecs.feature_distance((y,), (x,)), (0, 1))(one, other)
  assert np.all(np.isfinite(slopes[0])) and np.any(slopes[0]) and not np.any(slopes[1])
  with pytest.raises(ValueError, match='must have one shape'):
    codecs.feature_distance((one,), (tokens[0],))


def test_the_weight_that_balances_two_gradients():
  first, second = jnp.array([3.0, 4.0]), jnp.array([0.0, 0.5])
  assert float(codecs.adaptive_weight(first, second)) == pytest.approx(5 / (0.5 + 1e-4), rel=1e-6)
  assert float(codecs.adaptive_weight(1e3 * first, 0 * second)) == 1e4
  slope = jax.grad(lambda x: codecs.adaptive_weight(x, second))(first)
  np.testing.assert_array_equal(slope, [0, 0])


def test_pixels_stay_a_tenth_from_the_ends():
  """The paper's epsilon, appendix A.3; the inverse is cut off where a decoder goes beyond."""
  pixels = jnp.asarray([0.0, 0.5, 1.0])
  squeezed = codecs.squeezed(pixels)
  np.testing.assert_allclose(squeezed, [0.1, 0.5, 0.9], rtol=1e-6)
  np.testing.assert_allclose(codecs.unsqueezed(squeezed), pixels, atol=1e-6)
  np.testing.assert_array_equal(codecs.unsqueezed(jnp.asarray([0.0, 1.0])), [0.0, 1.0])
