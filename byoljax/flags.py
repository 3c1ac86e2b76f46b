"""What all command lines share: one parser, fields of a configuration as options, exit statuses."""

import argparse
from collections.abc import Callable, Sequence
import contextlib
import errno
import os
import sys
from typing import Any

from byoljax.config import ConfigError
from byoljax.devices import processes, stop
from byoljax.suggest import did_you_mean

Overrides = list[tuple[str, str]]
# Full, over a quota or a limit, read-only, broken, gone: nothing that a traceback would explain.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
_NOBODY_READS = 128 + 13  # As shells say where SIGPIPE ended a program.


class Parser(argparse.ArgumentParser):
  """A parser that answers a mistake with a `ConfigError` of one sentence."""

  # What the help ends with, made only when it is asked for.
  more_help: Callable[[], str] = str

  def __init__(self, **settings: Any):
    super().__init__(allow_abbrev=False, formatter_class=_formatter, **settings)

  def format_help(self) -> str:
    """The help of argparse and `more_help`."""
    more = self.more_help()
    return super().format_help() + (f'\n{more}\n' if more else '')

  def error(self, message: str) -> Any:
    """Raises what `argparse` has to say."""
    raise ConfigError(f'{message}; see {self.prog} --help.')

  def flags(self) -> list[str]:
    """What may be given by name: '--workdir', ..."""
    return [name for action in self._actions for name in action.option_strings]

  def of(self, command: str) -> 'Parser':
    """The parser of a command."""
    assert self._subparsers is not None
    (commands,) = self._subparsers._group_actions
    return commands.choices[command]  # type: ignore[index, return-value]

  def parse_all(self, arguments: Sequence[str]) -> argparse.Namespace:
    """Parses arguments of which none may be left over.

    Raises:
      ConfigError: one is unknown; the closest flag is named.
    """
    options, unknown = self.parse_known_args(arguments)
    if unknown:
      names = [name for action in self._actions for name in action.option_strings[-1:]]
      hint = did_you_mean(unknown[0].partition('=')[0], names) or f'; see {self.prog} --help.'
      raise ConfigError(f"unknown argument '{unknown[0]}'{hint}")
    return options


def _formatter(prog: str) -> argparse.HelpFormatter:
  return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32)


def split_overrides(arguments: Sequence[str]) -> tuple[Overrides, list[str]]:
  """Separates --config.field=value (or --config.field value) from everything else.

  Returns:
    (dotted field, text) pairs in order, and the rest.

  Raises:
    ConfigError: a field without a value.
  """
  overrides, rest = [], []
  remaining = iter(arguments)
  for argument in remaining:
    if not argument.startswith('--config.'):
      rest.append(argument)
      continue
    name, equals, text = argument.removeprefix('--config.').partition('=')
    if not equals:
      text = next(remaining, '--')
      if text.startswith('--'):
        raise ConfigError(f'--config.{name} has no value: write --config.{name}=VALUE.')
    overrides.append((name, text))
  return overrides, rest


def add_run_flags(parser: argparse.ArgumentParser, workdir: str = 'runs/<recipe>') -> None:
  """Adds the flags of everything that runs a configuration.

  Args:
    parser: gets them.
    workdir: where results go without `--workdir`, for the help.
  """
  parser.add_argument('--workdir', default='', help=f'where to write (default: {workdir})')
  parser.add_argument('--print_config', action='store_true', help='show all fields and stop')
  several = parser.add_argument_group('several processes as one run (docs/pods.md)')
  several.add_argument(
    '--distributed', choices=processes.MODES, default='off',
    help='auto: ask Slurm, Open MPI, Kubernetes or the TPU',
  )  # fmt: skip
  several.add_argument('--coordinator_address', metavar='HOST:PORT', help='address of process 0')
  several.add_argument('--num_processes', type=int, metavar='N', help='number of processes')
  several.add_argument('--process_id', type=int, metavar='I', help='index of this process, from 0')
  several.add_argument(
    '--wait_for_processes', type=float, default=300.0, metavar='SECONDS',
    help='how long to wait for the others (default: 300)',
  )  # fmt: skip


def launch_of(options: argparse.Namespace) -> processes.Launch:
  """What the flags say about other processes."""
  return processes.Launch(
    options.distributed,
    options.coordinator_address,
    options.num_processes,
    options.process_id,
    options.wait_for_processes,
  )


def exit_status(program: Callable[[], int]) -> int:
  """Runs a program; what a user can mend becomes a sentence on standard error.

  One of several processes that ends with an error does not return, but ends here: JAX would keep
  it waiting for the others.

  Returns:
    What the program returns; 2 for a user's mistake, 3 for a loss that diverged, 4 for a disk that
    takes no more, 5 for other processes that are missing or gone, 75 for a request to stop, 130 for
    Ctrl-C, 141 for output that nobody reads.
  """
  try:
    status = _caught(program)
  except Exception:
    if not processes.is_multiprocess():
      raise
    status = processes.report_failure()
  processes.leave(status)
  return status


def _caught(program: Callable[[], int]) -> int:
  try:
    return program()
  except ConfigError as error:
    return _report(error, 2)
  except FloatingPointError as error:
    return _report(error, 3)
  except processes.MissingError as error:
    return _report(error, processes.STATUS)
  except BrokenPipeError:  # `byoljax runs | head`: nobody reads on, and nothing is wrong.
    with contextlib.suppress(OSError, ValueError):
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _NOBODY_READS
  except OSError as error:
    if error.errno not in _DISK:
      raise
    where = f" ('{error.filename}')" if error.filename else ''
    return _report(f'{error.strerror}{where}.', 4)
  except stop.Stopped as stopped:
    return stopped.status
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    return stop.INTERRUPTED


def _report(error: object, status: int) -> int:
  print(f'{processes.prefix()}error: {error}', file=sys.stderr)
  return status
