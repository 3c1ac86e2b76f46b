"""The pretext papers' networks: equal to PyTorch's, their sizes, what can be read out of them."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import models
from byoljax.models import pooling
from byoljax.models.net import stack
from byoljax.models.taps import taps_of
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import paper_tensors  # noqa: E402

# The largest error found, relative to 1 + |value|, is 1.2e-5 (of linear layers normalized by the
# statistics of four rows; 7e-6 elsewhere), times 5.
TOLERANCE = {'rtol': 6e-5, 'atol': 6e-5}


def net_of(name, taps=(), **options):
  return stack((('encoder', 'embedding', models.make_encoder(name, **options)),), taps)


def shapes(name, side=32, **options):
  return jax.eval_shape(
    net_of(name, **options).init, jax.random.key(0), np.zeros((2, side, side, 3))
  )


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope='module')
def golden():
  return dict(np.load(GOLDEN / 'paper_nets.npz'))


def drawn(tree):
  """Every leaf drawn by its name, in PyTorch's layout, and turned."""
  names = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}

  def leaf(path, value):
    *modules, last = (key.key for key in path)
    name, shape = '.'.join([*modules, names.get(last, last)]), value.shape
    if len(shape) == 4:
      kernel = paper_tensors.tensor(name, (shape[3], shape[2], *shape[:2]))
      return kernel.transpose(2, 3, 1, 0)
    if len(shape) == 2:
      # The first linear layer reads a map, channels first in PyTorch and last here.
      grid = {'layer6': 4, 'fc': 8}.get(modules[0], 1)
      kernel = paper_tensors.tensor(name, shape[::-1]).reshape(shape[1], -1, grid, grid)
      return kernel.transpose(2, 3, 1, 0).reshape(shape)
    return paper_tensors.tensor(name, shape)

  return {'encoder': jax.tree_util.tree_map_with_path(leaf, tree['encoder'])}


@pytest.mark.parametrize('case', ['alexnet', 'nin', 'exemplar_cnn', 'wrn_16_8'])
def test_outputs_equal_those_of_the_same_network_in_pytorch(golden, case):
  name, options, _ = paper_tensors.CASES[case]
  net, x = net_of(name, paper_tensors.TAPS[case], **options), paper_tensors.images(case)
  params, stats = map(drawn, jax.eval_shape(net.init, jax.random.key(0), x))

  @jax.jit
  def both(params, stats, x):
    return [net.apply(params, stats, x, train=train)[0] for train in (False, True)]

  evaluated, trained = both(params, stats, x)
  kept = paper_tensors.KEPT
  np.testing.assert_allclose(evaluated['embedding'][:kept], golden[f'{case}/eval'], **TOLERANCE)
  np.testing.assert_allclose(trained['embedding'][:kept], golden[f'{case}/train'], **TOLERANCE)
  for tap in paper_tensors.TAPS[case]:
    np.testing.assert_allclose(evaluated[tap][0].mean((0, 1)), golden[f'{case}/{tap}'], **TOLERANCE)


@pytest.mark.parametrize(
  ('name', 'published'),
  [
    ('wrn_16_8', 10_961_370), ('wrn_28_2', 1_467_610), ('wrn_28_10', 36_479_194),
    ('wrn_40_2', 2_243_546),
  ],
)  # fmt: skip
def test_wide_resnets_have_the_published_number_of_parameters(name, published):
  # With a classifier of ten classes, to the digit as counted of the authors' code.
  params, _ = shapes(name)
  dim = params['encoder']['bn']['scale'].shape[0]
  assert count(params) + 10 * dim + 10 == published


def test_parameters_of_the_other_networks(golden):
  assert count(shapes('alexnet_plain', 64)[0]) == golden['count/alexnet_plain'] == 57_003_840
  channels = (64, 192, 384, 256, 256)
  # Batch normalization has a scale, too, where the plain network has biases alone.
  assert count(shapes('alexnet', 64)[0]) == 57_003_840 + sum(channels) + 2 * 4096
  block = 192 * (9 * 192 + 192 + 192) + 3 * 2 * 192
  first = 75 * 192 + 192 * 160 + 160 * 96 + 2 * (192 + 160 + 96)
  second = 192 * (25 * 96 + 192 + 192) + 3 * 2 * 192
  for name, blocks in (('nin3', 3), ('nin', 4), ('nin5', 5)):
    assert count(shapes(name)[0]) == first + second + (blocks - 2) * block
  convs = 25 * (3 * 64 + 64 * 128 + 128 * 256) + 64 + 128 + 256
  assert count(shapes('exemplar_cnn')[0]) == convs + 64 * 256 * 512 + 512


def edges(name, side, **options):
  found = taps_of(net_of(name, **options), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
  return {tap: shape[1] if len(shape) == 4 else shape[1:] for tap, shape in found.items()}


def test_every_convolution_or_block_can_be_read_out_at_the_papers_resolutions():
  assert edges('alexnet', 224) == {
    'conv1': 55, 'conv2': 27, 'conv3': 13, 'conv4': 13, 'conv5': 13, 'fc6': (4096,),
    'embedding': (4096,),
  }  # fmt: skip
  assert edges('alexnet_2012', 32, stem='cifar', fc_dim=0) == {
    'conv1': 32, 'conv2': 16, 'conv3': 8, 'conv4': 8, 'conv5': 8, 'embedding': (256,),
  }  # fmt: skip
  found = edges('nin', 32)
  assert list(found)[:4] == ['block1_conv1', 'block1_conv2', 'block1', 'block2_conv1']
  assert [found[f'block{i}'] for i in (1, 2, 3, 4)] == [16, 8, 8, 8]
  assert edges('wrn_10_4', 32) == {
    'stem': 32, 'stage1': 32, 'stage2': 16, 'stage3': 8, 'embedding': (256,),
  }  # fmt: skip
  assert list(edges('wrn_28_2', 32))[:5] == ['stem', 'stage1_1', 'stage1_2', 'stage1_3', 'stage1']
  assert edges('exemplar_cnn_small', 32) == {'conv1': 32, 'conv2': 16, 'embedding': (128,)}


@pytest.mark.parametrize(
  ('name', 'options', 'path'),
  [
    ('alexnet', {'fc_dim': 8}, ('layer2', 'conv', 'kernel')),
    ('nin', {}, ('block3_layer1', 'conv', 'kernel')),
    ('exemplar_cnn', {}, ('layer2', 'conv', 'kernel')),
    ('wrn_10_4', {}, ('stage2_block0', 'conv1', 'kernel')),
  ],
)
def test_width_multiplies_the_channels(name, options, path):
  def kernel(width):
    tree = shapes(name, 64, width=width, **options)[0]['encoder']
    for key in path:
      tree = tree[key]
    return np.array(tree.shape)

  assert (kernel(2) == kernel(1) * [1, 1, 2, 2]).all()


def test_kernels_begin_with_the_variance_that_relus_keep():
  params, _ = net_of('wrn_10_4').init(jax.random.key(0), np.zeros((2, 32, 32, 3)))
  kernel = params['encoder']['stage2_block0']['conv2']['kernel']
  sigma = math.sqrt(2 / (9 * kernel.shape[2]))
  # Four standard errors of a standard deviation.
  assert float(kernel.std()) == pytest.approx(sigma, rel=4 / math.sqrt(2 * kernel.size))


@pytest.mark.parametrize('name', ['nin', 'wrn_10_4', 'alexnet'])
def test_the_stem_of_recipes_for_small_images_is_accepted(name):
  assert models.make_encoder(name, stem='cifar')


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'name': 'alexnet', 'fc_dim': -1}, 'fc_dim -1 must not be negative; 0 is for none'),
    ({'name': 'nin', 'fc_dim': 8}, "'nin' has no fc_dim: only alexnet, alexnet_2012"),
    ({'name': 'wrn_28_3'}, "unknown encoder 'wrn_28_3'.*did you mean 'wrn_28_2'"),
    ({'name': 'exemplar_cnn', 'padding': 'same'}, "'exemplar_cnn' has no padding"),
  ],
)
def test_wrong_settings_are_named_with_what_is_allowed(settings, message):
  with pytest.raises(ValueError, match=message):
    models.make_encoder(**settings)


@pytest.mark.parametrize('options', [{}, {'fc_dim': 0}])
def test_images_too_small_for_alexnet_are_named(options):
  with pytest.raises(ValueError, match=r"at least 63 pixels.*stem='cifar'"):
    shapes('alexnet', 24, **options)
  shapes('alexnet', 63, **options)


def test_adaptive_pools_are_means_and_maxima_of_pytorchs_bins():
  x = np.random.default_rng(0).normal(size=(2, 7, 4, 3)).astype(np.float32)
  # 7 rows on 3: 0 to 2, 2 to 4, 4 to 6, the bins overlap; 4 columns: 0 to 1, 1 to 2, 2 to 3.
  rows, columns = ((0, 3), (2, 5), (4, 7)), ((0, 2), (1, 3), (2, 4))
  for kind, reduce in (('mean', np.mean), ('max', np.max)):
    expected = [[reduce(x[:, a:b, c:d], (1, 2)) for c, d in columns] for a, b in rows]
    found = pooling.adaptive_pool(jnp.asarray(x), 3, kind)
    np.testing.assert_allclose(found, np.array(expected).transpose(2, 0, 1, 3), atol=1e-6)
  # A map smaller than the grid is repeated.
  small = pooling.adaptive_pool(jnp.asarray(x[:, :1, :2]), 4)
  np.testing.assert_array_equal(small, np.repeat(np.repeat(x[:, :1, :2], 4, 1), 2, 2))
