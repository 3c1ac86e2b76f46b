"""SimCLR's TensorFlow checkpoints: read without TensorFlow, the same features, clear refusals."""

import sys

import jax
import numpy as np
import pytest

import byoljax
from byoljax import main
from byoljax.encoders.encoder import Preprocessing, network
from byoljax.models import options, resnet
from byoljax.weights import crc32c, files, formats, importing, simclr_names, tf_file
from tests import imported
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import imported_tensors as theirs  # noqa: E402

FIELDS = imported.FIELDS


def crc_by_bits(content):
  register = 0xFFFFFFFF
  for byte in content:
    register ^= byte
    for _ in range(8):
      register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
  return register ^ 0xFFFFFFFF


@pytest.mark.parametrize('length', [0, 1, 9, 4095, 4096, 4097, 12_345])
def test_checksums(length):
  content = np.random.default_rng(length).bytes(length)
  assert crc32c.checksum(content) == crc_by_bits(content)


def test_checksum_of_the_standards_example():
  assert crc32c.checksum(b'123456789') == 0xE3069283


def test_what_tensorflow_wrote():
  """tf1.* and tf2.* are TensorFlow's own files, see make_simclr.py."""
  found = files.read(GOLDEN / 'tf1')
  assert set(found) == {f'base_model/conv2d_{i}/kernel' for i in range(40)} | {
    'global_step', 'half', 'empty'
  }  # fmt: skip
  for i in range(40):
    np.testing.assert_array_equal(found[f'base_model/conv2d_{i}/kernel'], np.arange(4.0) + i)
  assert found['global_step'] == 7 and found['global_step'].dtype == np.int64
  assert found['half'].dtype == np.float16 and found['half'][0] == 1.5
  assert found['empty'].shape == (0, 3)
  found = files.read(GOLDEN / 'tf2')
  kernel = found.pop('resnet/conv2d_fixed_padding/conv2d/kernel')
  np.testing.assert_array_equal(kernel, np.arange(6.0).reshape(1, 2, 3))
  assert not found


def test_a_checkpoint_goes_by_several_paths(tmp_path):
  both = sorted(GOLDEN.glob('tf2.*'))
  (tmp_path / 'saved' / 'variables').mkdir(parents=True)
  (tmp_path / 'runs').mkdir()
  for file in both:
    for name in ('saved/variables/variables', 'runs/model.ckpt-1'):
      (tmp_path / (name + file.name.removeprefix('tf2'))).write_bytes(file.read_bytes())
  data = 'model.ckpt-1.data-00000-of-00001'
  paths = ('saved', 'runs', 'runs/model.ckpt-1', 'runs/model.ckpt-1.index', f'runs/{data}')
  for path in paths:
    assert list(files.read(tmp_path / path)) == ['resnet/conv2d_fixed_padding/conv2d/kernel']
  (tmp_path / 'runs' / 'model.ckpt-2.index').touch()
  with pytest.raises(ValueError, match='holds 2 checkpoints: name one of model.ckpt-1, model.ckpt'):
    files.read(tmp_path / 'runs')
  (tmp_path / 'runs' / data).unlink()
  with pytest.raises(ValueError, match=f"{data}' cannot be read: No such file"):
    files.read(tmp_path / 'runs' / 'model.ckpt-1')
  with pytest.raises(ValueError, match='neither a model.safetensors nor a TensorFlow checkpoint'):
    files.read(tmp_path)


@pytest.mark.parametrize('which', [pytest.param('tf1', marks=pytest.mark.slow), 'tf2'])
def test_every_damage_is_found_and_said(which, tmp_path):
  """Checksums cover everything but the ends of the index, which have a form to keep."""
  names = {kind: next(GOLDEN.glob(f'{which}.{kind}*')) for kind in ('index', 'data')}
  whole = files.read(GOLDEN / which)
  passed = 0
  for kind, source in names.items():
    for other in names.values():
      (tmp_path / other.name).write_bytes(other.read_bytes())
    for content in imported.damaged(source.read_bytes(), 100, 250):
      (tmp_path / source.name).write_bytes(content)
      try:
        found = files.read(tmp_path / which)
      except ValueError as error:
        assert which in str(error) and '\n' not in str(error)
        continue
      passed += 1
      # What was changed does not matter: padding, the handle of an empty block.
      assert set(found) == set(whole), kind
      for name, array in whole.items():
        np.testing.assert_array_equal(found[name], array)
  assert passed < 150


def save(path, state):
  """As TensorFlow writes a checkpoint of TF1."""
  tf = pytest.importorskip('tensorflow')
  names = sorted(state)
  tensors = [tf.constant(state[name]) for name in names]
  tf.raw_ops.SaveV2(
    prefix=str(path), tensor_names=names, shape_and_slices=[''] * len(names), tensors=tensors
  )


def state_of(case):
  golden = np.load(GOLDEN / 'simclr.npz')
  found = {}
  for name, shape in zip(golden[f'{case}/names'], golden[f'{case}/shapes'].tolist(), strict=True):
    shape = shape if str(name).endswith('kernel') else shape[-1:]
    found[str(name)] = theirs.resnet(str(name), tuple(shape))
  return found


@pytest.fixture
def short_resnet(monkeypatch):
  """A bottleneck ResNet of one block a stage, known by name."""
  monkeypatch.setitem(resnet.RESNETS, 'resnet14', (True, theirs.BLOCKS))
  monkeypatch.setitem(options.FAMILIES, 'resnet14', options.ResNetOptions)


def extra():
  """What else lies in a checkpoint."""
  return {
    'base_model/conv2d/kernel/Momentum': np.zeros((7, 7, 3, 64), np.float32),
    'base_model/batch_normalization_3/gamma/Momentum': np.zeros(64, np.float32),
    'head_contrastive/nl_0/dense/kernel': np.zeros((3, 3), np.float32),
    'head_contrastive/nl_0/batch_normalization/gamma': np.zeros(3, np.float32),
    'global_step': np.int64(9),
  }


@pytest.mark.parametrize('case', ['bottleneck', 'selective'])
def test_features_are_theirs(case, tmp_path, short_resnet):
  path = tmp_path / 'model.ckpt-9'
  save(path, state_of(case) | extra())
  encoder, prefix, found, _ = importing.encoder_of(str(path), FIELDS)
  assert prefix == 'base_model/' and (found.mean, found.std) == ((0.0,) * 3, (1.0,) * 3)
  fields = encoder.fields
  assert (fields['name'], fields['padding'], fields['width']) == ('resnet14', 'fixed', 1)
  assert fields['selective_kernel'] == (case == 'selective')
  run = jax.jit(lambda p, b, x: encoder.net.apply(p, b, x, train=False)[0]['embedding'])
  features = run(encoder.params, encoder.bn, theirs.resnet_images())
  np.testing.assert_allclose(features, np.load(GOLDEN / 'simclr.npz')[case], atol=2e-5)


def test_import_and_load(tmp_path, npz, capsys):
  """A CIFAR ResNet-18, whose averages over training lie beside it, to features."""
  path, run = tmp_path / 'model.ckpt-9', tmp_path / 'run'
  state = state_of('basic_cifar')
  ema = {f'ema_model/{name}': array for name, array in state.items()}
  save(path, state | ema | extra())
  command = [
    '--config=configs/import_weights.py', f'--config.file={path}', f'--workdir={run}',
    '--config.evals.image_size=40', '--config.data.name=npz', f'--config.data.dir={npz}',
  ]  # fmt: skip
  assert main.main(command) == 2
  assert "set prefix to one of 'base_model/', 'ema_model/base_model/'" in capsys.readouterr().err
  assert main.main([*command, '--config.prefix=base_model/']) == 0
  told = capsys.readouterr().out
  assert "resnet18 with the cifar stem, behind 'base_model/'" in told and 'not normalized' in told
  embed = byoljax.load(str(run))
  assert embed.preprocessing == ((0,) * 3, (1,) * 3, 40, '')
  features = jax.jit(embed.read)(embed.params, embed.bn, theirs.resnet_images())
  np.testing.assert_allclose(features, np.load(GOLDEN / 'simclr.npz')['basic_cifar'], atol=2e-5)


def template(fields):
  """Shapes of an encoder's parameters and statistics."""
  net = network(FIELDS | fields, Preprocessing((0.5,) * 3, (0.25,) * 3, 64))
  image = jax.ShapeDtypeStruct((2, 64, 64, 3), np.float32)
  params, bn = jax.eval_shape(lambda: net.init(jax.random.key(0), image))
  return params['encoder'], bn['encoder']


def names_of(fields):
  """{name: shape} that SimCLR's code gives an encoder, from our shapes in its order."""
  trees = template(fields)
  count, made = {'conv': 0, 'bn': 0}, {}
  for kind, path in simclr_names._order(FIELDS | fields):
    number = f'_{count[kind]}' if count[kind] else ''
    count[kind] += 1
    params, stats = trees
    for part in path:
      params, stats = params[part], stats.get(part, {})
    theirs_ = 'conv2d' if kind == 'conv' else 'batch_normalization'
    for leaf, value in (params | stats).items():
      made[f'base_model/{theirs_}{number}/{simclr_names._LEAVES[leaf]}'] = value.shape
  return made


@pytest.mark.parametrize(
  ('name', 'width', 'stem', 'selective', 'convs'),
  [
    ('resnet18', 1, 'cifar', False, 21),
    ('resnet34', 2, 'imagenet', False, 37),
    ('resnet50', 1, 'imagenet', False, 53),
    ('resnet50', 4, 'imagenet', False, 53),
    ('resnet50', 1, 'cifar', False, 53),
    ('resnet50', 2, 'imagenet', True, 87),
    ('resnet50', 1, 'cifar', True, 85),
    ('resnet101', 1, 'imagenet', False, 104),
  ],
)
def test_architecture_is_found_out(name, width, stem, selective, convs):
  fields = {'name': name, 'width': width, 'stem': stem, 'selective_kernel': selective,
            'padding': 'fixed', 'first_projection': name in ('resnet18', 'resnet34')}  # fmt: skip
  state = {n: np.broadcast_to(np.float32(0), s) for n, s in names_of(fields).items()}
  assert sum(n.endswith('/kernel') for n in state) == convs
  assert simclr_names.prefixes(state) == ['base_model/']
  found = simclr_names.find_out(state, 'base_model/', {})
  assert found.fields == fields | {'resnet_d': False}
  name_of = simclr_names.FORMAT.names(state, 'base_model/', found)
  assert name_of(('stage1_block0', 'shortcut_conv', 'kernel')) == (
    'base_model/conv2d_3/kernel'
    if selective and stem == 'imagenet'
    else 'base_model/conv2d_1/kernel'
  )


def tf2_name(name):
  """TF2's name of a layer: nested, and with numbers that go on where another model's ended."""
  prefix, module, leaf = name.split('/')
  kind, _, number = module.rpartition('_') if module[-1].isdigit() else (module, '', '0')
  number = int(number) + 60
  outer = f'block_group{1 + number % 4}/bottleneck_block_{number}/' if number > 60 else ''
  if kind == 'conv2d':
    return f'resnet/{outer}conv2d_fixed_padding_{number}/conv2d_{number}/{leaf}'
  return f'resnet/{outer}batch_norm_relu_{number}/sync_batch_normalization_{number}/{leaf}'


def test_tf2_names_are_in_the_same_order(short_resnet):
  state = state_of('bottleneck')
  renamed = {tf2_name(name): array for name, array in state.items()}
  renamed['projection_head/nl_0/batch_norm_relu_99/sync_batch_normalization_99/gamma'] = np.ones(3)
  assert simclr_names.prefixes(renamed) == ['resnet/']
  trees = []
  for arrays, prefix in ((state, 'base_model/'), (renamed, 'resnet/')):
    found = simclr_names.find_out(arrays, prefix, {})
    wanted = template(found.fields)
    trees.append(formats.placed(simclr_names.FORMAT, arrays, prefix, found, *wanted)[:2])
  jax.tree.map(np.testing.assert_array_equal, *trees)


def without(state, module):
  for leaf in ('gamma', 'beta', 'moving_mean', 'moving_variance'):
    del state[f'base_model/{module}/{leaf}']


CHANGES = {
  'missing: base_model/batch_norm': lambda s: s.pop('base_model/batch_normalization_4/beta'),
  '16 convolutions behind .* are none of': lambda s: s.pop('base_model/conv2d_4/kernel'),
  'are too few for': lambda s: without(s, 'batch_normalization_4'),
  'unexpected: base_model/conv2d_2/bias': lambda s: s.update({'base_model/conv2d_2/bias': ZEROS}),
  'a stem has 64, 128': lambda s: s.update({'base_model/conv2d/kernel': np.zeros((7, 7, 3, 60))}),
  'of another shape': lambda s: s.update({'base_model/conv2d_3/kernel': np.zeros((3, 64))}),
}
ZEROS = np.zeros(3)


@pytest.mark.parametrize('said', CHANGES)
def test_what_does_not_fit_is_said(said, short_resnet, monkeypatch):
  state = state_of('bottleneck') | extra()
  CHANGES[said](state)
  monkeypatch.setattr(files, 'read', lambda path: state)
  with pytest.raises(ValueError, match=said):
    importing.encoder_of('model.ckpt', FIELDS)


def test_what_lies_in_pieces_or_is_text_is_left_out(tmp_path):
  tf = pytest.importorskip('tensorflow')
  tf.raw_ops.SaveV2(
    prefix=str(tmp_path / 'x'), tensor_names=['part', 'text', 'whole'],
    shape_and_slices=['4 0,2', '', ''], tensors=[tf.ones(2), tf.constant('hi'), tf.ones(3)],
  )  # fmt: skip
  found = tf_file.read(tmp_path / 'x.index')
  assert set(found) == {'whole'}
