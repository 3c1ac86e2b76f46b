"""Attention by blocks of queries: the quantities of the textbook formula, in another order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.ops.attention import attention


def _drawn(length, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 4)
  return [jax.random.normal(key, (2, length, 3, 8)).astype(dtype) for key in keys]


def test_two_tokens_by_hand():
  q = k = jnp.asarray([[[[1.0]], [[2.0]]]])
  v = jnp.asarray([[[[10.0]], [[20.0]]]])
  share = np.exp(4 - 2) / (1 + np.exp(4 - 2))  # Scores 2 and 4 of the second query.
  np.testing.assert_allclose(
    attention(q, k, v, causal=True)[0, :, 0, 0], [10.0, 10 + 10 * share], rtol=1e-6
  )
  first = np.exp(2 - 1) / (1 + np.exp(2 - 1))
  np.testing.assert_allclose(
    attention(q, k, v, causal=False)[0, :, 0, 0], 10 + 10 * np.array([first, share]), rtol=1e-6
  )


@pytest.mark.parametrize('causal', [True, False])
@pytest.mark.parametrize('length', [1, 64, 65, 130, 300])
def test_values_and_gradients_are_those_of_jax(length, causal):
  """At most 300 float32 terms of size 1 are summed: 300 x 6e-8 is 2e-5, of numbers up to 10."""
  q, k, v, weights = _drawn(length)

  def ours(*given):
    return jnp.sum(attention(*given, causal=causal) * weights)

  def theirs(*given):
    return jnp.sum(jax.nn.dot_product_attention(*given, is_causal=causal) * weights)

  (own, grads), (other, wanted) = (
    jax.jit(jax.value_and_grad(each, argnums=(0, 1, 2)))(q, k, v) for each in (ours, theirs)
  )
  np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-3)
  for one, two in zip(grads, wanted, strict=True):
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_half_precision_sums_in_float32():
  given = _drawn(130, jnp.bfloat16)[:3]
  causal = jax.jit(functools.partial(attention, causal=True))
  made = causal(*given)
  assert made.dtype == jnp.bfloat16
  exact = causal(*(x.astype(jnp.float32) for x in given))
  # Two roundings to 8 bits, of the weights and of the result, of values up to 4.
  np.testing.assert_allclose(made.astype(np.float32), exact, atol=4 * 2 * 2.0**-8)


def test_scores_that_overflow_are_a_hard_choice():
  q = jnp.asarray([[[[1e4]], [[1e4]]]])
  k = jnp.asarray([[[[1e4]], [[-1e4]]]])
  made = attention(q, k, jnp.asarray([[[[3.0]], [[5.0]]]]), causal=False)
  np.testing.assert_array_equal(made[0, :, 0, 0], [3.0, 3.0])
