"""DINOv2's ViTs: the same features under timm's names and the authors', and back."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from byoljax import cli
from byoljax.models import options, positions, vit
from byoljax.models.net import stack
from byoljax.weights import exporting, formats, importing, published, timm_words, vit_names
from byoljax.weights.formats import Found
from tests import imported
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import imported_tensors as theirs  # noqa: E402

GOLD = np.load(GOLDEN / 'dinov2.npz')


def state_of(case, dim=64, patch=8, image=32, depth=4):
  """timm's weights of a case."""
  arguments = theirs.DINOV2S[case][0]
  registers, swiglu = 'reg_tokens' in arguments, case == 'swiglu'
  inside = round(arguments.get('mlp_ratio', 4) * dim)
  shapes = {
    'cls_token': (1, 1, dim),
    'pos_embed': (1, (image // patch) ** 2 + (not registers), dim),
    'patch_embed.proj.weight': (dim, 3, patch, patch),
    'patch_embed.proj.bias': (dim,),
    'norm.weight': (dim,),
    'norm.bias': (dim,),
  }
  shapes |= {'reg_token': (1, 4, dim)} if registers else {}
  for i in range(depth):
    for name, out, into in (
      ('attn.qkv', 3 * dim, dim),
      ('attn.proj', dim, dim),
      ('mlp.fc1', inside, dim),
      ('mlp.fc2', dim, inside // 2 if swiglu else inside),
    ):
      shapes |= {f'blocks.{i}.{name}.weight': (out, into), f'blocks.{i}.{name}.bias': (out,)}
    for name in ('norm1', 'norm2'):
      shapes |= {f'blocks.{i}.{name}.{leaf}': (dim,) for leaf in ('weight', 'bias')}
    shapes |= {f'blocks.{i}.{name}.gamma': (dim,) for name in ('ls1', 'ls2')}
  return {name: theirs.vit(name, shape) for name, shape in shapes.items()}


def authors(state):
  """The same as the authors store it: the class token has a position, and there is a mask token."""
  made = {}
  for name, array in state.items():
    name = name.replace('reg_token', 'register_tokens')
    if 'swiglu' in state:
      name = name.replace('fc1', 'w12').replace('fc2', 'w3')
    made[name] = array
  made.pop('swiglu', None)
  if 'register_tokens' in made:
    own = theirs.vit('pos_embed of the class', (1, 1, 64))
    made['pos_embed'] = np.concatenate([own, made['pos_embed']], axis=1)
    made['cls_token'] = made['cls_token'] - own
  return made | {'mask_token': np.ones((1, 64), np.float32)}


def both_pools(module, params, images):
  """[class token, mean of the patches], as in the golden file; one compilation."""
  variables = {'params': params}
  tokens = jax.jit(lambda v, x: module.apply(v, x, method='tokens'))(variables, images)
  return jnp.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], axis=1)


@pytest.mark.parametrize('case', [case for case in theirs.DINOV2S if case != 'swiglu'])
@pytest.mark.parametrize('names', ['timm', 'authors'])
def test_features_are_theirs(case, names, tmp_path):
  path = tmp_path / 'weights.safetensors'
  state = state_of(case)
  save_file(state if names == 'timm' else authors(state), path)
  reading = importing.encoder_of(str(path), imported.FIELDS)
  encoder, fields = reading.encoder, reading.encoder.fields
  assert reading.unread == (() if names == 'timm' else ('mask_token',))
  assert fields['name'] == ('dinov2_micro_reg' if 'registers' in case else 'dinov2_micro')
  assert (fields['patch_size'], fields['grid'], fields['positions']) == (8, 4, 'learned')
  module, params = encoder.net.parts[0][2], encoder.params['encoder']
  found = both_pools(module, params, theirs.vit_images(*theirs.DINOV2S[case][1:]))
  np.testing.assert_allclose(found, GOLD[case], atol=2e-5)


@pytest.mark.parametrize('names', ['timm', 'authors'])
def test_the_largest_has_swiglu(names):
  """Which of our sizes has it and is small is none, so the parts are put together here."""
  state = state_of('swiglu')
  state = state if names == 'timm' else authors(state | {'swiglu': np.zeros(1)})
  more = {'registers': 4, 'layer_scale': 1e-5, 'swiglu': True, 'inside': 8 / 3}
  size = vit.Size(64, 4, 4, patch=8, grid=4, **more)
  module, images = vit.ViT(size, positions='learned'), theirs.vit_images(32, 32)
  net = stack((('encoder', 'embedding', module),))
  wanted, _ = jax.eval_shape(lambda: net.init(jax.random.key(0), images))
  found = Found({'name': 'small giant'})
  params, _, _ = formats.placed(vit_names.FORMAT, state, '', found, wanted['encoder'], {})
  np.testing.assert_allclose(both_pools(module, params, images), GOLD['swiglu'], atol=2e-5)
  again = vit_names.to_timm(params, 8, None)
  assert set(again) == set(state_of('swiglu'))
  giant = {name: np.broadcast_to(np.float32(0), shape) for name, shape in {
    'cls_token': (1, 1, 1536), 'pos_embed': (1, 1370, 1536), 'register_tokens': (1, 4, 1536),
    'patch_embed.proj.weight': (1536, 3, 14, 14), 'blocks.0.ls1.gamma': (1536,),
    'blocks.0.mlp.w12.weight': (8192, 1536), 'blocks.0.mlp.w3.weight': (1536, 4096),
    **{f'blocks.{i}.attn.qkv.weight': (3, 1536) for i in range(40)},
  }.items()}  # fmt: skip
  told = vit_names.FORMAT.find_out(giant, '', {})
  assert (told.fields['name'], told.image_size) == ('dinov2_giant_reg', 518)
  assert timm_words.model_of(told.fields | {'pool': 'cls'}, 518).name == (
    'vit_giant_patch14_reg4_dinov2'
  )


@pytest.mark.parametrize('case', ['plain', 'registers'])
def test_import_and_export_again(case, tmp_path):
  path, state = tmp_path / 'weights.safetensors', state_of(case)
  save_file(authors(state), path)
  written = exporting.weights_of(importing.encoder_of(str(path), imported.FIELDS).encoder)
  assert set(written) == set(state)
  for name, array in state.items():
    # The position of the class token is subtracted by the test and added by the export.
    np.testing.assert_allclose(written[name], array, atol=1e-6)


@pytest.mark.parametrize(
  ('name', 'millions'),
  [('dinov2_small', 22.06), ('dinov2_base_reg', 86.58), ('dinov2_giant', 1136.5)],
)  # fmt: skip
def test_sizes_are_the_papers(name, millions):
  """Parameters of the published checkpoints, without the mask token; nothing is computed."""
  module = vit.make(name, positions='learned')
  images = jax.ShapeDtypeStruct((1, 28, 28, 3), np.float32)
  shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert count / 1e6 == pytest.approx(millions, rel=1e-3)


def test_the_table_of_published_weights_names_encoders_of_ours(capsys):
  for each in published.PUBLISHED:
    assert set(each.encoders) <= set(options.FAMILIES), each
  assert cli.run(['models']) == 0
  shown = capsys.readouterr().out
  assert 'dinov2_vits14_reg4_pretrain.pth' in shown and 'dinov2_giant_reg' in shown


def test_smooth_positions_by_hand():
  """Halving: eight neighbors at distances 1/4, 3/4, ... of the widened cubic with a = -1/2."""
  matrix = positions.smooth_matrix(4, 8)
  x = np.array([1.75, 1.25, 0.75, 0.25, 0.25, 0.75, 1.25, 1.75])
  weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2)
  np.testing.assert_allclose(matrix[2], np.pad(weights, (1, 0))[:8] / weights[:7].sum(), atol=1e-6)
  np.testing.assert_allclose(positions.smooth_matrix(8, 8), np.eye(8), atol=1e-7)
  np.testing.assert_allclose(positions.smooth_matrix(5, 3).sum(1), 1, atol=1e-6)
