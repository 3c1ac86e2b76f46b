"""Four virtual CPU devices for every test, strict settings, and small data to train on."""

import contextlib
import fcntl
import functools
import gc
import hashlib
import importlib.util
import json
import os
import pathlib
import platform
import sys
import tempfile
import threading
import types

import jaxlib.version


def _own_folder(name):
  """A directory shared by all workers, their processes, and later runs; nobody else's."""
  folder = pathlib.Path(tempfile.gettempdir()) / f'byoljax-tests-{os.getuid()}-{name}'
  folder.mkdir(mode=0o700, exist_ok=True)
  mine = folder.stat().st_uid == os.getuid()
  return folder if mine else tempfile.mkdtemp(prefix=folder.name)


def _keep_bytecode():
  """For where Python may not write beside the sources, as PYTHONDONTWRITEBYTECODE says.

  If nobody else did, every process compiles what it imports, which takes longer than all the rest.
  """
  beside = importlib.util.cache_from_source(jaxlib.version.__file__)
  if sys.dont_write_bytecode and not os.path.exists(beside):
    sys.pycache_prefix = os.environ['PYTHONPYCACHEPREFIX'] = str(_own_folder('bytecode'))
    sys.dont_write_bytecode = False
    os.environ.pop('PYTHONDONTWRITEBYTECODE', None)


_keep_bytecode()


def _keep_to_a_share_of_the_cores():
  """A worker's threads wait for each other, and less where they do not run beside the others'."""
  workers = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', '1'))
  cores = sorted(getattr(os, 'sched_getaffinity', lambda _: ())(0))
  if 1 < workers <= len(cores):
    number = int(os.environ['PYTEST_XDIST_WORKER'].removeprefix('gw'))
    os.sched_setaffinity(0, cores[number::workers])


_keep_to_a_share_of_the_cores()
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Small matrices are multiplied sooner by one thread than by several that wait for each other.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
# Compiling is most of a test's time, while a compiled step runs only a few times. So XLA generates
# code the quickest way: unoptimized, by its old emitters, in one piece. That takes a fifth of the
# time, and the results differ by rounding. A flag given by hand stands, and processes that tests
# start inherit all of them. XLA ends the process at a flag that it does not know.
_FLAGS = {
  '--xla_force_host_platform_device_count': '4',
  '--xla_backend_optimization_level': '0',
}
if jaxlib.version.__version_info__[:2] == (0, 10):
  _FLAGS |= {
    '--xla_cpu_use_fusion_emitters': 'false',
    '--xla_cpu_parallel_codegen_split_count': '1',
  }
_given = os.environ.get('XLA_FLAGS', '')
os.environ['XLA_FLAGS'] = ' '.join(
  [_given, *(f'{flag}={value}' for flag, value in _FLAGS.items() if flag not in _given)]
).strip()
from byoljax.devices import xla  # noqa: E402

xla.set_defaults()


def _processor():
  """What compiled programs depend on: its model and the instructions that it offers."""
  about = pathlib.Path('/proc/cpuinfo')
  if not about.exists():
    return f'{platform.machine()} {platform.processor()}'
  lines = about.read_text().splitlines()
  return '\n'.join(sorted({line for line in lines if line.startswith(('flags', 'model name'))}))


def _compiled_programs():
  """The directory of compiled programs, which are executed here.

  Several may write at once, and one that is killed may leave half an entry: JAX compiles anew what
  it cannot read.
  """
  return _own_folder(hashlib.sha256(_processor().encode()).hexdigest()[:12])


os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_compiled_programs()))
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '0'

import jax  # noqa: E402
from jax._src import compiler, config  # noqa: E402
from jax._src.interpreters import mlir  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')


def _keep_only_programs_of_one_device():
  """Others hang when they are read back, see `xla.keep_programs`, which is not for tests."""
  strategy = compiler._resolve_compilation_strategy

  def resolve(computation, devices, options, *more, **named):
    key, options = strategy(computation, devices, options, *more, **named)
    return key if devices.size == 1 else None, options

  compiler._resolve_compilation_strategy = resolve
  xla.keep_programs = lambda: None


_keep_only_programs_of_one_device()


def _lower_in_one_context():
  """Making a context takes as long as everything else that a program of one operation does.

  Its constants stay as long as it, so that another one is begun with where compiled programs end.
  """
  make = getattr(mlir, 'make_ir_context', None)
  if make is None:  # A later JAX may do it otherwise.
    return lambda: None
  of_thread = functools.cache(lambda thread: make())
  mlir.make_ir_context = lambda: of_thread(threading.get_ident())
  return of_thread.cache_clear


_end_contexts = _lower_in_one_context()


def _trace_rules_once():
  """Many rules of lowering are functions of JAX, traced anew wherever a primitive stands.

  That takes a twelfth of a test's time, and for equal shapes gives the same.
  """
  trace = getattr(getattr(mlir, 'pe', None), 'trace_to_jaxpr_dynamic', None)
  if trace is None:  # As above.
    return lambda: None
  parts, found = types.ModuleType('partial_eval'), {}

  def traced(rule, shapes, **named):
    function = rule.f
    if getattr(function, '__name__', '') == '<lambda>':  # Around the rule, another each time.
      function = (function.__code__, *(cell.cell_contents for cell in function.__closure__ or ()))
    key = (function, rule.params, rule.transforms, tuple(shapes), config.trace_context())
    try:
      return found[key]
    except KeyError:
      found[key] = trace(rule, shapes, **named)
      return found[key]
    except TypeError:
      return trace(rule, shapes, **named)

  vars(parts).update(vars(mlir.pe), trace_to_jaxpr_dynamic=traced)
  mlir.pe = parts
  return found.clear


_end_rules = _trace_rules_once()


# The longest first: the other processes would wait for one that begins with them at the end.
_HERE = pathlib.Path(__file__).parent
_LONGEST = [
  _HERE / name
  for name in (
    'methods/test_contract.py',
    'train/test_loop.py',
    'tasks/test_taps.py',
    'protocols/test_classify.py',
    'configs/test_recipes.py',
    'docs/test_notebooks.py',
    'data/batches/test_resident.py',
    'weights/test_weights.py',
    'weights/test_vit.py',
  )
]
assert all(path.exists() for path in _LONGEST), 'a file of tests has moved'


def pytest_collection_modifyitems(items):
  """Orders whole files; within one nothing changes."""
  rank = {path: place for place, path in enumerate(_LONGEST)}
  items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_collection_finish():
  """What was imported stays: collecting garbage need not go through it, a tenth of the time."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(50_000, 20, 20)


# What compiled programs may take on the disk; the oldest go.
_KEPT_BYTES = 1 << 30


def pytest_sessionstart(session):
  if hasattr(session.config, 'workerinput'):
    return
  folder, total = os.environ['JAX_COMPILATION_CACHE_DIR'], 0
  with contextlib.suppress(OSError):  # Another session may do the same.
    entries = [(entry.stat(), entry.path) for entry in os.scandir(folder)]
    for about, path in sorted(entries, key=lambda entry: -entry[0].st_mtime):
      total += about.st_size
      if total > _KEPT_BYTES:
        os.unlink(path)


# Files of tests share compiled programs up to here. They take memory and, each, several of the
# 65,530 mappings that a process may have; the file that comes next needs its own.
_MAPPINGS, _BYTES = 15_000, 3 << 30
_most = {'bytes': _BYTES}  # More where forgetting the programs freed little.


def _resident_bytes():
  """Memory of this process; None where /proc does not say."""
  about = pathlib.Path('/proc/self/statm')
  return int(about.read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') if about.exists() else None


def _is_full(most):
  resident = _resident_bytes()
  if resident is None:
    return True
  return resident > most or pathlib.Path('/proc/self/maps').read_bytes().count(b'\n') > _MAPPINGS


@pytest.fixture(scope='module', autouse=True)
def _programs_end_in_time():
  yield
  if _is_full(_most['bytes']):
    jax.clear_caches()
    _end_contexts()
    _end_rules()
    gc.collect()
    _most['bytes'] = max(_BYTES, (_resident_bytes() or 0) + (1 << 30))


@pytest.fixture
def collect():
  """Collects garbage of this test: going through all that is older takes seconds."""
  gc.disable()
  yield functools.partial(gc.collect, 0)
  gc.enable()


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
def voc(tmp_path_factory):
  """Images with several labels each, as VOC 2007's kit has them: which channels are bright."""
  from PIL import Image

  home, rng = tmp_path_factory.mktemp('data') / 'VOC', np.random.default_rng(0)
  (home / 'ImageSets/Main').mkdir(parents=True)
  (home / 'JPEGImages').mkdir()
  for part, count in {'trainval': 48, 'test': 24}.items():
    there = rng.integers(0, 2, (count, 3))
    for number, row in enumerate(there):
      pixels = rng.integers(0, 60, (20, 24, 3)) + 150 * row[::-1]
      Image.fromarray(pixels.astype(np.uint8)).save(home / f'JPEGImages/{part}{number}.jpg')
    for kind, column in zip(('blue', 'green', 'red'), there.T, strict=True):
      lines = [f'{part}{number} {2 * value - 1}' for number, value in enumerate(column)]
      (home / f'ImageSets/Main/{kind}_{part}.txt').write_text('\n'.join(lines))
  return home


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
    # The stem of the small encoder alone, by import path.
    '--config.encoder.name=byoljax.models.small:SmallResNet(channels=(16,))',
    '--config.encoder.stem=imagenet',
    '--config.data.name=npz',
    f'--config.data.dir={npz}',
    '--config.train.length=2 epochs',
    '--config.views.view1.size=12',
    '--config.views.view2.size=12',
    # Nothing but crops and mirrors: other operations take long to trace.
    *(
      f'--config.views.view{view}.{name}_prob=0.0' for view in (1, 2) for name in ('jitter', 'gray')
    ),
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


@contextlib.contextmanager
def _runs_made_once():
  """Within, runs of equal configurations on equal data share what is traced and compiled."""
  from byoljax.train import assemble

  make = assemble.from_config

  def remembered(config, source, **options):
    if options.get('given'):
      return make(config, source, **options)
    fields = json.loads(config.to_json()) | {'log': config.log.every}
    for name in ('evals', 'checkpoint', 'profile', 'bench', 'task'):
      fields.pop(name, None)
    key = json.dumps([fields, source.fingerprint, repr(sorted(options.items()))])
    if key not in _MADE:
      _MADE[key] = make(config, source, **options)
    return _MADE[key]._replace(source=source)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(assemble, 'from_config', remembered)
    yield


_MADE = {}


@pytest.fixture(scope='module')
def made_once():
  """Tests of a file whose runs have equal configurations trace and compile them once."""
  with _runs_made_once():
    yield
  _MADE.clear()


@pytest.fixture(scope='session')
def finished(tiny, tmp_path_factory, worker_id):
  """The directory of one uninterrupted run of `tiny`, made by the worker that needs it first."""
  shared = tmp_path_factory.getbasetemp()
  home = (shared if worker_id == 'master' else shared.parent) / 'finished'
  home.mkdir(exist_ok=True)
  with (home / 'lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (home / 'done').exists():
      from byoljax.main import main

      with contextlib.chdir(_HERE.parent), _runs_made_once():
        assert main([*tiny, f'--workdir={home / "run"}', '--config.log.csv=true']) == 0
      (home / 'done').touch()
  return home / 'run'


@pytest.fixture
def no_pictures(monkeypatch):
  """Runs draw neither views nor curves, a third of the time of a short one."""
  from byoljax.report import curves, preview

  monkeypatch.setattr(preview, 'write_sheet', lambda *_, **__: None)
  monkeypatch.setattr(curves, 'plot_run', lambda *_, **__: 'curves.png')
