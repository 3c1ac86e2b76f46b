"""BYOL itself: what its loss, its target and its guards against collapse do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax.evals import collapse
from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods import METHODS
from byoljax.step import init_state, train_step
from tests.methods.test_contract import TinyEncoder, batch_of, make

SIZE = 8


def l2(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def outputs(method, params, state, batch):
  return method.loss(params, state, batch, jax.random.key(0), jnp.int32(0))


@pytest.mark.parametrize('projection_norm', [False, True])
def test_loss_is_the_sum_of_both_directions_by_hand(projection_norm):
  """Recomputed from the networks' outputs: per-view forwards, target in train mode."""
  method = make('byol', axis=None, projection_norm=projection_norm)
  batch = batch_of('byol')
  params, state = method.init(jax.random.key(1), batch)
  value, aux = outputs(method, params, state, batch)
  first, second = (jnp.asarray(view) for view in batch['views'])

  def head(p, x):
    h = x @ p['linear1']['kernel'] + p['linear1']['bias']
    h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5) * p['bn1']['scale'] + p['bn1']['bias']
    return np.maximum(h, 0) @ p['linear2']['kernel']

  def encode(p, x):
    dimensions = jax.lax.conv_dimension_numbers(x.shape, p['Conv_0']['kernel'].shape,
                                                ('NHWC', 'HWIO', 'NHWC'))  # fmt: skip
    kernel, bias = p['Conv_0']['kernel'], p['Conv_0']['bias']
    y = jax.lax.conv_general_dilated(x, kernel, (2, 2), 'SAME', dimension_numbers=dimensions)
    y = y + bias
    y = (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + 1e-5)
    y = y * p['bn']['scale'] + p['bn']['bias']
    return np.maximum(np.asarray(y), 0).mean((1, 2))

  def projection(p, x):
    z = head(p['projector'], encode(p['encoder'], x))
    return (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) if projection_norm else z

  def prediction(p, x):
    return head(p['predictor'], projection(p, x))

  host = jax.tree.map(np.asarray, params)
  target = jax.tree.map(np.asarray, state.target_params)
  with jax.numpy_rank_promotion('allow'):
    terms = []
    for online_view, target_view in ((first, second), (second, first)):
      p = l2(prediction(host, online_view))
      z = l2(projection(target, target_view))
      terms.append(((p - z) ** 2).sum(-1).mean())
  assert float(value) == pytest.approx(sum(terms), rel=1e-4)
  assert 'loss' not in aux.metrics, 'the step adds it'


def test_random_networks_start_near_four():
  """Independent unit vectors of many dimensions are orthogonal: 2 - 2 cos = 2 a direction."""
  values, method = [], make('byol', axis=None, projector=(64, 256), predictor=(64, 256))
  for seed in range(8):
    batch = batch_of('byol', seed)
    params, state = method.init(jax.random.key(seed), batch)
    values.append(float(outputs(method, params, state, batch)[0]))
  assert np.mean(values) == pytest.approx(4.0, abs=0.3)
  assert all(0 <= value <= 8 for value in values)


def test_target_has_its_own_weights_and_statistics():
  method = make('byol', axis=None)
  batch = batch_of('byol')
  params, state = method.init(jax.random.key(0), batch)
  assert set(state.target_params) == {'encoder', 'projector'}, 'no predictor in the target'
  assert not np.allclose(
    params['encoder']['Conv_0']['kernel'], state.target_params['encoder']['Conv_0']['kernel']
  ), 'an independent draw'
  _, aux = outputs(method, params, state, batch)
  before, after = state.target_bn, aux.method_state.target_bn
  moved = jax.tree.map(lambda a, b: not np.allclose(a, b), before, after)
  assert all(jax.tree.leaves(moved)), 'the target runs in train mode'
  _, later, _ = method.post_step(params, aux.method_state, jnp.int32(0))
  for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(later.target_bn), strict=True):
    np.testing.assert_array_equal(a, b, err_msg='statistics are never averaged')


def test_target_follows_the_new_parameters_by_tau_of_the_step():
  method = make('byol', axis=None)
  batch = batch_of('byol')
  params, state = method.init(jax.random.key(0), batch)
  new = jax.tree.map(lambda x: x + 1.0, params)
  for step, total in ((0, 20), (10, 20), (20, 20)):
    tau = 1 - (1 - 0.9) * (np.cos(np.pi * step / total) + 1) / 2
    _, moved, metrics = method.post_step(new, state, jnp.int32(step))
    want = (
      tau * state.target_params['encoder']['bn']['scale']
      + (1 - tau) * new['encoder']['bn']['scale']
    )
    np.testing.assert_allclose(moved.target_params['encoder']['bn']['scale'], want, rtol=1e-6)
    assert float(metrics['tau']) == pytest.approx(tau, rel=1e-6)


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'predictor': ()}, 'collapses'),
    ({'base_tau': 1.01}, 'between 0 and 1'),
    ({'projector': ()}, 'at least an output size'),
    ({'predictor': (16, 4)}, 'must be equal'),
  ],
)
def test_mistakes(changes, said):
  with pytest.raises(ValueError, match=said):
    make('byol', **changes)


def _train(name='byol', steps=300, rate=0.1, **changes):
  """BYOL on pictures of eight kinds whose views differ by noise; the spread that is left."""
  setting = Setting(Length(64, 1, steps), num_examples=64)
  arguments = {'projector': (32, 16), 'predictor': (32, 16), 'base_tau': 0.9} | changes
  method = METHODS[name](TinyEncoder, setting, **arguments)
  tx = optax.sgd(rate, momentum=0.9)
  rng = np.random.default_rng(0)
  kinds = rng.normal(size=(8, SIZE, SIZE, 3))

  def batch(seed):
    draw = np.random.default_rng(seed)
    chosen = draw.integers(0, 8, 64)
    views = tuple(
      (kinds[chosen] + 0.3 * draw.normal(size=(64, SIZE, SIZE, 3))).astype(np.float32)
      for _ in range(2)
    )
    return {'views': views, 'index': np.arange(64, dtype=np.int32)}

  state = init_state(method, tx, batch(0), 0)
  step = jax.jit(
    functools.partial(
      train_step, method=method, tx=tx, augment=lambda batch, step: batch, axis=None
    )
  )
  for number in range(steps):
    state, metrics = step(state, batch(number))
  taps = method.embed(state.params, state.method_state, batch(10_000)['views'][0])
  spread = collapse.normalized_std(taps['projection'])
  return float(spread), float(metrics['loss'])


# By default VICReg and SimCLR are trained as long, see test_collapse_guards.py.
@pytest.mark.slow
def test_byol_does_not_collapse_but_its_ablation_does():
  """No predictor and no moving target: everything becomes one point, and the loss is perfect."""
  spread, loss = _train(rate=1.0)
  collapsed, perfect = _train('bridge', rate=1.0, predictor=(), target_mode='none')
  assert perfect < 1e-2, 'the ablation minimizes its loss'
  # Measured: 0.14 against 0.84.
  assert collapsed < 0.25, f'the ablation should have collapsed, its spread is {collapsed}'
  assert spread > 0.6, f'BYOL should not collapse, its spread is {spread}'
  assert loss < 1.0, 'BYOL learns the invariance'
