"""The command `byoljax`: what `python -m byoljax.main` does, by name, from anywhere.

    byoljax pretrain byol:cifar10 --train.length='100 epochs'
    byoljax linear runs/byol-cifar10
    byoljax linear:simclr runs/byol-cifar10

A subcommand is a recipe of `configs/` with its most important field as an argument. Every other
field is an option, with or without `config.` in front of its name. The recipes are installed with
the package, so no clone is needed; a path to a recipe of one's own works as well.
"""

import argparse
from collections.abc import Sequence
import pathlib
import sys
from typing import NamedTuple

from byoljax import config as config_lib
from byoljax import main
from byoljax.plan import command as plan
from byoljax.suggest import did_you_mean
from byoljax.version import __version__


class Command(NamedTuple):
  """A subcommand.

  Attributes:
    help: one line.
    recipe: the configuration's file name without suffix, with its options; empty where the
      argument names it.
    argument: what is named behind the command, for the help.
    field: of the configuration, that the argument sets; empty where it is the recipe.
    overrides: fields with values that the command stands for.
  """

  help: str
  recipe: str
  argument: str
  field: str = ''
  overrides: tuple[str, ...] = ()


COMMANDS = {
  'pretrain': Command('train an encoder without labels', '', 'RECIPE'),
  'views': Command("look at a recipe's augmentations", '', 'RECIPE',
                   overrides=('--config.task=views',)),
  'bench': Command('time the input and the step of a recipe here', '', 'RECIPE',
                   overrides=('--config.task=bench',)),
  'knn': Command('k-NN evaluation of a run', 'knn', 'RUN', 'pretrained'),
  'linear': Command('linear evaluation of a run', 'linear', 'RUN', 'pretrained'),
  'finetune': Command('fine-tune the encoder, and train it from scratch', 'finetune', 'RUN',
                      'pretrained'),
  'transfer': Command('one encoder on many data sets', 'transfer', 'RUN', 'pretrained'),
  'logistic': Command('logistic regression on frozen features', 'frozen:logistic', 'RUN',
                      'pretrained'),
  'few-labels': Command('the same with a few labels', 'frozen:few_labels', 'RUN', 'pretrained'),
  'anomaly': Command('one class against the rest, AUROC', 'frozen:anomaly', 'RUN', 'pretrained'),
  'layers': Command('k-NN layer by layer, from pixels to prediction', 'taps:layers', 'RUN',
                    'pretrained'),
  'hypersphere': Command('alignment and uniformity', 'taps:hypersphere', 'RUN', 'pretrained'),
  'collapse': Command('rank, spread and spectrum of the features', 'taps:collapse', 'RUN',
                      'pretrained'),
  'embed': Command('features of a whole data set in files', 'embed', 'RUN', 'pretrained'),
  'export': Command('write an encoder for other libraries', 'export', 'RUN', 'pretrained'),
  'import': Command("make a run of another library's weights", 'import_weights', 'FILE', 'file'),
}  # fmt: skip
# Recipes that are not trained, and what recipes are made of.
_NOT_TRAINED = ('base', 'scales', 'knn', 'linear', 'finetune', 'transfer', 'frozen', 'taps',
                'embed', 'export', 'import_weights')  # fmt: skip

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
  byoljax embed runs/mine --data.name=folder --data.dir=photos --workdir runs/index
  byoljax search runs/index holiday.jpg
  byoljax report runs/mine
  byoljax compare runs/mine runs/other --out comparison
  byoljax plan byol:imagenet,1000 --topology v5e:4x4
  byoljax bench byol:cifar10 --bench.steps=5

Every field of a recipe is an option: `byoljax pretrain byol --print_config` lists them.
Completion: eval "$(byoljax completion bash)", or zsh.
"""


def run(arguments: Sequence[str] | None = None) -> int:
  """Runs a subcommand; returns the exit status of `main.main`."""
  arguments = list(sys.argv[1:] if arguments is None else arguments)
  try:
    arguments[:1], protocol = _named(arguments[:1])
    options, rest = _parser().parse_known_args(arguments)
    if rest and options.command not in (*COMMANDS, 'plan'):
      raise config_lib.ConfigError(f"unknown argument '{rest[0]}'; see byoljax --help.")
    if options.command == 'recipes':
      print('\n'.join(recipes()))
      return 0
    if options.command == 'compare':
      from byoljax.report import compare

      with config_lib.user_errors():
        compare.run(options.runs, options.out)
      return 0
    if options.command == 'report':
      from byoljax.report import contents

      contents.run_report(options.run)
      return 0
    if options.command == 'plan':
      options.config = _located(options.argument)
      overrides, unknown = main.split_overrides(_prefixed(rest))
      if unknown:
        raise config_lib.ConfigError(f"unknown argument '{unknown[0]}'; see byoljax plan --help.")
      plan.run(options, overrides)
      return 0
    if options.command == 'search':
      from byoljax.tasks import search

      search.run(options.embeddings, options.images, options.out, options.count)
      return 0
    if options.command == 'completion':
      print(completion(options.shell))
      return 0
    return main.main(_as_main(_with_options(options.command, protocol), options, rest))
  except config_lib.ConfigError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2


def _named(first: list[str]) -> tuple[list[str], str]:
  """'linear:simclr' -> the command and the options of its recipe."""
  name, colon, options = first[0].partition(':') if first else ('', '', '')
  if not colon or name not in COMMANDS:
    return first, ''
  if not COMMANDS[name].recipe:
    raise config_lib.ConfigError(
      f"'{first[0]}': options of a recipe stand behind its name, as in "
      f"'byoljax {name} byol:{options}'."
    )
  return [name], options


def _with_options(name: str, options: str) -> Command:
  """The command, its recipe called with further options."""
  command = COMMANDS[name]
  if not options:
    return command
  joint = ',' if ':' in command.recipe else ':'
  return command._replace(recipe=f'{command.recipe}{joint}{options}')


def recipes_directory() -> pathlib.Path:
  """Where the recipes lie: in the installed package, else beside it in a clone."""
  package = pathlib.Path(__file__).parent
  inside = package / 'configs'
  return inside if inside.is_dir() else package.parent / 'configs'


def recipes() -> list[str]:
  """Names of all recipes that train something."""
  names = (path.stem for path in recipes_directory().glob('[!_]*.py'))
  return sorted(set(names) - set(_NOT_TRAINED))


def completion(shell: str) -> str:
  """A script that completes commands, options, recipes' names, directories and files."""
  import shtab

  names = ' '.join(recipes())
  preambles = {
    'bash': f'_byoljax_recipes() {{ compgen -W "{names}" -- "$1"; }}',
    'zsh': f'_byoljax_recipes() {{ compadd {names} }}',
  }
  return shtab.complete(_parser(), shell, preamble=preambles[shell])


def _as_main(command: Command, options: argparse.Namespace, rest: Sequence[str]) -> list[str]:
  """The same as arguments of `main.main`."""
  name, colon, arg = command.recipe.partition(':')
  own_recipe = f'{recipes_directory() / name}.py{colon}{arg}'
  recipe = own_recipe if command.recipe else _located(options.argument)
  arguments = [f'--config={recipe}', *command.overrides]
  if command.field:
    arguments.append(f'--config.{command.field}={options.argument}')
  if options.workdir:
    arguments.append(f'--workdir={options.workdir}')
  if options.print_config:
    arguments.append('--print_config')
  return arguments + _prefixed(rest)


def _prefixed(rest: Sequence[str]) -> list[str]:
  """The options that are fields of the recipe, with `config.` in front of the name."""
  arguments = []
  for text in rest:
    own = text.startswith('--') and not text.startswith(('--config.', *_MAIN_FLAGS))
    arguments.append(f'--config.{text[2:]}' if own else text)
  return arguments


_MAIN_FLAGS = ('--distributed', '--coordinator_address', '--num_processes', '--process_id',
               '--wait_for_processes')  # fmt: skip


def _located(recipe: str) -> str:
  """The recipe's path with its options."""
  name, colon, options = recipe.partition(':')
  path = pathlib.Path(name)
  if path.suffix != '.py':
    path = recipes_directory() / f'{name}.py'
    if name not in recipes():
      raise config_lib.ConfigError(
        f"there is no recipe '{name}': there are {', '.join(recipes())}, or the path of a file"
        f'{did_you_mean(name, recipes())}'
      )
  return f'{path}{colon}{options}'


# What shells complete an argument with; the names are shtab's own, apart from the first.
_COMPLETED = {
  'RECIPE': {'bash': '_byoljax_recipes', 'zsh': '_byoljax_recipes'},
  'RUN': {'bash': '_shtab_compgen_dirs', 'zsh': '_files -/'},
  'FILE': {'bash': '_shtab_compgen_files', 'zsh': '_files'},
}


class _Parser(argparse.ArgumentParser):
  """Answers a mistake in one sentence, like the rest of the program."""

  def error(self, message: str) -> None:  # type: ignore[override]
    raise config_lib.ConfigError(f'{message}; see byoljax --help.')


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    prog='byoljax',
    description='Self-supervised pretraining and evaluation of image encoders in JAX.',
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('--version', action='version', version=f'byoljax {__version__}')
  commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
  for name, command in COMMANDS.items():
    sub = commands.add_parser(
      name,
      help=command.help,
      description=f'{command.help[0].upper()}{command.help[1:]}.',
      epilog='Any field of the configuration is an option: --name=value.',
      allow_abbrev=False,
    )
    argument = sub.add_argument('argument', metavar=command.argument)
    argument.complete = _COMPLETED[command.argument]  # type: ignore[attr-defined]
    sub.add_argument('--workdir', default='', help='where to write')
    sub.add_argument('--print_config', action='store_true', help='show all fields and stop')
  compare = commands.add_parser('compare', help='several runs in one table and one plot')
  runs = compare.add_argument('runs', nargs='+', metavar='RUN', help='directories of finished runs')
  runs.complete = _COMPLETED['RUN']  # type: ignore[attr-defined]
  compare.add_argument('--out', default='', help='folder for table.md, table.csv and scores.png')
  report = commands.add_parser('report', help='one HTML page about a run')
  run = report.add_argument('run', metavar='RUN', help='directory of a run with a checkpoint')
  run.complete = _COMPLETED['RUN']  # type: ignore[attr-defined]
  planned = commands.add_parser(
    'plan', help='memory, time and traffic of a recipe on hardware that is not there'
  )
  argument = planned.add_argument('argument', metavar='RECIPE')
  argument.complete = _COMPLETED['RECIPE']  # type: ignore[attr-defined]
  plan.add_flags(planned)
  search = commands.add_parser('search', help='find the nearest images of an image')
  folder = search.add_argument('embeddings', metavar='EMBEDDINGS', help='folder of byoljax embed')
  folder.complete = _COMPLETED['RUN']  # type: ignore[attr-defined]
  images = search.add_argument('images', nargs='+', metavar='IMAGE', help='files to look for')
  images.complete = _COMPLETED['FILE']  # type: ignore[attr-defined]
  search.add_argument('--out', default='found.png', help='the contact sheet (default: found.png)')
  search.add_argument('--count', type=int, default=8, help='images per query (default: 8)')
  commands.add_parser('recipes', help='list the recipes')
  shell = commands.add_parser('completion', help='print a script for your shell to complete names')
  shell.add_argument('shell', choices=('bash', 'zsh'))
  return parser


if __name__ == '__main__':
  sys.exit(run())
