"""The rescaled random network: every unit has mean 0 and standard deviation 1 on the images."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.models import encoder_factory, halves, heads, make_encoder
from byoljax.models.net import stack
from byoljax.models.rescaled import rescaled


def moments_of_layers(net, params, stats, x):
  """Path -> whether the layer can shift, mean and standard deviation of its units, evaluating."""
  shifts = {}

  def compute(params, stats, x):
    found = {}

    def look(call, args, kwargs, context):
      y = call(*args, **kwargs)
      layers = (nn.Dense, nn.Conv, nn.BatchNorm)
      if context.method_name == '__call__' and isinstance(context.module, layers):
        path = '/'.join((role, *context.module.path))
        shifts[path] = isinstance(context.module, nn.BatchNorm) or context.module.use_bias
        axes = tuple(range(y.ndim - 1))
        found[path] = y.mean(axes), y.std(axes)
      return y

    for role, _, module in net.parts:
      with nn.intercept_methods(look):
        x = module.apply({'params': params[role], 'batch_stats': stats[role]}, x, train=False)
    return found

  found = jax.jit(compute)(params, stats, x)
  return {path: (shifts[path], *map(np.asarray, each)) for path, each in found.items()}


@pytest.mark.parametrize('name', ['small', pytest.param('vit_micro', marks=pytest.mark.slow)])
def test_every_unit_fits_the_images(name):
  images = 2 * jax.random.normal(jax.random.key(1), (32, 16, 16, 3)) + 1
  net = stack(
    (
      ('encoder', 'embedding', make_encoder(name)),
      ('projector', 'projection', heads.MLPHead((16, 8))),
    )
  )
  params, stats = net.init(jax.random.key(0), images)
  before = moments_of_layers(net, params, stats, images)
  after = moments_of_layers(net, *rescaled(net, params, stats, images), images)
  assert len(after) == {'small': 17, 'vit_micro': 20}[name]
  for path, (shifted, mean, std) in after.items():
    np.testing.assert_allclose(std, 1, atol=1e-3, err_msg=str(path))
    if shifted:
      np.testing.assert_allclose(mean, 0, atol=1e-4, err_msg=str(path))
  assert max(np.abs(std - 1).max() for _, _, std in before.values()) > 0.1


class Two(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    x = nn.relu(nn.Dense(5, name='first')(x))
    return nn.Dense(4, use_bias=False, name='second')(x)


def test_equals_the_rule_written_down_in_float64():
  x = np.random.default_rng(0).normal(size=(50, 3)) + 1
  net = stack((('encoder', 'embedding', Two()),))
  params, stats = net.init(jax.random.key(0), jnp.asarray(x, jnp.float32))
  own = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params['encoder'])
  y = x @ own['first']['kernel']
  kernel, bias = own['first']['kernel'] / y.std(0), -y.mean(0) / y.std(0)
  z = np.maximum(x @ kernel + bias, 0) @ own['second']['kernel']
  got, _ = rescaled(net, params, stats, jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(got['encoder']['first']['kernel'], kernel, rtol=1e-4)
  np.testing.assert_allclose(got['encoder']['first']['bias'], bias, rtol=1e-4, atol=1e-5)
  second = own['second']['kernel'] / z.std(0)
  np.testing.assert_allclose(got['encoder']['second']['kernel'], second, rtol=1e-4)


def test_constant_units_keep_their_scale():
  net = stack((('encoder', 'embedding', Two()),))
  x = jnp.ones((8, 3))
  params, stats = net.init(jax.random.key(0), x)
  got, _ = rescaled(net, params, stats, x)
  np.testing.assert_array_equal(
    got['encoder']['first']['kernel'], params['encoder']['first']['kernel']
  )
  assert np.isfinite(jax.tree.leaves(got)[0]).all()


def test_layers_that_are_computed_twice_behind_an_input_are_fitted_alike():
  images = 2 * jax.random.normal(jax.random.key(1), (8, 16, 16, 3)) + 1
  found = []
  for remat in (False, True):
    encoder = encoder_factory(
      {'name': 'small', 'input': 'gray', 'remat': remat}, mean=(0.5,) * 3, std=(0.25,) * 3
    )(None)
    net = stack((('encoder', 'embedding', encoder),))
    found.append(rescaled(net, *net.init(jax.random.key(0), images), images))
  # The same operations, which the compiler may fuse otherwise: float32 rounding.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)


class Around(nn.Module):
  """A module around another one, of which it reads an inner map."""

  @nn.compact
  def __call__(self, x, *, train):
    inner = heads.MLPHead((4, 2), norm=False, name='inner')
    inner(x, train=train)
    return nn.Dense(2, name='outer')(halves.sown_maps(inner)['hidden1'])


def test_layers_behind_an_inner_map_of_another_module_are_fitted():
  x = 3 * jax.random.normal(jax.random.key(1), (64, 3)) + 1
  net = stack((('encoder', 'embedding', Around()),))
  params, stats = rescaled(net, *net.init(jax.random.key(0), x), x)
  made = net.apply(params, stats, x, train=False)[0]['embedding']
  np.testing.assert_allclose(made.std(0), 1, atol=1e-4)  # Sums of 64 values in float32.


def test_every_masked_convolution_is_fitted():
  images = 2 * jax.random.normal(jax.random.key(1), (8, 8, 8, 3)) + 1
  net = stack((('encoder', 'embedding', make_encoder('pixelcnn_micro')),))
  params, stats = net.init(jax.random.key(0), images)
  (got, _), changed = rescaled(net, params, stats, images), 0
  for (path, old), new in zip(
    jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(got), strict=True
  ):
    assert np.isfinite(new).all(), path
    changed += not np.array_equal(old, new)
  assert changed >= len(jax.tree.leaves(params)) // 2
