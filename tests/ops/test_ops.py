"""Operations that methods share: the moving average and its schedule, the unit sphere."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.ops import ema, sphere


def test_update_by_hand():
  target = {'a': jnp.array([1.0, 2.0]), 'b': {'c': jnp.array(4.0)}}
  online = {'a': jnp.array([3.0, -2.0]), 'b': {'c': jnp.array(0.0)}}
  moved = ema.update(target, online, 0.75)
  assert moved['a'].tolist() == [1.5, 1.0] and float(moved['b']['c']) == 3.0


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize(('tau', 'same_as'), [(1.0, 'target'), (0.0, 'online')])
def test_the_ends_are_bit_exact_copies(tau, same_as, jit):
  trees = {
    name: {'w': jax.random.normal(jax.random.key(i), (64,))}
    for i, name in enumerate(('target', 'online'))
  }
  update = jax.jit(ema.update) if jit else ema.update
  moved = update(trees['target'], trees['online'], tau)
  np.testing.assert_array_equal(moved['w'], trees[same_as]['w'])
  addresses = {tree['w'].unsafe_buffer_pointer() for tree in trees.values()}
  assert moved['w'].unsafe_buffer_pointer() not in addresses


def test_a_thousand_steps_in_float32_do_not_stall():
  target, online = {'w': jnp.ones(3)}, {'w': jnp.full(3, 2.0, jnp.bfloat16)}
  moved = jax.lax.fori_loop(0, 1000, lambda _, t: ema.update(t, online, 0.996), target)
  assert moved['w'].dtype == jnp.float32
  np.testing.assert_allclose(moved['w'], 2 - 0.996**1000, rtol=1e-4)


def test_a_bfloat16_target_or_another_shape_is_refused():
  with pytest.raises(ValueError, match=r"\['w'\] needs a float32 target .* bfloat16\[3\]"):
    ema.update({'w': jnp.ones(3, jnp.bfloat16)}, {'w': jnp.ones(3)}, 0.9)
  with pytest.raises(ValueError, match=r'float32\[3\] and online float32\[1\]'):
    ema.update({'w': jnp.ones(3)}, {'w': jnp.ones(1)}, 0.9)


def test_tau_follows_the_papers_cosine():
  schedule = ema.cosine_tau(0.996, 1000)
  steps = np.arange(1001)
  expected = [1 - (1 - 0.996) * (math.cos(math.pi * k / 1000) + 1) / 2 for k in steps]
  values = jax.jit(jax.vmap(schedule))(steps)
  np.testing.assert_allclose(values, expected, atol=1e-7)
  assert float(values[0]) == np.float32(0.996)
  assert float(values[-1]) == 1.0 == float(schedule(2000))
  assert (np.diff(values) >= 0).all()
  np.testing.assert_allclose(schedule(500), 0.998, atol=1e-7)
  late = ema.cosine_tau(0.9, 300, 100)
  assert [float(late(k)) for k in (0, 100, 300)] == [np.float32(0.9), np.float32(0.9), 1.0]
  np.testing.assert_allclose(late(200), 0.95, atol=1e-7)
  assert float(ema.cosine_tau(1.0, 10)(0)) == 1.0 and float(ema.cosine_tau(0.0, 10)(0)) == 0.0


@pytest.mark.parametrize(('tau', 'steps', 'message'), [(1.2, 10, 'tau=1.2'), (0.9, 0, 'got 0')])
def test_impossible_tau_schedules_are_refused(tau, steps, message):
  with pytest.raises(ValueError, match=message):
    ema.cosine_tau(tau, steps)


def test_rows_shorter_than_a_millionth_stay_short():
  """x / max(|x|, 1e-6): no row becomes larger than it would at that length."""
  x = np.float32([[3e-5, 4e-5], [3e-9, 4e-9], [0.0, 0.0]])
  found = jax.jit(sphere.normalize)(x)
  np.testing.assert_allclose(found, [[0.6, 0.8], [3e-3, 4e-3], [0.0, 0.0]], rtol=1e-5)
