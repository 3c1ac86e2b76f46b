"""Trees of arrays in one NumPy file beside a JSON file that names it.

The file with the arrays has a name of its own each time. The JSON file is replaced at once, after
the arrays are there, and old arrays go last: a reader sees the old value or the new one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import json
import os
import pathlib
import secrets
from typing import Any
import zipfile
import zlib

import jax
import numpy as np

from byoljax.config import ConfigError, expanded
from byoljax.models.net import Net
from byoljax.workdir.files import replacing, write_json

_WEIGHTS = 'weights'


def write(
  home: pathlib.Path, file: str, about: Mapping[str, Any], trees: Mapping[str, Any]
) -> None:
  """Writes a directory, or replaces what is there.

  Args:
    home: the directory; made where it is missing.
    file: name of the JSON file.
    about: its content; 'weights' is added.
    trees: arrays, by name and in dicts of any depth.

  Raises:
    OSError: it cannot be written.
  """
  home.mkdir(parents=True, exist_ok=True)
  name = f'{_WEIGHTS}-{secrets.token_hex(4)}.npz'
  with replacing(home / name) as opened:
    np.savez(opened, allow_pickle=False, **_flat(jax.device_get(dict(trees))))
  write_json(home / file, {**about, 'weights': name})
  for old in home.glob(f'{_WEIGHTS}-*.npz*'):
    if old.name != name:
      with contextlib.suppress(OSError):
        old.unlink()


@contextlib.contextmanager
def opened(
  home: pathlib.Path, file: str, version: int, what: str
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
  """What `write` was given: the JSON file's content and the arrays, while a network is made of it.

  Args:
    home: the directory.
    file: name of the JSON file.
    version: its 'format'.
    what: to call the network in messages.

  Raises:
    ConfigError: another format; or anything goes wrong while it is read, or made of what was read.
  """
  try:
    about = json.loads((home / file).read_text())
    if about['format'] != version:
      raise ConfigError(f"'{home}' has format {about['format']}, not {version}: make it anew.")
    yield about, _nested(read(home / about['weights']))
  except ConfigError:
    raise
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise ConfigError(
      f"'{home}' holds no {what} that can be read ({type(error).__name__}: {error}): make it anew."
    ) from error


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of a NumPy file by name.

  Raises:
    OSError: it is not there, or cannot be read.
    ValueError: it is damaged, or no such file.
  """
  try:
    with path.open('rb') as file, np.load(file, allow_pickle=False) as stored:
      return {name: stored[name] for name in stored.files}
  # Altered bytes may ask for a password or another compression: RuntimeError.
  except (EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
    raise ValueError(f"'{path.name}' is damaged: {error}") from error


def of_roles(arrays: Mapping[str, Any], net: Net) -> tuple[dict[str, Any], dict[str, Any]]:
  """Parameters and running statistics by part; of a part without any none are stored."""
  params, bn = (
    {role: arrays.get(tree, {}).get(role, {}) for role, _, _ in net.parts}
    for tree in ('params', 'bn')
  )
  return params, bn


def find(
  path: str | os.PathLike[str],
  file: str,
  every: Callable[[pathlib.Path], Sequence[pathlib.Path]],
  *,
  what: str,
  made_by: str,
) -> pathlib.Path:
  """The directory of a stored network: this one, or the first of those below.

  Args:
    path: the directory itself, of an evaluation, or of a run.
    file: which it holds.
    every: a directory -> those below it that hold one, the wanted one first.
    what: to call it in messages.
    made_by: a sentence that says how one is made.

  Raises:
    ConfigError: there is none.
  """
  home = expanded(path)
  if (home / file).is_file():
    return home
  found = every(home)
  if not found:
    why = 'there is no such directory' if not home.is_dir() else 'it holds none'
    raise ConfigError(f"no {what} in '{home}': {why}. {made_by}")
  return found[0]


def every(
  home: pathlib.Path, folder: str, file: str, rank: Callable[[str], Any]
) -> list[pathlib.Path]:
  """Directories of stored networks of an evaluation or a run: by rank, then the newest first.

  Args:
    home: the directory of an evaluation or a run.
    folder: their name.
    file: name of the JSON file in each.
    rank: name of the evaluation's directory -> what it is sorted by, the first first.
  """
  depths = ('', '*/', '*/*/', 'evals/*/*/')
  found = {path.parent for depth in depths for path in home.glob(f'{depth}{folder}/{file}')}

  def place(path: pathlib.Path) -> tuple[Any, float]:
    with contextlib.suppress(OSError):  # Another process may be removing it.
      return rank(path.parent.name), -(path / file).stat().st_mtime
    return rank(path.parent.name), 0.0

  return sorted(found, key=place)


def tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
  """What JSON turned into lists."""
  return {
    name: tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    for name, value in fields.items()
  }


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, np.ndarray]:
  """{'params/encoder/conv/kernel': array}."""
  flat: dict[str, np.ndarray] = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f'{prefix}{name}/')
    else:
      flat[f'{prefix}{name}'] = np.asarray(value)
  return flat


def _nested(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
  tree: dict[str, Any] = {}
  for path, value in flat.items():
    *groups, last = path.split('/')
    place = tree
    for group in groups:
      place = place.setdefault(group, {})
    place[last] = value
  return tree
