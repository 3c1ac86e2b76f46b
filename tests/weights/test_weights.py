"""Weights of other libraries: files that are not trusted, names, folders to share."""

import json
import os
import pickle
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from safetensors.numpy import load_file, save_file

import byoljax
from byoljax import main
from byoljax.encoders.encoder import Preprocessing, random_encoder
from byoljax.models import make_encoder
from byoljax.models.net import stack
from byoljax.models.resnet import RESNETS
from byoljax.tasks import image_files
from byoljax.weights import (
  exporting,
  files,
  formats,
  importing,
  model_card,
  torch_file,
  torch_names,
)
from tests import imported
from tests.golden import philox
from tests.paths import GOLDEN

FORMS = ('torch_zip.pth', 'torch_legacy.pth')
every_form = pytest.mark.parametrize('form', FORMS)
FIELDS = imported.FIELDS


def shapes_of(name, stem='imagenet', width=1):
  """{torchvision's name: shape in its layout} of a ResNet."""
  net = stack((('encoder', 'embedding', make_encoder(name, stem=stem, width=width)),))
  image = jax.ShapeDtypeStruct((2, 64, 64, 3), np.float32)
  params, bn = jax.eval_shape(lambda: net.init(jax.random.key(0), image))
  found = {}
  for tree in (params['encoder'], bn['encoder']):
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
      shape = tuple(np.array(leaf.shape)[[3, 2, 0, 1]]) if leaf.ndim == 4 else leaf.shape
      found[torch_names.name_of(tuple(key.key for key in path))] = tuple(map(int, shape))
  return found


def drawn(name, stem='imagenet', prefix=''):
  return {
    prefix + key: philox.resnet_tensor(key, shape) for key, shape in shapes_of(name, stem).items()
  }


class TestTorchFiles:
  @every_form
  def test_everything_that_is_a_tensor_and_nothing_else(self, form):
    found = torch_file.read(GOLDEN / form)
    whole = philox.uniform('whole', (6, 4), -1, 1)
    wanted = {
      'module.conv1.weight': philox.uniform('conv1.weight', (4, 3, 3, 3), -1, 1),
      'module.fc.bias': philox.uniform('fc.bias', (5,), -1, 1),
      'parameter': np.ones(2, np.float32),
      'turned': whole.T,
      'part': whole[2:4, 1:],
      'half': whole.astype(np.float16),
      'brain': np.asarray(jnp.asarray(whole, jnp.bfloat16)),
      'count': np.int64(7),
      'mask': np.array([True, False]),
      'empty': np.zeros((0, 3), np.float32),
    }
    assert set(found) == {f'state_dict.{name}' for name in wanted}
    for name, array in wanted.items():
      got = found[f'state_dict.{name}']
      assert got.dtype == np.asarray(array).dtype, name
      np.testing.assert_array_equal(got, array)
      assert got.flags.owndata

  def test_each_storage_is_read_once(self, monkeypatch):
    read, opened = zipfile.ZipFile.read, []

    def noted(archive, name, *rest):
      opened.append(getattr(name, 'filename', name))
      return read(archive, name, *rest)

    monkeypatch.setattr(zipfile.ZipFile, 'read', noted)
    found = torch_file.read(GOLDEN / FORMS[0])
    # 'turned' and 'part' show the same numbers.
    assert {'state_dict.turned', 'state_dict.part'} <= set(found)
    assert opened and len(opened) == len(set(opened))

  @pytest.mark.parametrize('zipped', [True, False])
  @pytest.mark.parametrize('depth', ['state', 'list', 'class'])
  def test_nothing_in_a_file_is_executed(self, tmp_path, zipped, depth):
    mark = tmp_path / 'was_here'

    class Evil:
      def __reduce__(self):
        return os.system, (f'touch {mark}',)

    tree = {'state': {'x': Evil()}, 'list': [Evil()], 'class': (Evil(), {'y': Evil()})}[depth]
    path = tmp_path / 'evil.pth'
    path.write_bytes(imported.as_torch_file(pickle.dumps(tree), zipped))
    with pytest.raises(ValueError, match=r'holds whole objects \(\w+.system\)'):
      torch_file.read(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(tree))
    assert mark.exists(), 'the attack itself works'

  def test_functions_cannot_be_changed_from_a_file(self, tmp_path):
    for target in (
      'ctorch._utils\n_rebuild_tensor_v2\n',
      'cany\nthing\n',
      'ccollections\nOrderedDict\n',
    ):
      # BUILD with (None, {'__call__': 1}) sets an attribute of what lies below it.
      program = target.encode() + b'(N(dS"__call__"\nI1\nstb.'
      path = tmp_path / 'evil.pth'
      path.write_bytes(imported.as_torch_file(program, True))
      with pytest.raises(ValueError, match='no PyTorch checkpoint'):
        torch_file.read(path)
    assert torch_file.read(GOLDEN / FORMS[0])

  def test_what_holds_no_weights_by_name_says_how_to_save_them(self, tmp_path):
    script = r'TorchScript; torch.save\(torch.jit.load\(FILE\).state_dict\(\), .weights.pth.\)'
    with pytest.raises(ValueError, match=script):
      importing.encoder_of(str(GOLDEN / 'torch_script.pt'), imported.FIELDS)
    module = r'objects \(torch.nn.modules.linear.Linear\), .* torch.save\(model.state_dict\(\), '
    with pytest.raises(ValueError, match=module):
      importing.encoder_of(str(GOLDEN / 'torch_module.pth'), imported.FIELDS)
    # The older form has the class and its source in the place of a storage.
    pid = b'(S"module"\nctorch.nn\nLinear\nS"linear.py"\nS"class Linear: ..."\ntQ)R.'
    with zipfile.ZipFile(tmp_path / 'exported', 'w') as archive:
      archive.writestr('net/archive_format', 'pt2')
    (tmp_path / 'module').write_bytes(imported.as_torch_file(pid, False))
    (tmp_path / 'list').write_bytes(imported.as_torch_file(pickle.dumps([1, 2]), True))
    for name, said in {
      'exported': r'exported program; torch.save\(torch.export.load\(FILE\).state_dict, ',
      'module': r'holds whole objects \(torch.nn.Linear\)',
      'list': r'no tensors by name; torch.save\(model.state_dict\(\), ',
    }.items():
      with pytest.raises(ValueError, match=said):
        torch_file.read(tmp_path / name)

  @every_form
  def test_damage_is_a_sentence(self, form, tmp_path):
    """Cut anywhere, any bit turned: arrays, or a ValueError of one line."""
    path, refused = tmp_path / 'damaged.pth', 0
    for content in imported.damaged((GOLDEN / form).read_bytes(), 60, 240):
      path.write_bytes(content)
      try:
        torch_file.read(path)
      except ValueError as error:
        refused += 1
        assert 'damaged.pth' in str(error)
    assert refused > 60

  @pytest.mark.parametrize(
    ('shape', 'strides', 'offset'),
    [
      ((1 << 40,), (0,), 0),
      ((4, 4), (4, 1), 1),
      ((2,), (-1,), 1),
      ((17,), (1,), 0),
      ((2, 2), (1,), 0),
    ],
  )
  def test_tensors_stay_within_their_storage(self, tmp_path, shape, strides, offset):
    storage = b'(S"storage"\nctorch\nFloatStorage\nS"0"\nS"cpu"\nI16\ntQ'
    program = (
      b'(dS"x"\nctorch._utils\n_rebuild_tensor_v2\n('
      + storage + b'I%d\n' % offset + imported.numbers(shape) + imported.numbers(strides) + b'tRs.'
    )  # fmt: skip
    path = tmp_path / 'x.pth'
    path.write_bytes(imported.as_torch_file(program, True, {'0': bytes(64)}))
    with pytest.raises(ValueError, match='a tensor of shape'):
      torch_file.read(path)

  def test_missing_or_foreign_files(self, tmp_path):
    (tmp_path / 'text.pth').write_text('hello')
    (tmp_path / 'empty.pth').write_bytes(b'')
    (tmp_path / 'broken.safetensors').write_bytes(b'\xff' * 20)
    for name in ('text.pth', 'empty.pth', 'broken.safetensors', 'absent.pth'):
      with pytest.raises(ValueError, match=name):
        files.read(tmp_path / name)

  def test_safetensors_keep_their_types(self, tmp_path):
    path = tmp_path / 'x.safetensors'
    stored = {
      'double': np.array(1 / 3),
      'long': np.array([2**40]),
      'brain': np.arange(6).reshape(2, 3).astype(jnp.bfloat16),
    }
    save_file(stored, path)
    read = files.read(path)
    assert set(read) == set(stored)
    for name, array in stored.items():
      assert read[name].dtype == array.dtype and read[name].flags.owndata
      np.testing.assert_array_equal(read[name], array)


class TestNames:
  @pytest.mark.parametrize(
    ('case', 'name', 'stem', 'size', 'batch'),
    [
      pytest.param('resnet18', 'resnet18', 'imagenet', 64, 8, marks=pytest.mark.slow),
      ('resnet18_cifar', 'resnet18', 'cifar', 32, 8),
    ],
  )
  def test_features_are_torchvisions(self, case, name, stem, size, batch, tmp_path):
    golden = np.load(GOLDEN / 'resnet.npz')[f'{case}/eval']
    path = tmp_path / 'weights.safetensors'
    save_file(drawn(name, stem, 'module.encoder_q.'), path)
    encoder, prefix, *_ = importing.encoder_of(str(path), FIELDS, image_size=size)
    assert prefix == 'module.encoder_q.'
    assert (encoder.fields['name'], encoder.fields['stem']) == (name, stem)
    x = philox.images(case, batch, size)[: len(golden)]
    outputs, _ = encoder.net.apply(encoder.params, encoder.bn, x, train=False)
    np.testing.assert_allclose(outputs['embedding'], golden, atol=1e-4)

  @pytest.mark.parametrize('name', ['resnet18', 'resnet50'])
  def test_round_trip_is_exact(self, name):
    state = drawn(name)
    net = stack((('encoder', 'embedding', make_encoder(name)),))
    image = jax.ShapeDtypeStruct((2, 64, 64, 3), np.float32)
    params, bn = jax.eval_shape(lambda: net.init(jax.random.key(0), image))
    found = torch_names.find_out(state, '', {})
    made = formats.placed(torch_names.FORMAT, state, '', found, params['encoder'], bn['encoder'])
    back = torch_names.to_torch(*made[:2])
    counters = {key for key in back if key.endswith('num_batches_tracked')}
    assert set(back) - counters == set(state)
    for key, array in state.items():
      np.testing.assert_array_equal(back[key], array)
    for counter in counters:
      assert counter.replace('num_batches_tracked', 'running_var') in state

  @pytest.mark.parametrize(
    'name',
    [
      pytest.param(name, marks=() if name in ('resnet34', 'resnet50') else pytest.mark.slow)
      for name in sorted(set(RESNETS) - {'resnet200'})
    ],
  )
  def test_names_and_shapes_are_torchvisions(self, name):
    listed = json.loads((GOLDEN / 'torchvision_names.json').read_text())[name]
    own = {key: list(shape) for key, shape in shapes_of(name).items()}
    wanted = {key: shape for key, shape in listed.items() if not key.startswith('fc.')}
    counters = [key for key in wanted if key.endswith('num_batches_tracked')]
    assert own == {key: shape for key, shape in wanted.items() if key not in counters}
    assert len(counters) == sum(key.endswith('running_var') for key in own)

  @pytest.mark.parametrize(
    'name',
    [
      pytest.param(name, marks=() if name == 'resnet18' else pytest.mark.slow)
      for name in sorted(RESNETS)
    ],
  )
  def test_architecture_is_found_out(self, name):
    for stem, width in (('imagenet', 1), ('cifar', 1), ('imagenet', 2)):
      state = {'p.' + key: np.broadcast_to(np.float32(0), shape)
               for key, shape in shapes_of(name, stem, width).items()}  # fmt: skip
      assert torch_names.prefixes([*state, 'p.projector.conv1.weight']) == ['p.']
      found = torch_names.find_out(state, 'p.', {})
      assert found.fields == {'name': name, 'width': width, 'stem': stem}

  @pytest.mark.parametrize('prefix', ['backbone.', pytest.param('', marks=pytest.mark.slow)])
  def test_numbered_parts_of_a_sequential_are_the_same_network(self, prefix, tmp_path):
    """`nn.Sequential(*list(resnet18.children())[:-1])`, as lightly's examples train it."""
    numbers = {'conv1': '0', 'bn1': '1', 'layer1': '4', 'layer2': '5', 'layer3': '6', 'layer4': '7'}
    plain = drawn('resnet18')
    path, other = tmp_path / 'plain.safetensors', tmp_path / 'parts.safetensors'
    save_file(plain, path)
    state = {}
    for name, array in plain.items():
      part, _, rest = name.partition('.')
      if part in numbers:  # Without the classifier.
        state[f'{prefix}{numbers[part]}.{rest}'] = array
    assert {name.removeprefix(prefix).split('.')[0] for name in state} == set(numbers.values())
    head = {'projection_head.layers.0.weight': np.zeros((4, 4), np.float32)}
    save_file(state | head, other)
    wanted, found = (importing.encoder_of(str(place), FIELDS) for place in (path, other))
    assert found.prefix == prefix and found.found.fields == wanted.found.fields
    a, b = ((reading.encoder.params, reading.encoder.bn) for reading in (wanted, found))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    del state[f'{prefix}7.1.bn2.bias']
    save_file(state | {f'{prefix}4.0.se.fc1.weight': np.zeros(3, np.float32)}, other)
    with pytest.raises(ValueError, match=f'missing: {prefix}7.1.bn2.bias') as refused:
      importing.encoder_of(str(other), FIELDS)
    assert f'unexpected: {prefix}4.0.se.fc1.weight' in str(refused.value)

  def test_what_does_not_fit_is_listed(self, tmp_path):
    path = tmp_path / 'weights.safetensors'
    state = drawn('resnet18')
    state['layer1.0.conv3.extra'] = np.zeros(3, np.float32)
    del state['layer4.1.bn2.bias']
    state['layer2.0.bn1.weight'] = np.zeros(7, np.float32)
    save_file(state, path)
    with pytest.raises(ValueError, match='do not fit') as refused:
      importing.encoder_of(str(path), FIELDS)
    said = str(refused.value)
    assert 'missing: layer4.1.bn2.bias' in said and 'layer2.0.bn1.weight: (7,), not (128,)' in said
    assert 'unexpected: layer1.0.conv3.extra' in said

  def test_a_network_with_more_inside_is_not_taken_for_a_plain_one(self, tmp_path):
    path = tmp_path / 'weights.safetensors'
    save_file(drawn('resnet18') | {'layer1.0.se.fc1.weight': np.zeros(3, np.float32)}, path)
    with pytest.raises(ValueError, match='unexpected: layer1.0.se.fc1.weight'):
      importing.encoder_of(str(path), FIELDS)

  def test_several_networks_need_a_choice(self, tmp_path):
    path = tmp_path / 'weights.safetensors'
    save_file(drawn('resnet18', prefix='q.') | drawn('resnet18', prefix='k.'), path)
    with pytest.raises(ValueError, match="set prefix to one of 'k.', 'q.'"):
      importing.encoder_of(str(path), FIELDS)
    assert importing.encoder_of(str(path), FIELDS, prefix='k.')[1] == 'k.'
    with pytest.raises(ValueError, match="0 encoders with prefix='other.'"):
      importing.encoder_of(str(path), FIELDS, prefix='other.')
    save_file(drawn('resnet18') | drawn('resnet18', prefix='ema.'), path)
    with pytest.raises(ValueError, match="set prefix to one of '', 'ema.'"):
      importing.encoder_of(str(path), FIELDS)
    assert importing.encoder_of(str(path), FIELDS, prefix='').prefix == ''
    save_file({'blocks.0.weight': np.zeros(3, np.float32)}, path)
    with pytest.raises(ValueError, match='known are ResNets under torchvision'):
      importing.encoder_of(str(path), FIELDS)


def test_import_embed_and_export_again(tmp_path, npz, capsys):
  """From another library's file to features, an evaluation, and a folder with the same weights."""
  path, run, folder = (tmp_path / name for name in ('weights.safetensors', 'run', 'folder'))
  state = drawn('resnet18', 'cifar', 'backbone.')
  save_file(state, path)
  command = [
    '--config=configs/import_weights.py', f'--config.file={path}', f'--workdir={run}',
    '--config.evals.image_size=12', '--config.data.name=npz', f'--config.data.dir={npz}',
  ]  # fmt: skip
  assert main.main(command) == 0
  assert "behind 'backbone.'" in capsys.readouterr().out
  assert main.main(command) == 2
  assert 'holds a run already' in capsys.readouterr().err
  embed = byoljax.load(str(run))
  images = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 3), dtype=np.uint8)
  features = np.asarray(embed(images))
  assert features.shape == (5, embed.dim) == (5, 512)

  assert main.main(['--config=configs/export.py', f'--config.pretrained={run}',
                    f'--workdir={folder}']) == 0  # fmt: skip
  written = load_file(folder / 'model.safetensors')
  for name, array in state.items():
    np.testing.assert_array_equal(written[name.removeprefix('backbone.')], array)
  stored = bytearray((folder / 'encoder.stablehlo').read_bytes())
  np.testing.assert_allclose(
    jax.export.deserialize(stored).call(images), features, rtol=1e-5, atol=1e-5
  )
  card = json.loads((folder / 'model_card.json').read_text())
  assert card['features'] == 512 and card['names'] == 'torchvision'
  readme = (folder / 'README.md').read_text()
  assert 'torchvision.models.resnet18()' in readme and 'conv1 = torch' in readme
  assert main.main(['--config=configs/export.py', f'--config.pretrained={run}',
                    f'--workdir={folder}']) == 2  # fmt: skip
  assert 'not empty' in capsys.readouterr().err
  again, *_ = importing.encoder_of(str(folder), FIELDS, image_size=12)
  jax.tree.map(np.testing.assert_array_equal, again.params, embed.params)


def test_an_encoder_is_a_pure_function_of_each_image():
  fields = FIELDS | {'name': 'small'}
  preprocessing = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 16)
  embed = random_encoder(fields, preprocessing, 0)
  images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
  features = embed(images)
  assert features.shape == (5, embed.dim) and features.dtype == np.float32
  np.testing.assert_allclose(features[2:3], embed(images[2:3]), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(features, embed(images / np.float32(255)), rtol=1e-4, atol=1e-5)
  normalized = (images / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
  by_hand, _ = embed.net.apply(embed.params, embed.bn, jnp.float32(normalized), train=False)
  np.testing.assert_allclose(features, by_hand['embedding'], rtol=1e-4, atol=1e-5)
  with pytest.raises(ValueError, match='one image needs a first axis'):
    embed(images[0])


def test_a_timm_folder_names_its_architecture(tmp_path):
  path = tmp_path / 'weights.safetensors'
  save_file(drawn('resnet18'), path)
  encoder, *_ = importing.encoder_of(str(path), FIELDS, image_size=72)
  about = {'method': 'byol', 'data': 'shapes', 'network': 'online', 'step': 3, 'results': {}}
  (tmp_path / 'folder').mkdir()
  exporting.write(encoder, tmp_path / 'folder', about)
  config = json.loads((tmp_path / 'folder' / 'config.json').read_text())
  assert config['architecture'] == 'resnet18' and config['num_features'] == 512
  assert config['pretrained_cfg']['input_size'] == [3, 72, 72]
  assert config['pretrained_cfg']['pool_size'] == [3, 3]  # 36, 18, 9, 5 and 3 places.
  assert config['pretrained_cfg']['interpolation'] == 'bicubic'  # as in the card
  # The header of the file says whose layout it is.
  with (tmp_path / 'folder' / 'model.safetensors').open('rb') as file:
    (length,) = struct.unpack('<Q', file.read(8))
    assert json.loads(file.read(length))['__metadata__'] == {'format': 'pt'}


def test_the_small_encoder_comes_with_its_code_for_pytorch():
  """Its features there are these to 2e-5 of their size, also of images with odd sides."""
  preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, 16)
  fields = FIELDS | {'name': 'small', 'width': 2}
  names = set(exporting.weights_of(random_encoder(fields, preprocessing, 0)))
  card = dict.fromkeys(('features', 'method', 'data', 'network', 'step', 'byoljax'), '')
  card |= {'encoder': fields, 'numbers': 1, 'image_size': 16, 'names': 'byoljax', 'results': {}}
  card |= {'range': '', 'tap': 'embedding'}
  text = model_card.render(card | {'mean': (0.5,) * 3, 'std': (0.25,) * 3})
  assert 'stem, one, two = 32, 64, 256\n' in text
  told = {'mean': (0.5,) * 3, 'std': (0.25,) * 3, 'method': 'byol', 'data': 'photos'}
  for network, title in (('target', 'pretrained'), ('random', 'before training')):
    shown = model_card.render(card | told | {'network': network})
    assert f'# small, {title} with byol on photos\n' in shown
    assert f'are of its online network, not of its {network} network.' in shown
  for range_, said in (('', 'uint8'), ('0,4095', r'float32 in [0, 1]')):
    shown = model_card.render(card | told | {'range': range_})
    assert f'run.call(images)  # {said} [b, 16, 16, 3] -> float32' in shown
  stages = [('stem_conv', 'stem_bn')] + [
    (f'stage{stage}_block0/{conv}', f'stage{stage}_block0/{norm}')
    for stage in (1, 2)
    for conv, norm in (('conv1', 'bn1'), ('conv2', 'bn2'), ('shortcut_conv', 'shortcut_bn'))
  ]
  read = {f'params/{conv}/kernel' for conv, _ in stages}
  read |= {f'params/{norm}/{n}' for _, norm in stages for n in ('scale', 'bias')}
  read |= {f'batch_stats/{norm}/{n}' for _, norm in stages for n in ('mean', 'var')}
  assert read == names, 'what the code reads is all there is'
  for other in ({'padding': 'same'}, {'input': 'gray'}):
    card['encoder'] = fields | other
    assert 'import torch' not in model_card.render(card | {'mean': (0.5,), 'std': (0.25,)})


def test_the_card_makes_images_of_photographs(tmp_path):
  """As evaluation does: sums in another order round a few halves to the other number."""
  rng, paths = np.random.default_rng(0), []
  for number, sides in enumerate([(16, 16), (17, 16), (50, 75), (120, 30), (300, 9)]):
    paths.append(str(tmp_path / f'{number}.png'))
    Image.fromarray(rng.integers(0, 256, (*sides, 3), dtype=np.uint8)).save(paths[-1])
  card = {'image_size': 16, 'mean': (0.5, 0.4, 0.3), 'std': (0.25,) * 3, 'range': ''}
  code = model_card.photographs(card).partition('```python\n')[2].partition('```')[0]
  made: dict = {'paths': paths}
  exec(code, made)
  expected = image_files.read(paths, 16)
  different = made['images'] != expected
  assert np.abs(made['images'].astype(int) - expected).max() <= 1 and different.mean() < 1e-3
  preprocessing = Preprocessing(card['mean'], card['std'], 16)
  # One rounding to float32 of numbers up to 3.
  np.testing.assert_allclose(
    made['normalized'].transpose(0, 2, 3, 1), preprocessing.normalize(made['images']), atol=1e-6
  )
  assert not model_card.photographs(card | {'range': '0..1000'})
