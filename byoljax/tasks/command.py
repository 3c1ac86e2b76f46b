"""What a command of `byoljax` is.

Each module of `byoljax.tasks` with a command defines it as `COMMAND`. All of them are imported for
`byoljax --help`: they import JAX, and everything that does, inside of their functions.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Argument(NamedTuple):
  """What is named behind a command.

  Attributes:
    metavar: its name in the help; in lower case, of the parsed options' attribute.
    kind: what shells complete it with: 'recipe', 'directory', 'file', or
      nothing for a 'name'.
    help: a few words.
    many: whether there may be several; the attribute is then a list.
    default: what stands for one that is left out; None: it must be there.
  """

  metavar: str
  kind: str
  help: str = ''
  many: bool = False
  default: str | None = None

  def usage(self) -> str:
    """'RUN', 'RUN ...' or '[DIR]'."""
    name = self.metavar + ' ...' * self.many
    return name if self.default is None else f'[{name}]'


RECIPE = Argument('RECIPE', 'recipe', 'a name with its options, such as byol:cifar10, or a file')
RUN = Argument('RUN', 'directory', "a run's directory, or one of its checkpoints/<step>")


class Command(NamedTuple):
  """A command: `byoljax NAME ARGUMENTS`.

  A command with a `task` runs a configuration whose field `task` says so; every field is then an
  option, and `python -m byoljax.main --config=...` does the same. A command without one has nothing
  but its own flags.

  Attributes:
    name: what is typed.
    help: one line.
    run: with a task, (config, invocation) -> exit status; without, (options) -> exit status. Where
      a `RECIPE` is an argument, options have its place as `config` and its changed fields as
      `overrides`, too.
    arguments: what is named behind the command.
    task: the value of the configuration's field `task`.
    recipe: the configuration's file in `configs/`, without suffix, with its options; empty where
      an argument names it.
    field: the field of the configuration that the argument sets; empty where it is the recipe.
    overrides: (field, text): what else the command sets.
    workdir: where a command with a task writes without `--workdir`, as its help says.
    add_flags: adds flags of its own to a parser.
    switches: flag without a value -> (field, text) that it sets, and its help.
    endless: whether it runs until it is stopped: nothing is said of how long it takes.
  """

  name: str
  help: str
  run: Callable[..., int]
  arguments: tuple[Argument, ...] = (RUN,)
  task: str = ''
  recipe: str = ''
  field: str = ''
  overrides: tuple[tuple[str, str], ...] = ()
  workdir: str = 'RUN/evals/<evaluation>'
  add_flags: Callable[[argparse.ArgumentParser], object] | None = None
  switches: Mapping[str, tuple[str, str, str]] = {}
  endless: bool = False
