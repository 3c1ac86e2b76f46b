"""Losses: values by hand, lightly's and PyTorch's values and gradients, invariances, errors."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.losses.classification import accuracy, cross_entropy, top_k_correct
from byoljax.losses.regression import cosine_regression
from byoljax.ops import sphere
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import philox  # noqa: E402

# Compiled: operation by operation they take longer.
regress, entropy = jax.jit(cosine_regression), jax.jit(cross_entropy)
share = jax.jit(accuracy, static_argnums=2)


@pytest.fixture(scope='module')
def golden():
  return dict(np.load(GOLDEN / 'losses.npz'))


# --- regression -----------------------------------------------------------------------------------


def test_cosine_regression_by_hand():
  p = np.array([[3, 0, 4], [1, 0, 0]], np.float32)
  z = np.array([[0, 0, 2], [0, 5, 0]], np.float32)
  # cosines 4/5 and 0: (2 - 8/5 + 2 - 0) / 2
  assert float(regress(p, z)) == pytest.approx(1.2, rel=1e-6)


@pytest.mark.parametrize(('sign', 'value'), [(1.0, 0.0), (-1.0, 4.0)])
def test_cosine_regression_reaches_both_ends_of_its_range(sign, value):
  p = philox.uniform('range', (8, 16), -1.0, 1.0)
  assert float(regress(p, np.float32(7.0 * sign) * p)) == pytest.approx(value, abs=1e-5)


def test_cosine_regression_equals_lightlys_value_and_gradient(golden):
  p = philox.uniform('p', (8, 16), -3.0, 3.0)
  z = philox.uniform('z', (8, 16), -0.1, 0.2)
  value, (p_grad, z_grad) = jax.jit(jax.value_and_grad(cosine_regression, (0, 1)))(p, z)
  np.testing.assert_allclose(value, golden['regression'], rtol=1e-6)
  np.testing.assert_allclose(p_grad, golden['regression/p'], rtol=1e-4, atol=1e-7)
  np.testing.assert_allclose(z_grad, golden['regression/z'], rtol=1e-4, atol=1e-6)


def test_cosine_regression_is_blind_to_length():
  p = philox.uniform('p', (8, 16), -3.0, 3.0)
  z = philox.uniform('z', (8, 16), -0.1, 0.2)
  scales = philox.uniform('scales', (8, 1), 0.01, 100.0)
  np.testing.assert_allclose(regress(p * scales, z), regress(p, z), rtol=1e-5)
  # so the gradient is orthogonal to the prediction
  gradient = np.asarray(jax.jit(jax.grad(cosine_regression))(p, z))
  # 16 products of up to 0.1, each rounded by 6e-8 of that: 1e-7, five times.
  np.testing.assert_allclose(np.sum(gradient * p, axis=-1), np.zeros(8), atol=5e-7)


def test_zero_vectors_give_finite_values_and_gradients():
  p = np.zeros((2, 3), np.float32)
  z = np.array([[1, 0, 0], [0, 0, 0]], np.float32)
  value, gradient = jax.jit(jax.value_and_grad(cosine_regression))(p, z)
  assert float(value) == pytest.approx(0.5)  # |0 - z|^2 = 1 and 0
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(jax.jit(sphere.normalize)(p), p)


def test_bfloat16_inputs_are_computed_in_float32():
  p = philox.uniform('p', (8, 16), -3.0, 3.0).astype(jnp.bfloat16)
  z = philox.uniform('z', (8, 16), -0.1, 0.2).astype(jnp.bfloat16)
  value = regress(p, z)
  assert value.dtype == jnp.float32
  exact = regress(p.astype(np.float32), z.astype(np.float32))
  np.testing.assert_array_equal(value, exact)
  logits = philox.uniform('logits', (4, 7), -4.0, 4.0).astype(jnp.bfloat16)
  labels = np.arange(4)
  rounded = entropy(logits, labels)
  assert rounded.dtype == jnp.float32
  np.testing.assert_array_equal(rounded, entropy(logits.astype(np.float32), labels))


@pytest.mark.parametrize(
  ('p', 'z'), [((4, 3), (4, 2)), ((4, 3), (1, 3)), ((4,), (4,)), ((2, 4, 3), (2, 4, 3))]
)
def test_cosine_regression_refuses_other_shapes(p, z):
  with pytest.raises(ValueError, match=r'one shape \[b,D\], got p \(.*and z \('):
    cosine_regression(np.zeros(p), np.zeros(z))


# --- classification -------------------------------------------------------------------------------


def test_cross_entropy_by_hand():
  # softmax of (0, log 3) is (1/4, 3/4); of equal logits 1/2
  logits = np.array([[0.0, np.log(3.0)], [5.0, 5.0]], np.float32)
  assert float(entropy(logits, np.array([0, 1]))) == pytest.approx(
    (np.log(4) + np.log(2)) / 2, rel=1e-6
  )
  assert float(entropy(logits, np.array([1, 0]), np.array([True, False]))) == (
    pytest.approx(np.log(4 / 3), rel=1e-5)
  )


def test_classification_equals_pytorch_with_missing_labels(golden):
  logits, labels = (
    philox.uniform('logits', (12, 7), -4.0, 4.0),
    golden['labels'].astype(np.int32),
  )
  value, gradient = jax.jit(jax.value_and_grad(cross_entropy))(logits, labels)
  np.testing.assert_allclose(value, golden['cross_entropy'], rtol=1e-6)
  np.testing.assert_allclose(gradient, golden['cross_entropy/logits'], rtol=1e-4, atol=1e-7)
  for k in (1, 2, 5):
    np.testing.assert_allclose(share(logits, labels, k), golden[f'top{k}'], rtol=1e-6)


def test_a_mask_equals_leaving_the_rows_out_and_shields_from_their_values():
  logits = philox.uniform('logits', (12, 7), -4.0, 4.0)
  labels = np.arange(12) % 7
  mask = np.arange(12) < 5
  dirty = np.where(mask[:, None], logits, np.float32(np.nan))
  value, gradient = jax.jit(jax.value_and_grad(cross_entropy))(dirty, labels, mask)
  np.testing.assert_allclose(value, entropy(logits[:5], labels[:5]), rtol=1e-6)
  assert np.isfinite(gradient).all() and not np.any(gradient[5:])
  np.testing.assert_allclose(
    share(dirty, labels, 2, mask), share(logits[:5], labels[:5], 2), rtol=1e-6
  )


def test_no_counting_row_gives_zero_and_no_gradient():
  logits, labels = np.ones((3, 4), np.float32), np.full(3, -1)
  value, gradient = jax.jit(jax.value_and_grad(cross_entropy))(logits, labels)
  assert float(value) == 0.0 and not np.any(gradient)
  assert float(share(logits, labels)) == 0.0


def test_top_k_by_hand_with_ties_and_broken_rows():
  logits = np.array(
    [
      [0.1, 0.9, 0.5],  # order 1, 2, 0
      [2.0, 2.0, 2.0],  # ties in class order 0, 1, 2
      [2.0, 2.0, 2.0],
      [np.nan, np.nan, np.nan],
      [0.0, np.nan, 1.0],  # the nan ranks first
      [5.0, 0.0, 0.0],
    ],
    np.float32,
  )
  labels = np.array([2, 0, 1, 0, 2, -1])
  correct = jax.jit(top_k_correct, static_argnums=2)
  assert correct(logits, labels, 1).tolist() == [False, True, False, False, False, False]
  assert correct(logits, labels, 2).tolist() == [True, True, True, False, True, False]
  assert correct(logits, labels, 3).tolist() == [True, True, True, False, True, False]
  assert float(share(logits, labels, 2)) == pytest.approx(4 / 5)


@pytest.mark.parametrize(
  ('logits', 'labels', 'mask', 'message'),
  [
    (np.zeros((4, 3)), np.zeros(3, np.int32), None, r'got logits \(4, 3\) and labels \(3,\)'),
    (np.zeros(4), np.zeros(4, np.int32), None, r'got logits \(4,\)'),
    (np.zeros((4, 3)), np.zeros((4, 3), np.int32), None, r'labels \(4, 3\)'),
    (np.zeros((4, 3)), np.zeros(4, np.float32), None, 'labels must be integers, got float32'),
    (np.zeros((4, 3)), np.zeros(4, np.int32), np.ones(3, bool), r'mask must be \[b\]'),
  ],
)
def test_classification_refuses_other_shapes_and_types(logits, labels, mask, message):
  with pytest.raises(ValueError, match=message):
    cross_entropy(logits, labels, mask)
  with pytest.raises(ValueError, match=message):
    accuracy(logits, labels, 1, mask)


def test_top_0_is_refused():
  with pytest.raises(ValueError, match='k of at least 1, got 0'):
    accuracy(np.zeros((2, 3)), np.zeros(2, np.int32), 0)
