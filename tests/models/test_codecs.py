"""Networks of codecs: sides and channels, and a block and attention against float64 NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.models import codecs, decoders, discriminators, make_encoder, vq_gan

TINY = vq_gan.VQGANSize(8, (1, 2), 1, 4)


def shape_of(module, x):
  return jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), x, train=False))[0].shape


@pytest.mark.parametrize(
  ('encoder', 'decoder', 'stride'),
  [
    (make_encoder('codec', stride=2), codecs.CodecDecoder(codecs.CODECS['codec'], 2), 2),
    pytest.param(
      make_encoder('codec_small', stride=8),
      codecs.CodecDecoder(codecs.CODECS['codec'], 8),
      8,
      marks=pytest.mark.slow,
    ),
    pytest.param(
      vq_gan.VQGANEncoder(TINY), vq_gan.VQGANDecoder(TINY, 2), 2, marks=pytest.mark.slow
    ),
  ],
)
def test_maps_and_images_fit(encoder, decoder, stride):
  source = decoders.feature_map(encoder, 3)
  assert source.stride == stride
  assert shape_of(decoder, jnp.zeros((2, 32 // stride, 32 // stride, 5))) == (2, 32, 32, 3)
  assert shape_of(encoder, jnp.zeros((2, 32, 32, 3))) == (2, source.channels)


def test_patches_of_the_discriminator():
  found = shape_of(discriminators.PatchDiscriminator(8, 2), jnp.zeros((2, 32, 32, 3)))
  assert found == (2, 6, 6)  # 32 -> 16 -> 8 -> 7 -> 6
  with pytest.raises(ValueError, match='at least 12 pixels, not 8x8'):
    shape_of(discriminators.PatchDiscriminator(8, 2), jnp.zeros((2, 8, 8, 3)))
  with pytest.raises(ValueError, match='has 2 levels'):
    shape_of(vq_gan.VQGANDecoder(TINY, 4), jnp.zeros((2, 8, 8, 3)))
  with pytest.raises(ValueError, match='stride 3 must be a power of two'):
    make_encoder('codec', stride=3)


def _float64(params):
  return jax.tree.map(lambda p: np.asarray(p, np.float64), nn.meta.unbox(params))


def test_attention_against_numpy():
  x = np.random.default_rng(0).normal(size=(2, 3, 2, 8))
  module = vq_gan._Attention(4, jnp.float32)
  made = jax.jit(lambda: module.init_with_output(jax.random.key(1), jnp.asarray(x)))()
  found, params = made[0], _float64(made[1]['params'])
  grouped = x.reshape(2, 6, 4, 2)
  mean, var = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
  y = ((grouped - mean) / np.sqrt(var + 1e-6)).reshape(2, 6, 8)
  query, key, value = (
    y @ params[n]['kernel'] + params[n]['bias'] for n in ('query', 'key', 'value')
  )
  weights = np.exp(query @ key.transpose(0, 2, 1) / np.sqrt(8))
  weights /= weights.sum(-1, keepdims=True)
  expected = x + (weights @ value @ params['out']['kernel']).reshape(x.shape)
  # float32 products of 8 numbers around 1: 2e-6 seen.
  np.testing.assert_allclose(found, expected, atol=1e-5)
