"""Integrity records: digests of a checkpoint's arrays, written with it and verified on restore.

Orbax stores arrays without checksums, so a flipped bit would go unnoticed. Each step's directory
therefore has `integrity/metadata`, a small JSON file with the SHA-256 digest, shape and dtype of
every array, computed from the arrays in memory, and a digest of the record itself. It is committed
atomically with the rest: a checkpoint has its record or does not exist.

    {"format": 1, "byoljax": "0.1.0", "run": "<16 digits>", "step": 400, "metrics": {...},
     "leaves": {"params/encoder/conv1/kernel": ["float32", [3, 3, 3, 64], "<64 hex digits>"], ...},
     "sha256": "<digest of all of the above>"}

"run" is of `history.identities`: a checkpoint that was put into another run's directory is refused.

Digests detect accidents, not forgeries: whoever can write the directory can write the record too.
"""

from collections.abc import Iterable, Mapping, Sequence
import concurrent.futures
import hashlib
import json
import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
  import jax

ITEM = 'integrity'
FORMAT = 1
_THREADS = 8
_DTYPES = frozenset(
  [
    'bool',
    'bfloat16',
    *(f'{kind}{bits}' for kind in ('int', 'uint') for bits in (8, 16, 32, 64)),
    *(f'float{bits}' for bits in (16, 32, 64)),
    *(f'complex{bits}' for bits in (64, 128)),
  ]
)

Leaves = Mapping[str, np.ndarray]


class DamagedError(ValueError):
  """A checkpoint differs from what was written; the message says how."""


def make(
  leaves: Leaves, *, step: int, metrics: Mapping[str, float], version: str, run: str = ''
) -> dict[str, Any]:
  """The record of a checkpoint.

  Args:
    leaves: every saved array, by its path in the state.
    step: the checkpoint's step.
    metrics: the numbers stored with the state.
    version: of byoljax.
    run: the run's identity; '' where it has none.
  """
  found = zip(leaves, leaves.values(), digests(leaves.values()), strict=True)
  record = {
    'format': FORMAT,
    'byoljax': version,
    'run': run,
    'step': step,
    'metrics': dict(metrics),
    'leaves': {name: [str(x.dtype), list(x.shape), digest] for name, x, digest in found},
  }
  return record | {'sha256': _own_digest(record)}


def digests(arrays: Iterable[np.ndarray]) -> list[str]:
  """SHA-256 of every array's bytes, in hexadecimal."""
  # Hashing releases the GIL.
  with concurrent.futures.ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
    return list(pool.map(_digest, arrays))


def read(directory: pathlib.Path) -> dict[str, Any]:
  """Reads and checks the record of a step's directory.

  Raises:
    DamagedError: the record is missing, unreadable or has changed.
    ValueError: a later version of byoljax wrote it.
  """
  try:
    record = json.loads((directory / ITEM / 'metadata').read_bytes())
  except FileNotFoundError:
    raise DamagedError('its integrity record is missing') from None
  except (OSError, ValueError, RecursionError) as error:
    raise DamagedError(f'its integrity record cannot be read ({short(error)})') from error
  if not isinstance(record, dict) or record.get('sha256') != _own_digest(
    {key: value for key, value in record.items() if key != 'sha256'}
  ):
    raise DamagedError('its integrity record is damaged')
  if record.get('format') != FORMAT:
    raise ValueError(
      f"'{directory}': the integrity record has format {record.get('format')}, written by byoljax "
      f'{record.get("byoljax")}: this version reads format {FORMAT}; use that one.'
    )
  if not _is_well_formed(record):
    raise DamagedError('its integrity record is malformed')
  if step_of(directory) not in (None, record['step']):
    raise DamagedError(f'it holds step {record["step"]}')
  return record


def require_run(record: Mapping[str, Any], runs: Sequence[str], directory: pathlib.Path) -> None:
  """Checks that a checkpoint belongs to the run in whose directory it lies.

  Args:
    record: see `read`.
    runs: what the run is and was, see `history.identities`.
    directory: of the checkpoint.

  Raises:
    ValueError: it was written by another run.
  """
  written = record.get('run', '')
  if runs and written and written not in runs:
    raise ValueError(
      f"'{directory}' was written by another run, with another seed, other settings or data than "
      f'those in config.json: put it back where it belongs.'
    )


def step_of(directory: pathlib.Path) -> int | None:
  """The step that a checkpoint's directory is named after: 40 of '40', but None of '040' or '²'."""
  name = directory.name
  plain = name.isascii() and name.isdigit() and (name == '0' or name[0] != '0')
  return int(name) if plain else None


def is_there(directory: pathlib.Path) -> bool:
  """Whether a step's directory has a record: it is then complete."""
  return (directory / ITEM / 'metadata').is_file()


def shapes(record: Mapping[str, Any]) -> 'dict[str, jax.ShapeDtypeStruct]':
  """Shapes and dtypes of all arrays, by their path in the state."""
  import jax

  return {
    name: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
    for name, (dtype, shape, _) in record['leaves'].items()
  }


def verify_shapes(record: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
  """Compares the checkpoint's own metadata with the record, before anything large is read.

  Args:
    record: see `read`.
    stored: all arrays, or objects with their shape and dtype, by path in the state.

  Raises:
    DamagedError: they disagree.
  """
  wanted = shapes(record)
  if stored.keys() != wanted.keys():
    raise DamagedError('the names of its arrays changed after they were written')
  for name, leaf in stored.items():
    if wanted[name].shape != tuple(leaf.shape) or wanted[name].dtype != leaf.dtype:
      raise DamagedError(f'the shape or type of {name} changed after it was written')


def verify(record: Mapping[str, Any], leaves: Leaves) -> None:
  """Compares arrays with their digests.

  Args:
    record: see `read`.
    leaves: some or all arrays of the checkpoint, by path in the state.

  Raises:
    DamagedError: an array is not in the record, or has other bytes; the first three are named.
  """
  wrong = []
  for (name, array), digest in zip(leaves.items(), digests(leaves.values()), strict=True):
    if record['leaves'].get(name) != [str(array.dtype), list(array.shape), digest]:
      wrong.append(name)
  if wrong:
    more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
    raise DamagedError(f'{", ".join(wrong[:3])}{more} changed after it was written')


def check_small_files(directory: pathlib.Path) -> None:
  """Checks the files of a checkpoint that Orbax reads at every start: the record and the metrics.

  Raises:
    DamagedError: one of them cannot be read, or they disagree.
  """
  if step_of(directory) is None:
    raise DamagedError("its name is not a step's, such as '40'")
  record = read(directory)
  path = directory / 'metrics' / 'metrics'
  try:
    metrics = json.loads(path.read_bytes()) if path.exists() else {}
    whole = json.loads((directory / '_CHECKPOINT_METADATA').read_bytes())
  except (OSError, ValueError, RecursionError) as error:
    raise DamagedError(f'its metrics cannot be read ({short(error)})') from error
  if not isinstance(metrics, dict) or not isinstance(whole, dict):
    raise DamagedError('its metrics are damaged')
  if metrics != record['metrics']:
    raise DamagedError('its metrics changed after they were written')


def aside(checkpoints: pathlib.Path) -> pathlib.Path:
  """Where those that are damaged are kept: beside a run's directory of checkpoints."""
  return checkpoints.parent / 'damaged-checkpoints'


def set_aside(directory: pathlib.Path) -> pathlib.Path:
  """Moves a step's directory aside without deleting anything.

  Returns:
    Its new path: <workdir>/damaged-checkpoints/<step>, or <step>-2 and so on.
  """
  return move(directory, aside(directory.parent))


def move(directory: pathlib.Path, home: pathlib.Path) -> pathlib.Path:
  """Moves a step's directory into another, under a new name where there is one of that name."""
  home.mkdir(exist_ok=True)
  target, number = home / directory.name, 1
  while target.exists():
    number += 1
    target = home / f'{directory.name}-{number}'
  os.rename(directory, target)
  return target


def _is_well_formed(record: Mapping[str, Any]) -> bool:
  """Whether all fields of a record have the right type, which a digest does not guarantee."""

  def is_leaf(leaf: Any) -> bool:
    if not (isinstance(leaf, list) and len(leaf) == 3):
      return False
    dtype, shape, digest = leaf
    sizes = isinstance(shape, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in shape)
    return sizes and isinstance(dtype, str) and dtype in _DTYPES and isinstance(digest, str)

  kinds = {'step': int, 'metrics': dict, 'leaves': dict, 'byoljax': str}
  return all(isinstance(record.get(key), kind) for key, kind in kinds.items()) and all(
    map(is_leaf, record['leaves'].values())
  )


def _digest(array: np.ndarray) -> str:
  raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
  return hashlib.sha256(raw.data).hexdigest()


def _own_digest(record: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def short(error: BaseException) -> str:
  """An error's text in one line, truncated."""
  text = ' '.join(str(error).split()) or type(error).__name__
  return text if len(text) <= 160 else f'{text[:160]} ...'
