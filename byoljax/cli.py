"""The command `byoljax`: what `python -m byoljax.main` does, by name, from anywhere.

    byoljax pretrain byol:cifar10 --train.length='100 epochs'
    byoljax linear runs/byol-cifar10
    byoljax linear:simclr runs/byol-cifar10

A command is a recipe of `configs/` with its most important field as an argument. Every other field
is an option, with or without `config.` in front of its name. The recipes are installed with the
package, so no clone is needed; a path to a recipe of one's own works as well. The commands
themselves are in `byoljax.tasks`.
"""

import argparse
from collections.abc import Sequence
import functools
import pathlib
import re
import sys
from typing import NamedTuple

from byoljax import flags, main, tasks
from byoljax.config import ConfigError, expanded, recipes_directory
from byoljax.suggest import did_you_mean, unknown
from byoljax.tasks import own_fields
from byoljax.tasks.command import RECIPE, Argument, Command
from byoljax.version import __version__
from byoljax.workdir import activity

_EPILOG = """\
RECIPE is a name and, after a colon, its options, or the path of a file:

  byoljax recipes                        all names
  byoljax pretrain byol                  the built-in images, minutes on a CPU
  byoljax pretrain simclr:cifar10 --train.batch_size=512 --workdir runs/mine
  byoljax pretrain byol:folder --data.dir=photos
  byoljax linear runs/mine
  byoljax linear:simclr runs/mine        by another paper's protocol
  byoljax finetune:small runs/mine --labels='10 %'
  byoljax export runs/mine
  byoljax push runs/mine me/byol-photos
  byoljax embed runs/mine --data.name=folder --data.dir=photos --workdir runs/index
  byoljax search runs/index holiday.jpg
  byoljax reconstruct runs/denoising photos --out sheet.png
  byoljax report runs/mine
  byoljax compare runs/mine runs/other --out comparison
  byoljax runs                           all runs below runs/
  byoljax web                            the same as a page that follows them
  byoljax plan byol:imagenet,1000 --topology v5e:4x4
  byoljax bench byol:cifar10 --bench.steps=5

Every field of a recipe is an option: `byoljax pretrain byol --print_config` lists them.
Completion: eval "$(byoljax completion bash)", or zsh.
"""


class Parsed(NamedTuple):
  """A command line, understood.

  Attributes:
    command: which command.
    options: its arguments and flags; with `config`, the recipe's place, where it has one.
    overrides: fields of the configuration that it sets, and how.
  """

  command: Command
  options: argparse.Namespace
  overrides: flags.Overrides


def run(arguments: Sequence[str] | None = None) -> int:
  """Runs a command; returns an exit status, see `flags.exit_status`."""
  given = list(sys.argv[1:] if arguments is None else arguments)
  return flags.exit_status(lambda: _run(parse(given)))


def _run(parsed: Parsed) -> int:
  command, options, overrides = parsed
  if command.task:
    return main.run(options, overrides)
  options.overrides = overrides
  if command.endless:
    return command.run(options)
  with activity.watching(f'{command.name}: working'):
    return command.run(options)


def parse(arguments: Sequence[str]) -> Parsed:
  """Parses the arguments behind `byoljax`.

  Raises:
    ConfigError: no such command or recipe, an unknown flag, a field without a value, or one that
      contradicts the command's own argument or flags.
  """
  name, recipe_options, rest = _split_name(arguments)
  made, fields = parser(), list[str]()
  if name and not name[0].startswith('-'):
    if name[0] not in COMMANDS:
      raise ConfigError(unknown('command', name[0], COMMANDS))
    if _has_fields(COMMANDS[name[0]]):
      fields, rest = _set_apart(rest, made.of(name[0]).flags())
  options, rest = made.parse_known_args([*name, *rest])
  command = COMMANDS[options.command]
  overrides, _ = flags.split_overrides(_prefixed(fields))
  if command.recipe:
    options.config = own_recipe(command, recipe_options)
  elif RECIPE in command.arguments:
    options.config = locate(options.recipe)
  if rest:
    raise ConfigError(f"unknown argument '{rest[0]}'; see byoljax {command.name} --help.")
  own = _own_fields(command, options)
  for name, text in overrides:
    if text != own.get(name, text):
      raise ConfigError(
        f"--{name}={text} contradicts '{own[name]}', which the command says already: leave one of "
        'them out.'
      )
  own.pop('task', None)
  return Parsed(command, options, [*command.overrides, *own.items(), *overrides])


def _own_fields(command: Command, options: argparse.Namespace) -> dict[str, str]:
  """The fields of the configuration that the command itself sets, with its argument and flags."""
  own = {'task': command.task} if command.task else {}
  if command.field:
    own[command.field] = getattr(options, command.arguments[0].metavar.lower())
  for flag, (field, text, _) in command.switches.items():
    if getattr(options, flag.removeprefix('--')):
      own[field] = text
  return own


def _split_name(arguments: Sequence[str]) -> tuple[list[str], str, list[str]]:
  """'linear:simclr' at the beginning -> the command, the options of its recipe, and the rest."""
  first, rest = list(arguments[:1]), list(arguments[1:])
  name, colon, options = first[0].partition(':') if first else ('', '', '')
  if not colon or name not in COMMANDS:
    return first, '', rest
  if not COMMANDS[name].recipe:
    raise ConfigError(
      f"'{first[0]}': options of a recipe stand behind its name, as in "
      f"'byoljax {name} byol:{options}'."
    )
  return [name], options, rest


def _has_fields(command: Command) -> bool:
  """Whether fields of a configuration are options of a command."""
  return bool(command.recipe) or RECIPE in command.arguments


def _set_apart(rest: Sequence[str], known: Sequence[str]) -> tuple[list[str], list[str]]:
  """Fields and their values, and the rest: argparse would take '--field value' for a RUN, say."""
  fields: list[str] = []
  others: list[str] = []
  open_field = False
  for text in rest:
    option = text.startswith('--') and text != '--'
    is_field = option and text.partition('=')[0] not in known
    (fields if is_field or (open_field and not option) else others).append(text)
    open_field = is_field and '=' not in text
  return fields, others


def _prefixed(rest: Sequence[str]) -> list[str]:
  """The options that are fields of the recipe, with `config.` in front of the name."""
  return [
    f'--config.{text[2:]}' if text.startswith('--') and not text.startswith('--config.') else text
    for text in rest
  ]


def recipes() -> list[str]:
  """Names of all recipes that train an encoder: those that no command has as its own."""
  of_commands = {command.recipe.partition(':')[0] for command in COMMANDS.values()}
  # Other files hold what recipes share.
  return sorted(
    path.stem
    for path in recipes_directory().glob('*.py')
    if path.stem not in of_commands
    and re.search(r'^def get_config\(arg\b', path.read_text(encoding='utf-8'), re.M)
  )


def locate(recipe: str) -> str:
  """The path of a recipe, with its options, by its name or its path.

  Raises:
    ConfigError: there is no recipe of that name.
  """
  name, _, _ = recipe.partition(':')
  if pathlib.Path(name).suffix == '.py':
    return recipe
  if name not in recipes():
    arrays = recipe.endswith('.npz')
    if arrays or expanded(recipe).is_dir():
      raise ConfigError(
        f"'{recipe}' is a {'file' if arrays else 'folder'} and no recipe: images are named behind "
        f"one, as in 'byol:{'npz' if arrays else 'folder_small'} --data.dir={recipe}'."
      )
    raise ConfigError(
      f"there is no recipe '{name}': there are {', '.join(recipes())}, or the path of a file"
      f'{did_you_mean(name, recipes())}'
    )
  return _path(recipe)


def own_recipe(command: Command, options: str = '') -> str:
  """The path of the recipe that a command has as its own, with options of its own and others."""
  joint = ',' if ':' in command.recipe else ':'
  return _path(command.recipe + (options and f'{joint}{options}'))


def _path(recipe: str) -> str:
  name, colon, options = recipe.partition(':')
  return f'{recipes_directory() / name}.py{colon}{options}'


def completion(shell: str) -> str:
  """A script that completes commands, options, recipes' names, directories and files."""
  import shtab

  names = ' '.join(recipes())
  preambles = {
    'bash': f'_byoljax_recipes() {{ compgen -W "{names}" -- "$1"; }}',
    'zsh': f'_byoljax_recipes() {{ compadd {names} }}',
  }
  return shtab.complete(parser(), shell, preamble=preambles[shell])


def _print_recipes(options: argparse.Namespace) -> int:
  del options
  print('\n'.join(recipes()))
  return 0


def _print_completion(options: argparse.Namespace) -> int:
  print(completion(options.shell))
  return 0


# The commands about this command line itself stand here, all others in `byoljax.tasks`.
COMMANDS = tasks.COMMANDS | {
  'recipes': Command('recipes', 'list the recipes', _print_recipes, ()),
  'completion': Command(
    'completion', 'print a script for your shell to complete names', _print_completion, (),
    add_flags=lambda parser: parser.add_argument('shell', choices=('bash', 'zsh')),
  ),
}  # fmt: skip

# What shells complete an argument with; the names are shtab's own, apart from the first.
_COMPLETED = {
  'recipe': {'bash': '_byoljax_recipes', 'zsh': '_byoljax_recipes'},
  'directory': {'bash': '_shtab_compgen_dirs', 'zsh': '_files -/'},
  'file': {'bash': '_shtab_compgen_files', 'zsh': '_files'},
}


def parser() -> flags.Parser:
  """The parser of all commands; fields of configurations are left over by it."""
  made = flags.Parser(
    prog='byoljax',
    description='Self-supervised pretraining and evaluation of image encoders in JAX.',
    epilog=_EPILOG,
  )
  made.add_argument('--version', action='version', version=f'byoljax {__version__}')
  commands = made.add_subparsers(dest='command', required=True, metavar='COMMAND')
  for command in COMMANDS.values():
    sub = commands.add_parser(
      command.name,
      help=command.help,
      description=f'{_capitalized(command.help)}.',
    )
    if _has_fields(command):
      sub.more_help = functools.partial(_about_fields, command)
    for argument in command.arguments:
      _add_argument(sub, argument)
    if command.task:
      flags.add_run_flags(sub, command.workdir)
    if command.add_flags:
      command.add_flags(sub)
    for flag, (_, _, text) in command.switches.items():
      sub.add_argument(flag, action='store_true', help=text)
  return made


def _capitalized(text: str) -> str:
  return text if text.startswith('k-NN') else text[0].upper() + text[1:]


def _about_fields(command: Command) -> str:
  if not command.recipe:
    return 'Any field of the recipe is an option: --name=value. --print_config lists them.'
  fields = own_fields.table(own_recipe(command), ('task', 'log', command.field))
  names = ' '.join(['byoljax', command.name, *(one.usage() for one in command.arguments)])
  return f'fields, with their values by default (all: {names} --print_config):\n{fields}'


def _add_argument(parser: argparse.ArgumentParser, argument: Argument) -> None:
  added = parser.add_argument(
    argument.metavar.lower(),
    metavar=argument.metavar,
    help=argument.help,
    nargs='+' if argument.many else None if argument.default is None else '?',
    default=argument.default,
  )
  if argument.kind in _COMPLETED:
    added.complete = _COMPLETED[argument.kind]  # type: ignore[attr-defined]


def table() -> str:
  """All commands as a table in Markdown, for the documentation."""
  rows = ['| command | what it does |', '|---|---|']
  for command in COMMANDS.values():
    names = (argument.usage() for argument in command.arguments)
    rows.append(f'| `{" ".join(["byoljax", command.name, *names])}` | {command.help} |')
  return '\n'.join(rows)
