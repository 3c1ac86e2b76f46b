"""What the README says can be typed."""

import re
import shlex
import shutil
import subprocess

import pytest

from byoljax import config as config_lib
from byoljax.flags import split_overrides
from tests.paths import ROOT

TEXT = (ROOT / 'README.md').read_text()


def commands():
  """Every command line with a recipe, and every recipe in the table of data sets."""
  lines = re.findall(r'python -m byoljax\.main (--config=[^\n#]*)', TEXT)
  return lines + re.findall(r'`(--config=configs[^`]*)`', TEXT)


@pytest.mark.parametrize('line', commands())
def test_commands_name_real_recipes_and_fields(line, monkeypatch):
  monkeypatch.chdir(ROOT)
  overrides, rest = split_overrides(shlex.split(line))
  recipe = next(word for word in rest if word.startswith('--config='))
  config_lib.load(recipe.removeprefix('--config='), overrides)


def test_there_are_commands():
  assert len(commands()) >= 5


def test_fields_named_in_the_text_exist():
  fields = set()
  for recipe in ('byol', 'knn', 'import_weights'):
    fields |= set(config_lib.flatten(config_lib.load(str(ROOT / 'configs' / f'{recipe}.py'))))
  for name in re.findall(r'--config\.([a-z_.0-9]+)', TEXT):
    assert name in fields, name


def test_first_screen_has_the_two_commands():
  first = TEXT.splitlines()[:30]
  assert any('-m byoljax.main --config=configs/byol.py' in line for line in first)
  assert any('-m pytest' in line for line in first)


def test_ci_runs_the_test_command_of_the_readme():
  script = (ROOT / '.ci' / 'run').read_text()
  extract = next(line for line in script.splitlines() if line.startswith('command=$('))
  shown = subprocess.run(
    ['bash', '-c', f'{extract}; echo "$command"'], cwd=ROOT, capture_output=True, text=True
  )
  assert shown.stdout.strip().startswith('python3 -m venv')
  assert shown.stdout.strip().endswith('-m pytest')
  assert shown.stdout.strip() in TEXT


def test_it_takes_five_minutes_to_read():
  assert len(TEXT.splitlines()) <= 130


def test_linked_files_exist():
  for target in re.findall(r'\]\(([^)#]+)\)', TEXT):
    if not target.startswith('http'):
      assert (ROOT / target).exists(), target


def test_no_machine_paths_in_tracked_files():
  if not shutil.which('git'):
    pytest.skip('there is no git here to list the tracked files')
  tracked = subprocess.run(
    ['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=False
  ).stdout.split('\0')
  if not any(tracked):
    pytest.skip('not a git checkout: there is no list of tracked files')
  for name in filter(None, tracked):
    path = ROOT / name
    if path.suffix in ('.py', '.md', '.toml', '.json', '.jsonl', '.txt', '.sh') and path.exists():
      found = re.search(r'/(?:home|Users|root|tmp)/\w+', path.read_text(errors='replace'))
      assert not found, f'{name} names {found.group() if found else ""}'
