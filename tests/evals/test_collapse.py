"""Collapse monitors against hand-computed values, float64 references and the device axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.devices import collectives
from byoljax.evals import collapse
from byoljax.evals.collapse import collapse_metrics

# Compiled, as they are used: one compilation per shape instead of one per operation.
effective_rank = jax.jit(collapse.effective_rank, static_argnames=('axis', 'max_size'))
normalized_std = jax.jit(collapse.normalized_std, static_argnames='axis')


def random(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference_rank(x):
  s = np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)
  p = s / s.sum()
  p = p[p > 0]
  return np.exp(-np.sum(p * np.log(p)))


@pytest.mark.parametrize('n', [2, 5, 64])
def test_one_hot_is_full_rank(n):
  x = 3.0 * jnp.eye(n)
  np.testing.assert_allclose(effective_rank(x), n, rtol=1e-5)
  # Each dimension has mean 1/n and variance (1/n)(1 - 1/n): sqrt(n) sqrt((n-1)/n^2).
  np.testing.assert_allclose(normalized_std(x), ((n - 1) / n) ** 0.5, rtol=1e-5)


@pytest.mark.parametrize('shape', [(8, 3), (256, 512), (4096, 128), (64, 2048)])
def test_constant_is_rank_one_without_spread(shape):
  x = jnp.asarray(np.tile(random(0, 1, shape[1]), (shape[0], 1)))
  np.testing.assert_allclose(effective_rank(x), 1, atol=1e-4)
  np.testing.assert_allclose(normalized_std(x), 0, atol=1e-5)


def test_scaled_copies_are_collapsed():
  x = random(0, 1, 16) * np.abs(random(1, 32, 1))
  np.testing.assert_allclose(normalized_std(jnp.asarray(x)), 0, atol=1e-5)
  np.testing.assert_allclose(effective_rank(jnp.asarray(x)), 1, atol=1e-4)


def test_values_by_hand():
  # Singular values 3 and 1: p = .75, .25; exp(-.75 ln .75 - .25 ln .25) = 1.7548.
  x = jnp.array([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
  np.testing.assert_allclose(effective_rank(x), 1.754765, rtol=1e-5)
  # Normalized rows e1, e2: standard deviations .5, .5, 0; sqrt(3) / 3.
  np.testing.assert_allclose(normalized_std(x), 3**-0.5, rtol=1e-6)
  # Opposite pairs have mean 0: +-e1, +-e2 have std sqrt(1/2) in both dimensions: exactly 1.
  signs = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
  np.testing.assert_allclose(normalized_std(signs), 1, rtol=1e-6)


def test_isotropic_vectors_have_std_one():
  np.testing.assert_allclose(normalized_std(jnp.asarray(random(0, 4096, 64))), 1, rtol=1e-2)


@pytest.mark.parametrize(
  ('shape', 'scale', 'tolerance'),
  [
    ((48, 200), 1.0, 1e-4),
    ((200, 48), 1.0, 1e-4),
    ((200, 48), 1e-12, 1e-4),
    ((48, 200), 1e15, 1e-4),
    # A square matrix has singular values below the floor of float32: 0.022 seen.
    ((100, 100), 1.0, 0.11),
  ],
)
def test_rank_equals_the_float64_definition(shape, scale, tolerance):
  # A healthy spectrum under a large common mean, as after ReLU and pooling.
  x = random(0, *shape) * np.logspace(0, -1, shape[1])[None] + 2
  x = (x * scale).astype(np.float32)
  np.testing.assert_allclose(effective_rank(jnp.asarray(x)), reference_rank(x), rtol=tolerance)


def test_large_matrices_use_evenly_spaced_rows():
  x = random(0, 90, 70)
  got = effective_rank(jnp.asarray(x), max_size=30)
  np.testing.assert_allclose(got, reference_rank(x[::3]), rtol=1e-4)
  # One small side is enough to use all rows.
  np.testing.assert_allclose(
    effective_rank(jnp.asarray(x[:, :30]), max_size=30), reference_rank(x[:, :30]), rtol=1e-4
  )


@pytest.mark.parametrize('dimension', [5, 40])
def test_global_over_devices(dimension):
  x = random(0, 16, dimension)

  def per_device(x):
    return {
      **collapse_metrics(x, collectives.AXIS),
      'subset': effective_rank(x, collectives.AXIS, max_size=3),
    }

  devices = jax.local_device_count()
  assert devices > 1
  split = x.reshape(devices, -1, dimension)
  got = jax.pmap(per_device, axis_name=collectives.AXIS)(split)
  x = jnp.asarray(x)
  expected = {
    **collapse_metrics(x),
    'subset': effective_rank(x, max_size=3),
  }
  for name, value in expected.items():
    np.testing.assert_allclose(got[name], np.full(devices, value), rtol=1e-4, err_msg=name)


def test_float32_without_gradient_and_finite_on_zeros():
  zeros = jnp.zeros((4, 3), jnp.bfloat16)
  for value in collapse_metrics(zeros).values():
    assert value.dtype == jnp.float32
    assert value == 0

  def total(x):
    return normalized_std(x) + effective_rank(x)

  gradient = jax.jit(jax.grad(total))
  for x in (jnp.asarray(random(0, 6, 4)), jnp.ones((6, 4)), jnp.zeros((6, 4))):
    np.testing.assert_array_equal(gradient(x), 0)
