"""The table of commands: complete, and one with the recipes that its commands run."""

import pkgutil

import pytest

from byoljax import cli, tasks
from byoljax import config as config_lib
from byoljax.tasks.command import RECIPE

COMMANDS = list(tasks.COMMANDS.values())


def load(command):
  """A command's configuration, as it is before its argument is known."""
  recipe = f'{cli.recipes_directory()}/byol.py'
  if command.recipe:
    recipe = cli.parse([command.name, 'something']).options.config
  return config_lib.load(recipe, command.overrides)


def test_every_module_with_a_command_is_in_the_table():
  modules = {module.name for module in pkgutil.iter_modules(tasks.__path__)}
  with_one = {name for name in modules if hasattr(getattr(tasks, name, None), 'COMMAND')}
  assert modules - with_one == {
    'cells',
    'command',
    'data',
    'dense',
    'evaluation',
    'extension',
    'image_files',
    'own_fields',
    'partly_labelled',
    'run_scores',
  }, 'these hold what commands share'
  assert {getattr(tasks, name).COMMAND.name for name in with_one} == set(tasks.COMMANDS)


def test_names_and_tasks_are_given_once():
  assert len(tasks.TASKS) == len([command for command in COMMANDS if command.task])
  assert set(tasks.COMMANDS) < set(cli.COMMANDS)


@pytest.mark.parametrize('command', [c for c in COMMANDS if c.task], ids=lambda c: c.name)
def test_configurations_name_the_task_of_their_command(command):
  config = load(command)
  assert config.task == command.task
  assert bool(command.recipe) == (RECIPE not in command.arguments)
  if command.field:
    assert command.field in config_lib.flatten(config)


def test_every_recipe_trains_or_belongs_to_a_command():
  for name in cli.recipes():
    assert config_lib.load(cli.locate(name)).task == 'pretrain', name
  files = {path.stem for path in cli.recipes_directory().glob('*.py')}
  own = {command.recipe.partition(':')[0] for command in COMMANDS if command.recipe}
  assert files == own | set(cli.recipes()) | {'__init__', 'base', 'scales'}


def test_the_documentations_table_has_a_row_for_every_command():
  rows = cli.table().splitlines()[2:]
  assert [row.split('`')[1].split()[1] for row in rows] == list(cli.COMMANDS)
  assert '| `byoljax search EMBEDDINGS IMAGE ...` | find the nearest images of an image |' in rows
