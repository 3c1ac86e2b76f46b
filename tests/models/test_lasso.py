"""Weighted sums of an encoder's maps, against NumPy in float64, and the projection by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax.models import decoders, lasso, layers
from byoljax.models.net import stack


class Two(nn.Module):
  """Two maps, of which the embedding is the last one's mean."""

  width: int = 5
  repeats: int = 1

  @nn.compact
  def __call__(self, x, *, train):
    del train
    x = nn.relu(layers.conv(3, 3, 1, 'torch', jnp.float32, 'first')(x))
    self.sow('intermediates', 'fine', x)
    x = layers.conv(self.width, 3, 2, 'torch', jnp.float32, 'second')(x)
    self.sow('intermediates', 'coarse', x)
    return jnp.concatenate([x.mean((1, 2))] * self.repeats, axis=-1)


def test_the_sum_is_that_of_normalized_maps():
  rng = np.random.default_rng(0)
  fine, coarse = rng.normal(2.0, 3.0, (4, 6, 6, 3)), rng.normal(-1.0, 0.5, (4, 3, 3, 5))
  module = lasso.WeightedMaps()
  maps = [jnp.asarray(x, jnp.float32) for x in (fine, coarse)]
  variables = module.init(jax.random.key(0), maps, train=False)
  weights = variables['params'][lasso.WEIGHTS]
  np.testing.assert_allclose(weights, [np.sqrt(0.5)] * 2, rtol=1e-6)
  kernel = rng.normal(size=(3, 5))
  params = {
    'map0_conv': {'kernel': jnp.asarray(kernel[None, None], jnp.float32)},
    lasso.WEIGHTS: jnp.asarray([0.6, 0.8]),
  }
  made, updates = module.apply(
    {'params': params, 'batch_stats': variables['batch_stats']}, maps, train=True,
    mutable=['batch_stats', 'intermediates'],
  )  # fmt: skip
  pooled = fine.reshape(4, 3, 2, 3, 2, 3).mean((2, 4)) @ kernel

  def normalized(x):
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + layers.BN_EPSILON)

  expected = 0.6 * normalized(pooled) + 0.8 * normalized(coarse)
  (mixture,) = updates['intermediates'][lasso.MIXTURE]
  # Rounding of float32 among values up to 3: 4e-7 here, five times that and some for others.
  np.testing.assert_allclose(mixture, expected, atol=5e-6)
  np.testing.assert_allclose(made, expected.mean((1, 2)), atol=5e-6)


@pytest.mark.parametrize(
  ('weights', 'expected'),
  [
    ([3.0, 4.0], [0.6, 0.8]),
    ([0.3, -0.1, 0.4], [0.6, 0.0, 0.8]),
    ([-0.5, 0.2], [0.0, 1.0]),
    ([-0.5, -0.2, -0.9], [0.0, 1.0, 0.0]),
    ([0.0, 0.0], [1.0, 0.0]),
  ],
)
def test_projection(weights, expected):
  found = lasso.projected(jnp.asarray(weights))
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert all(x == 0 for x, y in zip(found, expected, strict=True) if y == 0)


@pytest.mark.parametrize(('penalty', 'zeros'), [(0.0, 0), (2.0, 2)])
def test_a_penalty_leaves_the_map_that_is_needed(penalty, zeros):
  """Adam, projected after every step; the first of three maps explains the target best.

  Where it is alone the fit gains 2 * 0.5 by the second one, less than a penalty of 2 takes.
  """
  rng = np.random.default_rng(0)
  maps = jnp.asarray(rng.normal(size=(3, 64)), jnp.float32)
  target = 0.8 * maps[0] + 0.5 * maps[1] + 0.33 * maps[2]
  tx = optax.adam(0.02)

  def step(carry, _):
    weights, state = carry

    def fit(weights):
      w = lasso.unit(weights)
      return jnp.mean(jnp.square(w @ maps - target)) + penalty * jnp.sum(w)

    updates, state = tx.update(jax.grad(fit)(weights), state)
    return (lasso.projected(weights + updates), state), None

  start = jnp.full(3, 3**-0.5)
  (weights, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=300)
  assert int(jnp.sum(weights == 0)) == zeros and int(jnp.argmax(weights)) == 0
  assert float(jnp.sum(jnp.square(weights))) == pytest.approx(1.0, rel=1e-5)


def test_an_encoder_with_a_lasso_has_its_own_parameters_and_the_mixture_as_its_last_map():
  taps = lasso.choose_maps(Two(), 3)
  assert taps == ('fine', 'coarse') and lasso.choose_maps(Two(), 3, ('coarse', 'fine')) == taps
  mixed = lasso.WithLasso(Two(), taps)
  net = stack((('encoder', 'embedding', mixed),), taps=('coarse', lasso.MIXTURE))
  params, stats = net.init(jax.random.key(0), jnp.zeros((2, 8, 8, 3)))
  assert set(params['encoder']) == {'first', 'second', lasso.ROLE}
  assert set(stats['encoder']) == {lasso.ROLE}
  images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
  outputs, _ = net.apply(params, stats, images, train=True)
  mixture = outputs[lasso.MIXTURE]
  np.testing.assert_allclose(outputs['embedding'], mixture.mean((1, 2)), atol=1e-6)
  assert decoders.feature_map(mixed, 3).tap == lasso.MIXTURE
  # The same as a stack whose second part reads several maps.
  apart = stack(
    (('encoder', 'embedding', Two()), ('sum', 'summed', lasso.WeightedMaps())),
    reads={'sum': ('encoder/fine', 'coarse')},
  )
  roles = {'encoder': dict(params['encoder']), 'sum': params['encoder'][lasso.ROLE]}
  del roles['encoder'][lasso.ROLE]
  fresh = apart.init(jax.random.key(0), images)
  shapes = [jax.tree.map(jnp.shape, tree) for tree in (fresh[0], roles)]
  assert shapes[0] == shapes[1]
  summed, _ = apart.apply(roles, fresh[1], images, train=True)
  np.testing.assert_allclose(summed['summed'], outputs['embedding'], atol=1e-6)


class Vector(nn.Module):
  """No maps."""

  @nn.compact
  def __call__(self, x, *, train):
    del train
    return x.mean((1, 2))


@pytest.mark.parametrize(
  ('encoder', 'taps', 'message'),
  [
    (Vector(), (), 'at least two, but Vector has none'),
    (Two(), ('coarse',), 'has coarse'),
    (Two(), ('coarze', 'fine'), "unknown map 'coarze'.*did you mean 'coarse'"),
    (Two(repeats=2), (), 'the embedding of 10 values is not its mean'),
  ],
)
def test_encoders_without_maps_to_choose_from_are_refused(encoder, taps, message):
  with pytest.raises(ValueError, match=message):
    lasso.choose_maps(encoder, 3, taps)
