"""The memory bank: update by hand, duplicates, in place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.ops import bank

update = jax.jit(bank.update)


def test_a_new_bank_is_uniform_with_rows_of_length_about_1():
  entries = bank.init(jax.random.key(0), 1000, 12)
  assert entries.shape == (1000, 12) and entries.dtype == jnp.float32
  assert 0.49 < float(entries.max()) <= 0.5 and -0.5 <= float(entries.min()) < -0.49
  assert float(jnp.mean(jnp.sum(entries**2, axis=1))) == pytest.approx(1.0, abs=0.03)


def test_update_by_hand():
  entries = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
  index, rows = jnp.array([2, 0]), jnp.array([[0.0, 5.0], [0.0, 3.0]])
  updated = update(entries, index, rows, 0.5)
  half = np.sqrt(0.5)
  between = np.array([0.3, 0.9]) / np.linalg.norm([0.3, 0.9])
  np.testing.assert_allclose(updated, [[half, half], [0.0, 1.0], between], rtol=1e-6)
  # overwritten at m = 0, kept but normalized at m = 1
  np.testing.assert_allclose(update(entries, index, rows, 0.0), [[0, 1], [0, 1], [0, 1]], atol=1e-7)
  np.testing.assert_allclose(update(2 * entries, index, rows, 1.0)[2], [0.6, 0.8], rtol=1e-6)


def test_only_the_rows_at_the_index_change():
  entries = bank.init(jax.random.key(0), 50, 8)
  index = jnp.array([49, 3, 17])
  updated = update(entries, index, jnp.ones((3, 8)), 0.5)
  others = np.setdiff1d(np.arange(50), index)
  np.testing.assert_array_equal(updated[others], entries[others])
  np.testing.assert_allclose(jnp.linalg.norm(updated[index], axis=1), np.ones(3), rtol=1e-5)
  assert (jnp.abs(updated[index] - entries[index]).max(1) > 0.01).all()


def test_the_last_of_duplicates_counts():
  entries = bank.init(jax.random.key(0), 6, 4)
  index = jnp.array([1, 4, 1, 1, 4, 0])
  rows = jax.random.normal(jax.random.key(1), (6, 4))
  last = jnp.array([3, 4, 5])
  expected = update(entries, index[last], rows[last], 0.5)
  np.testing.assert_array_equal(update(entries, index, rows, 0.5), expected)


def test_positions_outside_the_bank_are_ignored():
  entries = bank.init(jax.random.key(0), 6, 4)
  updated = update(entries, jnp.array([-1, 6, 2]), jnp.ones((3, 4)), 0.5)
  np.testing.assert_array_equal(updated[jnp.array([0, 1, 3, 4, 5])], entries[np.r_[0, 1, 3:6]])
  assert not np.array_equal(updated[2], entries[2])


def test_rows_that_are_not_valid_leave_no_trace():
  entries = bank.init(jax.random.key(0), 6, 4)
  index, rows = jnp.array([1, 2]), jnp.full((2, 4), jnp.nan)
  np.testing.assert_array_equal(update(entries, index, rows, 0.5, jnp.bool_(False)), entries)


def test_no_gradient_and_float32():
  entries = bank.init(jax.random.key(0), 6, 4)
  index = jnp.array([1, 2])
  total = lambda rows: jnp.sum(update(entries, index, rows, 0.5))  # noqa: E731
  assert not jax.grad(total)(jnp.ones((2, 4))).any()
  assert update(entries, index, jnp.ones((2, 4), jnp.bfloat16), 0.5).dtype == jnp.float32


def test_a_donated_bank_is_changed_in_place():
  entries = jax.ShapeDtypeStruct((200_000, 128), jnp.float32)
  index = jax.ShapeDtypeStruct((256,), jnp.int32)
  rows = jax.ShapeDtypeStruct((256, 128), jnp.float32)
  compiled = jax.jit(bank.update, donate_argnums=0).lower(entries, index, rows, 0.5).compile()
  memory = compiled.memory_analysis()
  size = 200_000 * 128 * 4
  assert memory.alias_size_in_bytes >= size and memory.temp_size_in_bytes < size / 20


def test_bad_inputs_are_refused():
  entries = bank.init(jax.random.key(0), 6, 4)
  with pytest.raises(ValueError, match=r'a bank \(6, 4\) takes .* got \(3,\) and \(2, 4\)'):
    bank.update(entries, jnp.zeros(3, jnp.int32), jnp.ones((2, 4)), 0.5)
  with pytest.raises(ValueError, match='must hold integers, got float32'):
    bank.update(entries, jnp.zeros(2), jnp.ones((2, 4)), 0.5)
  with pytest.raises(ValueError, match='at least 1, got 6 and 0'):
    bank.init(jax.random.key(0), 6, 0)
