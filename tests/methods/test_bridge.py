"""The ablations of BYOL: what its target may be, one direction, negatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.methods.joint_embedding import bridge
from tests.methods.test_contract import batch_of, make

PLAIN = {'axis': None, 'predictor': (16, 8), 'beta': 0.0}


def outputs(method, params, state, batch):
  return method.loss(params, state, batch, jax.random.key(0), jnp.int32(0))


def test_by_default_it_is_byol():
  """Bit for bit: start, loss, state and moving average."""
  found = []
  for method in (make('byol', axis=None), make('bridge', **PLAIN)):
    batch = batch_of('byol')
    params, state = method.init(jax.random.key(0), batch)
    value, aux = outputs(method, params, state, batch)
    moved = method.post_step(params, aux.method_state, jnp.int32(7))
    found.append((params, state, value, aux, moved))
  jax.tree.map(np.testing.assert_array_equal, *found)


def test_asymmetric_loss_is_one_direction():
  batch = batch_of('bridge')
  both, one = (make('bridge', **PLAIN, symmetric=s) for s in (True, False))
  params, state = both.init(jax.random.key(0), batch)
  swapped = batch | {'views': batch['views'][::-1]}
  there = outputs(one, params, state, batch)[0]
  back = outputs(one, params, state, swapped)[0]
  assert float(there + back) == pytest.approx(
    float(outputs(both, params, state, batch)[0]), rel=1e-4
  )


def test_no_gradient_reaches_the_online_network_through_the_target():
  """With a stop-gradient target the projector's gradient comes through the prediction alone."""
  batch = batch_of('bridge')
  gradients = {}
  for mode in ('stop_gradient', 'none'):
    method = make('bridge', axis=None, target_mode=mode, predictor=(), beta=0.0)
    params, state = method.init(jax.random.key(0), batch)
    loss = lambda p, m=method, s=state: outputs(m, p, s, batch)[0]  # noqa: E731
    gradients[mode] = jax.grad(loss)(params)['projector']['linear2']['kernel']
  # Without a predictor the two sides are mirror images: stopping one halves the gradient.
  np.testing.assert_allclose(
    gradients['none'], 2 * gradients['stop_gradient'], rtol=1e-4, atol=1e-7
  )


@pytest.mark.parametrize('mode', bridge.TARGET_MODES)
def test_target_modes(mode):
  method = make('bridge', **PLAIN, target_mode=mode)
  batch = batch_of('bridge')
  params, state = method.init(jax.random.key(0), batch)
  assert bool(state.target_params) == (mode in ('ema', 'constant_random'))
  _, aux = outputs(method, params, state, batch)
  _, after, metrics = method.post_step(params, aux.method_state, jnp.int32(0))
  same = jax.tree.map(np.array_equal, after.target_params, state.target_params)
  assert all(jax.tree.leaves(same)) == (mode != 'ema')
  assert ('tau' in metrics) == (mode == 'ema')


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'target_mode': 'moving'}, 'ema'),
    ({'tau_schedule': 'linear'}, 'cosine, constant'),
    ({'base_tau': 1.01}, 'between 0 and 1'),
    ({'beta': -1.0}, '0 or more'),
    ({'alpha': 0.0}, 'positive'),
  ],
)
def test_mistakes(changes, said):
  with pytest.raises(ValueError, match=said):
    make('bridge', **changes)
