"""The examples in docstrings."""

import doctest
import importlib
import warnings

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / 'byoljax'
OPTIONS = doctest.ELLIPSIS


def modules():
  """Every module with an example."""
  for path in sorted(PACKAGE.rglob('*.py')):
    if '>>> ' in path.read_text():
      parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
      yield '.'.join(part for part in parts if part != '__init__')


@pytest.mark.parametrize('name', list(modules()))
def test_examples(name, untrained, tmp_path, monkeypatch):
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'runs' / 'byol').symlink_to(untrained, target_is_directory=True)
  monkeypatch.chdir(tmp_path)
  module = importlib.import_module(name)
  said = []
  runner = doctest.DocTestRunner(optionflags=OPTIONS)
  found = [test for test in doctest.DocTestFinder().find(module) if test.examples]
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    for test in found:
      runner.run(test, out=said.append)
  assert found and runner.failures == 0, ''.join(said)


def test_public_functions_have_examples():
  assert set(modules()) >= {
    'byoljax',
    'byoljax.config',
    'byoljax.length',
    'byoljax.own',
    'byoljax.evals.knn',
    'byoljax.losses.contrastive',
    'byoljax.losses.regression',
    'byoljax.ops.ema',
    'byoljax.optim.schedules',
  }
