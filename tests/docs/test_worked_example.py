"""The method of docs/adding_a_method.md: its code, from the page, keeps the contract and trains."""

import importlib.util
import inspect
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import config as config_lib
from byoljax.main import main
from byoljax.methods import METHODS
from byoljax.workdir import metrics
from tests import markdown_pages
from tests.methods import test_contract as contract

NAME = 'alignment_uniformity'
MODULE, RECIPE = [
  block.text
  for block in markdown_pages.blocks(markdown_pages.written()['docs/adding_a_method.md'], 'python')
  if block.runs
]


@pytest.fixture(scope='module')
def module(tmp_path_factory):
  path = tmp_path_factory.mktemp('example') / f'{NAME}.py'
  path.write_text(MODULE)
  spec = importlib.util.spec_from_file_location(NAME, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(autouse=True)
def added(module, monkeypatch):
  """What the page says to add, in the two tables."""
  monkeypatch.setitem(METHODS, NAME, module.build)
  monkeypatch.setitem(contract.CASES, NAME, ({'projector': (16, 8)}, 2))


def test_it_is_as_short_as_the_title_says():
  assert len(MODULE.splitlines()) <= 60
  assert all(len(line) <= 100 for line in MODULE.splitlines())


def promises():
  """Every test of the contract that any method is put through; what compiles for long is slow.

  Left out are those about what the page's method has not: a memory, an EMA, frozen layers.
  """
  cheap = (
    'trains_is_finite',
    'four_devices',
    'labels_are_not_read',
    'per_image',
    'gives_what_embed',
  )
  for test, promise in vars(contract).items():
    names = inspect.signature(promise).parameters if test.startswith('test_') else ()
    if 'name' not in names or set(names) - {'name', 'accumulate', 'tmp_path'}:
      continue
    if 'memories' in test:
      continue
    marks = () if any(part in test for part in cheap) else pytest.mark.slow
    yield pytest.param(promise, id=test, marks=marks)


def test_the_promises_are_those_of_the_contract():
  found = [param.id for param in promises()]
  assert len(found) >= 10 and 'test_resume_is_bit_exact' in found
  assert 'test_accumulation_does_not_depend_on_devices' in found


@pytest.mark.parametrize('promise', list(promises()))
def test_it_keeps_the_contract(promise, tmp_path):
  extra = {'accumulate': 2, 'tmp_path': tmp_path}
  wanted = inspect.signature(promise).parameters
  promise(NAME, **{name: value for name, value in extra.items() if name in wanted})


def test_the_page_says_how_to_install_and_import():
  page = markdown_pages.written()['docs/adding_a_method.md']
  assert "pip install -e '.[dev]'" in page
  assert 'from byoljax.methods.joint_embedding import (\n  alignment_uniformity,' in page
  table = (markdown_pages.ROOT / 'byoljax/methods/__init__.py').read_text()
  assert 'from byoljax.methods.joint_embedding import (' in table, 'where the page adds a name'


def test_uniformity_by_hand(module):
  """Three points of the plane: squared distances 2, 2 and 4; six ordered pairs."""
  z = jnp.array([[3.0, 0.0], [0.0, 1.0], [-2.0, 0.0]])
  by_hand = math.log((4 * math.exp(-2 * 2.0) + 2 * math.exp(-2 * 4.0)) / 6)
  assert float(module.uniformity(z, 2.0, None)) == pytest.approx(by_hand, abs=1e-6)
  assert float(module.uniformity(jnp.ones((5, 3)), 2.0, None)) == pytest.approx(0.0, abs=1e-5)
  gradient = jax.grad(lambda z: module.uniformity(z, 2.0, None))(z)
  assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_bad_values_are_refused(module):
  with pytest.raises(ValueError, match='weight=-1'):
    module.build(None, None, weight=-1.0)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
  """The page's recipe as a file beside no other one."""
  (tmp_path / 'configs').mkdir()
  path = tmp_path / 'configs' / f'{NAME}.py'
  path.write_text(RECIPE)
  monkeypatch.setattr(sys, 'path', [*sys.path, str(markdown_pages.ROOT)])
  return path


@pytest.mark.parametrize('scale', ['shapes', 'cifar10', 'imagenet,100', 'npz,smoke'])
def test_its_recipe_loads_at_every_scale(recipe, scale):
  config = config_lib.load(f'{recipe}:{scale}')
  assert config.method.name == NAME
  assert config.method.projector == ((512, 128) if scale == 'shapes' else (2048, 128))


@pytest.mark.slow
def test_its_recipe_trains(recipe, tiny, tmp_path):
  rest = [a for a in tiny if not a.startswith(('--config=', '--config.method.predictor'))]
  workdir = tmp_path / 'run'
  arguments = [f'--config={recipe}:smoke', *rest, f'--workdir={workdir}']
  assert main([*arguments, '--config.train.length=1 epochs']) == 0
  last = metrics.read(workdir)[-1]
  assert last['loss'] == pytest.approx(last['loss/align'] + last['loss/uniform'], abs=1e-5)
  assert 0 <= last['loss/align'] <= 4 and -8 <= last['loss/uniform'] <= 0
