"""Prepared TensorFlow Datasets on the disk: their directories, splits and records.

Nothing is ever downloaded: a set that is not there is an error that says what to run. The records
of a split are read directly, one by one (`records`).
"""

from collections.abc import Callable
import os
import re
from typing import Any

import numpy as np

from byoljax.data.sources import records, tensorflow_import
from byoljax.suggest import did_you_mean

_VERSION = re.compile(r'\d+\.\d+\.\d+')


def default_dir() -> str:
  """TFDS's own default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
  chosen = os.environ.get('TFDS_DATA_DIR') or os.path.join('~', 'tensorflow_datasets')
  return os.path.abspath(os.path.expanduser(chosen))


def split_names(name: str, *, data_dir: str | os.PathLike = '') -> tuple[str, ...]:
  """The splits of a prepared set, sorted; arguments and errors as for `tfds_source.from_tfds`."""
  directory = version_directory(name, os.fspath(data_dir))
  tfds = tensorflow_import.tensorflow_datasets()
  return tuple(sorted(tfds.builder_from_directory(directory).info.splits))


def version_directory(name: str, data_dir: str) -> str:
  """The directory with the prepared files of `name`; arguments as for `tfds_source.from_tfds`.

  Raises:
    ValueError: there is none, or several.
  """
  direct = os.path.abspath(os.path.expanduser(name))
  if _is_prepared(direct):
    return direct
  if os.path.isabs(os.path.expanduser(name)):
    raise ValueError(f'{direct} is not a prepared TFDS version directory: no dataset_info.json.')
  root = os.path.abspath(os.path.expanduser(data_dir)) if data_dir else default_dir()
  path, _, version = name.partition(':')
  found = _prepared_versions(os.path.join(root, *path.split('/')), version)
  if len(found) > 1:
    configs = ', '.join(f'{path}/{config}' for config in sorted(found))
    raise ValueError(f'{name} is prepared in several configurations: name one of {configs}.')
  if found:
    return next(iter(found.values()))
  raise ValueError(_not_prepared(name, path.split('/')[0], root))


def _is_prepared(directory: str) -> bool:
  return os.path.isfile(os.path.join(directory, 'dataset_info.json'))


def _prepared_versions(base: str, version: str) -> dict[str, str]:
  """Newest prepared version per configuration below `base`; '' is a set without any."""
  found = {}
  here = _newest(base, version)
  if here:
    return {'': here}
  for config in sorted(os.listdir(base)) if os.path.isdir(base) else ():
    newest = _newest(os.path.join(base, config), version)
    if newest:
      found[config] = newest
  return found


def _newest(base: str, version: str) -> str:
  names = os.listdir(base) if os.path.isdir(base) else []
  ready = [
    name
    for name in names
    if _VERSION.fullmatch(name)
    and name == (version or name)
    and _is_prepared(os.path.join(base, name))
  ]
  ready.sort(key=lambda name: [int(part) for part in name.split('.')])
  return os.path.join(base, ready[-1]) if ready else ''


def _not_prepared(name: str, base_name: str, root: str) -> str:
  """What to do about a set that is not there: another name, or the command that prepares it."""
  tfds = tensorflow_import.tensorflow_datasets()
  there = [entry for entry in _listdir(root) if _prepared_somewhere(os.path.join(root, entry))]
  known = sorted({*tfds.list_builders(with_community_datasets=False), *there})
  if base_name not in known:
    return f'there is no TFDS data set {base_name!r}{did_you_mean(base_name, known, count=3)}'
  command = (
    'import tensorflow_datasets as tfds; '
    f"tfds.builder('{name}', data_dir='{root}').download_and_prepare()"
  )
  return (
    f'{name} is not prepared in {root} (set config.data.dir or TFDS_DATA_DIR if it is elsewhere): '
    f'run  python -c "{command}"'
  )


def _listdir(path: str) -> list[str]:
  return sorted(os.listdir(path)) if os.path.isdir(path) else []


def _prepared_somewhere(base: str) -> bool:
  return bool(_prepared_versions(base, ''))


def open_split(info: Any, split: str) -> tuple[Callable[[np.ndarray], list[bytes | None]], int]:
  """A function int64 [b] -> serialized examples (None: unreadable), and how many there are.

  Args:
    info: of a prepared builder.
    split: a split, a slice or a sum of them, in TFDS's notation.

  Raises:
    ValueError: an unknown split, or files that are missing, damaged or of another format.
  """
  try:
    parts = info.splits[split].file_instructions
  except (ValueError, KeyError, AssertionError) as error:
    names = sorted(info.splits)
    raise ValueError(
      f'{info.full_name} has no split {split!r}: it has {", ".join(names)}'
      f'{did_you_mean(split, names)}'
    ) from error
  paths = [os.fspath(part.filename) for part in parts]
  as_array_record = info.file_format.value == 'array_record'
  if not as_array_record and info.file_format.value != 'tfrecord':
    raise ValueError(
      f'{info.full_name} is prepared as {info.file_format.value}, which is not supported: prepare '
      'it as tfrecord or array_record.'
    )
  opener = records.array_record_reader if as_array_record else records.tfrecord_reader
  counts, read = opener(paths)
  for part, path, count in zip(parts, paths, counts, strict=True):
    if count != part.examples_in_shard:
      raise ValueError(
        f'{path} holds {count} records where {part.examples_in_shard} are due: prepare the data '
        'set again.'
      )
  taken = [p.take if p.take >= 0 else p.examples_in_shard - p.skip for p in parts]
  starts = np.cumsum([0, *taken])
  skips = [part.skip for part in parts]

  def fetch_one(shard: int, row: int) -> bytes | None:
    try:
      return read(shard, row)
    except OSError:  # Gone or cut short since it was opened.
      return None

  def fetch(rows: np.ndarray) -> list[bytes | None]:
    shards = np.searchsorted(starts, rows, side='right') - 1
    return [
      fetch_one(int(shard), int(row - starts[shard] + skips[shard]))
      for shard, row in zip(shards, rows, strict=True)
    ]

  return fetch, int(starts[-1])
