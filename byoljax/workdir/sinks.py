"""Services that get a copy of a run's metrics as they are written: Weights & Biases and MLflow.

A service is used where `config.log.sinks` names it, and imported only then. What the run is called
there is kept in `<workdir>/sinks.json`, so that a run that resumes goes on under the same name.
Rows since the checkpoint that it resumes from are sent a second time: equal points at equal steps.

`metrics.jsonl` stays the primary record. A service that fails while a run trains is dropped with
one sentence, and the run goes on.
"""

from collections.abc import Mapping, Sequence
import importlib.util
import json
import logging
import math
import os
import pathlib
import secrets
import time
from typing import Any, Protocol

from byoljax.config import ConfigError, choose
from byoljax.workdir import description, run_dir
from byoljax.workdir.files import write_json

log = logging.getLogger('byoljax')
FILE = 'sinks.json'
PROJECT = 'byoljax'
# How a run may end, for `Sink.close`.
FINISHED, STOPPED, FAILED = 'finished', 'stopped', 'failed'
# What MLflow's stores take at once, and of one value.
_MOST_PARAMS, _MOST_CHARACTERS = 100, 500


class Sink(Protocol):
  """A service, with one run open in it."""

  def write(self, step: int, row: Mapping[str, float]) -> None:
    """Sends the numbers of a row; one step may come again."""

  def close(self, outcome: str) -> None:
    """Ends the run there: `FINISHED`, `STOPPED` (it will resume) or `FAILED`."""


class Wandb:
  """Weights & Biases: the project WANDB_PROJECT, or 'byoljax'; offline with WANDB_MODE=offline.

  Neither code nor the state of a repository is sent, nor what is printed.

  Args:
    workdir: of the run; the service's own files go to its folder `wandb`.
    kept: what an earlier attempt has kept; changed.
  """

  def __init__(self, workdir: pathlib.Path, kept: dict[str, Any]):
    import wandb  # pyright: ignore[reportMissingImports]

    kept.setdefault('id', secrets.token_hex(8))
    stored = description.read(workdir)
    self._run = wandb.init(
      # Whatever the variables say has precedence over what is the default here.
      project=None if os.environ.get('WANDB_PROJECT') else PROJECT,
      id=kept['id'],
      resume='allow',
      name=workdir.resolve().name,
      dir=str(workdir),
      config={'recipe': stored.get('recipe', ''), **stored.get('config', {})},
      allow_val_change=True,  # The length of a run that is extended.
      settings=wandb.Settings(console='off', disable_git=True, disable_code=True, silent=True),
    )
    # Not the service's own count, which may not go back: a run that resumes repeats steps.
    self._run.define_metric('step')
    self._run.define_metric('*', step_metric='step')

  def write(self, step: int, row: Mapping[str, float]) -> None:
    """See `Sink`."""
    self._run.log({'step': step, **row})

  def close(self, outcome: str) -> None:
    """See `Sink`."""
    if outcome == STOPPED:
      self._run.mark_preempting()
    self._run.finish(exit_code={FINISHED: 0, STOPPED: 75, FAILED: 1}[outcome])


class Mlflow:
  """MLflow: the experiment MLFLOW_EXPERIMENT_NAME, or 'byoljax', where MLFLOW_TRACKING_URI says.

  Args:
    workdir: of the run.
    kept: what an earlier attempt has kept; changed.
  """

  def __init__(self, workdir: pathlib.Path, kept: dict[str, Any]):
    import mlflow  # pyright: ignore[reportMissingImports]
    from mlflow import entities  # pyright: ignore[reportMissingImports]

    self._entities = entities
    self._client = mlflow.MlflowClient(tracking_uri=kept.get('store'))
    if 'id' in kept:
      self._id = kept['id']
      self._client.update_run(self._id, status='RUNNING')
      return
    name = os.environ.get('MLFLOW_EXPERIMENT_NAME') or PROJECT
    found = self._client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else self._client.create_experiment(name)
    run = self._client.create_run(experiment, run_name=workdir.resolve().name)
    self._id = kept['id'] = run.info.run_id
    store = self._client.tracking_uri
    if store.startswith(('sqlite:', 'file:')):  # Others may hold a password.
      kept['store'] = _absolute(store)
    stored = description.read(workdir)
    fields = description.flat({'recipe': stored.get('recipe', ''), **stored.get('config', {})})
    params = [entities.Param(key, value[:_MOST_CHARACTERS]) for key, value in fields.items()]
    for first in range(0, len(params), _MOST_PARAMS):
      self._client.log_batch(self._id, params=params[first : first + _MOST_PARAMS])

  def write(self, step: int, row: Mapping[str, float]) -> None:
    """See `Sink`."""
    now = round(1000 * time.time())
    values = [self._entities.Metric(name, value, now, step) for name, value in row.items()]
    self._client.log_batch(self._id, metrics=values)

  def close(self, outcome: str) -> None:
    """See `Sink`."""
    status = {FINISHED: 'FINISHED', STOPPED: 'KILLED', FAILED: 'FAILED'}[outcome]
    self._client.set_terminated(self._id, status)


def _absolute(store: str) -> str:
  """The address of a store of files, also from another directory."""
  scheme, path = 'sqlite:///', store.removeprefix('sqlite:///')
  relative = store.startswith(scheme) and not path.startswith(('/', ':memory:'))
  return scheme + os.path.abspath(path) if relative else store


SINKS: dict[str, Any] = {'wandb': Wandb, 'mlflow': Mlflow}


def check(names: Sequence[str]) -> None:
  """Checks that there are such services, and that what they need is installed.

  Raises:
    ConfigError: an unknown name, or a package that is missing.
  """
  for name in names:
    choose('log.sinks', name, SINKS)
    if importlib.util.find_spec(name) is None:
      raise ConfigError(
        f"log.sinks: '{name}' needs a package that is not installed: pip install 'byoljax[{name}]'."
      )


class Sinks:
  """All services of a run: none of them can end it.

  Args:
    names: which, of `SINKS`.
    workdir: of the run, with its config.json.

  Raises:
    ConfigError: a service does not open the run, or the file of what it is called there is damaged.
  """

  def __init__(self, names: Sequence[str], workdir: pathlib.Path):
    self._open: dict[str, Sink] = {}
    path = workdir / FILE
    try:
      kept = dict(json.loads(path.read_text())) if path.is_file() else {}
    except (ValueError, TypeError) as error:
      raise ConfigError(
        f"log.sinks: a damaged file; delete '{path}' to begin another run in {' and '.join(names)}."
      ) from error
    for name in names:
      try:
        self._open[name] = SINKS[name](workdir, kept.setdefault(name, {}))
      except Exception as error:  # Each service has errors of its own.
        self.close(FAILED)
        raise ConfigError(
          f'log.sinks: could not open this run in {name} ({_first_line(error)}); run without it, '
          f"or delete '{path}' to begin another run there."
        ) from error
      write_json(path, kept)

  def write(self, row: Mapping[str, Any]) -> None:
    """Sends the numbers of a row."""
    numbers = {
      name: float(value)
      for name, value in row.items()
      if name != 'step' and isinstance(value, int | float) and math.isfinite(value)
    }
    for name in list(self._open):
      self._try(name, 'write', row['step'], numbers)

  def close(self, outcome: str) -> None:
    """Ends the run in all services; idempotent."""
    for name in list(self._open):
      self._try(name, 'close', outcome)
    self._open.clear()

  def _try(self, name: str, function: str, *arguments: Any) -> None:
    try:
      getattr(self._open[name], function)(*arguments)
    except Exception as error:
      log.info('%s', name, exc_info=True)
      del self._open[name]
      run_dir.say(
        f'{name} stopped accepting metrics ({_first_line(error)}): the run goes on without it, '
        f'metrics.jsonl has all of them.'
      )


def _first_line(error: Exception) -> str:
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0][:200].rstrip('.')
