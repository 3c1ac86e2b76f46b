"""Four virtual CPU devices for every test, strict settings, and small data to train on."""

import gc
import hashlib
import json
import os
import pathlib
import platform
import tempfile

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Compiling is most of a test's time; the compiled steps run only a few times. Tests that start
# processes of their own inherit all of this.
if 'device_count' not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '')
    + ' --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=1'
  )
from byoljax.devices import xla  # noqa: E402

xla.set_defaults()
# All workers, the processes that tests start, and later runs share what was compiled. A processor
# of another kind has a directory of its own: compiled programs use the instructions that it offers.
_CPU = (
  '\n'.join(
    sorted(
      {
        line
        for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines()
        if line.startswith(('flags', 'model name'))
      }
    )
  )
  if (pathlib.Path('/proc/cpuinfo').exists())
  else platform.processor()
)
_CACHE = pathlib.Path(tempfile.gettempdir()) / (
  f'byoljax-tests-{os.getuid()}-{hashlib.sha256(_CPU.encode()).hexdigest()[:12]}'
)
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_CACHE))
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '0'

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')


# The longest first: the other processes would wait for one that begins with them at the end.
_LONGEST = ('test_train', 'test_methods', 'test_taps', 'test_classify', 'test_recipes',
            'test_notebooks', 'test_resident', 'test_weights', 'test_vit')  # fmt: skip


def pytest_collection_modifyitems(items):
  """Orders whole files; within one nothing changes."""
  rank = {f'{name}.py': place for place, name in enumerate(_LONGEST)}
  items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope='module', autouse=True)
def _programs_end_with_their_file():
  """Compiled programs take memory and, each, several of the 65,530 mappings of a process."""
  yield
  jax.clear_caches()
  gc.collect()


@pytest.fixture(scope='session')
def npz(tmp_path_factory):
  """A small labelled data set as arrays: three classes that differ in color, 12 pixels."""
  return save_colors(tmp_path_factory.mktemp('data') / 'tiny.npz', 80, 24)


def save_colors(path, train, test, contrast=120, seed=0):
  rng = np.random.default_rng(seed)
  arrays = {}
  for split, count in (('train', train), ('test', test)):
    labels = rng.integers(0, 3, count).astype(np.int32)
    images = rng.integers(0, 100, (count, 12, 12, 3), dtype=np.uint8)
    images[np.arange(count), :, :, labels] += contrast
    arrays |= {f'x_{split}': images, f'y_{split}': labels}
  np.savez(path, **arrays)
  return path


@pytest.fixture(scope='session')
def untrained(tmp_path_factory, npz):
  """A run's directory with the small encoder as it is before training, of `npz` at 12 pixels."""
  from byoljax import cli
  from byoljax import config as config_lib
  from byoljax.encoders import load
  from byoljax.encoders.encoder import random_encoder
  from byoljax.weights import importing
  from byoljax.workdir import checkpoint
  from byoljax.workdir.files import write_json

  workdir = tmp_path_factory.mktemp('untrained')
  config = config_lib.load(f'{cli.recipes_directory()}/byol.py:npz,smoke')
  with config.unlocked():
    config.data.update(name='npz', dir=str(npz))
    config.evals.image_size = 12
  encoder = random_encoder(config.encoder, load.preprocessing_of(config), 0)
  with checkpoint.Checkpoints(workdir, keep=1) as checkpoints:
    checkpoints.save(0, importing.Imported(encoder.params, {'bn': encoder.bn}), {})
  stored = {'recipe': 'configs/byol.py:npz,smoke', 'config': json.loads(config.to_json())}
  write_json(workdir / 'config.json', stored)
  return workdir


@pytest.fixture(scope='session')
def tiny(npz):
  """Arguments of a run of seconds on `npz`, without TensorFlow: 10 steps, 2 of them warm-up."""
  return [
    '--config=configs/byol.py:smoke',
    '--config.data.name=npz',
    f'--config.data.dir={npz}',
    '--config.train.length=2 epochs',
    '--config.views.view1.size=12',
    '--config.views.view2.size=12',
    '--config.evals.image_size=12',
    '--config.evals.batch_size=16',
    # Adam divides by the gradient's size, which amplifies rounding; LARS does not.
    '--config.optim.name=lars',
    '--config.optim.base_lr=1.0',
    '--config.optim.weight_decay=1e-5',
    '--config.method.projector=(16,8)',
    '--config.method.predictor=(16,8)',
    '--config.checkpoint.every=5 steps',
    '--config.log.every=1 steps',
    '--config.log.tensorboard=false',
  ]
