"""A run's directory: opening it, its files, and messages to the user.

config.json      the resolved configuration, recipe, versions; compared on resume, see `history`
run.log          all messages, with timestamps
checkpoints/     see `byoljax.workdir.checkpoint`
metrics.jsonl    see `byoljax.workdir.metrics`
results.json     the final evaluation with its protocol
lock             see `byoljax.workdir.lock`
evals/           later evaluations, one directory each
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import logging
import os
import pathlib
from typing import Any, NamedTuple

from byoljax import config as config_lib
from byoljax.config import Config, ConfigError
from byoljax.devices import hosts, processes
from byoljax.version import __version__, versions
from byoljax.workdir import activity, stored_config
from byoljax.workdir.files import opened, write_json

log = logging.getLogger('byoljax')


class Invocation(NamedTuple):
  """How a task was called.

  Attributes:
    recipe: the configuration's file and argument, 'configs/byol.py:cifar10'.
    workdir: output directory; empty for a default that depends on the recipe.
    extend: whether a run that is there goes on to another length, see `tasks.extension`.
    new_images: whether it may go on with other images.
  """

  recipe: str
  workdir: str
  extend: bool = False
  new_images: bool = False


def open_workdir(
  workdir: pathlib.Path,
  config: Config,
  invocation: Invocation,
  data: str,
  fingerprint: str,
  facts: Mapping[str, Any] | None = None,
) -> None:
  """Creates the directory, or checks that it belongs to this run.

  Args:
    workdir: the directory.
    config: of the run; compared with the stored one.
    invocation: how the run was called.
    data: name of the training images, for messages.
    fingerprint: of the training images; compared as well.
    facts: recorded with the configuration, for `run_facts`.

  Raises:
    ConfigError: the directory cannot be written, or belongs to another run; or processes differ.
  """
  weights = {name: _weights(found) for name, found in (facts or {}).get('given', {}).items()}
  if others := hosts.differing(json.dumps([config_lib.decisive(config), weights], sort_keys=True)):
    raise ConfigError(
      f'other settings or given networks in process {", ".join(map(str, others))} than in process '
      f'0: all must have the same.'
    )
  problem = ''
  if hosts.is_first_process():
    problem = _open(workdir, config, invocation, data, fingerprint, facts or {})
  if not hosts.all_agree(not problem):
    raise ConfigError(problem or f"the first process could not open '{workdir}'.")


def _open(
  workdir: pathlib.Path,
  config: Config,
  invocation: Invocation,
  data: str,
  fingerprint: str,
  facts: Mapping[str, Any],
) -> str:
  """Writes config.json, or compares it; returns an error message or ''."""
  path = workdir / 'config.json'
  if path.exists():
    try:
      record = stored_record(workdir)
      changed = config_lib.differences(run_config(workdir), config)
    except ConfigError as error:
      return str(error)
    if record.get('data_fingerprint', fingerprint) != fingerprint:
      changed.append(f'the images of {data} have changed since the run was started')
    changed += _other_networks(record.get('facts', {}), facts)
    if not changed:
      return ''
    return (
      f"'{workdir}' contains a run with another configuration:\n  "
      + '\n  '.join(changed)
      + '\nChoose another --workdir, or restore these fields to resume it.'
      + (_LONGER if changed[-1].startswith('train.length: ') else '')
      + ''.join(_DTYPE.format(line.split("'")[1]) for line in changed if line.startswith(_OF_DTYPE))
    )
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(
      path,
      {
        'recipe': invocation.recipe,
        'config': json.loads(config_lib.to_json(config)),
        'data_fingerprint': fingerprint,
        'facts': dict(facts),
        'byoljax': __version__,
        'versions': versions(),
      },
    )
  except OSError as error:
    return f"--workdir='{workdir}' cannot be written: {error.strerror}."
  return ''


def _other_networks(stored: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
  """What to say of networks that the run was given, and that are others now."""
  before, now = stored.get('given', {}), json.loads(json.dumps(facts.get('given', {})))
  return [
    f'{name}: its weights are others than when the run was started'
    for name, found in now.items()
    if name in before and _weights(before[name]) != _weights(found)
  ]


def _weights(recorded: Any) -> Any:
  return recorded['digest'] if isinstance(recorded, Mapping) else recorded


_LONGER = ' --extend goes on to a longer train.length.'
# The devices have chosen it, if nobody has.
_OF_DTYPE = "encoder.dtype: '"
_DTYPE = ' --encoder.dtype={} computes as the run began, on any device.'


def write_result(
  path: pathlib.Path,
  result: Mapping[str, Any],
  config: Config,
  directory: pathlib.Path | None,
  *,
  step: int | None = None,
) -> None:
  """Writes a JSON file with the numbers and everything they depend on.

  Args:
    path: the file.
    result: numbers.
    config: of the evaluation.
    directory: the evaluated checkpoint, where there is one.
    step: its step; `read_result` compares it.
  """
  if not hosts.is_first_process():
    return
  with config_lib.user_errors():
    path.parent.mkdir(parents=True, exist_ok=True)
  write_json(
    path,
    {
      'result': result,
      'checkpoint': str(directory or ''),
      'step': step,
      'config': json.loads(config_lib.to_json(config)),
      'versions': versions(),
    },
  )


def read_result(path: pathlib.Path, step: int) -> dict[str, Any] | None:
  """The numbers that `write_result` stored for this step; None if there are none."""
  try:
    with opened(path) as file:
      stored = json.load(file)
  except (OSError, ValueError):
    return None
  return stored['result'] if stored.get('step') == step else None


def default_workdir(recipe: str) -> str:
  """The default workdir of a recipe: runs/byol-cifar10."""
  path, _, arg = recipe.partition(':')
  return os.path.join('runs', '-'.join([pathlib.Path(path).stem, *filter(None, arg.split(','))]))


def evals_dir(directory: pathlib.Path) -> pathlib.Path:
  """The directory for evaluations of a checkpoint, in the workdir of its run."""
  return directory.parent.parent / 'evals'


_first: list[str] = []


@contextlib.contextmanager
def opening(text: str) -> Iterator[None]:
  """Says something before the first message of the block; nothing if an error is the first."""
  _first[:] = [text]
  try:
    yield
  finally:
    _first.clear()


def say(text: str) -> None:
  """Prints a message to the user and adds it to the run's log."""
  if _first:
    text = f'{_first.pop()}\n{text}'
  if hosts.is_first_process():
    activity.shown()
    before = processes.prefix()
    print('\n'.join(before + line if line else line for line in text.split('\n')), flush=True)
  log.info('%s', text)


def log_to(path: pathlib.Path) -> None:
  """Copies all messages, and more, to a file."""
  if not hosts.is_first_process():
    return
  for old in list(log.handlers):
    log.removeHandler(old)
    old.close()
  handler = logging.FileHandler(path)
  handler.setFormatter(logging.Formatter('%(asctime)s %(message)s'))
  log.addHandler(handler)
  log.setLevel(logging.INFO)
  log.propagate = False


def stored_record(workdir: pathlib.Path) -> dict[str, Any]:
  """What config.json holds, see `open_workdir`; 'config' as the run was started with, as JSON.

  Raises:
    ConfigError: the directory has no readable config.json.
  """
  path = workdir / 'config.json'
  try:
    with opened(path) as file:
      record = json.load(file)
    dict(record['config'])
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise ConfigError(
      f"'{path}' cannot be read ({error}), but a checkpoint is loaded with its run's configuration."
    ) from error
  return record


def run_facts(workdir: pathlib.Path) -> dict[str, Any]:
  """What a run recorded about its data and devices; empty if nothing.

  Raises:
    ConfigError: the directory has no readable config.json.
  """
  facts = stored_record(workdir).get('facts', {})
  if not isinstance(facts, Mapping):
    path = workdir / 'config.json'
    raise ConfigError(f"'{path}' is damaged: its 'facts' is not a mapping.")
  return dict(facts)


def run_record(workdir: pathlib.Path) -> dict[str, Any]:
  """What a run's network is built from: 'config', as JSON, and 'facts'.

  Raises:
    ConfigError: the directory has no readable config.json.
  """
  return {'config': config_lib.as_data(run_config(workdir)), 'facts': run_facts(workdir)}


def data_fingerprint(workdir: pathlib.Path) -> str:
  """Of the images that a run was started with; '' where it is not recorded."""
  return stored_record(workdir).get('data_fingerprint', '')


def run_config(workdir: pathlib.Path) -> Config:
  """The configuration that a run was started with, see `stored_config`.

  Raises:
    ConfigError: the directory has no readable config.json.
  """
  record = stored_record(workdir)
  try:
    return stored_config.stored(record['config'], str(record.get('recipe', '')))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ConfigError(
      f"'{workdir / 'config.json'}' holds no configuration of byoljax ({error})."
    ) from error
