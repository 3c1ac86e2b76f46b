"""The command line: python -m byoljax.main --config=configs/byol.py [--workdir=runs/byol]."""

import argparse
from collections.abc import Sequence
import errno
import json
import logging
import os
import pathlib
import sys

from byoljax import config as config_lib
from byoljax.devices import processes
from byoljax.suggest import did_you_mean
from byoljax.version import __version__

_EPILOG = """\
Every field of a configuration can be set, as in --config.train.length='5 epochs'.
--print_config lists the fields with their values. The part after a ':' chooses a preset:

  --config=configs/byol.py                 BYOL on the built-in images, minutes on a CPU
  --config=configs/byol.py:cifar10         ResNet-18 on CIFAR-10
                                           also: imagenette  imagenet,300  folder  npz  smoke
  --config=configs/linear.py --config.pretrained=runs/byol
  --config=configs/knn.py --config.pretrained=runs/byol
  --config=configs/byol.py --config.task=views     only a contact sheet of the augmented views

Starting a run again in the same --workdir resumes it where it stopped.

Several processes are one run with --distributed=auto under Slurm, Open MPI, Kubernetes or on a TPU,
or with --coordinator_address, --num_processes and --process_id; see docs/pods.md.
"""


# Full, over its quota, read-only, broken, gone: nothing that a traceback would explain.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a task; returns the exit status.

  One of several processes that ends with an error does not return, but ends here: JAX would keep
  it waiting for the others.

  Returns:
    0; 2 for a user's mistake, 3 for a loss that diverged, 4 for a disk that takes no more, 5 for
    other processes that are missing or gone.
  """
  try:
    status = _main(list(sys.argv[1:] if arguments is None else arguments))
  except Exception:
    if not processes.are_several():
      raise
    status = processes.failed()
  processes.leave(status)
  return status


def _main(arguments: list[str]) -> int:
  try:
    overrides, rest = split_overrides(arguments)
    options = _parse(rest)
    config = config_lib.load(options.config, overrides)
    if options.print_config:
      print(config_lib.describe(config))
      return 0
    return _run(config, options)
  except config_lib.ConfigError as error:
    return _say_error(error, 2)
  except FloatingPointError as error:
    return _say_error(error, 3)
  except processes.MissingError as error:
    return _say_error(error, processes.STATUS)
  except OSError as error:
    if error.errno not in _DISK:
      raise
    where = f" ('{error.filename}')" if error.filename else ''
    return _say_error(f'{error.strerror}{where}.', 4)
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    return 130


def _say_error(error: object, status: int) -> int:
  print(f'{processes.prefix()}error: {error}', file=sys.stderr)
  return status


def _run(config: config_lib.Config, options: argparse.Namespace) -> int:
  """Imports the rest only now: a mistake in the configuration is answered at once."""
  if 'task' not in config:
    raise config_lib.ConfigError(f"{options.config} has no field 'task' that says what to do.")
  _set_verbosity(config.log.verbose)
  from byoljax.devices import program_cache, xla
  from byoljax.tasks import pretrain

  xla.set_defaults()
  program_cache.enable()
  launch = launch_of(options)
  note = processes.note_of_launcher(dict(os.environ)) if launch == processes.Launch() else ''
  if note:
    print(note, file=sys.stderr)
  with config_lib.user_errors():
    processes.join(launch, _common(config, options))
  task = config_lib.choose('task', config.task, pretrain.TASKS)
  return task(config, pretrain.Invocation(options.config, options.workdir))


def launch_of(options: argparse.Namespace) -> processes.Launch:
  """What the flags say about other processes."""
  return processes.Launch(
    options.distributed,
    options.coordinator_address,
    options.num_processes,
    options.process_id,
    options.wait_for_processes,
  )


def _common(config: config_lib.Config, options: argparse.Namespace) -> str:
  """What has to be the same for all processes; paths may lead to the same place in many ways."""
  fields = json.loads(config_lib.to_json(config))
  for name in ('dir', 'threads'):
    fields.get('data', {}).pop(name, None)
  return json.dumps([fields, pathlib.Path(options.workdir).name], sort_keys=True)


def split_overrides(arguments: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
  """Separates --config.field=value (or --config.field value) from everything else."""
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
        raise config_lib.ConfigError(f'--config.{name} has no value: write --config.{name}=VALUE.')
    overrides.append((name, text))
  return overrides, rest


def _parse(arguments: list[str]) -> argparse.Namespace:
  """Parses everything but the overrides."""
  parser = _parser()
  options, unknown = parser.parse_known_args(arguments)
  if unknown:
    flags = [action.option_strings[-1] for action in parser._actions]
    name = unknown[0].partition('=')[0]
    hint = did_you_mean(name, flags) or '; see --help.'
    raise config_lib.ConfigError(f"unknown argument '{unknown[0]}'{hint}")
  if not options.config:
    raise config_lib.ConfigError('--config is missing: name a recipe, such as configs/byol.py.')
  return options


class _Parser(argparse.ArgumentParser):
  """Answers a mistake in one sentence, like the rest of the program."""

  def error(self, message: str) -> None:  # type: ignore[override]
    raise config_lib.ConfigError(f'{message}; see --help.')


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    prog='python -m byoljax.main',
    description='Self-supervised pretraining and evaluation of image encoders in JAX.',
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('--config', default='', metavar='FILE[:ARG]', help='the recipe to run')
  parser.add_argument('--workdir', default='', help='where to write (default: runs/<recipe>)')
  parser.add_argument('--print_config', action='store_true', help='show all fields and stop')
  add_process_flags(parser)
  parser.add_argument('--version', action='version', version=f'byoljax {__version__}')
  return parser


def add_process_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that make several processes one run."""
  parser.add_argument(
    '--distributed', choices=processes.MODES, default='off',
    help='auto: as Slurm, Open MPI, Kubernetes or the TPU say',
  )  # fmt: skip
  parser.add_argument('--coordinator_address', metavar='HOST:PORT', help='several processes: where')
  parser.add_argument('--num_processes', type=int, help='several processes: how many')
  parser.add_argument('--process_id', type=int, help='several processes: which one this is')
  parser.add_argument(
    '--wait_for_processes', type=float, default=300.0, metavar='SECONDS',
    help='for the others to come (default: 300)',
  )  # fmt: skip


def _set_verbosity(verbose: bool) -> None:
  """Silences the libraries' start-up messages unless they were asked for."""
  if verbose:
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '0'
    logging.basicConfig(level=logging.INFO)
    return
  for name in ('absl', 'jax', 'orbax', 'tensorstore'):
    logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == '__main__':
  sys.exit(main())
