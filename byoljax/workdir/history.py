"""Whose the checkpoints in a run's directory are, also after the run was extended.

An extended run has, in its config.json, `extensions`, the oldest first: the step that each began
at, and what the fields, facts and fingerprint of the data were before. So the checkpoints from
before an extension still belong to the run.
"""

from collections.abc import Mapping
import hashlib
import json
import pathlib
from typing import Any

from byoljax import config as config_lib
from byoljax.config import ConfigError
from byoljax.devices import hosts
from byoljax.workdir import integrity, run_dir
from byoljax.workdir.files import write_json

# Where checkpoints go from which an extended run does not continue.
EARLIER = 'earlier-checkpoints'


def identities(workdir: pathlib.Path) -> list[str]:
  """What the checkpoints in a directory may belong to: digests of its run's settings and data.

  The directory may be one of a larger run's, as those of a sweep are. Two runs with equal settings,
  seed and data make equal checkpoints, and have one identity.

  Returns:
    16 hexadecimal digits for the run as it is now, then as it was before its extensions, the last
    first; [] where no config.json says.
  """
  workdir = workdir.absolute()
  for home in (workdir, *workdir.parents[:2]):
    if (home / 'config.json').is_file():
      break
  else:
    return []
  stored = run_dir.stored_record(home)
  # As they are stored, without those that byoljax has gained since.
  fields = config_lib.decisive(config_lib.from_json(stored['config']))
  place = workdir.relative_to(home).as_posix()
  told = [(fields, stored.get('data_fingerprint'))]
  for entry in reversed(stored.get('extensions', [])):
    before = told[-1][0] | entry['fields']
    known = {name: value for name, value in before.items() if value is not None}
    told.append((known, entry['data_fingerprint']))
  return [_digest(json.dumps([*each, place], sort_keys=True)) for each in told]


def _digest(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def record(
  workdir: pathlib.Path,
  config: Mapping[str, Any],
  *,
  step: int,
  facts: Mapping[str, Any],
  fingerprint: str,
) -> None:
  """Makes a directory that of an extended run; all processes must call it.

  Args:
    workdir: of the run.
    config: as it is from now on, as JSON.
    step: that the run goes on from; later checkpoints move to `EARLIER`, beside those of the run.
    facts: those that change, see `run_dir.open_workdir`.
    fingerprint: of the training images.

  Raises:
    ConfigError: it cannot be written.
  """
  problem = ''
  if hosts.is_first_process():
    try:
      # A run that is killed in between is the old one, at an earlier step.
      for directory in sorted((workdir / 'checkpoints').glob('*')):
        at = integrity.step_of(directory)
        if at is not None and at > step:
          integrity.move(directory, workdir / EARLIER)
      _rewrite(workdir, config, step, facts, fingerprint)
    except OSError as error:
      problem = f"--workdir='{workdir}' cannot be written: {error.strerror}."
  if not hosts.all_agree(not problem):
    raise ConfigError(problem or f"another process could not write to '{workdir}'.")


def _rewrite(
  workdir: pathlib.Path,
  config: Mapping[str, Any],
  step: int,
  facts: Mapping[str, Any],
  fingerprint: str,
) -> None:
  stored = run_dir.stored_record(workdir)
  old = config_lib.decisive(config_lib.from_json(stored['config']))
  new = config_lib.decisive(config_lib.from_json(config))
  entry = {
    'step': step,
    # None for a field that there was not: no field has this value.
    'fields': {name: old.get(name) for name in sorted(old | new) if old.get(name) != new.get(name)},
    'facts': {name: stored['facts'][name] for name in facts},
    'data_fingerprint': stored['data_fingerprint'],
  }
  write_json(
    workdir / 'config.json',
    stored
    | {
      'config': dict(config),
      'data_fingerprint': fingerprint,
      'facts': stored['facts'] | dict(facts),
      'extensions': [*stored.get('extensions', []), entry],
    },
  )
