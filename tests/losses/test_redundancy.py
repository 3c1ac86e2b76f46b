"""Redundancy reduction: lightly's values and gradients, values at chance and collapse, errors."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.losses import redundancy
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import philox  # noqa: E402


@pytest.fixture(scope='module')
def golden():
  return dict(np.load(GOLDEN / 'family_losses.npz'))


barlow_twins = jax.jit(redundancy.barlow_twins, static_argnames='axis')
vicreg = jax.jit(redundancy.vicreg, static_argnames=('halved_variance', 'axis'))
w_mse = jax.jit(redundancy.w_mse, static_argnames='axis')

A = philox.uniform('a', (16, 5), -2.0, 1.0)
B = philox.uniform('b', (16, 5), -1.0, 0.5)
LOSSES = {
  'barlow_twins': lambda a, b: barlow_twins(a, b, off_diagonal=0.0051)[0],
  'vicreg': lambda a, b: vicreg(a, b)[0],
  'vicreg_paper': lambda a, b: vicreg(a, b, halved_variance=False)[0],
  'w_mse': lambda a, b: w_mse(a, b, eps=1e-3),
}


@pytest.mark.parametrize('name', LOSSES)
def test_value_and_gradient_equal_lightlys(golden, name):
  value, gradients = jax.jit(jax.value_and_grad(LOSSES[name], (0, 1)))(A, B)
  np.testing.assert_allclose(value, golden[name], rtol=2e-5)
  for key, gradient in zip('ab', gradients, strict=True):
    np.testing.assert_allclose(gradient, golden[f'{name}/{key}'], rtol=1e-3, atol=1e-5)


def test_barlow_twins_of_identical_and_of_independent_views():
  rows, dim = 512, 64
  a, b = (jax.random.normal(jax.random.key(i), (rows, dim)) for i in range(2))
  value, terms = barlow_twins(a, 3.0 * a - 1.0, off_diagonal=0.0)
  # the diagonal is 1 up to epsilon, whatever the scale and shift of a view
  assert float(terms['on_diagonal']) == pytest.approx(0.0, abs=1e-6) and float(value) < 1e-6
  value, terms = barlow_twins(a, b, off_diagonal=0.5)
  assert float(terms['on_diagonal']) == pytest.approx(dim * (1 + 1 / (rows - 1)), rel=0.03)
  assert float(terms['off_diagonal']) == pytest.approx(
    dim * (dim - 1) / (rows - 1),
    rel=0.1,  # Of draws, not of rounding.
  )
  np.testing.assert_allclose(value, terms['on_diagonal'] + 0.5 * terms['off_diagonal'], rtol=1e-6)


def test_barlow_twins_by_hand():
  # standardized, a = (1, -1), (1, -1) and b = (1, -1), (-1, 1): C = [[1, -1], [1, -1]]
  a = jnp.array([[5.0, 2.0], [3.0, 0.0]])
  b = jnp.array([[1.0, 0.0], [-1.0, 2.0]])
  _, terms = barlow_twins(a, b, off_diagonal=1.0)
  # 1e-5 is added to variances of 1.
  assert float(terms['on_diagonal']) == pytest.approx(4.0, rel=2e-4)
  assert float(terms['off_diagonal']) == pytest.approx(2.0, rel=2e-4)


def test_vicreg_by_hand():
  # unbiased variances .5 and 8, covariance 2 in a; b is constant
  a = jnp.array([[0.0, 4.0], [1.0, 8.0]])
  b = jnp.array([[1.0, 6.0], [1.0, 6.0]])
  _, terms = vicreg(a, b)
  assert float(terms['invariance']) == pytest.approx((1 + 4 + 0 + 4) / 4)
  spread = (1 - np.sqrt(0.5001)) / 2  # the mean over both dimensions; 8 is beyond the hinge
  assert float(terms['variance']) == pytest.approx((spread + 0.99) / 2, rel=1e-5)
  assert float(terms['covariance']) == pytest.approx(2 * 2.0**2 / 2, rel=1e-5)
  value, same = vicreg(a, b, invariance=2.0, variance=3.0, covariance=5.0, halved_variance=False)
  np.testing.assert_allclose(same['variance'], 2 * terms['variance'], rtol=1e-6)
  expected = 2 * 2.25 + 3 * (spread + 0.99) + 5 * 4
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_vicregs_variance_term_of_a_constant_is_99_hundredths():
  constant = jnp.full((8, 3), 2.0)
  value, terms = vicreg(constant, constant)
  assert float(terms['variance']) == pytest.approx(0.99, abs=1e-6)
  assert float(terms['invariance']) == 0.0 == float(terms['covariance'])
  assert float(value) == pytest.approx(25 * 0.99, rel=1e-6)
  gradient = jax.jit(jax.grad(lambda a: vicreg(a, constant)[0]))(constant)
  assert jnp.isfinite(gradient).all()


def test_w_mse_ignores_any_linear_map_of_a_view():
  """Whitening undoes it, up to a rotation that the Cholesky factor of a triangular map has not."""
  a = jax.random.normal(jax.random.key(0), (64, 6))
  lower = jnp.tril(jax.random.normal(jax.random.key(1), (6, 6))) + 3.0 * jnp.eye(6)
  assert float(w_mse(a, a @ lower.T + 5.0, eps=0.0)) == pytest.approx(0.0, abs=1e-4)
  independent = jax.random.normal(jax.random.key(2), (64, 6))
  assert float(w_mse(a, independent, eps=0.0)) == pytest.approx(2.0, abs=0.4)


def test_w_mse_of_parts_is_the_mean_over_parts_whitened_apart():
  rng = np.random.default_rng(5)
  a, b = rng.normal(size=(2, 12, 3))
  parts = np.stack([rng.permutation(12).reshape(2, 6) for _ in range(3)])

  def whitened(z):
    z = z - z.mean(0)
    factor = np.linalg.cholesky(z.T @ z / (len(z) - 1))
    z = np.linalg.solve(factor, z.T).T
    return z / np.linalg.norm(z, axis=1, keepdims=True)

  expected = np.mean(
    [2 - 2 * (whitened(a[p]) * whitened(b[p])).sum(1) for p in parts.reshape(-1, 6)]
  )
  arguments = jnp.asarray(a), jnp.asarray(b), jnp.asarray(parts)
  assert float(redundancy.w_mse_of_parts(*arguments, eps=0.0)) == pytest.approx(expected, abs=2e-5)
  with pytest.raises(ValueError, match='larger global batch than 3'):
    redundancy.w_mse_of_parts(*arguments[:2], arguments[2].reshape(-1, 3))


def test_w_mse_survives_a_dead_dimension():
  a = jax.random.normal(jax.random.key(0), (32, 4)).at[:, 2].set(1.0)
  value, gradient = jax.jit(jax.value_and_grad(w_mse))(a, a[::-1])
  assert np.isfinite(float(value)) and jnp.isfinite(gradient).all()


@pytest.mark.parametrize('name', LOSSES)
def test_bfloat16_inputs_are_computed_in_float32(name):
  a, b = jnp.asarray(A, jnp.bfloat16), jnp.asarray(B, jnp.bfloat16)
  value = LOSSES[name](a, b)
  assert value.dtype == jnp.float32
  exact = LOSSES[name](a.astype(jnp.float32), b.astype(jnp.float32))
  np.testing.assert_array_equal(value, exact)


@pytest.mark.parametrize('name', LOSSES)
def test_bad_shapes_are_refused(name):
  with pytest.raises(ValueError, match=r'one shape \[b,D\], got \(16, 5\) and \(16, 4\)'):
    LOSSES[name](A, B[:, :4])
  with pytest.raises(ValueError, match='at least 2 rows, got 1'):
    LOSSES[name](A[:1], B[:1])


def test_whitening_more_dimensions_than_rows_is_refused():
  with pytest.raises(ValueError, match='whitening 5 dimensions needs .* than 5: use at least 10'):
    w_mse(A[:5], B[:5])
