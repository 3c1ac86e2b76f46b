"""Heads with an output at every pixel, and dilated ResNets, against slow definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import models
from byoljax.methods.supervised import dense
from byoljax.methods.supervised.dense import HeadOptions
from byoljax.models import decoders, dense_heads, taps
from byoljax.models.net import stack
from byoljax.models.resnet import ResidualBlock

IMAGE = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)


def shapes(encoder, options, image=IMAGE):
  net = dense.network(models.make_encoder(encoder), options, 5)

  def run(key):
    params, bn = net.init(key, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32))
    x = jnp.zeros(image.shape)
    return params, net.apply(params, bn, x, train=False, inputs={'head': {'image': x}})[0]

  return net, *jax.eval_shape(run, jax.random.key(0))


@pytest.mark.parametrize(
  ('encoder', 'last', 'several'),
  [
    ('small', 'stage2', ('stem', 'stage1', 'stage2')),
    ('resnet18', 'stage4', ('stage1', 'stage2', 'stage3', 'stage4')),
    ('vit_micro', 'tokens', ('tokens1', 'tokens2', 'tokens3', 'tokens')),
  ],
)
def test_an_output_at_every_pixel_whatever_the_encoder(encoder, last, several):
  """Of images that are not square, though the network was initialized with square ones."""
  for kind in dense_heads.HEADS if encoder == 'small' else ('linear', 'skips'):
    net, _, outputs = shapes(encoder, HeadOptions(kind, up_channels=(8, 4)))
    assert outputs['output'].shape == (2, 64, 96, 5)
    assert dict(net.reads)['head'] == (several if kind == 'skips' else (last,))


def test_a_network_of_one_size_of_images_takes_a_head():
  image = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
  encoder = models.make_encoder('image_gpt_micro')
  found = taps.maps_of(encoder, 3, 224)
  assert found['features'][:3] == (1, 16, 16) and taps.probed_side(encoder, 224) == 16
  net = dense.network(encoder, HeadOptions('linear'), 5)
  assert dict(net.reads)['head'] == ('features',)
  run = lambda x: net.apply(*net.init(jax.random.key(0), x), x, train=False,  # noqa: E731
                            inputs={'head': {'image': x}})[0]  # fmt: skip
  assert jax.eval_shape(run, image)['output'].shape == (2, 16, 16, 5)
  assert decoders.feature_map(encoder, 3).stride == 1


def test_an_up_head_without_blocks_scores_the_map_alone():
  _, params, outputs = shapes('small', HeadOptions('up', up_channels=()))
  assert set(params['head']) == {'score'}
  assert outputs['output'].shape == (*IMAGE.shape[:3], 5)


def test_what_cannot_be_built_is_told():
  with pytest.raises(ValueError, match="unknown head 'fnc'.*did you mean 'fcn'"):
    shapes('small', HeadOptions('fnc'))
  with pytest.raises(ValueError, match="unknown tap 'stage5'"):
    shapes('resnet18', HeadOptions('linear', ('stage5',)))
  with pytest.raises(ValueError, match=r'make \(128, 192\) pixels of a map of \(8, 12\)'):
    shapes('small', HeadOptions('up', up_channels=(8, 8, 8, 8)))
  with pytest.raises(ValueError, match='has no feature map'):
    shapes('pixels', HeadOptions('linear'))
  with pytest.raises(ValueError, match='reads maps'):
    dense_heads.gridded_tokens(jnp.zeros((2, 8, 3)))


@pytest.mark.parametrize('size', [(8, 8), (5, 29), (12, 30), (33, 64)])
def test_as_many_blocks_as_the_stride_has_doublings_fit_images_of_any_size(size):
  image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
  blocks = (4,) * 3  # Of a stride of 8; the map of 5 x 29 pixels is 8 x 32 after them.
  assert shapes('small', HeadOptions('up', up_channels=blocks), image)[2]['output'].shape == (
    1, *size, 5
  )  # fmt: skip


def test_tokens_become_the_map_of_their_patches():
  tokens = np.arange(2 * 7 * 3).reshape(2, 7, 3)
  made = dense_heads.gridded_tokens(jnp.asarray(tokens), (20, 30))
  np.testing.assert_array_equal(made, tokens[:, 1:].reshape(2, 2, 3, 3))


def test_fast_up_convolution_is_a_convolution_of_the_unpooled_map():
  """Against zeros put between the places and a plain 5x5 convolution, in float64."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, 3, 4, 2))
  module = dense_heads.UpConv(3)
  kernel = rng.normal(size=(5, 5, 2, 3))
  unpooled = np.zeros((1, 6, 8, 2))
  unpooled[:, ::2, ::2] = x
  padded = np.pad(unpooled, ((0, 0), (2, 2), (2, 2), (0, 0)))
  slow = np.zeros((1, 6, 8, 3))
  for i in range(6):
    for j in range(8):
      slow[0, i, j] = np.einsum('hwc,hwcf->f', padded[0, i : i + 5, j : j + 5], kernel)
  fast = module.apply({'params': {'kernel': jnp.asarray(kernel, jnp.float32)}}, jnp.float32(x))
  # 18 products of normals at most, in float32: 4e-7 was found.
  np.testing.assert_allclose(fast, slow, atol=5e-6)


def test_skips_add_what_coarser_maps_say():
  """By hand: two maps of one channel, normalization as it is before training."""
  head = dense_heads.DenseHead('skips', 1)
  maps = (jnp.arange(4.0).reshape(1, 2, 2, 1), jnp.full((1, 1, 1, 1), 10.0))
  variables = head.init(jax.random.key(0), maps, train=False)
  params = {name: {'kernel': jnp.ones((1, 1, 1, 1)), 'bias': jnp.zeros(1)}
            for name in ('score1', 'score2')}  # fmt: skip
  out = head.apply({'params': params, 'batch_stats': variables['batch_stats']}, maps, train=False)
  np.testing.assert_allclose(out[0, :, :, 0], [[10, 11], [12, 13]], rtol=1e-5)


def test_bilinear_interpolation_by_hand():
  x = jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1)
  np.testing.assert_allclose(dense_heads.resized(x, (1, 4))[0, 0, :, 0], [0, 1, 3, 4], atol=1e-6)
  # Made smaller, places between are not averaged: 0, 1, 3, 4 at 1/2 and 5/2.
  y = jnp.array([0.0, 1.0, 3.0, 4.0]).reshape(1, 1, 4, 1)
  np.testing.assert_allclose(dense_heads.resized(y, (1, 2))[0, 0, :, 0], [0.5, 3.5], atol=1e-6)


@pytest.mark.parametrize(('stride', 'sizes'), [(0, (16, 8, 4, 2)), (16, (16, 8, 4, 4)),
                                               (8, (16, 8, 8, 8))])  # fmt: skip
def test_an_output_stride_enlarges_maps_and_keeps_the_parameters(stride, sizes):
  plain, dilated = (models.make_encoder('resnet18', output_stride=s) for s in (0, stride))

  def run(encoder, key):
    variables = encoder.init(key, jnp.zeros((1, 64, 64, 3)), train=False)
    return variables, encoder.apply(
      {name: variables[name] for name in ('params', 'batch_stats')},
      jnp.zeros((1, 64, 64, 3)),
      train=False,
      mutable='intermediates',
    )[1]

  (before, _), (after, found) = (
    jax.eval_shape(functools.partial(run, e), jax.random.key(0)) for e in (plain, dilated)
  )
  parts = [{name: tree[name] for name in ('params', 'batch_stats')} for tree in (before, after)]
  assert parts[0] == parts[1]
  maps = found['intermediates']
  assert tuple(maps[f'stage{i}'][0].shape[1] for i in (1, 2, 3, 4)) == sizes


def test_dilated_convolutions_see_every_second_place():
  """A change of one place reaches those an even number of places away, up to four."""
  block = ResidualBlock(4, 1, False, dilation=2)
  net = stack((('encoder', 'embedding', block),))
  x = jax.random.normal(jax.random.key(1), (1, 13, 13, 4))
  params, bn = net.init(jax.random.key(0), x)
  apply = jax.jit(lambda x: net.apply(params, bn, x, train=False)[0]['embedding'])
  changed = np.any(np.asarray(apply(x) != apply(x.at[0, 6, 6].add(1.0))), axis=(0, 3))
  reached = np.zeros((13, 13), bool)
  reached[2:11:2, 2:11:2] = True
  # The last ReLU may hide a change.
  assert not (changed & ~reached).any() and changed.sum() > 12


@pytest.mark.parametrize(
  ('fields', 'said'),
  [({'output_stride': 12}, 'output_stride 12 .* must be one of 0, 4, 8, 16, 32'),
   ({'output_stride': 16, 'stem': 'cifar'}, 'one of 0, 1, 2, 4, 8'),
   ({'output_stride': 16, 'selective_kernel': True}, 'are not dilated')],
)  # fmt: skip
def test_an_impossible_output_stride_is_refused(fields, said):
  with pytest.raises(ValueError, match=said):
    models.make_encoder('resnet18', **fields)
