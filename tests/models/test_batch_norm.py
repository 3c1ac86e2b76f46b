"""Batch normalization by groups of the global batch."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import models
from byoljax.devices import collectives
from byoljax.models import layers
from byoljax.models.net import stack
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import philox  # noqa: E402

ROWS, CHANNELS = 16, 5


def inputs():
  x = philox.uniform('groups', (ROWS, 3, 2, CHANNELS), -1.0, 1.0)
  strength = np.linspace(0.5, 4.0, ROWS, dtype=np.float32)[:, None, None, None]
  return x * strength + strength  # so that groups differ in mean and variance


def variables():
  draw = lambda name, low, high: philox.uniform(name, (CHANNELS,), low, high)  # noqa: E731
  return {
    'params': {'scale': draw('scale', 0.5, 1.5), 'bias': draw('bias', -1.0, 1.0)},
    'batch_stats': {'mean': draw('mean', -1.0, 1.0), 'var': draw('var', 0.5, 2.0)},
  }


def norm(groups, axis=None, train=True, **options):
  return layers.batch_norm(train, axis, jnp.float32, 'bn', groups=groups, **options)


def apply(module, given, x):
  y, updates = module.apply(given, x, mutable=['batch_stats'])
  return y, updates['batch_stats']


def by_hand(x, given, groups):
  """The definition in float64 NumPy."""
  parts = np.split(x.astype(np.float64), groups)
  means = np.stack([p.mean((0, 1, 2)) for p in parts])
  variances = np.stack([p.var((0, 1, 2)) for p in parts])
  scale, bias = given['params']['scale'], given['params']['bias']
  y = [
    (p - m) / np.sqrt(v + 1e-5) * scale + bias
    for p, m, v in zip(parts, means, variances, strict=True)
  ]
  old = given['batch_stats']
  running = {
    'mean': 0.9 * old['mean'] + 0.1 * means.mean(0),
    'var': 0.9 * old['var'] + 0.1 * variances.mean(0),
  }
  return np.concatenate(y), running


def assert_close(found, wanted, tolerance=2e-5):  # Sums of 64 float32 numbers: 3e-6 seen.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), found, wanted
  )


@pytest.mark.parametrize('groups', [1, 2, 8, 16])
def test_every_group_is_normalized_by_its_own_statistics(groups):
  y, running = apply(norm(groups), variables(), inputs())
  expected, expected_running = by_hand(inputs(), variables(), groups)
  assert_close(y, expected, 2e-5)
  assert_close(running, expected_running)


def test_one_group_is_the_batch_normalization_without_groups():
  weights = philox.uniform('weights', inputs().shape, -1.0, 1.0)

  def outcome(module):
    def loss(given, x):
      y, running = apply(module, given, x)
      return (y * weights).sum(), (y, running)

    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, (y, running)), grads = both(variables(), inputs())
    return y, running, grads[0]['params'], grads[1]

  assert_close(outcome(norm(1)), outcome(norm(0)))


def test_a_group_per_device_is_the_batch_normalization_of_each_device():
  split = inputs().reshape(4, ROWS // 4, 3, 2, CHANNELS)

  def over_devices(module):
    return jax.pmap(lambda x: apply(module, variables(), x), axis_name=collectives.AXIS)(split)

  grouped, alone = over_devices(norm(4, collectives.AXIS)), over_devices(norm(0))
  assert_close(grouped[0], alone[0])
  means = jax.tree.map(lambda x: np.broadcast_to(x.mean(0)[None], x.shape), alone[1])
  assert_close(grouped[1], means)
  assert (
    float(np.ptp(alone[1]['mean'], axis=0).max()) > 0.01
  )  # which differ before they are averaged


@pytest.mark.parametrize('groups', [4, 8])
def test_four_devices_give_what_one_gives(groups):
  weights = philox.uniform('weights', inputs().shape, -1.0, 1.0)

  def outcome(axis, given, x, w):
    def loss(params, x):
      y, running = apply(norm(groups, axis), {**given, 'params': params}, x)
      return (y * w).mean(), (y, running)

    (_, (y, running)), (grads, dx) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
      given['params'], x
    )
    return y, dx, running, collectives.pmean(grads, axis)

  y, dx, running, grads = jax.jit(lambda x, w: outcome(None, variables(), x, w))(inputs(), weights)
  split = lambda a: a.reshape(4, ROWS // 4, *a.shape[1:])  # noqa: E731
  mapped = jax.pmap(
    lambda x, w: outcome(collectives.AXIS, variables(), x, w), axis_name=collectives.AXIS
  )(split(inputs()), split(weights))
  assert_close(mapped[0], split(y))
  assert_close(
    mapped[1] / 4, split(dx)
  )  # each device's loss is the mean over a quarter of the rows
  for device in range(4):
    assert_close(jax.tree.map(lambda a, d=device: a[d], mapped[2:]), (running, grads))


def test_the_number_of_groups_can_change_between_training_and_evaluation():
  trees = [
    jax.tree.structure(norm(g, train=t).init(jax.random.key(0), inputs()))
    for g in (0, 4)
    for t in (True, False)
  ]
  assert len(set(trees)) == 1
  plain = norm(0, train=False).apply(variables(), inputs())
  np.testing.assert_array_equal(norm(4, train=False).apply(variables(), inputs()), plain)
  y = norm(7, collectives.AXIS, train=False).apply(variables(), inputs())  # fits neither: no matter
  np.testing.assert_array_equal(y, plain)


@pytest.mark.parametrize('groups', [0, 2])
@pytest.mark.parametrize('names', [(), ('scale',), ('bias',)])
def test_scale_and_bias_can_be_left_out(groups, names):
  module = norm(groups, use_scale='scale' in names, use_bias='bias' in names)
  given = variables()
  given['params'] = {name: given['params'][name] for name in names}
  made = module.init(jax.random.key(0), inputs())
  assert set(made.get('params', {})) == set(names)
  neutral = {'scale': np.ones(CHANNELS), 'bias': np.zeros(CHANNELS)}
  whole = {**given, 'params': {**neutral, **given['params']}}
  expected, _ = by_hand(inputs(), whole, groups or 1)
  assert_close(apply(module, given, inputs())[0], expected, 2e-5)


def test_statistics_of_bfloat16_inputs_are_float32():
  module = layers.batch_norm(True, None, jnp.bfloat16, 'bn', groups=2)
  x = inputs().astype(jnp.bfloat16)
  y, running = apply(module, variables(), x)
  expected, expected_running = by_hand(np.asarray(x, np.float32), variables(), 2)
  assert y.dtype == jnp.bfloat16 and running['var'].dtype == jnp.float32
  assert_close(np.asarray(y, np.float32), expected, 0.02)
  assert_close(running, expected_running)


def test_groups_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match='3 groups .* 1 devices with 16 rows each.*divides 16'):
    apply(norm(3), variables(), inputs())
  split = inputs().reshape(4, ROWS // 4, 3, 2, CHANNELS)
  for groups in (2, 12):
    with pytest.raises(ValueError, match=f'{groups} groups.* must be a multiple of 4 that divides'):
      jax.pmap(
        lambda x, g=groups: apply(norm(g, collectives.AXIS), variables(), x),
        axis_name=collectives.AXIS,
      )(split)


def test_a_whole_encoder_trains_by_groups():
  x = jnp.asarray(philox.images('test', 8, 16)) * jnp.linspace(0.5, 3.0, 8)[:, None, None, None]

  def net(groups):
    return stack((('encoder', 'embedding', models.make_encoder('small', bn_groups=groups)),))

  def train(groups, images):
    return jax.jit(lambda x: net(groups).apply(params, stats, x, train=True))(images)

  params, stats = net(2).init(jax.random.key(0), x)
  outputs, moved = train(2, x)
  first, first_moved = train(0, x[:4])
  second, second_moved = train(0, x[4:])
  both = np.concatenate([first['embedding'], second['embedding']])
  np.testing.assert_allclose(outputs['embedding'], both, atol=1e-4)
  means = jax.tree.map(lambda a, b: (a + b) / 2, first_moved, second_moved)
  assert_close(moved, means)
