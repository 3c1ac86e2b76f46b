"""Vector quantization against hand-computed values and float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.ops import codebook

Z = np.random.default_rng(0).normal(size=(2, 3, 3, 4))
CODES = np.random.default_rng(1).normal(size=(5, 4))


def test_the_nearest_code():
  distance = ((Z[..., None, :] - CODES) ** 2).sum(-1)
  found = codebook.nearest(jnp.asarray(Z), jnp.asarray(CODES))
  assert found.dtype == np.int32
  np.testing.assert_array_equal(found, distance.argmin(-1))
  with pytest.raises(ValueError, match='must have one D'):
    codebook.nearest(jnp.zeros((2, 3)), jnp.asarray(CODES))


def test_moving_averages_by_hand():
  """Two codes, one vector near the first: N = (.9 + .1, .9), m = (.9 e + .1 z, .9 e)."""
  z, chosen = jnp.array([[3.0]]), jnp.array([0])
  used, total = codebook.use(z, chosen, 2, None)
  np.testing.assert_array_equal(used, [1, 0])
  np.testing.assert_array_equal(total, [[3], [0]])
  counts = 0.9 * jnp.ones(2) + 0.1 * used
  sums = 0.9 * jnp.array([[1.0], [-1.0]]) + 0.1 * total
  codes = codebook.means(counts, sums, epsilon=0.1)
  # N = 1.9; N' = (1.1, 1.0) / 2.1 * 1.9; m = (1.2, -0.9).
  np.testing.assert_allclose(codes[:, 0], [1.2 * 2.1 / (1.1 * 1.9), -0.9 * 2.1 / 1.9], rtol=1e-6)


def test_the_smoothing_keeps_codes_that_nothing_is_near_to():
  never = codebook.means(jnp.array([4.0, 0.0]), jnp.array([[4.0], [0.0]]))
  assert np.all(np.isfinite(never)) and float(never[0, 0]) == pytest.approx(1.0, abs=1e-4)


def test_dead_codes_are_put_on_rows_and_others_stay():
  counts, codes = jnp.array([8.0, 0.5, 0.2, 0.1]), jnp.arange(8.0).reshape(4, 2)
  rows = -jnp.ones((4, 2))  # The mean use is 2.2.
  np.testing.assert_array_equal(codebook.dead(counts, 0.1), [False, False, True, True])
  moved, put = codebook.restart(counts, codes, rows, 0.1)
  np.testing.assert_allclose(moved, [8.0, 0.5, 2.2, 2.2], rtol=1e-6)
  np.testing.assert_array_equal(put[:2], codes[:2])
  np.testing.assert_array_equal(put[2:], rows[2:])
  assert not np.any(codebook.dead(jnp.array([5.0, 0.0]), 0.0))


def test_rows_are_drawn_from_all_devices_alike():
  rows = jnp.arange(24.0).reshape(12, 2)
  alone = codebook.drawn_rows(jax.random.key(3), rows, 40, None)
  several = jax.vmap(
    lambda part: codebook.drawn_rows(jax.random.key(3), part, 40, 'batch'), axis_name='batch'
  )(rows.reshape(4, 3, 2))
  for each in several:
    np.testing.assert_array_equal(each, alone)
  assert len({tuple(row) for row in np.asarray(alone)}) > 8
  assert {tuple(row) for row in np.asarray(alone)} <= {tuple(row) for row in np.asarray(rows)}


def test_perplexity_and_straight_through():
  assert float(codebook.perplexity(jnp.full(7, 3.0))) == pytest.approx(7.0, rel=1e-6)
  assert float(codebook.perplexity(jnp.eye(7)[0])) == pytest.approx(1.0)
  share = np.array([0.5, 0.25, 0.25])
  expected = np.exp(-(share * np.log(share)).sum())
  assert float(codebook.perplexity(jnp.asarray(share * 8))) == pytest.approx(expected, rel=1e-6)
  z, e = jnp.array([1.0, 2.0]), jnp.array([1.5, -1.0])
  value, (to_z, to_e) = jax.value_and_grad(
    lambda z, e: (codebook.straight_through(z, e) ** 2).sum(), (0, 1)
  )(z, e)
  assert float(value) == pytest.approx(3.25)
  np.testing.assert_allclose(to_z, 2 * e)
  np.testing.assert_array_equal(to_e, [0, 0])
