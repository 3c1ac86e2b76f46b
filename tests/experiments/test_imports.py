"""Scripts under experiments/ import what there is: most are run by hand, and seldom."""

import ast
import contextlib
import importlib

import pytest

from tests.paths import ROOT

SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob('experiments/**/*.py'))


def imported(tree):
  """(module, name) of everything of byoljax that is imported, in programs within strings, too."""
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and (node.module or '').partition('.')[0] == 'byoljax':
      for alias in node.names:
        yield node.module, alias.name
    elif '\nfrom byoljax' in str(getattr(node, 'value', '')):
      with contextlib.suppress(SyntaxError):  # Text that speaks of it.
        yield from imported(ast.parse(node.value))


def test_programs_within_strings_are_seen():
  text = "program = '''\nfrom byoljax import main\n'''\nfrom byoljax.ops import sampling"
  assert set(imported(ast.parse(text))) == {('byoljax', 'main'), ('byoljax.ops', 'sampling')}


@pytest.mark.parametrize('script', SCRIPTS)
def test_what_a_script_imports_exists(script):
  for module, name in imported(ast.parse((ROOT / script).read_text())):
    if not hasattr(importlib.import_module(module), name):
      importlib.import_module(f'{module}.{name}')
