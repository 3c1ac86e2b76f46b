"""Vision transformers: equal to timm, positions, precision and initial values."""

import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import models
from byoljax.models import vit
from byoljax.models.net import stack
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import philox  # noqa: E402
import vit_tensors as timm  # noqa: E402

IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)


def net_of(module, taps=()):
  return stack((('encoder', 'embedding', module),), taps)


def run(net, params, x):
  return jax.jit(lambda p, x: net.apply(p, {'encoder': {}}, x, train=True)[0])(params, x)


def paths(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


@pytest.fixture(scope='module')
def golden():
  return dict(np.load(GOLDEN / 'vit.npz'))


def drawn_like_timm(tree):
  """The tree with every leaf drawn under its timm name and turned to our layout."""

  def leaf(path, shape):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    name = re.sub(r'block(\d)/', lambda m: f'blocks.{int(m[1]) - 1}.', name).replace('/', '.')
    for ours, theirs in (
      ('qkv', 'attn.qkv'),
      ('proj', 'attn.proj'),
      ('fc', 'mlp.fc'),
      ('patch_embed', 'patch_embed.proj'),
      ('kernel', 'weight'),
      ('scale', 'weight'),
    ):
      name = name.replace(ours, theirs)
    if name == 'cls':
      return timm.tensor('cls_token', (1, 1, timm.DIM))[0, 0]
    if name == 'patch_embed.proj.weight':
      kernel = timm.tensor(name, (timm.DIM, 3, timm.PATCH, timm.PATCH))
      return kernel.transpose(2, 3, 1, 0).reshape(-1, timm.DIM)
    if len(shape.shape) == 2:
      return timm.tensor(name, shape.shape[::-1]).T
    return timm.tensor(name, shape.shape)

  return {'encoder': jax.tree_util.tree_map_with_path(leaf, tree['encoder'])}


@pytest.mark.parametrize('case', timm.CASES)
def test_outputs_equal_timms_with_its_weights(golden, case):
  height, width, pool = timm.CASES[case]
  size = vit.Size(timm.DIM, timm.DEPTH, timm.HEADS, timm.PATCH, timm.GRID)
  net = net_of(vit.ViT(size, pool=pool), taps=('tokens1',))
  x = timm.images(height, width)
  params = drawn_like_timm(jax.eval_shape(net.init, jax.random.key(0), x)[0])
  outputs = run(net, params, x)
  np.testing.assert_allclose(outputs['tokens1'], golden[f'{case}/tokens1'], atol=1e-5)
  np.testing.assert_allclose(outputs['embedding'], golden[case], atol=1e-5)


@pytest.mark.parametrize(
  ('name', 'like'),
  [
    ('vit_tiny', 'vit_tiny'),
    ('vit_small', 'vit_small'),
    ('vit_small_6heads', 'vit_small'),  # heads only cut the same matrices differently
    ('vit_base', 'vit_base'),
  ],
)
def test_parameter_counts_equal_timms_without_its_learned_positions(golden, name, like):
  net = net_of(models.make_encoder(name))
  x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  params, stats = jax.eval_shape(net.init, jax.random.key(0), x)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == golden[f'count/{like}']
  assert stats == {'encoder': {}}


def test_micro_has_the_documented_size():
  params, _ = jax.eval_shape(
    net_of(models.make_encoder('vit_micro')).init, jax.random.key(0), IMAGES
  )
  block = 12 * 64 * 64 + (3 + 1 + 4 + 1) * 64 + 4 * 64  # kernels, biases, norms
  count = 3 * 4 * 4 * 64 + 64 + 64 + 4 * block + 2 * 64
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count == 203_264


def test_positions_are_whole_numbers_on_the_models_own_map():
  table = vit.sincos_positions(3, 3, 8, grid=3)
  y, x = 2, 1  # the last row, the middle column
  omega = (1.0, 0.01)  # 10000^(-k / 2)
  expected = [f(c * w) for c in (y, x) for f in (math.sin, math.cos) for w in omega]
  np.testing.assert_allclose(table[y * 3 + x], expected, atol=1e-6)
  np.testing.assert_allclose(table[0], [0, 0, 1, 1, 0, 0, 1, 1], atol=1e-6)


def test_positions_of_fewer_patches_span_the_same_range():
  table = vit.sincos_positions(1, 4, 4, grid=8)
  x = np.array([0.5, 2.5, 4.5, 6.5])
  expected = np.stack([np.full(4, math.sin(3.5)), np.full(4, math.cos(3.5)), np.sin(x), np.cos(x)])
  np.testing.assert_allclose(table, expected.T, atol=1e-6)


def test_one_network_takes_images_of_several_sizes():
  net = net_of(models.make_encoder('vit_micro'), taps=('tokens4',))
  params, _ = net.init(jax.random.key(0), IMAGES)
  for height, width in ((32, 32), (16, 16), (8, 12)):
    outputs = run(net, params, jnp.zeros((2, height, width, 3)))
    assert outputs['embedding'].shape == (2, 64)
    assert outputs['tokens4'].shape == (2, 1 + height * width // 16, 64)


def test_the_patch_size_is_a_choice_and_the_width_a_factor():
  x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  net = net_of(models.make_encoder('vit_micro', patch_size=8, width=2))
  params, _ = jax.eval_shape(net.init, jax.random.key(0), x)
  assert params['encoder']['patch_embed']['kernel'].shape == (8 * 8 * 3, 128)
  assert params['encoder']['block1']['qkv']['kernel'].shape == (128, 3 * 128)
  assert models.make_encoder('vit_micro', width=2).size.heads == 8


@pytest.mark.parametrize(
  ('height', 'width', 'patch', 'message'),
  [
    (30, 32, 0, 'images of 30 x 32 pixels cannot be cut into patches of 4.*another patch_size'),
    (32, 32, 5, 'images of 32 x 32 pixels cannot be cut into patches of 5'),
  ],
)
def test_images_that_the_patch_does_not_divide_are_refused(height, width, patch, message):
  net = net_of(models.make_encoder('vit_micro', patch_size=patch))
  x = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(net.init, jax.random.key(0), x)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'name': 'vit_smal'}, "unknown encoder 'vit_smal'.*did you mean 'vit_small'"),
    ({'name': 'vit_micro', 'pool': 'max'}, "unknown pool 'max': choose one of cls, mean"),
    ({'name': 'vit_micro', 'patch_size': -4}, 'encoder patch_size -4 must not be negative'),
    ({'name': 'vit_micro', 'grid': -1}, 'encoder grid -1 must not be negative'),
    (
      {'name': 'vit_micro', 'positions': 'fixed'},
      "unknown positions 'fixed': choose one of sincos",
    ),
    ({'name': 'resnet18', 'grid': 4}, "encoder 'resnet18' has no grid: only vit_micro"),
    ({'name': 'small', 'first_projection': True}, "encoder 'small' has no first_projection"),
    (
      {'name': 'resnet18', 'padding': 'valid'},
      "unknown padding 'valid': choose one of torch, same",
    ),
    ({'name': 'resnet18', 'patch_size': 4}, "encoder 'resnet18' has no patch_size: only vit_micro"),
    ({'name': 'vit_micro', 'resnet_d': True}, "encoder 'vit_micro' has no resnet_d: only resnet18"),
    ({'name': 'small', 'selective_kernel': True}, "encoder 'small' has no selective_kernel"),
    ({'name': 'small', 'bn_groups': -1}, 'encoder bn_groups -1 must not be negative'),
    ({'name': 'vit_micro', 'attention': 'cuda'}, "unknown attention 'cuda': choose one of xla, cu"),
    (
      {'name': 'vit_micro', 'attention': 'cudnn'},
      "not in float32: set encoder.dtype to 'bfloat16'",
    ),
    (
      {'name': 'resnet18', 'attention': 'cudnn'},
      "encoder 'resnet18' has no attention: only vit_mi",
    ),
  ],
)
def test_wrong_settings_are_named_with_what_is_allowed(settings, message):
  with pytest.raises(ValueError, match=message):
    models.make_encoder(**settings)


def test_positions_need_a_multiple_of_four():
  with pytest.raises(ValueError, match='multiple of 4 values, not 6'):
    vit.sincos_positions(2, 2, 6, grid=2)


def test_bfloat16_keeps_parameters_norms_softmax_and_output_float32():
  x = jnp.asarray(philox.images('vit', 4, 32))
  exact = net_of(models.make_encoder('vit_micro'))
  rounded = net_of(models.make_encoder('vit_micro', dtype='bfloat16'))
  params, _ = rounded.init(jax.random.key(0), x)
  a, b = run(exact, params, x)['embedding'], run(rounded, params, x)['embedding']
  assert {leaf.dtype for leaf in jax.tree.leaves((params, b))} == {jnp.dtype('float32')}
  assert 1e-6 < float(jnp.abs(a - b).max() / jnp.abs(a).max()) < 0.1
  text = str(jax.make_jaxpr(lambda x: rounded.apply(params, {'encoder': {}}, x, train=True)[0])(x))
  assert re.search(r':bf16\[[\d,]*\] = dot_general', text)
  types = set(re.findall(r':(\w+)\[[\d,]*\] = (?:exp|rsqrt|reduce_sum|reduce_max)\b', text))
  assert types == {'f32'}


def test_initial_values_are_xavier_uniform_with_query_key_and_value_apart():
  net = net_of(models.make_encoder('vit_micro'))
  params, _ = net.init(jax.random.key(0), IMAGES)
  for path, leaf in paths(params['encoder']).items():
    if path.endswith('kernel'):
      fan_out = leaf.shape[1] / (3 if 'qkv' in path else 1)
      bound = math.sqrt(6 / (leaf.shape[0] + fan_out))
      assert 0.99 * bound < float(jnp.abs(leaf).max()) <= bound, path
      assert float(leaf.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05), path
    elif path == 'cls':
      assert 0 < float(jnp.abs(leaf).max()) < 5e-6
    else:
      assert (leaf == (1 if path.endswith('scale') else 0)).all(), path


@pytest.mark.parametrize(
  'pool', [vit.POOLS[0], *(pytest.param(p, marks=pytest.mark.slow) for p in vit.POOLS[1:])]
)
def test_every_parameter_has_a_gradient(pool):
  net = net_of(vit.ViT(vit.Size(16, 2, 2, patch=8, grid=4), pool=pool))
  x = jnp.asarray(philox.images('vit', 2, 16))
  params, _ = net.init(jax.random.key(0), x)
  weights = jnp.asarray(philox.uniform('weights', (2, 16), -1.0, 1.0))
  grads = jax.jit(jax.grad(lambda p: (run(net, p, x)['embedding'] * weights).sum()))(params)
  for path, leaf in paths(grads).items():
    # Adding one vector to all keys changes no softmax: the key biases have no gradient.
    assert jnp.isfinite(leaf).all() and jnp.abs(leaf).max() > 1e-7, path
