"""The two players' losses against float64 NumPy, and as one scalar."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.losses import adversarial

REAL, FAKE = (np.random.default_rng(seed).normal(size=(5, 2)) * 3 for seed in (0, 1))


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def test_values_and_gradients():
  value, (real, fake) = jax.value_and_grad(adversarial.discriminate, (0, 1))(
    jnp.asarray(REAL), jnp.asarray(FAKE)
  )
  expected = -np.log(sigmoid(REAL)).mean() - np.log(1 - sigmoid(FAKE)).mean()
  assert float(value) == pytest.approx(expected, rel=1e-6)
  # Rounding of float32 logits around 3: 1e-8 seen.
  np.testing.assert_allclose(real, (sigmoid(REAL) - 1) / REAL.size, atol=1e-7)
  np.testing.assert_allclose(fake, sigmoid(FAKE) / FAKE.size, atol=1e-7)
  value, slope = jax.value_and_grad(adversarial.fool)(jnp.asarray(FAKE))
  assert float(value) == pytest.approx(-np.log(sigmoid(FAKE)).mean(), rel=1e-6)
  np.testing.assert_allclose(slope, (sigmoid(FAKE) - 1) / FAKE.size, atol=1e-7)


def test_at_evens_and_far_away():
  zeros = jnp.zeros((4,))
  assert float(adversarial.discriminate(zeros, zeros)) == pytest.approx(2 * np.log(2))
  assert float(adversarial.fool(zeros)) == pytest.approx(np.log(2))
  assert float(adversarial.discriminate(zeros - 1000, zeros + 1000)) == 2000
  assert float(adversarial.fool(zeros - 1000)) == 1000


def test_accuracy():
  real, fake = jnp.array([1.0, 2.0, -1.0, 0.5]), jnp.array([-1.0, -2.0, 3.0, -4.0])
  assert float(adversarial.accuracy(real, fake)) == 6 / 8


def test_hinge_losses():
  real, fake = jnp.asarray(REAL), jnp.asarray(FAKE)
  expected = 0.5 * (np.maximum(0, 1 - REAL).mean() + np.maximum(0, 1 + FAKE).mean())
  assert float(adversarial.hinge_discriminate(real, fake)) == pytest.approx(expected, rel=1e-6)
  assert float(adversarial.hinge_discriminate(0 * real, 0 * fake)) == 1.0
  assert float(adversarial.hinge_fool(fake)) == pytest.approx(-FAKE.mean(), rel=1e-5)
