"""What a network begins with: values by hand, and the same network from pretraining to export."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import models
from byoljax.encoders.encoder import Encoder, Preprocessing, random_encoder
from byoljax.models import inputs
from byoljax.models.net import stack
from byoljax.models.taps import maps_of, taps_of
from byoljax.ops import color
from byoljax.weights import exporting

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
RGB = np.random.default_rng(0).random((2, 8, 8, 3)).astype(np.float32)
NORMALIZED = (RGB - np.float32(MEAN)) / np.float32(STD)


def seen(kind, images=NORMALIZED, mean=MEAN, std=STD):
  """What a network behind an input gets."""
  network = inputs.with_input(Identity(), kind, mean, std)
  return np.asarray(network.apply({}, images, train=False))


class Flat(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    return nn.Dense(5)(x.reshape(x.shape[0], -1))


class Identity(nn.Module):
  def __call__(self, x, *, train):
    return x


def test_values_by_hand():
  np.testing.assert_array_equal(seen('rgb'), NORMALIZED)
  lab = np.asarray(color.rgb_to_lab(RGB))
  np.testing.assert_allclose(seen('lightness'), lab[..., :1] / 50 - 1, atol=1e-4)
  np.testing.assert_allclose(seen('ab'), lab[..., 1:] / 110, atol=1e-4)
  np.testing.assert_allclose(
    seen('lab'), np.concatenate([seen('lightness'), seen('ab')], -1), atol=1e-6
  )
  weights = np.array([0.299, 0.587, 0.114])
  gray = (RGB @ weights - np.dot(weights, MEAN)) / np.dot(weights, STD)
  np.testing.assert_allclose(seen('gray')[..., 0], gray, atol=1e-5)


def test_only_a_transformer_behind_an_input_has_patches():
  """Maps are looked for at a side that suits positions, if there are any."""
  made = {
    name: models.make_encoder(name, input='gray', mean=(0.5,) * 3, std=(0.25,) * 3)
    for name in ('small', 'vit_micro')
  }
  assert not hasattr(made['small'], 'patch') and made['vit_micro'].patch > 1
  for name, tap in (('small', 'stage2'), ('vit_micro', 'tokens1')):
    assert tap in maps_of(made[name], 3, 32)


def test_sobel_is_deepclusters():
  """The published filters, cross-correlated with the mean of the normalized channels."""
  gray = np.pad(NORMALIZED.mean(-1), ((0, 0), (1, 1), (1, 1)))
  filters = np.array([[[1, 0, -1], [2, 0, -2], [1, 0, -1]], [[1, 2, 1], [0, 0, 0], [-1, -2, -1]]])
  wanted = np.zeros((2, 8, 8, 2))
  for y in range(8):
    for x in range(8):
      wanted[:, y, x] = np.einsum('bij,kij->bk', gray[:, y : y + 3, x : x + 3], filters)
  np.testing.assert_allclose(seen('sobel'), wanted, atol=1e-5)


@pytest.mark.parametrize('channels', [1, 2, 4, 13])
def test_images_of_any_number_of_channels(channels):
  """From the data's statistics through the network to the exported program."""
  preprocessing = Preprocessing((0.5,) * channels, (0.25,) * channels, 8)
  net = stack((('encoder', 'embedding', Flat()),))
  embed = Encoder(net, *net.init(jax.random.key(0), preprocessing.example()), preprocessing)
  images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, channels), dtype=np.uint8)
  assert embed.dim == 5 and preprocessing.example().shape == (2, 8, 8, channels)
  stored = exporting.serialized(
    lambda x: embed.apply(embed.params, embed.bn, x), preprocessing.image
  )
  exported = jax.export.deserialize(bytearray(stored))
  np.testing.assert_allclose(exported.call(images), embed(images), rtol=1e-4, atol=1e-5)
  for name in ('small', 'vit_micro', 'resnet18'):
    make = functools.partial(random_encoder, {'name': name}, preprocessing, 0)
    params = jax.eval_shape(lambda make=make: make().params['encoder'])
    first = params['patch_embed' if name == 'vit_micro' else 'stem_conv']['kernel']
    assert first.shape[-2] == (16 * channels if name == 'vit_micro' else channels)
  with pytest.raises(ValueError, match=rf'images are \[b, S, S, {channels}\]'):
    embed(np.zeros((3, 8, 8, 3 if channels != 3 else 4), np.uint8))
  assert exporting.library_of(embed) == 'byoljax', 'others have networks for RGB'


@pytest.mark.parametrize(('kind', 'channels'), [('sobel', 2), ('lightness', 1), ('lab', 3)])
def test_a_network_behind_an_input_is_the_network_on_it(kind, channels):
  """Names of parameters, statistics and taps stay; `uint8` to features is the same everywhere."""
  preprocessing = Preprocessing(MEAN, STD, 8)
  embed = random_encoder({'name': 'small', 'input': kind}, preprocessing, 0)
  net = stack((('encoder', 'embedding', models.make_encoder('small')),))
  plain = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((2, 8, 8, channels))))
  own = (embed.params, embed.bn)
  assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, plain)
  assert list(taps_of(embed.net, jnp.zeros((2, 8, 8, 3)))) == ['stem', 'stage1', 'stage2',
                                                               'embedding']  # fmt: skip
  images = np.uint8(RGB * 255)
  x = seen(kind, (images / np.float32(255) - np.float32(MEAN)) / np.float32(STD))
  wanted = jax.jit(lambda x: net.apply(embed.params, embed.bn, x, train=False)[0]['embedding'])(x)
  np.testing.assert_allclose(embed(images), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('settings', 'sentence'),
  [
    ({'input': 'hsv'}, "input='hsv' is not one of rgb, gray"),
    ({'input': 'ab'}, 'needs the mean and std'),
    ({'input': 'ab', 'mean': (0.5,), 'std': (0.2,)}, 'images of 3 channels, but the data have 1'),
  ],
)
def test_wrong_inputs_are_explained(settings, sentence):
  with pytest.raises(ValueError, match=sentence):
    models.make_encoder('small', **settings)
