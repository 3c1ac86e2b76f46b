"""DeepMind's BYOL checkpoints: pickles that are not trusted, Haiku's names, its padding."""

import collections
import functools
import io
import os
import pickle
import sys
import types

import jax
import numpy as np
import pytest

import byoljax
from byoljax import main
from byoljax.models import options, resnet
from byoljax.weights import array_pickle, importing
from tests import imported
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import imported_tensors as theirs  # noqa: E402

FIELDS = imported.FIELDS
ONLINE, TARGET = 'experiment_state.online_', 'experiment_state.target_'


@pytest.fixture
def short_resnet(monkeypatch):
  """A bottleneck ResNet of one block a stage, known by name."""
  monkeypatch.setitem(resnet.RESNETS, 'resnet14', (True, theirs.BLOCKS))
  monkeypatch.setitem(options.FAMILIES, 'resnet14', options.ResNetOptions)


@pytest.fixture
def modules(monkeypatch):
  """Modules in the place of those that the real checkpoints refer to."""
  made = {}
  for name in ('byol', 'byol.byol_experiment', 'haiku', 'dill', 'dill._dill'):
    made[name] = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made[name])
  State = collections.namedtuple(
    '_ByolExperimentState',
    ('online_params', 'target_params', 'online_state', 'target_state', 'opt_state'),
    module='byol.byol_experiment',
  )
  made['byol.byol_experiment']._ByolExperimentState = State

  class FlatMapping:
    def __init__(self, mapping):
      self.mapping = mapping

    def __reduce__(self):
      return FlatMapping, (self.mapping,)

  FlatMapping.__module__, FlatMapping.__qualname__ = 'haiku', 'FlatMapping'
  made['haiku'].FlatMapping = FlatMapping
  for name in ('_create_array', '_create_namedtuple'):
    function = types.FunctionType((lambda *args: None).__code__, {}, name)
    function.__module__, function.__qualname__ = 'dill._dill', name
    setattr(made['dill._dill'], name, function)
  return types.SimpleNamespace(State=State, FlatMapping=FlatMapping, dill=made['dill._dill'])


class DillPickler(pickle._Pickler):
  """What dill does otherwise: arrays and classes of named tuples by functions of its own."""

  dispatch = dict(pickle._Pickler.dispatch)
  dill: types.ModuleType

  def reducer_override(self, value):
    if isinstance(value, np.ndarray):
      function, arguments, state = value.__reduce__()
      return self.dill._create_array, (function, arguments, state, None)
    return NotImplemented

  def save_type(self, value):
    if not hasattr(value, '_fields'):
      return pickle._Pickler.save_type(self, value)
    about = (value.__name__, value._fields, value.__module__)
    return self.save_reduce(self.dill._create_namedtuple, about, obj=value)

  dispatch[type] = save_type


def dumped(tree, modules, protocol=2, dill=True):
  file = io.BytesIO()
  pickler = (DillPickler if dill else pickle.Pickler)(file, protocol)
  if dill:
    pickler.dill = modules.dill
  pickler.dump(tree)
  return file.getvalue()


@functools.cache
def drawn(case):
  golden = np.load(GOLDEN / 'byol_haiku.npz')
  shapes = zip(golden[f'{case}/names'], golden[f'{case}/shapes'].tolist(), strict=True)
  return {str(name): theirs.resnet(str(name), tuple(shape)) for name, shape in shapes}


def nested(case, kind):
  """Haiku's two levels of mappings for 'params' or 'state', with what else lies in a checkpoint."""
  tree = {}
  for name, array in drawn(case).items():
    if name.startswith(f'online_{kind}.'):
      module, _, leaf = name.partition('.')[2].rpartition('.')
      tree.setdefault(module, {})[leaf] = array
      if kind == 'state':
        tree[module] |= {'hidden': array * 0.1, 'counter': np.int32(3)}
  if kind == 'params':
    tree['projector/~/linear'] = {'w': np.ones((3, 2), np.float32), 'b': np.ones(2, np.float32)}
  return tree


def checkpoint(case, modules, wrap=lambda tree: tree, change=lambda params, state: None):
  online, target = ((nested(case, 'params'), nested(case, 'state')) for _ in range(2))
  target[0]['res_net50/~/initial_batchnorm']['offset'] = np.ones((1, 1, 1, 64), np.float32)
  change(*online)
  # LARS's momentum looks like parameters.
  trees = [wrap(tree) for tree in (online[0], target[0], online[1], target[1])]
  state = modules.State(*trees, opt_state=(trees[0],))
  return {'experiment_state': state, 'step': 7, 'rng': np.array([0, 1], np.uint32)}


def features(reading, images):
  encoder = reading.encoder
  return jax.jit(lambda p, b, x: encoder.net.apply(p, b, x, train=False)[0]['embedding'])(
    encoder.params, encoder.bn, images
  )


def test_features_are_theirs(tmp_path, short_resnet, modules):
  path = tmp_path / 'pretrain.pkl'
  path.write_bytes(dumped(checkpoint('bottleneck', modules, modules.FlatMapping), modules))
  with pytest.raises(ValueError, match=f"2 encoders; set prefix to one of '{ONLINE}', '{TARGET}'"):
    importing.encoder_of(str(path), FIELDS)
  reading = importing.encoder_of(str(path), FIELDS, prefix=ONLINE)
  fields = reading.encoder.fields
  assert (fields['name'], fields['padding'], fields['width']) == ('resnet14', 'same', 1)
  golden = np.load(GOLDEN / 'byol_haiku.npz')['bottleneck']
  images = theirs.resnet_images()
  np.testing.assert_allclose(features(reading, images), golden, atol=2e-5)
  other = importing.encoder_of(str(path), FIELDS, prefix=TARGET).encoder
  np.testing.assert_array_equal(other.params['encoder']['stem_bn']['bias'], 1)


ARRAYS = {
  'single': np.arange(6, dtype=np.float32).reshape(2, 3),
  'fortran': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
  'swapped': np.arange(3, dtype='>i4'),
  'half': np.float16([1.5, 2.5]),
  'empty': np.zeros((0, 4), np.float32),
  'scalar': np.float32(3.5),
  'nothing': np.array(2, np.int64),
  'truth': np.array([True, False]),
}


@pytest.mark.parametrize('protocol', range(2, 6))
@pytest.mark.parametrize('dill', [False, True])
def test_arrays_come_back_as_they_were(protocol, dill, tmp_path, modules):
  path = tmp_path / 'arrays.pkl'
  tree = {'a': modules.FlatMapping(ARRAYS), 'step': 3, 'text': 'x', 'list': [np.ones(2)]}
  content = dumped(tree, modules, protocol, dill)
  for old in (False, True):
    # NumPy 1 had its functions elsewhere; pickles below protocol 4 spell the module out.
    if old and protocol < 4:
      content = content.replace(b'cnumpy._core.', b'cnumpy.core.')
    path.write_bytes(content)
    found = array_pickle.read(path)
    assert set(found) == {f'a.{name}' for name in ARRAYS}
    for name, array in ARRAYS.items():
      np.testing.assert_array_equal(found[f'a.{name}'], array)
      assert found[f'a.{name}'].dtype == array.dtype.newbyteorder('=')


def test_jax_arrays_are_read(tmp_path, modules):
  path = tmp_path / 'arrays.pkl'
  array = jax.numpy.arange(6.0).reshape(2, 3)
  path.write_bytes(pickle.dumps({'a': {'w': array}}, 2))
  np.testing.assert_array_equal(array_pickle.read(path)['a.w'], array)


def attacks(mark):
  """Pickles that touch a file when they are obeyed."""

  class By:
    def __init__(self, function, *arguments):
      self.how = function, arguments

    def __reduce__(self):
      return self.how

  command = f'open({str(mark)!r}, "w")'
  return {
    'system': By(os.system, f'touch {mark}'),
    'eval': By(eval, command),
    'exec': By(exec, command),
    'attribute': By(getattr, By(__import__, 'os'), 'system'),
    'nested': {'experiment_state': [By(eval, command), {'x': (By(exec, command),)}]},
    'import': By(__import__, 'this'),
    'load': By(np.load, str(mark), None, True),
    'in_array': By(np.ndarray.__reduce__(np.ones(1))[0], By(eval, command), (0,), b'b'),
    'as_state': {'online_params': {By(eval, command): 1}},
  }


@pytest.mark.parametrize('name', attacks('x'))
@pytest.mark.parametrize('protocol', [2, 5])
def test_nothing_in_a_file_is_executed(name, protocol, tmp_path):
  mark, path = tmp_path / 'was_here', tmp_path / 'evil.pkl'
  content = pickle.dumps(
    {'params': {'x': {'w': np.ones(2)}}, 'evil': attacks(mark)[name]}, protocol
  )
  path.write_bytes(content)
  try:
    assert set(array_pickle.read(path)) == {'params.x.w'}
  except ValueError as error:
    assert 'evil.pkl' in str(error)
  assert not mark.exists()
  if name in ('system', 'eval', 'exec', 'nested'):
    pickle.loads(content)
    assert mark.exists(), 'the attack itself works'


PROGRAMS = {
  # (module, name) and what is done with it; nothing of this may reach the real thing.
  'dotted name': b'\x80\x04\x8c\x02os\x8c\x0bpath.os.name\x93.',
  'stack global': b'\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x05touch\x85R.',
  'code of dill': b'cdill._dill\n_create_code\n(I0\nI0\ntRcdill._dill\n_create_function\n(tR.',
  'types of dill': b'cdill._dill\n_load_type\n(S"FunctionType"\ntR(tR.',
  'import of dill': b'cdill._dill\n_import_module\n(S"os"\ntR(S"system"\ntR.',
  'instance': b'(ios\nsystem\n.',
  'new object': b'\x80\x02cos\nsystem\n(S"touch"\nt\x81.',
  'build a class': b'cnumpy\ndtype\n(N(dS"__call__"\nI1\nstb.',
  'build a function': b'cnumpy.core.multiarray\n_reconstruct\n(N(dS"__call__"\nI1\nstb.',
  'build bytes': b'c_codecs\nencode\n(N(dS"__call__"\nI1\nstb.',
  'extension': b'\x80\x02\x82\x01.',
  'persistent': b'Pabc\n.',
  'bytes by the terabyte': b'\x80\x05\x96' + (1 << 40).to_bytes(8, 'little') + b'.',
  'memo by the gigabyte': b'\x80\x02Nr\xff\xff\xff\xff.',
  'array by the terabyte': b'\x80\x02}(X\x01\x00\x00\x00acnumpy.core.multiarray\n_reconstruct\n(tR'
  b'(I1\n(I1099511627776\nt' + b'cnumpy\ndtype\n(S"f4"\ntRI00\nc_codecs\nencode\n(S"x"\ntRtbu.',
  'array of objects': b'(dS"a"\ncnumpy.core.multiarray\n_reconstruct\n(tR(I1\n(I1\ntcnumpy\ndtype\n'
  b'(S"O8"\ntRI00\n(lI5\natbs.',
}


@pytest.mark.parametrize('program', PROGRAMS)
def test_programs_get_nowhere(program, tmp_path):
  path = tmp_path / 'evil.pkl'
  path.write_bytes(PROGRAMS[program])
  try:
    assert array_pickle.read(path) == {}
  except ValueError as error:
    assert str(error).startswith(f"'{path}' is no pickle of arrays that can be read: ")
  assert array_pickle._FUNCTIONS['numpy', 'dtype']('f4').dtype() == np.float32


def test_a_tree_without_an_end_is_refused(tmp_path):
  """Dicts that contain the next one twice: 2^60 ways to the last."""
  path = tmp_path / 'wide.pkl'
  tree = {'w': np.ones(1)}
  for _ in range(60):
    tree = {'a': tree, 'b': tree}
  path.write_bytes(pickle.dumps(tree, 2))
  with pytest.raises(ValueError, match='more than 1000000 entries'):
    array_pickle.read(path)
  loop = {}
  loop['again'] = loop
  path.write_bytes(pickle.dumps(loop, 2))
  assert array_pickle.read(path) == {}


def test_damage_is_a_sentence(tmp_path, modules):
  """Cut anywhere, any bit turned: arrays, or a ValueError of one line."""
  path, refused = tmp_path / 'damaged.pkl', 0
  small = {'params': modules.FlatMapping(ARRAYS), 'state': modules.State(*[{'w': np.ones(2)}] * 5)}
  for dill, protocol in ((True, 2), (False, 4)):
    for content in imported.damaged(dumped(small, modules, protocol, dill), 100, 300):
      path.write_bytes(content)
      try:
        array_pickle.read(path)
      except ValueError as error:
        refused += 1
        assert 'damaged.pkl' in str(error) and '\n' not in str(error)
  assert refused > 250


def lose(params, state):
  del params['res_net50/~/block_group_2/~/block_0/~/conv_1']['w']
  del state['res_net50/~/initial_batchnorm/~/var_ema']
  params['res_net50/~/block_group_0/~/block_0/~/batchnorm_0']['scale'] = np.ones((1, 1, 1, 7))
  params['res_net50/~/block_group_0/~/block_0/~/squeeze'] = {'w': np.ones(2)}


def test_what_does_not_fit_is_listed_at_once(tmp_path, short_resnet, modules):
  path = tmp_path / 'pretrain.pkl'
  path.write_bytes(dumped(checkpoint('bottleneck', modules, change=lose), modules))
  with pytest.raises(ValueError, match='do not fit the encoder resnet14') as refused:
    importing.encoder_of(str(path), FIELDS, prefix=ONLINE)
  said = str(refused.value)
  net = 'res_net50/~/'
  assert f'{ONLINE}params.{net}block_group_2/~/block_0/~/conv_1.w' in said.splitlines()[1]
  assert f'{ONLINE}state.{net}initial_batchnorm/~/var_ema.average' in said.splitlines()[1]
  assert f'{net}block_group_0/~/block_0/~/batchnorm_0.scale: (7,), not (64,)' in said
  assert f'unexpected: {ONLINE}params.{net}block_group_0/~/block_0/~/squeeze.w' in said


def test_other_depths_are_refused(tmp_path, modules):
  path = tmp_path / 'pretrain.pkl'
  path.write_bytes(dumped(checkpoint('bottleneck', modules), modules))
  with pytest.raises(ValueError, match=r'\(1, 1, 1, 1\) bottleneck blocks are none of resnet18'):
    importing.encoder_of(str(path), FIELDS, prefix=TARGET)


def test_import_and_load(tmp_path, npz, modules, capsys):
  path, run = tmp_path / 'pretrain.pkl', tmp_path / 'run'
  # Named tuples by reference: what `pickle` does with classes that can be imported.
  path.write_bytes(dumped(checkpoint('basic', modules), modules, dill=False))
  command = [
    '--config=configs/import_weights.py', f'--config.file={path}', f'--workdir={run}',
    f'--config.prefix={ONLINE}', '--config.data.name=npz', f'--config.data.dir={npz}',
  ]  # fmt: skip
  assert main.main(command) == 0
  assert f"resnet18 with the imagenet stem, behind '{ONLINE}'" in capsys.readouterr().out
  embed = byoljax.load(str(run))
  assert embed.fields['first_projection'] and embed.fields['padding'] == 'same'
  assert embed.preprocessing.image_size == 224 and embed.dim == 512
  features = jax.jit(embed.read)(embed.params, embed.bn, theirs.resnet_images())
  golden = np.load(GOLDEN / 'byol_haiku.npz')['basic']
  np.testing.assert_allclose(features, golden, atol=1e-4)
