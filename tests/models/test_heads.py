"""Heads: every method's projector in NumPy, prototypes, weight normalization."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.models import heads
from byoljax.models.net import stack
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import philox  # noqa: E402

BATCH, DIM = 6, 5


def inputs():
  return philox.uniform('heads', (BATCH, DIM), -1.0, 1.0)


def net_of(module, taps=()):
  return stack((('head', 'out', module),), taps)


def run(net, params, stats, x, train=True):
  return jax.jit(lambda p, s, x: net.apply(p, s, x, train=train))(params, stats, x)


def with_drawn_parameters(module, taps=()):
  """The net, parameters all different from their start, and statistics."""
  net = net_of(module, taps)
  params, stats = net.init(jax.random.key(0), inputs())

  def leaf(path, a):
    name = jax.tree_util.keystr(path)
    return philox.uniform(name, a.shape, *((0.5, 1.5) if 'scale' in name else (-1.0, 1.0)))

  return net, jax.tree_util.tree_map_with_path(leaf, params), stats


def normalize(x, p):
  x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
  return x * p.get('scale', 1.0) + p.get('bias', 0.0)


def gelu(x):
  return x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def by_hand(x, params, activation=lambda x: np.maximum(x, 0.0)):
  """linear, [norm], activation ...; what is in the parameters is applied. float64 NumPy."""
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  last = sum(name.startswith('linear') for name in p)
  x = x.astype(np.float64)
  for i in range(1, last + 1):
    x = x @ p[f'linear{i}']['kernel'] + p[f'linear{i}'].get('bias', 0.0)
    if f'bn{i}' in p:
      x = normalize(x, p[f'bn{i}'])
    if i < last:
      x = activation(x)
  return x


METHODS = {
  # settings -> parameters beside the kernels linear1 and linear2
  'byol': ({}, {'linear1/bias', 'bn1/scale', 'bn1/bias'}),
  'simclr': (
    {'hidden_bias': False, 'last_norm': 'bn_no_bias'},
    {'bn1/scale', 'bn1/bias', 'bn2/scale'},
  ),
  'moco_v2': ({'norm': False, 'last_bias': True}, {'linear1/bias', 'linear2/bias'}),
  'simsiam_predictor': (
    {'hidden_bias': False, 'last_bias': True},
    {'bn1/scale', 'bn1/bias', 'linear2/bias'},
  ),
  'whole_norm': (
    {'hidden_bias': False, 'last_norm': 'bn'},
    {'bn1/scale', 'bn1/bias', 'bn2/scale', 'bn2/bias'},
  ),
  'only_last_norm': ({'norm': False, 'last_norm': 'bn_no_bias'}, {'linear1/bias', 'bn2/scale'}),
}


@pytest.mark.parametrize('method', METHODS)
def test_heads_have_the_parameters_of_their_method_and_compute_its_formula(method):
  settings, names = METHODS[method]
  net, params, stats = with_drawn_parameters(heads.MLPHead((7, 3), **settings))
  shapes = {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(params['head'])
  }
  width = {'1': 7, '2': 3}
  expected = {name: (width[name.split('/')[0][-1]],) for name in names}
  assert shapes == expected | {'linear1/kernel': (DIM, 7), 'linear2/kernel': (7, 3)}
  outputs, moved = run(net, params, stats, inputs())
  np.testing.assert_allclose(outputs['out'], by_hand(inputs(), params['head']), atol=2e-5)
  assert set(moved['head']) == {name.split('/')[0] for name in names if name.startswith('bn')}


def test_a_norm_without_scale_and_bias_standardizes_the_output():
  head = heads.MLPHead((7, 7, 3), hidden_bias=False, last_norm='bn_no_affine')
  net, params, stats = with_drawn_parameters(head)
  assert set(params['head']) == {'linear1', 'bn1', 'linear2', 'bn2', 'linear3'}
  assert set(stats['head']) == {'bn1', 'bn2', 'bn3'}
  outputs, moved = run(net, params, stats, inputs())
  np.testing.assert_allclose(outputs['out'].mean(0), np.zeros(3), atol=1e-5)
  np.testing.assert_allclose(outputs['out'].std(0), np.ones(3), atol=1e-3)
  double = by_hand(inputs(), params['head'])  # before the last norm
  np.testing.assert_allclose(outputs['out'], normalize(double, {}), atol=2e-5)
  np.testing.assert_allclose(moved['head']['bn3']['mean'], 0.1 * double.mean(0), atol=1e-5)


def test_gelu_is_the_exact_one():
  head = heads.MLPHead((7, 3), norm=False, activation='gelu')
  net, params, stats = with_drawn_parameters(head)
  outputs, _ = run(net, params, stats, inputs())
  np.testing.assert_allclose(outputs['out'], by_hand(inputs(), params['head'], gelu), atol=1e-6)


def test_hidden_layers_can_be_tapped_after_their_activation():
  net, params, stats = with_drawn_parameters(heads.MLPHead((7, 4, 3)), taps=('hidden1', 'hidden2'))
  outputs, _ = run(net, params, stats, inputs())
  p = params['head']
  first = by_hand(inputs(), {name: p[name] for name in ('linear1', 'bn1')})
  assert outputs['hidden1'].shape == (BATCH, 7) and (outputs['hidden1'] >= 0).all()
  np.testing.assert_allclose(outputs['hidden1'], np.maximum(first, 0.0), atol=2e-5)
  np.testing.assert_allclose(outputs['hidden2'] @ p['linear3']['kernel'], outputs['out'], atol=1e-5)


def test_groups_of_batch_normalization_reach_every_norm():
  settings = {'hidden_bias': False, 'last_norm': 'bn'}
  net, params, stats = with_drawn_parameters(heads.MLPHead((7, 3), bn_groups=2, **settings))
  outputs, _ = run(net, params, stats, inputs())
  halves = [by_hand(half, params['head']) for half in np.split(inputs(), 2)]
  np.testing.assert_allclose(outputs['out'], np.concatenate(halves), atol=5e-4)
  assert np.abs(outputs['out'] - by_hand(inputs(), params['head'])).max() > 0.05


@pytest.mark.parametrize(
  ('kernel_init', 'sigma', 'cut'),
  [('fan_in', 1 / 16, 2.0), ('normal_0.01', 0.01, 5.0), ('truncated_0.02', 0.02, 5.0)],
)
def test_kernels_start_as_asked_for_and_biases_at_zero(kernel_init, sigma, cut):
  net = net_of(heads.MLPHead((512, 64), last_bias=True, kernel_init=kernel_init))
  params, _ = net.init(jax.random.key(0), jax.ShapeDtypeStruct((2, 256), jnp.float32))
  kernel = params['head']['linear1']['kernel']
  real = 0.8796 * sigma if kernel_init == 'fan_in' else sigma  # see test_net
  assert float(kernel.std()) == pytest.approx(real, rel=0.01)
  assert float(jnp.abs(kernel).max()) < (1.0001 if cut == 2.0 else 1.2) * cut * sigma
  assert float(jnp.abs(kernel).max()) > 0.75 * cut * sigma
  assert not params['head']['linear1']['bias'].any()
  assert not params['head']['linear2']['bias'].any()


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'activation': 'tanh'}, "activation='tanh' of a head is not one of relu, gelu"),
    ({'last_norm': 'layer'}, "last_norm='layer' .* none, bn, bn_no_affine, bn_no_bias"),
    ({'kernel_init': 'he'}, "kernel_init='he' .* fan_in, torch, normal_0.01, truncated_0.02"),
    ({'features': ()}, 'features=.. of a head is empty'),
  ],
)
def test_unknown_settings_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    heads.MLPHead(**settings)


def unit(x, axis):
  return x / np.linalg.norm(x, axis=axis, keepdims=True)


def test_prototypes_score_the_direction_of_the_input():
  net, params, stats = with_drawn_parameters(heads.Prototypes(9))
  kernel = params['head']['kernel']
  assert kernel.shape == (DIM, 9) and set(params['head']) == {'kernel'}
  outputs, _ = run(net, params, stats, inputs())
  np.testing.assert_allclose(outputs['out'], unit(inputs(), 1) @ kernel, atol=1e-6)
  longer, _ = run(net, params, stats, inputs() * 50.0)
  np.testing.assert_allclose(longer['out'], outputs['out'], atol=1e-5)
  zero, _ = run(net, params, stats, inputs() * 0.0)
  assert (zero['out'] == 0).all()


def test_normalized_prototypes_give_cosines():
  net, params, stats = with_drawn_parameters(heads.Prototypes(9))
  kernel = heads.normalize_prototypes(jnp.asarray(params['head']['kernel'] * 7.0))
  np.testing.assert_allclose(kernel, unit(params['head']['kernel'], 0), atol=1e-6)
  outputs, _ = run(net, {'head': {'kernel': kernel}}, stats, inputs())
  assert float(jnp.abs(outputs['out']).max()) <= 1.0 + 1e-6
  drawn, _ = net.init(jax.random.key(0), inputs())
  assert float(jnp.abs(jnp.linalg.norm(drawn['head']['kernel'], axis=0) - 1.0).max()) > 0.05


@pytest.mark.parametrize('module', [heads.Prototypes, heads.WeightNormLinear])
def test_bfloat16_scores_are_summed_in_float32(module):
  net, params, stats = with_drawn_parameters(module(9, jnp.bfloat16))
  outputs, _ = run(net, params, stats, inputs())
  exact, _ = run(net_of(module(9)), params, stats, inputs())
  assert outputs['out'].dtype == jnp.float32
  assert 1e-5 < float(jnp.abs(outputs['out'] - exact['out']).max()) < 0.03
  # rounded to bfloat16 they would all be multiples of 2^-16 or coarser
  assert (outputs['out'] != outputs['out'].astype(jnp.bfloat16)).any()


def test_weight_normalization_fixes_every_columns_length():
  net, params, stats = with_drawn_parameters(heads.WeightNormLinear(9))
  outputs, _ = run(net, params, stats, inputs())
  kernel = params['head']['kernel']
  np.testing.assert_allclose(outputs['out'], unit(inputs(), 1) @ unit(kernel, 0), atol=1e-6)
  scaled = {'head': {'kernel': kernel * np.arange(1.0, 10.0, dtype=np.float32)}}
  same, _ = run(net, scaled, stats, inputs())
  np.testing.assert_allclose(same['out'], outputs['out'], atol=1e-6)

  weights = philox.uniform('weights', (BATCH, 9), -1.0, 1.0)
  grad = jax.grad(lambda p: (net.apply(p, stats, inputs(), train=True)[0]['out'] * weights).sum())
  along = (grad(params)['head']['kernel'] * kernel).sum(0)
  np.testing.assert_allclose(along, np.zeros(9), atol=1e-5)  # length is not learned
  assert float(jnp.abs(grad(params)['head']['kernel']).max()) > 0.01


def test_dinos_head_is_an_mlp_without_norm_and_a_weight_normalized_layer():
  head = heads.DINOHead((7, 8, 4), count=9)
  net, params, stats = with_drawn_parameters(head)
  assert stats == {'head': {}}
  p = params['head']
  assert set(p) == {'mlp', 'last'} and set(p['mlp']) == {'linear1', 'linear2', 'linear3'}
  assert all('bias' in layer for layer in p['mlp'].values())
  outputs, _ = run(net, params, stats, inputs())
  bottleneck = by_hand(inputs(), p['mlp'], gelu)
  expected = unit(bottleneck, 1) @ unit(p['last']['kernel'], 0)
  np.testing.assert_allclose(outputs['out'], expected, atol=1e-5)
  drawn, _ = net_of(heads.DINOHead((64, 64, 64), count=256)).init(
    jax.random.key(0), jax.ShapeDtypeStruct((2, 64), jnp.float32)
  )
  assert float(drawn['head']['mlp']['linear1']['kernel'].std()) == pytest.approx(0.02, rel=0.05)
  last = drawn['head']['last']['kernel']
  assert float(last.std()) == pytest.approx(64**-0.5 / 3**0.5, rel=0.05)
  assert float(jnp.abs(last).max()) <= 64**-0.5
  small = heads.DINOHead((64, 64, 64), count=256, last_init='truncated_0.02')
  drawn, _ = net_of(small).init(jax.random.key(0), jax.ShapeDtypeStruct((2, 64), jnp.float32))
  assert float(drawn['head']['last']['kernel'].std()) == pytest.approx(0.02, rel=0.05)


def test_small_features_are_normalized_with_the_epsilon_of_mae():
  """The variance of x is that epsilon, 1e-6, so that as much is added."""
  x = 1e-3 * np.array([[1.0, -1.0], [-1.0, 1.0]], np.float32)
  net = net_of(heads.FeatureNorm())
  params, stats = net.init(jax.random.key(0), x)
  outputs, _ = run(net, params, stats, x)
  assert not jax.tree.leaves(params)
  np.testing.assert_allclose(outputs['out'], 1e3 * x / math.sqrt(2), rtol=1e-4)
