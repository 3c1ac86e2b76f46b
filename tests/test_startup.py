"""What a start imports and keeps: no TensorFlow for arrays, compiled programs for the next time."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.paths import ROOT


def python(code, *arguments, **environment):
  """The JSON that `code` prints last, run in a process of its own with one device."""
  cached = ('JAX_COMPILATION_CACHE', 'JAX_ENABLE_COMPILATION_CACHE')
  kept = {name: value for name, value in os.environ.items() if not name.startswith(cached)}
  done = subprocess.run(
    [sys.executable, '-c', code, *arguments], cwd=ROOT, capture_output=True, text=True,
    env=kept | {'XLA_FLAGS': ''} | environment, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


IMPORTED = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
heavy = ('jax', 'flax', 'numpy', 'tensorflow', 'tensorflow_datasets', 'sklearn', 'matplotlib')
from byoljax import cli, main
with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
  try:
    status = (cli.run if sys.argv[1] == 'cli' else main.main)(sys.argv[2:])
  except SystemExit as end:
    status = end.code
print(json.dumps([status, [name for name in heavy if name in sys.modules]]))
"""


@pytest.mark.parametrize(
  'arguments, status',
  [
    (['main', '--help'], 0),
    (['cli', '--help'], 0),
    (['main', '--config=configs/byol.py:smoke', '--config.train.lenght=3 steps'], 2),
    (['cli', 'pretrain', 'byl'], 2),
    (['cli', 'pretrain', 'byol', '--print_config'], 0),
  ],
)
def test_answers_import_nothing_heavy(arguments, status):
  found, imported = python(IMPORTED, *arguments)
  assert found == status
  assert not set(imported) - {'numpy'}, 'ml_collections may import NumPy; the rest takes seconds'


SEVERAL = '--xla_force_host_platform_device_count'

TRAINED = """
import json, sys
from byoljax import config
from byoljax.train import assemble, loop as train, record
from byoljax.devices import xla
from byoljax.data.sources import datasets, shapes
shapes.SPLITS['train'] = shapes.NUM_TRAIN = 40
xla.keep_programs()
fields = {'encoder.name': 'pixels', 'train.length': '1 steps', 'optim.warmup': '0 steps',
          'log.tensorboard': 'false'}
settings = config.load('configs/rotation.py:smoke', list(fields.items()))
source = datasets.load('shapes', 'pretrain', data_dir=sys.argv[1], in_memory=True)
run = assemble.from_config(settings, source)
train.train(run, __import__('pathlib').Path(sys.argv[1]) / 'run', record.Cadence())
import jax
print(json.dumps([jax.config.jax_compilation_cache_dir, 'tensorflow' in sys.modules]))
"""


def test_the_built_in_set_needs_no_tensorflow_and_programs_are_kept(tmp_path):
  at_once = {
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    # As in the tests, but for the devices.
    'XLA_FLAGS': ' '.join(f for f in os.environ['XLA_FLAGS'].split() if SEVERAL not in f),
  }
  cache, tensorflow = python(TRAINED, str(tmp_path), BYOLJAX_DATA=str(tmp_path), **at_once)
  assert not tensorflow, 'importing it takes longer than everything else'
  assert pathlib.Path(cache).is_relative_to(tmp_path / 'compiled')
  assert list(pathlib.Path(cache).glob('*-cache'))


ENABLED = """
import json, jax
from byoljax.devices import xla
xla.keep_programs()
settings = jax.config
print(json.dumps(settings.jax_enable_compilation_cache and settings.jax_compilation_cache_dir))
"""


def test_jax_has_the_last_word_on_the_cache(tmp_path):
  mine = str(tmp_path / 'mine')
  # Of two numbers of devices the later one counts.
  one = f'{SEVERAL}=2 {SEVERAL}=1'
  assert python(ENABLED, JAX_COMPILATION_CACHE_DIR=mine, XLA_FLAGS=one) == mine
  assert not python(ENABLED, JAX_ENABLE_COMPILATION_CACHE='false')
  (tmp_path / 'file').touch()
  assert python(ENABLED, BYOLJAX_DATA=str(tmp_path / 'file')) is None


def test_programs_of_several_cpu_devices_are_not_kept(tmp_path):
  """Read back, their collectives would run in any order, and wait for each other."""
  mine = {'JAX_COMPILATION_CACHE_DIR': str(tmp_path)}
  assert not python(ENABLED, **mine, XLA_FLAGS=f'{SEVERAL}=1 {SEVERAL}=2')
  assert not python(ENABLED, **mine, JAX_NUM_CPU_DEVICES='2', XLA_FLAGS='')
