"""ConvNeXts of timm, torchvision and the authors, torchvision's AlexNet: the same features."""

import json
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from byoljax.encoders.encoder import Preprocessing, network
from byoljax.weights import alexnet_names, convnext_names, exporting, importing, timm_words
from tests import imported
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import convnext_tensors as theirs  # noqa: E402
import paper_tensors  # noqa: E402

FIELDS = imported.FIELDS
ABOUT = {'method': 'byol', 'data': 'shapes', 'network': 'online', 'step': 3, 'results': {}}
NAMES = {
  'timm': convnext_names.TIMM,
  'torchvision': convnext_names.TORCHVISION,
  'authors': convnext_names.AUTHORS,
}


def shapes_of(fields, side):
  """Paths and shapes of an encoder's parameters."""
  preprocessing = Preprocessing((0.5,) * 3, (0.2,) * 3, side)
  net = network(FIELDS | fields, preprocessing)
  params, _ = jax.eval_shape(net.init, jax.random.key(0), preprocessing.example())
  leaves = jax.tree_util.tree_flatten_with_path(params['encoder'])[0]
  return {tuple(key.key for key in path): leaf.shape for path, leaf in leaves}


def torch_shape(shape):
  return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def convnext_state(library, patch, drawn_as=None, prefix=''):
  """{the library's name: array in its layout}, drawn under the names of `drawn_as`."""
  found = {}
  for path, shape in shapes_of({'name': 'convnext_micro', 'patch_size': patch}, 64).items():
    name, shape = NAMES[library].name_of(path), torch_shape(shape)
    if name.endswith('layer_scale'):
      shape = (*shape, 1, 1)
    found[prefix + name] = theirs.tensor(NAMES[drawn_as or library].name_of(path), shape)
  return found


def features(reading, x):
  encoder = reading.encoder
  run = jax.jit(lambda params, x: encoder.net.apply(params, encoder.bn, x, train=False)[0])
  return run(encoder.params, x)['embedding']


@pytest.mark.parametrize('library', ['timm', 'torchvision'])
def test_features_of_a_convnext_are_theirs(library, tmp_path):
  path, (patch, *_) = tmp_path / 'weights.safetensors', theirs.CASES[library]
  # The classifier stays behind.
  head = {'timm': 'head.fc.weight', 'torchvision': 'classifier.2.weight'}[library]
  save_file(
    convnext_state(library, patch, prefix='model.') | {f'model.{head}': np.ones((3, 128))}, path
  )
  reading = importing.encoder_of(str(path), FIELDS)
  fields = reading.encoder.fields
  assert (fields['name'], fields['patch_size'], fields['width']) == ('convnext_micro', patch, 1)
  assert reading.prefix == 'model.'
  golden = np.load(GOLDEN / 'convnext.npz')[library]
  # The largest error found is 1.5e-6, times 5.
  np.testing.assert_allclose(features(reading, theirs.images(library)), golden, atol=1e-5)


def test_the_authors_names_are_read_and_timms_written(tmp_path):
  path, folder = tmp_path / 'weights.safetensors', tmp_path / 'folder'
  timm = convnext_state('timm', 1)
  save_file(convnext_state('authors', 1, drawn_as='timm'), path)
  reading = importing.encoder_of(str(path), FIELDS, image_size=32)
  folder.mkdir()
  exporting.write(reading.encoder, folder, ABOUT)
  written = load_file(folder / 'model.safetensors')
  assert set(written) == set(timm)
  for name, array in timm.items():
    np.testing.assert_array_equal(written[name], array)
  config = json.loads((folder / 'config.json').read_text())
  assert config['architecture'] == 'convnext_tiny' and config['num_features'] == 128
  assert config['model_args'] == {
    'depths': list(theirs.DEPTHS), 'dims': list(theirs.DIMS), 'patch_size': 1, 'num_classes': 0,
  }  # fmt: skip
  assert config['pretrained_cfg']['pool_size'] == [4, 4]
  assert "create_model('convnext_tiny', depths=(1, 1, 2, 1)" in (folder / 'README.md').read_text()
  again = importing.encoder_of(str(folder), FIELDS)
  assert dict(again.encoder.fields) == dict(reading.encoder.fields)


def test_sizes_of_timm_are_known():
  for name, width in (('convnext_tiny', 2), ('convnext_base', 1)):
    shapes = shapes_of({'name': name, 'width': width}, 32)
    state = {
      NAMES['timm'].name_of(path): np.broadcast_to(np.float32(0), torch_shape(shape))
      for path, shape in shapes.items()
    }
    found = convnext_names.FORMATS[0].find_out(state, '', FIELDS).fields
    assert found == {'name': name, 'width': width, 'patch_size': 4}


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'stages.2.blocks.1.gamma': None}, 'missing: stages.2.blocks.1.gamma'),
    ({'stages.0.blocks.0.mlp.grn.weight': np.ones(64)}, 'unexpected: stages.0.blocks.0.mlp.grn'),
    ({'stages.3.blocks.1.mlp.fc1.bias': np.ones(3)}, '(1, 1, 2, 2) blocks and (16, 32, 64, 128)'),
    ({'stem.0.weight': np.ones((16, 1, 1, 1))}, 'squares of 3 channels'),
    ({'stem.0.weight': np.ones((16, 3, 8, 8))}, 'with patches of 8 pixels the last stage'),
    ({'stages.1.downsample.1.bias': np.ones(())}, 'and (16, 1, 64, 128) channels is none of'),
  ],
)
def test_what_does_not_fit_is_said(changes, said, tmp_path):
  path, state = tmp_path / 'weights.safetensors', convnext_state('timm', 1) | changes
  save_file({name: np.asarray(x, np.float32) for name, x in state.items() if x is not None}, path)
  with pytest.raises(ValueError) as refused:
    importing.encoder_of(str(path), FIELDS)
  assert said in str(refused.value)


def alexnet_state(fc_dim=8):
  shapes = shapes_of({'name': 'alexnet_plain', 'fc_dim': fc_dim}, 64)
  return {
    name: paper_tensors.tensor(name, torch_shape(shape))
    for path, shape in shapes.items()
    for name in [alexnet_names.name_of(path)]
  }


def test_alexnet_is_torchvisions_and_written_as_it_was(tmp_path):
  path, state = tmp_path / 'weights.safetensors', alexnet_state()
  save_file(state | {'classifier.6.weight': np.ones((3, 8), np.float32)}, path)
  reading = importing.encoder_of(str(path), FIELDS)
  fields = reading.encoder.fields
  assert (fields['name'], fields['fc_dim'], fields['width']) == ('alexnet_plain', 8, 1)
  x = paper_tensors.images('alexnet_plain')[: paper_tensors.KEPT]
  golden = np.load(GOLDEN / 'paper_nets.npz')['alexnet_plain/eval']
  # The largest error found is 8e-6 of values up to 6, times 5.
  np.testing.assert_allclose(features(reading, x), golden, atol=4e-5)
  assert exporting.library_of(reading.encoder) == 'torchvision'
  written = exporting.weights_of(reading.encoder)
  assert set(written) == set(state)
  for name, array in state.items():
    np.testing.assert_array_equal(written[name], array)
  with pytest.raises(ValueError, match='AlexNet begins with 64, 128'):
    importing.alexnet_names.FORMAT.find_out(
      state | {'features.0.weight': np.ones((64, 3, 3, 3))}, '', {}
    )


@pytest.mark.parametrize(
  ('fields', 'library'),
  [
    ({'name': 'alexnet'}, 'byoljax'),
    ({'name': 'alexnet_plain', 'fc_dim': 0}, 'byoljax'),
    ({'name': 'alexnet_plain', 'stem': 'cifar', 'fc_dim': 8}, 'byoljax'),
    ({'name': 'nin'}, 'byoljax'),
    ({'name': 'convnext_tiny'}, 'timm'),
    ({'name': 'convnext_tiny', 'patch_size': 2}, 'byoljax'),
    ({'name': 'convnext_tiny', 'patch_size': 7}, 'timm'),
    ({'name': 'convnext_tiny', 'patch_size': 8}, 'byoljax'),
  ],
)
def test_only_networks_that_a_library_has_get_its_names(fields, library):
  preprocessing = Preprocessing((0.5,) * 3, (0.2,) * 3, 64)
  net = network(FIELDS | fields, preprocessing)
  reading = importing.Encoder(net, {}, {}, preprocessing, fields=FIELDS | fields)
  assert exporting.library_of(reading) == library


@pytest.mark.parametrize(
  ('fields', 'name', 'arguments'),
  [
    (
      {'name': 'vit_micro', 'width': 2, 'pool': 'mean', 'positions': 'learned'},
      'vit_tiny_patch16_224',
      {'img_size': 32, 'patch_size': 4, 'embed_dim': 128, 'num_heads': 8, 'global_pool': 'avg',
       'fc_norm': False},
    ),
    ({'name': 'vit_huge'}, 'vit_huge_patch14_224', {'img_size': 64, 'patch_size': 14}),
    (
      {'name': 'dinov2_micro_reg', 'pool': 'mean'},
      'vit_small_patch14_reg4_dinov2',
      {'global_pool': 'avg', 'fc_norm': False},
    ),
    (
      {'name': 'dinov3_7b', 'positions': 'rope'},
      'vit_small_plus_patch16_dinov3_qkvb',
      {'mlp_ratio': 2.0, 'qkv_bias': True, 'global_pool': 'token'},
    ),
    (
      {'name': 'dinov3_micro', 'positions': 'rope', 'pool': 'mean'},
      'vit_small_patch16_dinov3_qkvb',
      {'mlp_ratio': 4.0, 'global_pool': 'avg'},
    ),
    ({'name': 'convnext_micro', 'width': 2}, 'convnext_tiny', {'dims': (32, 64, 128, 256)}),
  ],
)  # fmt: skip
def test_timm_makes_the_network_of_these_arguments(fields, name, arguments):
  """With them timm 1.0's features of random weights are ours, but for those of 'huge' and '7b'."""
  model = timm_words.model_of(FIELDS | fields, 64)
  assert model.name == name
  assert {key: model.arguments.get(key) for key in arguments} == arguments
