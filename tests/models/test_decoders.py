"""Decoders: where they are put, what comes out, and what they refuse."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.models import decoders, make_encoder
from byoljax.models.decoders import (
  Channelwise,
  ConvDecoder,
  FeatureMap,
  depth_to_space,
  feature_map,
)


@pytest.mark.parametrize(
  ('name', 'tap', 'expected'),
  [
    ('small', '', FeatureMap('stage2', 8, 128)),
    ('small', 'stem', FeatureMap('stem', 2, 16)),
    ('alexnet', '', FeatureMap('conv5', 16, 256)),
    ('nin', '', FeatureMap('block4', 4, 192)),
  ],
)
def test_the_map_of_an_encoder(name, tap, expected):
  assert feature_map(make_encoder(name), 3, tap) == expected


def test_encoders_without_such_a_map():
  with pytest.raises(ValueError, match='has no feature map'):
    feature_map(make_encoder('vit_micro'), 3)
  with pytest.raises(ValueError, match="unknown map 'stage9'.*stage1"):
    feature_map(make_encoder('small'), 3, 'stage9')

  class Thirds(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      x = nn.Conv(4, (3, 3), strides=3)(x)
      self.sow('intermediates', 'map', x)
      return x.mean((1, 2))

  with pytest.raises(ValueError, match='stride of 2.99|stride of 3'):
    feature_map(Thirds(), 3)


@pytest.mark.parametrize(
  ('stride', 'width', 'stages'),
  [(1, 4, [4]), (2, 4, [4]), (8, 4, [16, 8, 4]), (4, 300, [512, 300])],
)
def test_shapes_and_channels(stride, width, stages):
  decoder = ConvDecoder(stride=stride, width=width, channels=5, dtype=jnp.bfloat16)
  x = jnp.zeros((2, 3, 4, 6))
  made = jax.eval_shape(lambda: decoder.init_with_output(jax.random.key(0), x, train=False))
  output, variables = made
  assert output.shape == (2, 3 * stride, 4 * stride, 5) and output.dtype == jnp.float32
  found = [variables['params'][f'stage{n + 1}_bn']['scale'].shape[0] for n in range(len(stages))]
  assert found == stages and f'stage{len(stages) + 1}_bn' not in variables['params']


def test_channelwise_every_place_sees_all_others_of_its_channel_only():
  layer, x = Channelwise(), np.random.default_rng(0).normal(size=(1, 2, 3, 4)).astype(np.float32)
  variables = nn.unbox(layer.init(jax.random.key(0), jnp.asarray(x)))
  kernel, mix = variables['params']['places'], variables['params']['mix_conv']
  assert kernel.shape == (6, 4, 6)
  expected = np.stack([x.reshape(6, 4)[:, c] @ np.asarray(kernel)[:, c] for c in range(4)], -1)
  expected = np.maximum(expected, 0) @ np.asarray(mix['kernel'])[0, 0]
  # Sums of 6 and 4 products of numbers around 1.
  np.testing.assert_allclose(
    layer.apply(variables, jnp.asarray(x)).reshape(6, 4), expected, atol=2e-5
  )


def test_the_channelwise_layer_keeps_the_size_of_signals():
  params = nn.unbox(Channelwise().init(jax.random.key(1), jnp.zeros((1, 8, 8, 32))))['params']
  # 131,072 draws: five standard errors of the deviation are 1 %.
  assert np.std(params['places']) == pytest.approx(np.sqrt(2 / 64), rel=0.01)


def test_depth_to_space():
  x = jnp.arange(12.0).reshape(1, 1, 1, 12)
  made = depth_to_space(x, 2)
  np.testing.assert_array_equal(made[0, ..., 0], [[0, 3], [6, 9]])
  np.testing.assert_array_equal(made[0, 1, 0], [6, 7, 8])
  two = depth_to_space(jnp.concatenate([x, x + 100], 1), 2)
  assert two.shape == (1, 4, 2, 3) and float(two[0, 2, 0, 0]) == 100


def test_an_output_that_misses_a_border_is_resized():
  image, output = jnp.zeros((1, 6, 5, 3)), jnp.ones((1, 4, 4, 3))
  np.testing.assert_allclose(decoders.fitted(output, image), np.ones((1, 6, 5, 3)), rtol=1e-6)
  assert decoders.fitted(image, image) is image
