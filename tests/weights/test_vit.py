"""ViTs of timm, MoCo v3 and DINO: the same features, the same names back, clear refusals."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import byoljax
from byoljax import main
from byoljax.encoders.encoder import Preprocessing
from byoljax.models import positions, vit
from byoljax.weights import exporting, importing
from tests import imported
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import imported_tensors as theirs  # noqa: E402

FIELDS = imported.FIELDS


def shapes(case, dim=64, depth=4, patch=8, image=32):
  """{timm's name: shape}, of a ViT with or without its classifier."""
  arguments = theirs.VITS[case][0]
  found = {
    'cls_token': (1, 1, dim),
    'pos_embed': (1, 1 + (image // patch) ** 2, dim),
    'patch_embed.proj.weight': (dim, 3, patch, patch),
    'patch_embed.proj.bias': (dim,),
    'norm.weight': (dim,),
    'norm.bias': (dim,),
  }
  for i in range(depth):
    for name, out, into in (
      ('attn.qkv', 3 * dim, dim),
      ('attn.proj', dim, dim),
      ('mlp.fc1', 4 * dim, dim),
      ('mlp.fc2', dim, 4 * dim),
    ):
      found |= {f'blocks.{i}.{name}.weight': (out, into), f'blocks.{i}.{name}.bias': (out,)}
    for name in ('norm1', 'norm2'):
      found |= {f'blocks.{i}.{name}.{leaf}': (dim,) for leaf in ('weight', 'bias')}
  if not arguments.get('qkv_bias', True):
    found = {name: shape for name, shape in found.items() if not name.endswith('qkv.bias')}
  if arguments['num_classes']:
    found |= {'head.weight': (arguments['num_classes'], dim)}
    found |= {'head.bias': (arguments['num_classes'],)}
  return found


def state_of(case):
  state = {name: theirs.vit(name, shape) for name, shape in shapes(case).items()}
  if case == 'moco_v3':
    state['pos_embed'] = theirs.moco_v3_positions(4, 64)
  return state


def features(reading, images):
  encoder = reading.encoder
  run = jax.jit(lambda p, x: encoder.net.apply(p, encoder.bn, x, train=False)[0]['embedding'])
  return run(encoder.params, images)


@pytest.mark.parametrize(
  'case',
  [
    pytest.param(case, marks=pytest.mark.slow if case in ('dino', 'mean') else ())
    for case in theirs.VITS
  ],
)
def test_features_are_theirs(case, tmp_path):
  path = tmp_path / 'weights.safetensors'
  state = state_of(case)
  # MAE's decoder is beside the encoder.
  more = {'mask_token': np.ones(3), 'decoder_blocks.0.norm1.weight': np.ones(3)}
  save_file(state | (more if case == 'timm' else {}), path)
  pool = 'mean' if case == 'mean' else 'cls'
  reading = importing.encoder_of(str(path), FIELDS | {'pool': pool})
  if case == 'timm':  # Whose classifier is not read, either.
    assert set(reading.unread) == {*more, 'head.weight', 'head.bias'}
  fields = reading.encoder.fields
  assert (fields['name'], fields['patch_size'], fields['grid']) == ('vit_micro', 8, 4)
  assert fields['positions'] == ('sincos' if case == 'moco_v3' else 'learned')
  assert reading.found.image_size == 32
  images = theirs.vit_images(*theirs.VITS[case][1:])
  golden = np.load(GOLDEN / 'imported_vit.npz')[case]
  np.testing.assert_allclose(features(reading, images), golden, atol=2e-5)


def test_positions_of_another_size_move_features():
  """What makes the golden values above hold: neither a plain bicubic nor no resampling."""
  table = theirs.vit('pos_embed', (1, 17, 64))[0]
  matrix = positions.resample_matrix(6, 4)
  np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
  plain = jax.image.resize(jnp.asarray(table[1:].reshape(4, 4, 64)), (6, 6, 64), 'cubic')
  ours = positions.resampled(jnp.asarray(table), 6, 6)[1:].reshape(6, 6, 64)
  assert 0.01 < float(jnp.abs(plain - ours).max()) < 0.5
  np.testing.assert_array_equal(positions.resampled(jnp.asarray(table), 4, 4), table)
  # By hand: (1/2) 4 / 6.1 - 1/2 = -0.172131; three of its four neighbors are the repeated edge,
  # the fourth is x = 1.172131 away: -3/4 (x^3 - 5 x^2 + 8 x - 4) = -0.08848.
  np.testing.assert_allclose(matrix[0], [1.08848, -0.08848, 0, 0], atol=1e-5)


def test_moco_v3_as_it_is_stored(tmp_path):
  """`.pth.tar` with both encoders, the projector in the head's place, an optimizer beside them."""
  state = state_of('moco_v3')
  both = {f'module.{which}_encoder.{name}': array + (which == 'momentum') * (name == 'cls_token')
          for which in ('base', 'momentum') for name, array in state.items()}  # fmt: skip
  both['module.base_encoder.head.0.weight'] = np.zeros((3, 64), np.float32)
  both['module.predictor.0.weight'] = np.zeros((3, 3), np.float32)
  path = tmp_path / 'vit.pth.tar'
  imported.torch_file(path, {'state_dict': both, 'optimizer': {'exp_avg': np.zeros(3)}})
  prefixes = [f'state_dict.module.{which}_encoder.' for which in ('base', 'momentum')]
  with pytest.raises(ValueError, match=f"set prefix to one of '{prefixes[0]}', '{prefixes[1]}'"):
    importing.encoder_of(str(path), FIELDS)
  golden = np.load(GOLDEN / 'imported_vit.npz')['moco_v3']
  reading = importing.encoder_of(str(path), FIELDS, prefix=prefixes[0])
  np.testing.assert_allclose(features(reading, theirs.vit_images(32, 32)), golden, atol=2e-5)
  other = importing.encoder_of(str(path), FIELDS, prefix=prefixes[1])
  moved = other.encoder.params['encoder']['cls'] - reading.encoder.params['encoder']['cls']
  np.testing.assert_allclose(moved, 1, atol=1e-6)


@pytest.mark.parametrize(
  ('fixed', 'asked', 'name'),
  [
    (True, 'resnet50', 'vit_small'),
    (False, 'resnet50', 'vit_small_6heads'),
    (True, 'vit_small_6heads', 'vit_small_6heads'),
    (False, 'vit_small', 'vit_small'),
  ],
)
def test_heads_follow_the_positions_or_the_person(fixed, asked, name):
  form = importing.vit_names.FORMAT
  state = {n: np.broadcast_to(np.float32(0.5), s)
           for n, s in shapes('timm', 384, 12, 16, 224).items()}  # fmt: skip
  if fixed:
    state['pos_embed'] = theirs.moco_v3_positions(14, 384)
  found = form.find_out(state, '', {'name': asked})
  assert found.fields['name'] == name and found.image_size == 224
  assert 'which the weights do not tell' in found.doubt
  assert ('12 heads' in found.doubt) == (name == 'vit_small')


@pytest.mark.parametrize(
  ('name', 'dim', 'depth', 'heads'),
  [('vit_tiny', 192, 12, 3), ('vit_base', 768, 12, 12), ('vit_large', 1024, 24, 16)],
)
def test_sizes_of_timm_are_known(name, dim, depth, heads):
  state = {n: np.broadcast_to(np.float32(0.5), s)
           for n, s in shapes('timm', dim, depth, 16, 224).items()}  # fmt: skip
  found = importing.vit_names.FORMAT.find_out(state, '', {'name': 'resnet50'})
  assert found.fields['name'] == name and vit.VITS[name].heads == heads


def changed(**changes):
  state = state_of('timm')
  for name, array in changes.items():
    if array is None:
      del state[name]
    else:
      state[name] = array
  return state


@pytest.mark.parametrize(
  ('state', 'said'),
  [
    (changed(cls_token=None, pos_embed=None), 'missing: cls_token, pos_embed'),
    (changed(**{'blocks.2.norm1.bias': None}), 'missing: blocks.2.norm1.bias'),
    (changed(**{'blocks.0.ls1.gamma': np.ones(64)}), 'missing: blocks.0.ls2.gamma, blocks.1.ls1'),
    (changed(reg_token=np.ones((1, 4, 64))), 'with registers is none of ours'),
    (changed(**{'blocks.1.mlp.fc1.bias': np.ones(128)}), 'of another shape: blocks.1.mlp.fc1.bias'),
    (
      changed(**{'blocks.1.attn.qkv.weight': np.ones((3, 3, 3))}),
      'blocks.1.attn.qkv.weight: (3, 3',
    ),
    (changed(pos_embed=np.ones((1, 16, 64))), 'pos_embed is (1, 16, 64): positions are those of'),
    (changed(pos_embed=np.ones(3)), 'pos_embed is (3,): positions'),
    (changed(**{'patch_embed.proj.weight': np.ones((64, 1, 8, 8))}), 'squares of 3 channels'),
    (
      changed(**{'patch_embed.proj.weight': np.ones((65, 3, 8, 8))}),
      'width 65 and depth 4 is none',
    ),
    (changed(**{'blocks.0.attn.qkv.bias': None}), 'missing: blocks.0.attn.qkv.bias'),
    (changed(**{'blocks.0.mlp.fc2.weight': np.ones(())}), 'shape: blocks.0.mlp.fc2.weight'),
  ],
)
def test_what_does_not_fit_is_said(state, said, tmp_path):
  path = tmp_path / 'weights.safetensors'
  save_file({name: np.asarray(array, np.float32) for name, array in state.items()}, path)
  with pytest.raises(ValueError) as refused:
    importing.encoder_of(str(path), FIELDS)
  assert said in str(refused.value)


def test_import_load_and_export_again(tmp_path, npz, capsys):
  """From timm's file to features and to a folder with the same file."""
  path, run, folder = (tmp_path / name for name in ('dino.pth', 'a run', 'folder'))
  state = {f'backbone.{name}': x for name, x in state_of('dino').items()}
  # A decoder that is not all there.
  state |= {'head.weight': np.ones((3, 2)), 'backbone.decoder_embed.bias': np.ones(3)}
  imported.torch_file(path, {'teacher': state})
  command = [
    '--config=configs/import_weights.py', f'--config.file={path}', f'--workdir={run}',
    '--config.data.name=npz', f'--config.data.dir={npz}',
  ]  # fmt: skip
  assert main.main(command) == 0
  told = capsys.readouterr().out
  assert 'vit_micro with patches of 8 pixels, learned positions for images of 32' in told
  assert "behind 'teacher.backbone.': every weight fits" in told
  assert 'Not imported: teacher.head, decoder_embed (2 arrays).' in told
  assert f"byoljax knn '{run}' --data.name=folder" in told  # As a shell takes it.
  embed = byoljax.load(str(run))
  assert embed.preprocessing.image_size == 32 and embed.dim == 64
  images = theirs.vit_images(48, 48)
  scaled = np.float32(images * 0.1 + 0.5)
  golden = np.load(GOLDEN / 'imported_vit.npz')['dino']
  changed_ = dataclasses.replace(embed, preprocessing=Preprocessing((0.5,) * 3, (0.1,) * 3, 32))
  np.testing.assert_allclose(changed_(scaled), golden, atol=5e-5)
  command = ['--config=configs/export.py', f'--config.pretrained={run}', f'--workdir={folder}']
  assert main.main(command) == 0
  written = load_file(folder / 'model.safetensors')
  assert set(written) == set(state_of('dino'))
  for name, array in state_of('dino').items():
    np.testing.assert_array_equal(written[name], array)
  config = json.loads((folder / 'config.json').read_text())
  wanted = {name: theirs.VIT[name] for name in theirs.VIT}
  assert config['model_args'] == wanted | {'num_classes': 0}
  assert json.loads((folder / 'model_card.json').read_text())['names'] == 'timm'
  assert 'timm.create_model(' in (folder / 'README.md').read_text()
  again = importing.encoder_of(str(folder), FIELDS)
  assert dict(again.encoder.fields) == dict(embed.fields)
  jax.tree.map(np.testing.assert_array_equal, again.encoder.params, embed.params)


def test_fixed_positions_are_written_and_recognized(tmp_path):
  path = tmp_path / 'weights.safetensors'
  state = state_of('moco_v3')
  save_file(state, path)
  reading = importing.encoder_of(str(path), FIELDS)
  assert set(reading.unread) == {'head.weight', 'head.bias'}
  written = exporting.weights_of(reading.encoder)
  for name in set(state) - {'head.weight', 'head.bias'}:
    np.testing.assert_allclose(written.pop(name), state[name], rtol=0, atol=1e-6)
  assert not written
