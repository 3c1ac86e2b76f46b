"""What the package must not do: talk to anyone, execute what it reads, need what is not pinned.

That training and evaluation connect to nobody is tested in `test_determinism.py`.
"""

import ast
import importlib.metadata
import pathlib
import re
import runpy
import signal
import tomllib

import numpy as np
from packaging.requirements import Requirement
from PIL import Image
import pytest

import byoljax
from tests.paths import ROOT
from tests.sealed import TRAIN_AND_EVALUATE, needs_filter, sealed

PACKAGE = pathlib.Path(byoljax.__file__).parent
SOURCES = sorted([*PACKAGE.rglob('*.py'), *(ROOT / 'configs').glob('*.py')])


@needs_filter
@pytest.mark.parametrize(
  ('forbidden', 'attempt', 'ended'),
  [
    ('socket', 'socket.create_connection(("127.0.0.1", 9), 1)', True),
    ('socket', 'socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)', True),
    ('socket', 'socket.socketpair()', False),
    ('socket', 'import subprocess; sys.exit(subprocess.call([sys.executable, "-c", '
     '"import socket; socket.socket()"]))', True),
    ('connect', 'socket.socket()', False),
    ('connect', 'socket.create_connection(("127.0.0.1", 9), 1)', True),
    ('connect', 'socket.getaddrinfo("byoljax.invalid", 80)', True),
  ],
)  # fmt: skip
def test_the_filter_catches_what_it_should(forbidden, attempt, ended):
  """Else the next tests would prove nothing."""
  status = sealed(forbidden, attempt).returncode
  assert (status in (-signal.SIGSYS, 256 - signal.SIGSYS)) == ended, status


@needs_filter
@pytest.mark.slow  # Imports TensorFlow three times.
def test_folders_and_prepared_sets_are_read_without_talking(tmp_path):
  """TensorFlow, which decodes the files, and TFDS, which knows where sets could be fetched.

  A library that TensorFlow imports tries whether a local IPv6 address can be bound.
  """
  pytest.importorskip('tensorflow_datasets', reason='TFDS sets need tensorflow-datasets')
  rng = np.random.default_rng(0)
  for name in ('train/a', 'train/b', 'test/a', 'test/b'):
    (tmp_path / 'images' / name).mkdir(parents=True)
    for number in range(8):
      pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
      Image.fromarray(pixels).save(tmp_path / 'images' / name / f'{number}.png')
  arguments = [tmp_path / 'run', tmp_path / 'images', '--config.data.name=folder']
  done = sealed('connect', TRAIN_AND_EVALUATE, *arguments)
  assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
  code = """
  from byoljax.data.sources import datasets, shapes
  shapes.SPLITS.update(train=9, test=5)
  shapes.NUM_TRAIN, shapes.NUM_TEST = 9, 5
  print(datasets.load('shapes', 'test', data_dir=sys.argv[1]).size)
  for name in ('cifar10', 'tfds:nothing'):
    try:
      datasets.load(name, 'train', data_dir=sys.argv[1])
    except ValueError as error:
      print(error)
  """
  done = sealed('connect', code, tmp_path / 'sets')
  assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
  assert done.stdout.startswith('5\n') and 'not prepared' in done.stdout


def imports_and_calls(path):
  """Top-level names of imported modules, and dotted names of what is called, with keywords."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield node.module
    elif isinstance(node, ast.Call):
      yield ast.unparse(node.func) + '()'
      for keyword in node.keywords:
        if keyword.arg in ('allow_pickle', 'shell', 'weights_only'):
          yield f'{keyword.arg}={ast.unparse(keyword.value)}'


def test_nothing_executes_or_fetches_but_where_it_is_said():
  """The exceptions are those of docs/security.md."""
  modules = (
    'pickle|dill|cloudpickle|joblib|marshal|shelve|socket|ssl|http|urllib|ftplib|smtplib|requests'
    '|aiohttp|httpx|grpc|webbrowser|subprocess|ctypes|runpy'
  )
  calls = (
    r'eval|exec|compile|__import__|os\.(system|popen|exec\w+|spawn\w+)|.*exec_module|.*import_module'
    r'|pickle\.(loads?|_?Unpickler)|np\.lib\.format\.read_array'
  )
  watched = re.compile(
    rf'({modules})(\.\w+)*|({calls})\(\)|allow_pickle=(?!False).*|shell=.*|weights_only=.*'
  )
  found = {
    (path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).as_posix(), name)
    for path in SOURCES
    for name in imports_and_calls(path)
    if watched.fullmatch(name)
  }
  assert found == {
    ('config.py', 'module_spec.loader.exec_module()'),  # A recipe.
    ('own.py', 'importlib.import_module()'),  # What runs and options name by its import path.
    ('data/sources/records.py', 'importlib.import_module()'),  # One of two readers of ArrayRecord.
    # Extras, by names that are written there.
    ('data/sources/image_file.py', 'importlib.import_module()'),
    ('data/sources/numbers_file.py', 'importlib.import_module()'),
    ('weights/onnx_file.py', 'importlib.import_module()'),
    # The processes of a run among themselves, where a coordinator is named.
    ('devices/processes.py', 'socket'),
    ('devices/roll_call.py', 'socket'),
    # SIGTERM is taken back from JAX's handler, which is one of C.
    ('devices/stop.py', 'ctypes'),
    # `byoljax web` listens on 127.0.0.1; addresses of requests are parsed.
    ('web/server.py', 'http.server'),
    ('web/server.py', 'urllib.parse'),
    # `pickles.Unpickler` finds no functions but its own; the others subclass it.
    ('weights/array_pickle.py', 'pickle'),
    ('weights/pickles.py', 'pickle'),
    ('weights/torch_file.py', 'pickle'),
  }


def test_every_requirement_is_pinned():
  """constraints.txt pins each distribution that an installation for tests brings."""
  lines = [line.split('#')[0].strip() for line in (ROOT / 'constraints.txt').open()]
  pins = [Requirement(line) for line in lines if line]
  assert all(re.fullmatch(r'==[^*]+', str(pin.specifier)) for pin in pins)
  names = [canonical(pin.name) for pin in pins]
  assert len(set(names)) == len(names)
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  wanted = [*project['dependencies'], *project['optional-dependencies']['test']]
  todo, seen = [(Requirement(text), '') for text in wanted], set()
  while todo:
    requirement, extra = todo.pop()
    if requirement.marker and not requirement.marker.evaluate({'extra': extra}):
      continue
    for chosen in ('', *requirement.extras):
      if (key := (canonical(requirement.name), chosen)) in seen:
        continue
      seen.add(key)
      try:
        brings = importlib.metadata.requires(requirement.name) or []
      except importlib.metadata.PackageNotFoundError:
        continue
      todo += [(Requirement(text), chosen) for text in brings]
  assert {name for name, _ in seen} <= set(names)
  for pin in pins:
    for text in wanted:
      requirement = Requirement(text)
      if canonical(requirement.name) == canonical(pin.name):
        assert requirement.specifier.contains(str(pin.specifier)[2:]), (text, str(pin))


def canonical(name):
  return re.sub(r'[-_.]+', '-', name).lower()


def test_no_answer_is_no_finding():
  """The audit of the requirements, with answers as pip-audit gives them."""
  verdict = runpy.run_path(str(ROOT / '.ci' / 'audit'))['verdict']
  assert verdict({}, 'ERROR: no connection') == (0, 'audit: not run (ERROR: no connection)')
  unknown = {'name': 'idna', 'skip_reason': 'not found'}
  assert verdict({'dependencies': [unknown]}, '') == (0, 'audit: not run (not found)')
  clean = {'name': 'numpy', 'version': '2.4.6', 'vulns': []}
  hit = {'id': 'PYSEC-1', 'fix_versions': ['13.0']}
  bad = {'name': 'pillow', 'version': '12.0', 'vulns': [hit, hit | {'fix_versions': []}]}
  assert verdict({'dependencies': [clean]}, '') == (
    0, 'audit: 1 packages, 0 known vulnerabilities',
  )  # fmt: skip
  status, text = verdict({'dependencies': [clean, unknown, bad]}, '')
  assert status == 1 and text.splitlines() == [
    'pillow 12.0: PYSEC-1, mended in 13.0',
    'pillow 12.0: PYSEC-1, mended in no version yet',
    'audit: 2 packages, 2 known vulnerabilities, 1 packages not asked for',
  ]
