"""Encoders: equal to torchvision, their variants and initial values."""

import functools
import math
import re
import sys

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import models
from byoljax.devices import collectives, mapping
from byoljax.models import layers, resnet
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


@pytest.fixture(scope='module')
def golden():
  return dict(np.load(GOLDEN / 'resnet.npz'))


def torchvision_name(path):
  """'stage2_block0/conv1/kernel' -> 'layer2.0.conv1.weight'."""
  module, leaf = re.sub(r'stage(\d)_block(\d+)/', r'layer\1.\2.', path).rsplit('/', 1)
  module = module.replace('stem_conv', 'conv1').replace('stem_bn', 'bn1')
  module = module.replace('shortcut_conv', 'downsample.0').replace('shortcut_bn', 'downsample.1')
  names = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}
  return f'{module}.{names.get(leaf, leaf)}'


def drawn_like_torchvision(tree):
  """The tree with every leaf drawn under its torchvision name, kernels turned to HWIO."""

  def leaf(path, shape):
    name = torchvision_name(jax.tree_util.keystr(path, simple=True, separator='/'))
    if len(shape.shape) == 4:
      height, width, inputs, outputs = shape.shape
      kernel = philox.resnet_tensor(name, (outputs, inputs, height, width))
      return kernel.transpose(2, 3, 1, 0)
    return philox.resnet_tensor(name, shape.shape)

  return {'encoder': jax.tree_util.tree_map_with_path(leaf, tree['encoder'])}


@pytest.mark.parametrize(
  ('case', 'name', 'stem', 'size'),
  [
    # In evaluation both are compared in tests/weights, too.
    pytest.param('resnet18', 'resnet18', 'imagenet', 64, marks=pytest.mark.slow),
    ('resnet50', 'resnet50', 'imagenet', 64),
    pytest.param('resnet18_cifar', 'resnet18', 'cifar', 32, marks=pytest.mark.slow),
  ],
)
def test_outputs_equal_torchvisions_with_its_weights(golden, case, name, stem, size):
  net = encoder_net(name, taps=('stage1', 'stage2', 'stage3'), stem=stem)
  batch = 16 if name == 'resnet50' else 8
  x = philox.images(case, batch, size)
  params, stats = map(drawn_like_torchvision, jax.eval_shape(net.init, jax.random.key(0), x))

  evaluated, kept = run(net, params, stats, x, train=False)
  np.testing.assert_allclose(evaluated['embedding'][:4], golden[f'{case}/eval'], atol=1e-4)
  for stage in ('stage1', 'stage2', 'stage3'):
    means = evaluated[stage][0].mean((0, 1))
    np.testing.assert_allclose(means, golden[f'{case}/eval/{stage}'], atol=1e-4)
  jax.tree.map(np.testing.assert_array_equal, kept, stats)

  trained, moved = run(net, params, stats, x, train=True)
  np.testing.assert_allclose(trained['embedding'][:4], golden[f'{case}/train'], atol=1e-4)
  moved, start = paths(moved['encoder']), paths(stats['encoder'])
  # Values behind each statistic: PyTorch stores the unbiased variance, this the biased one.
  stem_size, stage2_size = (size // 2, size // 8) if stem == 'imagenet' else (size, size // 2)
  stage4_size = stage2_size // 4
  for layer, path, edge in (
    ('bn1', 'stem_bn', stem_size),
    ('layer2.0.downsample.1', 'stage2_block0/shortcut_bn', stage2_size),
    ('layer4.1.bn2', 'stage4_block1/bn2', stage4_size),
  ):
    n = batch * edge * edge
    mean, var = (
      golden[f'{case}/train/{layer}.running_mean'],
      golden[f'{case}/train/{layer}.running_var'],
    )
    np.testing.assert_allclose(moved[f'{path}/mean'], mean, atol=1e-4)
    batch_var = (var - 0.9 * start[f'{path}/var']) * (n - 1) / n
    np.testing.assert_allclose(
      moved[f'{path}/var'], 0.9 * start[f'{path}/var'] + batch_var, atol=1e-4
    )


@pytest.mark.parametrize(
  ('name', 'count'),
  [
    ('resnet18', 11_176_512),
    ('resnet34', 21_284_672),
    ('resnet50', 23_508_032),
    ('resnet101', 42_500_160),
    pytest.param('resnet152', 58_143_808, marks=pytest.mark.slow),
    # Not in torchvision: counted below.
    pytest.param('resnet200', 62_624_832, marks=pytest.mark.slow),
  ],
)
def test_parameter_counts_equal_torchvisions(golden, name, count):
  params, _ = jax.eval_shape(encoder_net(name).init, jax.random.key(0), IMAGES)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
  if name == 'resnet200':
    # 16 more bottlenecks in stage 2 than ResNet-152, each 512-128-128-512
    block = 512 * 128 + 9 * 128 * 128 + 128 * 512 + 2 * (128 + 128 + 512)
    assert count == 58_143_808 + 16 * block
  else:
    assert count == golden[f'count/{name}']


@pytest.mark.parametrize('name', ['resnet18', 'resnet50', 'small', 'pixels'])
@pytest.mark.parametrize('width', [1, 2])
def test_width_multiplies_the_embedding_and_every_channel_count(name, width):
  net = encoder_net(name, width=width)
  params, stats = jax.eval_shape(net.init, jax.random.key(0), IMAGES)
  outputs, _ = jax.eval_shape(
    lambda p, s, x: net.apply(p, s, x, train=False), params, stats, IMAGES
  )
  one = {'resnet18': 512, 'resnet50': 2048, 'small': 128, 'pixels': 0}[name]
  size = 32 * 32 * 3 if name == 'pixels' else one * width
  assert outputs['embedding'].shape == (2, size)
  assert outputs['embedding'].dtype == jnp.float32
  narrow, _ = jax.eval_shape(encoder_net(name).init, jax.random.key(0), IMAGES)
  for path, leaf in paths(params).items():
    assert leaf.dtype == jnp.float32
    assert leaf.shape[-1] == width * paths(narrow)[path].shape[-1], path


@pytest.mark.parametrize(
  ('stem', 'edges'), [('imagenet', (16, 8, 4, 2)), ('cifar', (64, 32, 16, 8))]
)
@pytest.mark.parametrize('padding', ['torch', 'same'])
def test_stems_and_paddings_give_the_same_resolutions(stem, padding, edges):
  taps = ('stage1', 'stage2', 'stage3', 'stage4')
  net = encoder_net('resnet18', taps=taps, stem=stem, padding=padding)
  x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  params, stats = jax.eval_shape(net.init, jax.random.key(0), x)
  outputs, _ = jax.eval_shape(lambda p, s, x: net.apply(p, s, x, train=False), params, stats, x)
  assert tuple(outputs[tap].shape[1] for tap in taps) == edges


@pytest.mark.parametrize(
  ('padding', 'expected'),
  [
    ('torch', [0 + 1 + 2, 2 + 3 + 4]),  # windows start one before the image
    ('same', [1 + 2 + 3, 3 + 4 + 0]),  # an even size needs one column of padding: on the right
  ],
)
def test_padding_of_a_strided_convolution(padding, expected):
  module = layers.conv(1, 3, 2, padding, jnp.float32, 'conv')
  kernel = jnp.zeros((3, 3, 1, 1)).at[1].set(1.0)  # sums three neighbors in a row
  rows = jnp.ones((4, 1)) * jnp.arange(1.0, 5.0)[None, :]
  out = module.apply({'params': {'kernel': kernel}}, rows[None, :, :, None])
  assert out[0, 0, :, 0].tolist() == expected


def test_same_padding_changes_the_values_not_only_the_code_path():
  x = drawn_images(2, 32)
  net = encoder_net('small')
  params, stats = net.init(jax.random.key(0), x)
  other = encoder_net('small', padding='same')
  a, _ = run(net, params, stats, x, train=False)
  b, _ = run(other, params, stats, x, train=False)
  assert float(jnp.abs(a['embedding'] - b['embedding']).max()) > 1e-2


@pytest.mark.parametrize(
  ('name', 'blocks', 'last'),
  [
    pytest.param('resnet18', 8, 'bn2', marks=pytest.mark.slow),
    pytest.param('resnet50', 16, 'bn3', marks=pytest.mark.slow),
    ('small', 2, 'bn2'),
  ],
)
def test_zero_init_residual_zeroes_the_last_scale_of_every_block_only(name, blocks, last):
  zeroed = encoder_net(name, zero_init_residual=True).init(jax.random.key(0), IMAGES)[0]
  zeros = [
    path for path, leaf in paths(zeroed).items() if path.endswith('scale') and not leaf.any()
  ]
  assert len(zeros) == blocks
  assert all(re.fullmatch(rf'encoder/stage\d_block\d/{last}/scale', path) for path in zeros)


def test_initial_kernels_are_he_normal_over_fan_out_and_scales_one():
  params, _ = encoder_net('small').init(jax.random.key(0), IMAGES)
  for path, leaf in paths(params).items():
    if path.endswith('scale'):
      assert (leaf == 1).all()
    elif path.endswith('kernel'):
      fan_out = leaf.shape[0] * leaf.shape[1] * leaf.shape[3]
      noise = 4 / math.sqrt(2 * leaf.size)  # four standard errors
      assert float(leaf.std()) == pytest.approx(math.sqrt(2 / fan_out), rel=noise), path
      assert float(jnp.abs(leaf).max()) > 2.5 * math.sqrt(2 / fan_out)  # not truncated


def test_initial_statistics_and_reproducibility():
  net = encoder_net('small')
  params, stats = net.init(jax.random.key(0), IMAGES)
  for path, leaf in paths(stats).items():
    assert (leaf == (0 if path.endswith('mean') else 1)).all()
  again, _ = net.init(jax.random.key(0), IMAGES)
  other, _ = net.init(jax.random.key(1), IMAGES)
  jax.tree.map(np.testing.assert_array_equal, params, again)
  assert (params['encoder']['stem_conv']['kernel'] != other['encoder']['stem_conv']['kernel']).any()


def test_small_encoder_has_the_documented_size_and_halves_four_times():
  net = encoder_net('small', taps=('stem', 'stage1', 'stage2'))
  params, stats = net.init(jax.random.key(0), IMAGES)
  # kernels: stem 432; blocks 9 (ab + bb) + ab; scales and biases: 2 (16 + 3 * 32 + 3 * 128)
  blocks = sum(9 * (a * b + b * b) + a * b for a, b in ((16, 32), (32, 128)))
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert count == 432 + blocks + 2 * (16 + 96 + 384) == 204_176
  for size, edges in ((32, (16, 8, 4)), (33, (17, 9, 5)), (8, (4, 2, 1))):
    outputs, _ = run(net, params, stats, drawn_images(2, 40)[:, :size, :size], train=False)
    assert tuple(outputs[tap].shape[1] for tap in ('stem', 'stage1', 'stage2')) == edges


def test_a_pooled_shortcut_averages_the_pixels_it_skips():
  block = resnet.ResidualBlock(2, 2, bottleneck=False, pooled_shortcut=True)
  x = drawn_images(3, 8)[..., :2]
  variables = nn.meta.unbox(block.init(jax.random.key(0), x, train=True))
  params = variables['params']
  params['bn2']['scale'] = jnp.zeros(2)  # leaves the shortcut alone
  params['shortcut_conv']['kernel'] = jnp.eye(2).reshape(1, 1, 2, 2)
  y = block.apply(variables, x, train=False)
  means = x.reshape(3, 4, 2, 4, 2, 2).mean((2, 4))
  np.testing.assert_allclose(y, np.maximum(means, 0) / math.sqrt(1 + 1e-5), atol=1e-6)


TINY = [(1, 3, 1, True), (2, 3, 1, True), (3, 3, 2, True), (4, 3, 2, True), (2, 5, 1, True),
        (5, 3, 1, False), (8, 3, 2, False), (2, 1, 1, False)]  # fmt: skip
UNEVEN = [((1, 1), (1, 1)), ((0, 1), (2, 0))]


@pytest.mark.parametrize(
  ('edge', 'kernel', 'stride', 'is_product', 'padding'),
  [(*case, 'SAME') for case in TINY]
  + [
    pytest.param(*case, pads, marks=() if case in TINY[1:3] else pytest.mark.slow)
    for case in TINY
    for pads in UNEVEN
  ],
)
def test_convolutions_with_tiny_results_are_products(edge, kernel, stride, is_product, padding):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((3, edge, edge, 4)).astype(np.float32)
  weights = rng.standard_normal((kernel, kernel, 4, 5)).astype(np.float32)
  settings = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC'), 'feature_group_count': 1}

  def gradients(form, x, weights):
    def loss(x, weights):
      out = form(x, weights, (stride, stride), padding, **settings)
      return jnp.sum(jnp.sin(out)), out

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, weights)

  expected, found = (
    jax.jit(functools.partial(gradients, form))(x, weights)
    for form in (lax.conv_general_dilated, layers.convolve)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), found, expected)
  if padding == 'SAME':
    jaxpr = str(jax.make_jaxpr(functools.partial(gradients, layers.convolve))(x, weights))
    assert ('conv_general_dilated' not in jaxpr) == is_product


def test_a_tap_that_sees_only_padding_is_not_multiplied():
  one = jax.make_jaxpr(lambda x, w: layers.convolve(x, w, (1, 1), 'SAME'))(
    jnp.zeros((2, 1, 1, 4)), jnp.zeros((3, 3, 4, 5))
  )
  assert 'f32[4,5]' in str(one) and 'f32[36,5]' not in str(one)


def loss_of(net, batch_stats, images):
  def loss(params):
    outputs, stats = net.apply(params, batch_stats, images, train=True)
    return jnp.mean(jnp.sin(outputs['embedding'])), stats

  return loss


@pytest.mark.parametrize('name', ['small', pytest.param('vit_micro', marks=pytest.mark.slow)])
def test_remat_changes_no_value(name):
  images = jax.random.normal(jax.random.key(1), (8, 16, 16, 3))
  found = []
  for remat in (False, True):
    net = encoder_net(name, remat=remat)
    params, stats = net.init(jax.random.key(0), images)
    step = jax.jit(jax.value_and_grad(loss_of(net, stats, images), has_aux=True))
    found.append(jax.device_get(step(params)))
  kept, again = found
  assert jax.tree.structure(kept) == jax.tree.structure(again)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), kept, again)


@pytest.mark.parametrize(
  ('name', 'share'),
  [
    pytest.param('resnet18', 0.6, marks=pytest.mark.slow),
    pytest.param('resnet50', 0.3, marks=pytest.mark.slow),
    ('small', 0.6),
    ('vit_micro', 0.2),
  ],
)
def test_remat_keeps_less_for_the_gradient(name, share):
  # Counted in what is differentiated: XLA's compiler for CPUs undoes the repetition.
  images = jnp.zeros((8, 96, 96, 3))
  size = []
  for remat in (False, True):
    net = encoder_net(name, remat=remat)
    params, stats = jax.eval_shape(net.init, jax.random.key(0), images)

    def residuals(params, stats, net=net):
      return jax.vjp(loss_of(net, stats, images), params, has_aux=True)[1]

    kept = jax.tree.leaves(jax.eval_shape(residuals, params, stats))
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    size.append(sum(leaf.size for leaf in kept) - weights)
  assert 0 < size[1] < share * size[0]


def test_remat_repeats_no_sum_over_devices():
  images, sums = jnp.zeros((4, 8, 16, 16, 3)), []
  for remat in (False, True):
    net = encoder_net('small', remat=remat, bn_axis=collectives.AXIS)
    params, stats = net.init(jax.random.key(0), images[0])

    def gradient(params, batch, net=net, stats=stats):
      return collectives.pmean(jax.grad(loss_of(net, stats, batch), has_aux=True)(params)[0])

    sums.append(mapping.spmd(gradient, donate=False).lower(params, images).as_text())
  assert sums[0].count('stablehlo.all_reduce') == sums[1].count('stablehlo.all_reduce') > 0
  assert sums[0].count('stablehlo.convolution') < sums[1].count('stablehlo.convolution')


def test_pixels_is_the_flattened_image():
  x = drawn_images(3, 8)
  net = encoder_net('pixels')
  params, stats = net.init(jax.random.key(0), x)
  assert (params, stats) == ({'encoder': {}}, {'encoder': {}})
  outputs, _ = run(net, params, stats, x, train=True)
  np.testing.assert_array_equal(outputs['embedding'], np.asarray(x).reshape(3, -1))


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'name': 'resnet5'}, "unknown encoder 'resnet5'.*resnet18.*did you mean 'resnet50'"),
    ({'name': 'small', 'stem': 'cifar10'}, "unknown stem 'cifar10'.*did you mean 'cifar'"),
    ({'name': 'small', 'padding': 'valid'}, "unknown padding 'valid': choose one of torch, same"),
    (
      {'name': 'small', 'dtype': 'float16'},
      "unknown dtype 'float16'.*did you mean 'bfloat16'|'float32'",
    ),
    ({'name': 'small', 'width': 0}, 'encoder width 0 must be a whole number of at least 1'),
    ({'name': 'small', 'width': 1.5}, 'encoder width 1.5'),
    (
      {'name': 'image_gpt_micro', 'series': (50, 6)},
      r'series \(50, 6\) are 300 numbers, but images of 16 x 16 pixels hold 256',
    ),
  ],
)
def test_wrong_settings_are_named_with_what_is_allowed(settings, message):
  with pytest.raises(ValueError, match=message):
    models.make_encoder(**settings)


@pytest.mark.parametrize(
  ('settings', 'side'), [({'name': 'codec', 'stride': 8}, 4), ({'name': 'exemplar_cnn_small'}, 3)]
)
def test_images_of_which_nothing_is_left_are_refused(settings, side):
  """The mean of no places would be NaN."""
  images = jnp.zeros((2, side, side, 3))
  with pytest.raises(ValueError, match=f'images of {side} x {side} pixels are too small'):
    encoder_net(**settings).init(jax.random.key(0), images)
