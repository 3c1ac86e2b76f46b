"""A run's directory: opening it, what lies in it, and what the person at the terminal is told.

config.json      the resolved configuration, recipe, versions; written once, compared on resume
run.log          everything that was said, with times
checkpoints/     see `byoljax.checkpoint`
metrics.jsonl    see `byoljax.metrics`
results.json     the final evaluation with its protocol
evals/           later evaluations, one directory each
"""

from collections.abc import Mapping
import json
import logging
import os
import pathlib
from typing import Any, NamedTuple

import byoljax
from byoljax import checkpoint, parallel
from byoljax import config as config_lib
from byoljax.config import Config, ConfigError
from byoljax.data.source import Source

log = logging.getLogger('byoljax')


class Invocation(NamedTuple):
  """How a task was called.

  Attributes:
    recipe: the configuration's file and argument, 'configs/byol.py:cifar10'.
    workdir: where to write; empty for a place that follows from the recipe.
  """

  recipe: str
  workdir: str


def open_workdir(
  workdir: pathlib.Path, config: Config, invocation: Invocation, source: Source
) -> None:
  """Makes the directory, or checks that what lies there is this very run.

  Raises:
    ConfigError: the directory cannot be written, or belongs to another run.
  """
  path = workdir / 'config.json'
  if path.exists():
    changed = config_lib.differences(run_config(workdir), config)
    stored = json.loads(path.read_text()).get('data_fingerprint', source.fingerprint)
    if stored != source.fingerprint:
      changed.append(f'the images of {source.name} are not those that the run was started with')
    if changed:
      raise ConfigError(
        f"'{workdir}' holds a run with another configuration:\n  "
        + '\n  '.join(changed)
        + '\nChoose another --workdir, or set these fields back to go on with it.'
      )
    return
  if not parallel.is_first_process():
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(
      path,
      {
        'recipe': invocation.recipe,
        'config': json.loads(config_lib.to_json(config)),
        'data_fingerprint': source.fingerprint,
        'byoljax': byoljax.__version__,
        'versions': checkpoint.versions(),
      },
    )
  except OSError as error:
    raise ConfigError(f"--workdir='{workdir}' cannot be written: {error.strerror}.") from error


def write_result(
  path: pathlib.Path,
  result: Mapping[str, Any],
  config: Config,
  directory: pathlib.Path,
  *,
  step: int | None = None,
) -> None:
  """One JSON with the numbers and everything they depend on.

  Args:
    path: the file.
    result: numbers.
    config: what was asked for.
    directory: the checkpoint that was evaluated.
    step: its step; `read_result` compares it.
  """
  if not parallel.is_first_process():
    return
  with config_lib.user_errors():
    path.parent.mkdir(parents=True, exist_ok=True)
  checkpoint.write_json(
    path,
    {
      'result': result,
      'checkpoint': str(directory),
      'step': step,
      'config': json.loads(config_lib.to_json(config)),
      'versions': checkpoint.versions(),
    },
  )


def read_result(path: pathlib.Path, step: int) -> dict[str, Any] | None:
  """The numbers that `write_result` stored for this step; None when there are none."""
  try:
    stored = json.loads(path.read_text())
  except (OSError, ValueError):
    return None
  return stored['result'] if stored.get('step') == step else None


def default_workdir(recipe: str) -> str:
  """Where a recipe's run goes when nothing else is said: runs/byol-cifar10."""
  path, _, arg = recipe.partition(':')
  return os.path.join('runs', '-'.join([pathlib.Path(path).stem, *filter(None, arg.split(','))]))


def evals_dir(directory: pathlib.Path) -> pathlib.Path:
  """Where the evaluations of a checkpoint go: beside the run that it belongs to."""
  return directory.parent.parent / 'evals'


def say(text: str) -> None:
  """For the person at the terminal, and for the run's log."""
  if parallel.is_first_process():
    print(text, flush=True)
  log.info('%s', text)


def log_to(path: pathlib.Path) -> None:
  """Also writes everything that is said, and more, to a file."""
  if not parallel.is_first_process():
    return
  for old in list(log.handlers):
    log.removeHandler(old)
    old.close()
  handler = logging.FileHandler(path)
  handler.setFormatter(logging.Formatter('%(asctime)s %(message)s'))
  log.addHandler(handler)
  log.setLevel(logging.INFO)
  log.propagate = False


def run_config(workdir: pathlib.Path) -> Config:
  """The configuration that a run was started with.

  Raises:
    ConfigError: the directory has no readable config.json.
  """
  path = workdir / 'config.json'
  try:
    return config_lib.from_json(json.loads(path.read_text())['config'])
  except (OSError, ValueError, KeyError) as error:
    raise ConfigError(
      f"'{path}' cannot be read ({error}), but a checkpoint is loaded with its run's configuration."
    ) from error
