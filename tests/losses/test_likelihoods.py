"""Likelihoods of whole numbers, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.losses import likelihoods


def test_numbers_of_pixels_are_bytes_and_their_upper_bits():
  bytes_ = np.arange(256)
  pixels = jnp.asarray(bytes_ / 255.0, jnp.float32)
  np.testing.assert_array_equal(likelihoods.levels_of(pixels, 256), bytes_)
  np.testing.assert_array_equal(likelihoods.levels_of(pixels, 32), bytes_ >> 3)
  np.testing.assert_array_equal(likelihoods.levels_of(pixels, 3), bytes_ * 3 // 256)
  np.testing.assert_array_equal(likelihoods.levels_of(jnp.asarray([-0.1, 1.1]), 4), [0, 3])
  values = likelihoods.values_of(likelihoods.levels_of(pixels, 256), 256)
  np.testing.assert_allclose(values, pixels, rtol=1e-6)


def test_cross_entropy_of_every_number():
  rng = np.random.default_rng(0)
  logits, targets = 3 * rng.normal(size=(2, 3, 5)), rng.integers(0, 5, (2, 3))
  chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  expected = -np.log(np.take_along_axis(chances, targets[..., None], -1)[..., 0])
  found = likelihoods.categorical_nll(jnp.asarray(logits, jnp.float32), jnp.asarray(targets))
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(('levels', 'bits'), [(256, 8.0), (512, 9.0), (2, 1.0)])
def test_equal_chances_cost_the_bits_of_a_number(levels, bits):
  found = likelihoods.categorical_nll(jnp.zeros((3, levels)), jnp.arange(3) % levels)
  np.testing.assert_allclose(likelihoods.bits(found), bits, rtol=1e-6)


def test_logistics_in_their_tails():
  """The least scale is e^-7; a bin's mass where float32 knows it, else density times width."""
  numbers = jnp.asarray([100, 100, 255])
  x = 2 * np.array([100, 100, 255]) / 255 - 1
  off, half, inverse = np.array([0.01, 0.03, 0.02]), 1 / 255, np.exp(7.0)
  output = np.concatenate([[0.0], x - off, [-50.0] * 3, [0.0] * 3])[None]
  tail = lambda t: np.log1p(-1 / (1 + np.exp(-t)))  # noqa: E731
  red = tail((off[0] - half) * inverse) + np.log1p(
    -np.exp(tail((off[0] + half) * inverse) - tail((off[0] - half) * inverse))
  )
  middle = off[1] * inverse
  green = -middle + 7.0 - 2 * np.log1p(np.exp(-middle)) + np.log(2 * half)
  blue = tail((off[2] - half) * inverse)  # The last bin has no end.
  assert np.exp(red) > 1e-4 and np.exp(green) < 1e-12
  found = jax.jit(likelihoods.logistics_nll, static_argnums=2)(output, numbers, 256)
  # The difference of two float32 near 1, of 1e-3: 6e-5 of the red part, five times.
  np.testing.assert_allclose(found, -(red + green + blue), rtol=1e-5)
