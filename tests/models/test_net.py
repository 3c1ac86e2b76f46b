"""The bridge to linen: parts in sequence, precision, batch statistics, and heads."""

import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import models
from byoljax.devices import collectives
from byoljax.models import heads, layers
from byoljax.models.net import stack
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import philox  # noqa: E402

IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)


def encoder_net(name, taps=(), **settings):
  return stack((('encoder', 'embedding', models.make_encoder(name, **settings)),), taps)


def run(net, params, stats, x, **options):
  return jax.jit(lambda p, s, x: net.apply(p, s, x, **options))(params, stats, x)


def drawn_images(batch, size):
  return jnp.asarray(philox.images('test', batch, size))


def paths(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def byol_net(**settings):
  dtype = settings.get('dtype', 'float32')
  axis = settings.get('bn_axis')
  head = heads.MLPHead((48, 16), bn_axis=axis, dtype=jnp.dtype(dtype))
  return stack(
    (
      ('encoder', 'embedding', models.make_encoder('small', **settings)),
      ('projector', 'projection', head),
      ('predictor', 'prediction', head),
    )
  )


def test_bfloat16_computes_in_bfloat16_and_keeps_everything_else_float32():
  x = drawn_images(8, 32)
  exact, rounded = byol_net(), byol_net(dtype='bfloat16')
  params, stats = rounded.init(jax.random.key(0), x)
  outputs, moved = run(rounded, params, stats, x, train=True)
  assert {leaf.dtype for leaf in jax.tree.leaves((params, stats, outputs, moved))} == {
    jnp.dtype('float32')
  }
  text = str(jax.make_jaxpr(lambda p, x: rounded.apply(p, stats, x, train=True)[0])(params, x))
  products = re.findall(r':(\w+)\[[\d,]*\] = (?:conv_general_dilated|dot_general)', text)
  assert products and set(products) == {'bf16'}
  reference, _ = run(exact, params, stats, x, train=True)
  for name, value in outputs.items():
    error = jnp.abs(value - reference[name]).max() / jnp.abs(reference[name]).max()
    assert 1e-6 < float(error) < 0.1, name


def test_running_statistics_move_by_a_tenth_towards_the_batch():
  norm = layers.batch_norm(True, None, jnp.float32, 'bn')
  x = jnp.asarray(philox.uniform('bn', (6, 3), -1.0, 5.0))
  variables = norm.init(jax.random.key(0), x)
  y, updates = norm.apply(variables, x, mutable=['batch_stats'])
  mean, var = x.mean(0), x.var(0)
  np.testing.assert_allclose(updates['batch_stats']['mean'], 0.1 * mean, rtol=1e-5)
  np.testing.assert_allclose(updates['batch_stats']['var'], 0.9 + 0.1 * var, rtol=1e-5)
  np.testing.assert_allclose(y, (x - mean[None]) / jnp.sqrt(var[None] + 1e-5), rtol=1e-4, atol=1e-5)


def test_batch_statistics_over_four_devices_equal_those_of_the_whole_batch():
  x = drawn_images(16, 32) * jnp.linspace(0.5, 3.0, 16)[:, None, None, None]
  single, synced = byol_net(), byol_net(bn_axis=collectives.AXIS)
  params, stats = single.init(jax.random.key(0), x)
  expected, expected_stats = run(single, params, stats, x, train=True)
  split = x.reshape(4, 4, 32, 32, 3)

  def over_devices(net):
    step = jax.pmap(
      lambda x: net.apply(params, stats, x, train=True), axis_name=collectives.AXIS, in_axes=0
    )
    return step(split)

  outputs, moved = over_devices(synced)
  for name, value in outputs.items():
    np.testing.assert_allclose(value.reshape(16, -1), expected[name], atol=2e-4)
  for device in range(4):
    jax.tree.map(
      lambda a, b, d=device: np.testing.assert_allclose(a[d], b, atol=1e-5), moved, expected_stats
    )
  alone, _ = over_devices(single)  # without an axis every device normalizes by itself
  assert float(jnp.abs(alone['projection'].reshape(16, -1) - expected['projection']).max()) > 0.05


def test_evaluation_and_initialization_need_no_mapped_axis():
  x = drawn_images(4, 32)
  net = byol_net(bn_axis=collectives.AXIS)
  params, stats = net.init(jax.random.key(0), x)
  whole, kept = run(net, params, stats, x, train=False)
  first, _ = run(net, params, stats, x[:1], train=False)
  jax.tree.map(np.testing.assert_array_equal, kept, stats)
  np.testing.assert_allclose(first['embedding'], whole['embedding'][:1], atol=1e-5)


def test_a_stack_feeds_each_part_with_the_one_before():
  x = drawn_images(4, 32)
  net = byol_net()
  params, stats = net.init(jax.random.key(0), x)
  assert set(params) == set(stats) == {'encoder', 'projector', 'predictor'}
  outputs, _ = run(net, params, stats, x, train=False)
  assert {name: value.shape for name, value in outputs.items()} == {
    'embedding': (4, 128),
    'projection': (4, 16),
    'prediction': (4, 16),
  }
  head = stack((('projector', 'out', heads.MLPHead((48, 16))),))
  again, _ = run(head, params, stats, outputs['embedding'], train=False)
  np.testing.assert_allclose(again['out'], outputs['projection'], atol=1e-5)
  same_shapes = jax.tree.structure(params['projector']) == jax.tree.structure(params['predictor'])
  assert same_shapes and params['projector']['linear2']['kernel'].shape == (48, 16)


def test_upto_runs_no_later_part_and_needs_none_of_its_parameters():
  x = drawn_images(4, 32)
  net = byol_net()
  params, stats = net.init(jax.random.key(0), x)
  whole, _ = run(net, params, stats, x, train=True)
  part, moved = run(
    net,
    {'encoder': params['encoder']},
    {'encoder': stats['encoder']},
    x,
    train=True,
    upto='embedding',
  )
  assert set(part) == {'embedding'} and set(moved) == {'encoder'}
  np.testing.assert_allclose(part['embedding'], whole['embedding'], atol=1e-6)
  _, moved = run(net, params, stats, x, train=True, upto='projection')
  jax.tree.map(np.testing.assert_array_equal, moved['predictor'], stats['predictor'])
  assert (moved['projector']['bn1']['mean'] != stats['projector']['bn1']['mean']).any()


def test_parts_without_statistics_still_have_their_role():
  net = stack(
    (
      ('encoder', 'embedding', models.make_encoder('pixels')),
      ('head', 'logits', heads.LinearHead(5)),
    )
  )
  params, stats = net.init(jax.random.key(0), IMAGES)
  assert stats == {'encoder': {}, 'head': {}} and params['encoder'] == {}
  outputs, moved = run(net, params, stats, drawn_images(2, 32), train=True)
  assert outputs['logits'].shape == (2, 5) and moved == stats


@pytest.mark.parametrize(
  ('parts', 'taps', 'message'),
  [
    ((), (), 'at least one'),
    (
      (('a', 'x', None), ('a', 'y', None)),
      (),
      'every role of a stack must be given once, got a, a',
    ),
    ((('a', 'x', None), ('b', 'x', None)), (), 'every output name .* once, got x, x'),
    ((('a', 'x', None),), ('x',), 'every output name .* once, got x, x'),
  ],
)
def test_ambiguous_stacks_are_refused(parts, taps, message):
  with pytest.raises(ValueError, match=message):
    stack(parts, taps)


def test_unknown_outputs_and_taps_are_named():
  x = drawn_images(2, 32)
  net = encoder_net('small', taps=('stage9',))
  params, stats = net.init(jax.random.key(0), x)
  with pytest.raises(
    ValueError, match="unknown tap 'stage9': this stack has .*stage1.*did you mean"
  ):
    net.apply(params, stats, x, train=False)
  with pytest.raises(ValueError, match="unknown output 'embeding'.*did you mean 'embedding'"):
    net.apply(params, stats, x, train=False, upto='embeding')


def test_byols_head_has_a_bias_in_the_first_layer_only_and_no_output_norm():
  net = stack((('projector', 'projection', heads.MLPHead()),))
  params, stats = jax.eval_shape(
    net.init, jax.random.key(0), jax.ShapeDtypeStruct((2, 512), jnp.float32)
  )
  assert {path: leaf.shape for path, leaf in paths(params).items()} == {
    'projector/linear1/kernel': (512, 4096),
    'projector/linear1/bias': (4096,),
    'projector/bn1/scale': (4096,),
    'projector/bn1/bias': (4096,),
    'projector/linear2/kernel': (4096, 256),
  }
  assert set(stats['projector']) == {'bn1'}
  deep, _ = jax.eval_shape(
    stack((('p', 'out', heads.MLPHead((64, 32, 16))),)).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((2, 8), jnp.float32),
  )
  assert set(deep['p']) == {'linear1', 'bn1', 'linear2', 'bn2', 'linear3'}


def test_head_computes_linear_norm_relu_linear():
  net = stack((('projector', 'projection', heads.MLPHead((6, 3))),))
  x = philox.uniform('head', (5, 4), -1.0, 1.0)
  params, stats = net.init(jax.random.key(0), x)
  params = jax.tree.map(
    lambda a: jnp.asarray(philox.uniform(str(a.shape), a.shape, -1.0, 1.0)), params
  )
  outputs, _ = run(net, params, stats, x, train=True)
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params['projector'])
  hidden = x @ p['linear1']['kernel'] + p['linear1']['bias']
  hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
  hidden = np.maximum(hidden * p['bn1']['scale'] + p['bn1']['bias'], 0.0)
  np.testing.assert_allclose(outputs['projection'], hidden @ p['linear2']['kernel'], atol=1e-5)


@pytest.mark.parametrize('head', [heads.MLPHead((4096, 8)), heads.LinearHead(4096)])
def test_heads_start_from_a_normal_cut_at_two_sigma(head):
  net = stack((('head', 'out', head),))
  params, _ = net.init(jax.random.key(0), jax.ShapeDtypeStruct((2, 64), jnp.float32))
  kernel, bias = params['head']['linear1']['kernel'], params['head']['linear1']['bias']
  sigma = 1 / math.sqrt(64)
  assert float(jnp.abs(kernel).max()) <= 2 * sigma
  assert float(jnp.abs(kernel).max()) > 1.95 * sigma
  # standard deviation of a normal cut at two sigma: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)) = 0.8796
  assert float(kernel.std()) == pytest.approx(0.8796 * sigma, rel=0.01)
  assert not bias.any()
