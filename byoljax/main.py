"""The command line: python -m byoljax.main --config=configs/byol.py [--workdir=runs/byol]."""

import argparse
from collections.abc import Sequence
import contextlib
import json
import logging
import os
import pathlib
import sys

from byoljax.devices import stop

if __name__ == '__main__':
  stop.end_at_signals()  # The imports take a while, too.

from byoljax import config as config_lib  # noqa: E402
from byoljax import flags, tasks  # noqa: E402
from byoljax.config import Config, ConfigError  # noqa: E402
from byoljax.devices import processes  # noqa: E402
from byoljax.tasks import extension  # noqa: E402
from byoljax.version import __version__  # noqa: E402

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


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the task that a configuration names; returns an exit status, see `flags.exit_status`."""
  given = list(sys.argv[1:] if arguments is None else arguments)
  return flags.exit_status(lambda: run(*parse(given)))


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, flags.Overrides]:
  """Parses a command line into its flags and the fields of the configuration that it sets.

  Raises:
    ConfigError: an unknown flag, a field without a value, or no configuration.
  """
  overrides, rest = flags.split_overrides(arguments)
  options = _parser().parse_all(rest)
  if not options.config:
    raise ConfigError('--config is missing: name a recipe, such as configs/byol.py.')
  return options, overrides


def run(options: argparse.Namespace, overrides: flags.Overrides) -> int:
  """Loads a configuration and runs its task.

  Args:
    options: `config` and the flags of `flags.add_run_flags`.
    overrides: (dotted field, text) pairs.

  Raises:
    ConfigError: a mistake of the user's.
  """
  config = config_lib.load(options.config, overrides)
  if options.print_config:
    print(config_lib.describe(config))
    return 0
  if 'task' not in config:
    raise ConfigError(f"{options.config} has no field 'task' that says what to do.")
  task = config_lib.choose('task', config.task, tasks.TASKS)
  words = {name: getattr(options, name, False) for name in ('extend', 'new_images')}
  if any(words.values()) and config.task != 'pretrain':
    raise ConfigError(
      f"--extend and --new_images are for pretraining, and task='{config.task}' is none: leave "
      'them out.'
    )
  workdir = config_lib.path_of('workdir', options.workdir)
  set_verbosity(config.log.verbose)
  # JAX is imported only now: a mistake in the configuration is answered at once.
  from byoljax.devices import hosts, xla
  from byoljax.workdir import activity, run_dir

  xla.set_defaults()
  xla.keep_programs()
  with (
    run_dir.opening(f'byoljax {__version__} on {_devices(config, options)}'),
    activity.watching(f'{config.task}: working')
    if hosts.is_first_process()
    else contextlib.nullcontext(),
  ):
    return task(config, run_dir.Invocation(options.config, workdir, **words))


def _devices(config: Config, options: argparse.Namespace) -> str:
  """Joins the other processes, if there are any; returns what all of them compute on."""
  from byoljax.devices import backend

  launch = flags.launch_of(options)
  note = processes.launcher_hint(dict(os.environ)) if launch == processes.Launch() else ''
  if note:
    print(note, file=sys.stderr)
  with config_lib.user_errors(), backend.warnings_of_jax() as warnings:
    backend.require_usual_switches()
    processes.join(launch, _common(config, options))
    return backend.describe(warnings)


def _common(config: Config, options: argparse.Namespace) -> str:
  """What has to be the same for all processes; paths may lead to the same place in many ways."""
  fields = json.loads(config_lib.to_json(config))
  for name in ('dir', 'threads'):
    fields.get('data', {}).pop(name, None)
  words = [getattr(options, name, False) for name in ('extend', 'new_images')]
  return json.dumps([fields, pathlib.Path(options.workdir).name, words], sort_keys=True)


def _parser() -> flags.Parser:
  parser = flags.Parser(
    prog='python -m byoljax.main',
    description='Self-supervised pretraining and evaluation of image encoders in JAX.',
    epilog=_EPILOG,
  )
  parser.add_argument('--config', default='', metavar='FILE[:ARG]', help='the recipe to run')
  flags.add_run_flags(parser)
  extension.add_flags(parser)
  parser.add_argument('--version', action='version', version=f'byoljax {__version__}')
  return parser


def set_verbosity(verbose: bool) -> None:
  """Silences the libraries' start-up messages unless they were asked for."""
  if verbose:
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '0'
    logging.basicConfig(level=logging.INFO)
    return
  for name in ('absl', 'jax', 'orbax', 'tensorstore'):
    if name != 'jax' or not any(switch in os.environ for switch in _JAX_IS_TO_SPEAK):
      logging.getLogger(name).setLevel(logging.ERROR)


# Variables by which a person asks JAX to log.
_JAX_IS_TO_SPEAK = (
  'JAX_LOGGING_LEVEL', 'JAX_DEBUG_LOG_MODULES', 'JAX_LOG_COMPILES', 'JAX_EXPLAIN_CACHE_MISSES',
  'JAX_LOG_CHECKPOINT_RESIDUALS',
)  # fmt: skip


if __name__ == '__main__':
  stop.run_program(main)
