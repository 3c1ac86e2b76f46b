"""Losses of colorization: by hand, and loss, weights and gradient as PyTorch computes them."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.losses import colorization
from byoljax.ops import color_bins
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import color_tensors  # noqa: E402

entropy = jax.jit(colorization.soft_cross_entropy)


def test_by_hand():
  logits = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.4, 0.4]], np.float32))
  which, shares = np.array([[0, 1], [2, 0]]), np.array([[0.75, 0.25], [1, 0]], np.float32)
  first, second = np.log(2) * 0.75 + np.log(4) * 0.25, np.log(2.5)
  value = entropy(logits, which, shares)
  assert float(value) == pytest.approx((first + second) / 2, rel=1e-6)
  value = entropy(logits, which, shares, np.array([0, 3], np.float32))
  assert float(value) == pytest.approx(3 * second / 2, rel=1e-6)
  error = jax.jit(colorization.squared_error)(
    np.array([[1, 2], [0, 0]], np.float32), np.array([[0, 0], [0, 2]], np.float32)
  )
  assert float(error) == pytest.approx((5 / 2 + 4 / 2) / 2)


def test_equal_logits_cost_the_logarithm_of_the_classes():
  @jax.jit
  def of_equal_logits():
    which, shares = color_bins.encode(jnp.zeros((2, 3, 3, 2)), color_bins.ab_bins())
    return colorization.soft_cross_entropy(jnp.zeros((2, 3, 3, 313)), which, shares)

  value = of_equal_logits()
  assert float(value) == pytest.approx(5.7462, abs=1e-4)


def test_encoding_weights_loss_gradient_and_decoding_are_pytorchs():
  golden = np.load(GOLDEN / 'colorization.npz')
  given = {
    name: np.asarray(jnp.asarray(value)) for name, value in color_tensors.loss_inputs().items()
  }
  bins = given['bins']
  which, shares = map(np.asarray, jax.jit(lambda ab: color_bins.encode(ab, bins))(given['ab']))
  np.testing.assert_array_equal(which, golden['loss/which'])
  # The largest errors, five times each: 1e-6 of shares, 1.2e-7 of weights and 5e-8 of gradients.
  np.testing.assert_allclose(shares, golden['loss/shares'], atol=5e-6)
  weigh = jax.jit(lambda counts: color_bins.rebalancing(color_bins.smoothed(counts, bins)))
  weights = np.asarray(weigh(given['counts']))
  np.testing.assert_allclose(weights, golden['loss/weights'], rtol=1e-6)

  def loss(logits):
    return colorization.soft_cross_entropy(logits, which, shares, weights[which[:, 0]])

  value, gradient = jax.jit(jax.value_and_grad(loss))(given['logits'])
  assert float(value) == pytest.approx(float(golden['loss/loss']), rel=1e-6)
  np.testing.assert_allclose(gradient, golden['loss/gradient'], atol=2.5e-7)
  mean = jax.jit(lambda logits: color_bins.annealed_mean(logits, bins))(given['logits'])
  # 1.2e-5 of colors up to 80.
  np.testing.assert_allclose(mean, golden['loss/annealed'], atol=6e-5)


def test_bfloat16_logits_give_a_finite_float32_loss():
  logits = (np.array([-1, 1, 1, 1])[:, None] * np.full((4, 12), 3e38)).astype(jnp.bfloat16)

  @jax.jit
  def of_one_color(logits):
    which, shares = color_bins.encode(jnp.zeros((4, 2)), np.zeros((12, 2), np.float32))
    return jax.value_and_grad(colorization.soft_cross_entropy)(logits, which, shares)

  value, gradient = of_one_color(logits)
  assert value.dtype == jnp.float32 and np.isfinite(value)
  assert np.isfinite(np.asarray(gradient, np.float32)).all()


def test_shapes_that_do_not_fit_are_named():
  with pytest.raises(ValueError, match='need logits'):
    colorization.soft_cross_entropy(
      jnp.zeros((3, 4)), jnp.zeros((2, 5), jnp.int32), jnp.zeros((2, 5))
    )
