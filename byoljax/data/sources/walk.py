"""Every image file below a folder, and what else lies there."""

from collections import Counter
import os
from typing import NamedTuple

from byoljax.data.sources.image_file import SUFFIXES


class Found(NamedTuple):
  """What lies below a folder: images, sorted; how many others by suffix; directories of runs."""

  files: list[str]
  others: Counter[str]
  runs: int


def walk(root: str, suffixes: tuple[str, ...] = SUFFIXES) -> Found:
  """Every image below `root`, as relative paths, but not what a run of ours has written.

  Arrays are images where nothing else is: beside photographs they are features, or masks.
  """
  files: list[str] = []
  arrays: list[str] = []
  others: Counter[str] = Counter()
  visited, runs = set(), 0
  pending = [(root, '')]
  while pending:
    folder, prefix = pending.pop()
    status = os.stat(folder)
    # A link back to a parent, or a second way to the same place, is not walked again.
    if (status.st_dev, status.st_ino) in visited:
      continue
    visited.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
      here = [entry for entry in entries if not entry.name.startswith('.')]
    if prefix and {entry.name for entry in here} >= _OF_A_RUN:
      runs += 1
      continue
    deeper = []
    for entry in here:
      if is_folder(entry):
        deeper.append((entry.path, f'{prefix}{entry.name}/'))
      elif entry.name.lower().endswith(suffixes):
        files.append(prefix + entry.name)
      else:
        arrays += [prefix + entry.name] * entry.name.lower().endswith(_NPY)
        others[os.path.splitext(entry.name)[1].lower()] += 1
    # The order of the walk decides under which name a folder with two is found.
    pending.extend(sorted(deeper, reverse=True))
  if arrays and not files:
    files = arrays
    del others[_NPY]
  return Found(sorted(files), others, runs)


_NPY = '.npy'
# Files that the directory of a run has from its start.
_OF_A_RUN = {'config.json', 'lock'}
_MOST_KINDS = 5


def counted(others: Counter[str]) -> str:
  """'60 .tif and 2 .txt files', the most frequent kinds first."""
  ordered = sorted(others.items(), key=lambda kind: (-kind[1], kind[0] == '', kind[0]))
  kinds = [f'{count:,} {suffix or "nameless"}' for suffix, count in ordered[:_MOST_KINDS]]
  rest = sum(count for _, count in ordered[_MOST_KINDS:])
  kinds += [f'{rest:,} other'] if rest else []
  listed = ' and '.join(filter(None, [', '.join(kinds[:-1]), kinds[-1]]))
  return f'{listed} file{"s" if sum(others.values()) > 1 else ""}'


def notes(root: str, others: Counter[str], runs: int) -> tuple[str, ...]:
  """What is not read, a sentence each."""
  found = []
  if others:
    are = 'are' if sum(others.values()) > 1 else 'is'
    found.append(
      f'{counted(others)} in {root} {are} not read: images end in {", ".join(SUFFIXES)}.'
    )
  if runs:
    found.append(f'pictures of byoljax itself in {root} are not read: {runs} directories of runs.')
  return tuple(found)


def is_folder(entry: os.DirEntry) -> bool:
  """Whether this is a folder, or a link to one."""
  try:
    return entry.is_dir()
  except OSError:  # a link that leads to itself
    return False
