"""DINOv3's ViTs: the same features under three libraries' names, and back."""

import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from byoljax.encoders.encoder import Preprocessing
from byoljax.models import positions, vit, vit_block
from byoljax.train import warm_start
from byoljax.weights import dinov3_names, exporting, importing, timm_words
from tests import imported
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import imported_tensors as theirs  # noqa: E402

GOLD = np.load(GOLDEN / 'dinov3.npz')
DIM, DEPTH, PATCH = (theirs.DINOV3[name] for name in ('embed_dim', 'depth', 'patch_size'))
PERIODS = 100.0 ** (np.arange(4) / 4)  # heads of 16 channels


def state_of(case):
  """timm's weights of a case."""
  biased, swiglu = case != 'no_bias', case == 'swiglu'
  shapes = {
    'cls_token': (1, 1, DIM),
    'reg_token': (1, 4, DIM),
    'patch_embed.proj.weight': (DIM, 3, PATCH, PATCH),
    'patch_embed.proj.bias': (DIM,),
    'norm.weight': (DIM,),
    'norm.bias': (DIM,),
  }
  for i in range(DEPTH):
    first = ('mlp.fc1_g', 'mlp.fc1_x') if swiglu else ('mlp.fc1',)
    linear = dict.fromkeys(first, (4 * DIM, DIM))
    linear |= {'mlp.fc2': (DIM, 4 * DIM), 'attn.proj': (DIM, DIM)}
    own = {f'{name}.weight': shape for name, shape in linear.items()}
    own |= {f'{name}.bias': shape[:1] for name, shape in linear.items()}
    own |= {'attn.qkv.weight': (3 * DIM, DIM)}
    own |= dict.fromkeys(['attn.q_bias', 'attn.v_bias'] * biased, (DIM,))
    norms = [f'norm{n}.{leaf}' for n in (1, 2) for leaf in ('weight', 'bias')]
    own |= dict.fromkeys([*norms, 'gamma_1', 'gamma_2'], (DIM,))
    shapes |= {f'blocks.{i}.{name}': shape for name, shape in own.items()}
  return {name: theirs.vit(name, shape) for name, shape in shapes.items()}


def authors(state, rounded=False):
  """As the authors store it: keys' biases that a mask leaves out, a mask token, periods."""
  made = {}
  for name, array in state.items():
    for ours, own in {
      'reg_token': 'storage_tokens', 'gamma_1': 'ls1.gamma', 'gamma_2': 'ls2.gamma',
      'q_bias': 'qkv.bias', 'fc1_g': 'w1', 'fc1_x': 'w2',
    }.items():  # fmt: skip
      name = name.replace(ours, own)
    if 'blocks.0.mlp.fc1_g.weight' in state:
      name = name.replace('mlp.fc2', 'mlp.w3')
    if name.endswith('v_bias'):
      query = made[name.replace('v_bias', 'qkv.bias')]
      made[name.replace('v_bias', 'qkv.bias')] = np.concatenate([query, query + 1, array])
      made[name.replace('v_bias', 'qkv.bias_mask')] = np.repeat(np.float32([1, 0, 1]), DIM)
    else:
      made[name] = array
  periods = PERIODS.astype(ml_dtypes.bfloat16 if rounded else np.float32).astype(np.float32)
  return made | {'rope_embed.periods': periods, 'mask_token': np.ones((1, DIM), np.float32)}


def hugging_face(state):
  """The same as transformers stores it."""
  made = {}
  for name, array in state.items():
    for ours, own in {
      'patch_embed.proj': 'embeddings.patch_embeddings', 'cls_token': 'embeddings.cls_token',
      'reg_token': 'embeddings.register_tokens', 'blocks': 'layer', 'attn.proj': 'attention.o_proj',
      'attn.q_bias': 'attention.q_proj.bias', 'attn.v_bias': 'attention.v_proj.bias',
      'gamma_1': 'layer_scale1.lambda1', 'gamma_2': 'layer_scale2.lambda1', 'fc1_g': 'gate_proj',
      'fc1_x': 'up_proj', 'fc1': 'up_proj', 'fc2': 'down_proj',
    }.items():  # fmt: skip
      name = name.replace(ours, own)
    if 'attn.qkv' in name:
      for part, matrix in zip('qkv', np.split(array, 3), strict=True):
        made[name.replace('attn.qkv', f'attention.{part}_proj')] = matrix
    else:
      made[name] = array
  return made | {'embeddings.mask_token': np.ones((1, 1, DIM), np.float32)}


def read(state, tmp_path):
  save_file(state, tmp_path / 'weights.safetensors')
  return importing.encoder_of(str(tmp_path / 'weights.safetensors'), imported.FIELDS)


CASES = {
  'plain': lambda state: state,
  'oblong': authors,
  'rounded': lambda state: authors(state, rounded=True),
  'no_bias': hugging_face,
  'swiglu': authors,
  'swiglu, Hugging Face': hugging_face,
  'plain, Hugging Face': hugging_face,
}


@pytest.mark.parametrize('case', CASES)
def test_features_are_theirs(case, tmp_path):
  gold = case.partition(',')[0]
  reading = read(CASES[case](state_of(gold)), tmp_path)
  encoder, fields = reading.encoder, reading.encoder.fields
  assert reading.unread in ((), ('mask_token',))
  assert fields['name'] == ('dinov3_micro_plus' if gold == 'swiglu' else 'dinov3_micro')
  assert (fields['patch_size'], reading.found.image_size) == (8, 64)
  assert fields['positions'] == ('rope_bf16' if gold == 'rounded' else 'rope')
  module, params = encoder.net.parts[0][2], encoder.params['encoder']
  images = theirs.vit_images(*theirs.DINOV3S[gold][1:3])
  tokens = jax.jit(lambda v, x: module.apply(v, x, method='tokens'))({'params': params}, images)
  found = jnp.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], axis=1)
  # The golden ones are float64; five times the largest error seen, 1.7e-6.
  np.testing.assert_allclose(found, GOLD[gold], atol=8.5e-6)


@pytest.mark.parametrize('case', ['plain', 'swiglu'])
@pytest.mark.parametrize('names', [authors, hugging_face])
def test_import_and_export_again(case, names, tmp_path):
  """Under timm's names, with its arguments; what had other names comes back unchanged."""
  state = state_of(case)
  encoder = read(names(state), tmp_path).encoder
  assert exporting.library_of(encoder) == 'timm'
  written = exporting.weights_of(encoder)
  assert set(written) == set(state)
  for name, array in state.items():
    np.testing.assert_array_equal(written[name], array)
  model = timm_words.model_of(encoder.fields, 32)
  assert model.name == theirs.DINOV3S[case][0]
  wanted = {name: theirs.DINOV3[name] for name in ('embed_dim', 'depth', 'num_heads', 'patch_size')}
  assert wanted.items() <= model.arguments.items() and model.arguments['mlp_ratio'] == 4


def test_the_periods_of_the_authors_count():
  assert np.abs(GOLD['rounded'] - GOLD['oblong']).max() > 1e-3


def test_a_run_starts_from_them(tmp_path):
  """Warm start: the encoder that was read fits a new run's, and what differs is named."""
  encoder = read(authors(state_of('plain')), tmp_path).encoder
  fields = dict(encoder.fields) | {'positions': 'rope_bf16'}
  here = Preprocessing((0.5,) * 3, (0.5,) * 3, 32)
  assert [
    line for line in warm_start.differences(encoder, fields, here) if line.startswith('encoder')
  ] == ["encoder.positions is 'rope_bf16' here, 'rope' where the weights were trained"]
  module = vit.make('dinov3_micro', patch_size=8, positions='rope')
  made = jax.eval_shape(
    lambda x: module.init(jax.random.key(0), x, train=False), np.zeros((1, 32, 32, 3), np.float32)
  )
  shapes, own = (
    [leaf.shape for leaf in jax.tree.leaves(tree)]
    for tree in (made['params'], encoder.params['encoder'])
  )
  assert shapes == own


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'rope_embed.periods': np.float32([1, 2, 3, 4])}, 'not those of base 100'),
    ({'blocks.0.attn.qkv.bias_mask': None}, 'has a bias of the keys'),
    ({'patch_embed.proj.weight': np.zeros((64, 4, 8, 8), np.float32)}, 'patches have 3 channels'),
    ({'blocks.4.attn.qkv.weight': np.zeros((192, 64), np.float32)}, 'of width 64 and depth 5'),
    ({'blocks.1.mlp.fc2.weight': None}, r'missing: blocks.1.mlp.fc2.weight'),
    ({'blocks.1.attn.new': np.zeros(1, np.float32)}, r'unexpected: blocks.1.attn.new'),
    ({'blocks.1.attn.qkv.bias': np.zeros(7, np.float32)}, r'unexpected: blocks.1.attn.qkv.bias'),
    ({'storage_tokens': np.zeros((0, 4, 64), np.float32)}, r'reg_token: \(0, 4, 64\)'),
  ],
)
def test_what_is_another_network_is_a_sentence(change, said, tmp_path):
  state = authors(state_of('plain')) | change
  with pytest.raises(ValueError, match=said):
    read({name: array for name, array in state.items() if array is not None}, tmp_path)


SIZES = {
  'dinov3_small': 21_596_160,
  'dinov3_small_plus': 28_692_480,
  'dinov3_base': 85_659_648,
  'dinov3_large': 303_128_576,
  'dinov3_huge_plus': 840_591_360,
  # Published without biases of queries and values, which are zero here.
  'dinov3_7b': 6_716_030_976 + 40 * 2 * 4096,
}


@pytest.mark.parametrize('name', SIZES)
def test_sizes_are_theirs(name):
  """Parameters of timm's networks, by its own count; of one block and of two, nothing computed."""
  size, images = vit.VITS[name], jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  counts = []
  for depth in (1, 2):
    module = vit.ViT(size._replace(depth=depth), positions='rope')
    made = jax.eval_shape(lambda x, m=module: m.init(jax.random.key(0), x, train=False), images)
    counts.append(sum(leaf.size for leaf in jax.tree.leaves(made)))
  assert counts[0] + (size.depth - 1) * (counts[1] - counts[0]) == SIZES[name]


def test_rotary_positions_by_hand():
  """Two rows, one column, heads of 8: y is -1/2 and 1/2, x is 0; periods are 1 and 10."""
  found = positions.rotary_angles(2, 1, 8)
  np.testing.assert_allclose(found, np.pi * np.float32([[-1, -0.1, 0, 0], [1, 0.1, 0, 0]]))
  with pytest.raises(ValueError, match='multiple of 4'):
    positions.rotary_angles(2, 2, 6)
  turned = vit_block.rotated(
    jnp.float32([1, 2, 3, 4]).reshape(1, 1, 1, 4), jnp.float32([[[np.pi / 2, 0]]])
  )
  np.testing.assert_allclose(turned.ravel(), [-3, 2, 1, 4], atol=1e-6)


def test_a_part_of_the_patches_keeps_its_positions():
  """Of the patches that are kept in another order, each has the tokens that it has among all."""
  module = vit.ViT(vit.VITS['dinov3_micro']._replace(depth=1), positions='rope')
  images = theirs.vit_images(16, 8)
  params = jax.jit(lambda x: module.init(jax.random.key(0), x, train=False))(images)
  tokens = jax.jit(lambda params, *of: module.apply(params, *of, method='tokens'))
  whole = tokens(params, images)
  kept = tokens(params, images, jnp.tile(jnp.arange(8)[::-1], (2, 1)))
  np.testing.assert_allclose(kept[:, 0], whole[:, 0], atol=1e-5)
  np.testing.assert_allclose(kept[:, 1:], whole[:, :0:-1], atol=1e-5)


def test_they_want_their_own_positions():
  with pytest.raises(
    ValueError, match="'dinov3_small' has rotary positions: set positions to rope"
  ):
    vit.make('dinov3_small')
  fields = imported.FIELDS | {'name': 'vit_micro', 'positions': 'rope', 'pool': 'cls'}
  assert timm_words.model_of(fields, 32) is None  # timm has no such network.
  assert not dinov3_names.prefixes(['patch_embed.proj.weight', 'reg_token', 'pos_embed'])
