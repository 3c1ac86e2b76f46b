"""Vector quantization against hand-computed values and float64 NumPy."""

import jax
import numpy as np
import pytest

from byoljax.ops import codebook

Z = np.random.default_rng(0).normal(size=(2, 3, 3, 4))
CODES = np.random.default_rng(1).normal(size=(5, 4))


def test_the_nearest_code():
  distance = ((Z[..., None, :] - CODES) ** 2).sum(-1)
  found = jax.jit(codebook.nearest)(Z, CODES)
  assert found.dtype == np.int32
  np.testing.assert_array_equal(found, distance.argmin(-1))
  with pytest.raises(ValueError, match='must have one D'):
    codebook.nearest(np.zeros((2, 3)), CODES)


def test_moving_averages_by_hand():
  """Two codes, one vector near the first: N = (.9 + .1, .9), m = (.9 e + .1 z, .9 e)."""
  z, chosen = np.array([[3.0]], np.float32), np.array([0])
  used, total = jax.jit(lambda z, chosen: codebook.use(z, chosen, 2, None))(z, chosen)
  np.testing.assert_array_equal(used, [1, 0])
  np.testing.assert_array_equal(total, [[3], [0]])
  counts = np.float32(0.9) * np.ones(2, np.float32) + np.float32(0.1) * np.asarray(used)
  sums = np.array([[0.9], [-0.9]], np.float32) + np.float32(0.1) * np.asarray(total)
  codes = np.asarray(jax.jit(lambda *given: codebook.means(*given, epsilon=0.1))(counts, sums))
  # N = 1.9; N' = (1.1, 1.0) / 2.1 * 1.9; m = (1.2, -0.9).
  np.testing.assert_allclose(codes[:, 0], [1.2 * 2.1 / (1.1 * 1.9), -0.9 * 2.1 / 1.9], rtol=1e-6)


def test_the_smoothing_keeps_codes_that_nothing_is_near_to():
  counts, sums = np.array([4, 0], np.float32), np.array([[4], [0]], np.float32)
  never = np.asarray(jax.jit(codebook.means)(counts, sums))
  assert np.all(np.isfinite(never)) and float(never[0, 0]) == pytest.approx(1.0, abs=1e-4)


def test_dead_codes_are_put_on_rows_and_others_stay():
  counts = np.array([8, 0.5, 0.2, 0.1], np.float32)
  codes = np.arange(8, dtype=np.float32).reshape(4, 2)
  rows = -np.ones((4, 2), np.float32)  # The mean use is 2.2.
  dead = jax.jit(codebook.dead)
  np.testing.assert_array_equal(dead(counts, 0.1), [False, False, True, True])
  moved, put = map(np.asarray, jax.jit(codebook.restart)(counts, codes, rows, 0.1))
  np.testing.assert_allclose(moved, [8.0, 0.5, 2.2, 2.2], rtol=1e-6)
  np.testing.assert_array_equal(put[:2], codes[:2])
  np.testing.assert_array_equal(put[2:], rows[2:])
  assert not np.any(dead(np.array([5, 0], np.float32), 0.0))


def test_rows_are_drawn_from_all_devices_alike():
  rows, key = np.arange(24, dtype=np.float32).reshape(12, 2), jax.random.key(3)
  alone = jax.jit(lambda rows: codebook.drawn_rows(key, rows, 40, None))(rows)
  draw = lambda part: codebook.drawn_rows(key, part, 40, 'batch')  # noqa: E731
  several = jax.jit(jax.vmap(draw, axis_name='batch'))(rows.reshape(4, 3, 2))
  for each in several:
    np.testing.assert_array_equal(each, alone)
  assert len({tuple(row) for row in np.asarray(alone)}) > 8
  assert {tuple(row) for row in np.asarray(alone)} <= {tuple(row) for row in np.asarray(rows)}


def test_perplexity_and_straight_through():
  perplexity = jax.jit(codebook.perplexity)
  assert float(perplexity(np.full(7, 3, np.float32))) == pytest.approx(7.0, rel=1e-6)
  assert float(perplexity(np.eye(7, dtype=np.float32)[0])) == pytest.approx(1.0)
  share = np.array([0.5, 0.25, 0.25])
  expected = np.exp(-(share * np.log(share)).sum())
  assert float(perplexity(share * 8)) == pytest.approx(expected, rel=1e-6)
  z, e = np.array([1, 2], np.float32), np.array([1.5, -1], np.float32)
  value, (to_z, to_e) = jax.jit(
    jax.value_and_grad(lambda z, e: (codebook.straight_through(z, e) ** 2).sum(), (0, 1))
  )(z, e)
  assert float(value) == pytest.approx(3.25)
  np.testing.assert_allclose(to_z, 2 * e)
  np.testing.assert_array_equal(to_e, [0, 0])
