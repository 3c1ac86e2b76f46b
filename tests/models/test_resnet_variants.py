"""ResNet-D and selective kernels: published sizes, and their definitions in NumPy."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import models
from byoljax.models import resnet
from byoljax.models.net import stack
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import philox  # noqa: E402

IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)


def encoder_net(name, taps=(), **settings):
  return stack((('encoder', 'embedding', models.make_encoder(name, **settings)),), taps)


def shapes(name, **settings):
  params, _ = jax.eval_shape(encoder_net(name, **settings).init, jax.random.key(0), IMAGES)
  return params['encoder']


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_selective_kernels_have_the_documented_number_of_parameters():
  # In every block: 9 C^2 for the second path, C * 32 + 32 * 2 C to weigh the paths, and scales
  # and biases of C + 32 more channels.
  more = {c: 9 * c * c + 96 * c + 2 * c + 64 for c in (64, 128, 256, 512)}
  stem = 27 * 32 + 9 * 32 * 32 + 9 * 32 * 64 + 4 * 32 - 49 * 3 * 64
  extra = stem + sum(blocks * more[c] for c, blocks in zip(more, (3, 4, 6, 3), strict=True))
  assert count(shapes('resnet50', selective_kernel=True)) == 23_508_032 + extra == 35_215_584


@pytest.mark.parametrize(
  ('name', 'width', 'selective', 'millions'),
  [
    ('resnet50', 1, True, 35),
    ('resnet50', 2, False, 94),
    ('resnet50', 2, True, 140),
    pytest.param('resnet101', 1, True, 65, marks=pytest.mark.slow),
    pytest.param('resnet152', 3, True, 795, marks=pytest.mark.slow),
  ],
)
def test_sizes_are_those_published_with_simclr_v2(name, width, selective, millions):
  params = shapes(name, width=width, selective_kernel=selective)
  assert round(count(params) / 1e6) == millions


def test_resnet_d_changes_the_imagenet_stem_and_no_shape_elsewhere():
  plain, changed = shapes('resnet50'), shapes('resnet50', resnet_d=True)
  assert set(changed) - set(plain) == {'stem1_conv', 'stem1_bn', 'stem2_conv', 'stem2_bn'}
  kernels = [changed[f'{name}_conv']['kernel'].shape for name in ('stem1', 'stem2', 'stem')]
  assert kernels == [(3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 64)]
  same = lambda tree: {k: v for k, v in tree.items() if not k.startswith('stem')}  # noqa: E731
  assert same(changed) == same(plain)
  assert shapes('resnet18', resnet_d=True, stem='cifar') == shapes('resnet18', stem='cifar')


@pytest.mark.parametrize(('stem', 'edges'), [('imagenet', (16, 16, 2)), ('cifar', (64, 64, 8))])
def test_resolutions_stay(stem, edges):
  net = encoder_net('resnet18', ('stem', 'stage1', 'stage4'), stem=stem, selective_kernel=True)
  x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  params, stats = jax.eval_shape(net.init, jax.random.key(0), x)
  outputs, _ = jax.eval_shape(lambda p, s, x: net.apply(p, s, x, train=False), params, stats, x)
  assert tuple(outputs[tap].shape[1] for tap in ('stem', 'stage1', 'stage4')) == edges


@pytest.mark.parametrize(('name', 'replaced'), [('resnet18', '1'), ('resnet50', '2')])
def test_the_convolution_with_the_stride_is_replaced(name, replaced):
  plain, changed = shapes(name), shapes(name, selective_kernel=True)
  for block in ('stage1_block0', 'stage2_block0'):
    gone = set(plain[block]) - set(changed[block])
    assert gone == {f'conv{replaced}', f'bn{replaced}'}
    assert set(changed[block]) - set(plain[block]) == {'selective_kernel'}


def convolve(x, kernel, stride):
  """3x3 or 1x1 convolution of [b,H,W,C], padded by (k - 1) / 2, in NumPy."""
  size = kernel.shape[0]
  x = np.pad(x, ((0, 0), *(((size - 1) // 2,) * 2,) * 2, (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
  return np.einsum('bhwcij,ijco->bhwo', windows[:, ::stride, ::stride], kernel)


def normalize(x, p):
  inner = tuple(range(x.ndim - 1))
  return (x - x.mean(inner)) / np.sqrt(x.var(inner) + 1e-5) * p['scale'] + p['bias']


def drawn(tree):
  def leaf(path, a):
    name = jax.tree_util.keystr(path)
    return philox.uniform(name, a.shape, *((0.5, 1.5) if 'scale' in name else (-0.5, 0.5)))

  return jax.tree_util.tree_map_with_path(leaf, tree)


def selective_kernel_by_hand(x, p, stride, channels):
  """Li et al., equations 1 to 6, two 3x3 paths, in float64 NumPy."""
  first, second = p['conv']['kernel'][..., :channels], p['conv']['kernel'][..., channels:]
  norms = [
    {k: v[half] for k, v in p['bn'].items()} for half in (np.s_[:channels], np.s_[channels:])
  ]
  u = [
    np.maximum(normalize(convolve(x, kernel, stride), norm), 0.0)
    for kernel, norm in zip((first, second), norms, strict=True)
  ]
  s = (u[0] + u[1]).mean((1, 2))
  z = np.maximum(normalize(s @ p['reduce_conv']['kernel'][0, 0], p['reduce_bn']), 0.0)
  logits = z @ p['weigh_conv']['kernel'][0, 0]
  gate = 1.0 / (1.0 + np.exp(logits[:, channels:] - logits[:, :channels]))[:, None, None, :]
  return gate * u[0] + (1.0 - gate) * u[1]


@pytest.mark.parametrize('stride', [1, 2])
def test_a_selective_kernel_weighs_two_paths_by_the_whole_map(stride):
  x = philox.images('sk', 6, 8)
  module = resnet.SelectiveKernel(4, stride)
  made = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), x)
  made = nn.meta.unbox(made)
  params = drawn(made['params'])
  assert params['reduce_conv']['kernel'].shape == (1, 1, 4, 32)
  stats = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), made['batch_stats'])
  y, _ = jax.jit(lambda v, x: module.apply(v, x, train=True, mutable=['batch_stats']))(
    {'params': params, 'batch_stats': stats}, x
  )
  double = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  expected = selective_kernel_by_hand(np.asarray(x, np.float64), double, stride, 4)
  assert y.shape == (6, 8 // stride, 8 // stride, 4)
  np.testing.assert_allclose(y, expected, atol=2e-4)


def test_bfloat16_keeps_parameters_and_statistics_of_selective_kernels_float32():
  x = jnp.asarray(philox.images('sk', 4, 8))

  def outcome(dtype):
    module = resnet.SelectiveKernel(4, 2, dtype=dtype)
    made = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), x)
    made = drawn(nn.meta.unbox(made))
    run = jax.jit(lambda v, x: module.apply(v, x, train=True, mutable=['batch_stats']))
    return run(made, x)

  (exact, _), (rounded, moved) = outcome(jnp.float32), outcome(jnp.bfloat16)
  assert rounded.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(moved)} == {jnp.dtype('float32')}
  error = jnp.abs(exact - rounded.astype(jnp.float32)).max() / jnp.abs(exact).max()
  assert 1e-5 < float(error) < 0.1
