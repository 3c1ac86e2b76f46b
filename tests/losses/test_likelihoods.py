"""Likelihoods of whole numbers, against float64."""

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
