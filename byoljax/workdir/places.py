"""Where output goes: what cannot be written there is refused before anything is computed."""

import os
import pathlib

from byoljax.config import ConfigError, expanded, require_local


def require_folder(given: str | os.PathLike[str], flag: str = '--workdir') -> None:
  """Raises ConfigError where a folder cannot be made or written to; makes nothing."""
  require_local(flag, given)
  path = expanded(given)
  there = next(each for each in (path, *path.parents) if os.path.exists(each))
  problem = _problem(there)
  if problem:
    raise ConfigError(f"{flag}='{given}' cannot be written: '{there}' {problem}")


def require_file(given: str | os.PathLike[str], flag: str) -> None:
  """Raises ConfigError where a file cannot be written; makes nothing."""
  require_local(flag, given)
  path = expanded(given)
  if path.is_dir():
    raise ConfigError(f'{flag}={given} is a folder: name a file in it.')
  if not path.parent.exists():
    raise ConfigError(
      f"{flag}={given}: there is no folder '{path.parent}'; make it, or name another."
    )
  problem = _problem(path.parent)
  if problem:
    raise ConfigError(f"{flag}={given} cannot be written: '{path.parent}' {problem}")


def _problem(folder: pathlib.Path) -> str:
  if not folder.is_dir():
    return 'is not a directory; name another.'
  writable = os.access(folder, os.W_OK | os.X_OK)
  return '' if writable else 'is read-only; make it writable, or name another.'
