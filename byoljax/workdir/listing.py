"""The runs of a directory, read from their files while they train: nothing here imports JAX.

A run is a directory with a `config.json` that was written by a run. What lies within one, its
evaluations, belongs to it.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import json
import os
import pathlib
import sys
from typing import Any, NamedTuple

from byoljax.config import ConfigError
from byoljax.workdir import description, lock, metrics, steps
from byoljax.workdir.files import opened

# Folders below the one that is looked through.
DEPTH = 3
# The metric that chooses the best checkpoint; see `checkpoint.BEST_METRIC`.
BEST = 'knn/top1'


class Listed(NamedTuple):
  """What is known of a run without opening a checkpoint.

  Attributes:
    name: its path below the directory that was looked through, with '/'; '.' for that one itself.
    recipe: the name of its recipe with its options, 'byol:cifar10'.
    method: that trained it; '' for weights of another library.
    status: 'finished', 'running' or 'stopped'.
    step: of its last row of metrics or newest checkpoint.
    total: steps of the whole run; None where it trains nothing.
    best: the highest k-NN accuracy while training, in [0, 1]; None without any.
    best_step: where that was.
    loss: of the last row that has one.
    bytes: sizes of all its files together.
    changed: when its metrics, checkpoints or configuration changed last, in seconds since 1970.
  """

  name: str
  recipe: str
  method: str
  status: str
  step: int
  total: int | None
  best: float | None
  best_step: int | None
  loss: float | None
  bytes: int
  changed: float


def find(directory: pathlib.Path) -> Iterator[pathlib.Path]:
  """The directories of runs in a directory, by name; links are not followed.

  Folders whose names are not UTF-8 are left out: no page or message can show them.

  Args:
    directory: looked through to a depth of `DEPTH`; may be a run itself.
  """
  for home, folders, files in os.walk(directory):
    path = pathlib.Path(home)
    folders[:] = sorted(name for name in folders if not name.startswith('.') and _is_text(name))
    if 'config.json' in files and description.read(path):
      folders.clear()
      yield path
    elif len(path.relative_to(directory).parts) >= DEPTH:
      folders.clear()


def _is_text(name: str) -> bool:
  return name.encode(errors='replace').decode() == name


def listed(directory: pathlib.Path) -> list[Listed]:
  """All runs in a directory, by name.

  Raises:
    ConfigError: there is no such directory.
  """
  if not directory.is_dir():
    raise ConfigError(f"there is no directory '{directory}': name the one that holds your runs.")
  return [look(run, directory) for run in find(directory)]


def look(run: pathlib.Path, directory: pathlib.Path) -> Listed:
  """What is known of one run.

  Args:
    run: its directory.
    directory: what its name is relative to.
  """
  stored = description.read(run)
  config = stored.get('config', {})
  known = stored.get('facts', {}).get('total_steps')
  total = known if isinstance(known, int) else None
  saved = steps.latest_finished(run) or 0
  seen = _glance(run)
  if lock.is_locked(run):
    status = 'running'
  else:
    status = 'finished' if total is None or saved >= total else 'stopped'
  return Listed(
    name=run.relative_to(directory).as_posix(),
    recipe=description.short_recipe(stored.get('recipe', '')),
    method=_name(config.get('method')),
    status=status,
    step=max(saved, seen.step),
    total=total,
    best=seen.best,
    best_step=seen.best_step,
    loss=seen.loss,
    bytes=size(run),
    changed=changed(run),
  )


class _Glance(NamedTuple):
  """What the list shows of a run's metrics."""

  step: int = 0
  best: float | None = None
  best_step: int | None = None
  loss: float | None = None


def _glance(run: pathlib.Path) -> _Glance:
  """Parses no more rows than it has to: a record may have 100,000."""
  try:
    with opened(run / metrics.JSONL) as file:
      lines = file.read().splitlines()
  except OSError:
    return _Glance()
  scored = [row for row in map(metrics.parsed, _with(lines, BEST)) if _is_finite(row.get(BEST))]
  best = max(scored, key=lambda row: row[BEST], default={})
  last = next((row for row in map(metrics.parsed, reversed(lines)) if row), {})
  lost = map(metrics.parsed, _with(reversed(lines), 'loss'))
  loss = next((row['loss'] for row in lost if _is_finite(row.get('loss'))), None)
  return _Glance(last.get('step', 0), best.get(BEST), best.get('step'), loss)


def _with(lines: Iterable[bytes], name: str) -> Iterator[bytes]:
  key = json.dumps(name).encode()
  return (line for line in lines if key in line)


def _is_finite(value: Any) -> bool:
  # JSON has whole numbers beyond those that a float can be.
  return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _name(fields: Any) -> str:
  return str(fields.get('name', '')) if isinstance(fields, dict) else ''


def size(run: pathlib.Path) -> int:
  """Bytes of all files below a directory; those that vanish meanwhile count nothing."""
  total, due = 0, [os.fspath(run)]
  while due:
    with contextlib.suppress(OSError), os.scandir(due.pop()) as entries:
      for entry in entries:
        if entry.is_dir(follow_symlinks=False):
          due.append(entry.path)
          continue
        with contextlib.suppress(OSError):
          total += entry.stat(follow_symlinks=False).st_size
  return total


def changed(run: pathlib.Path) -> float:
  """The newest time of what a run writes while it trains."""
  times = []
  for name in ('config.json', metrics.JSONL, steps.FOLDER, 'results.json'):
    with contextlib.suppress(OSError):
      times.append((run / name).stat().st_mtime)
  return max(times, default=0.0)


# What runs can be sorted by: -> key, and whether the largest come first.
ORDERS: dict[str, tuple[Callable[[Listed], Any], bool]] = {
  'name': (lambda run: run.name, False),
  'recipe': (lambda run: (run.recipe, run.name), False),
  'status': (lambda run: (run.status, run.name), False),
  'step': (lambda run: run.step, True),
  'best': (lambda run: -1.0 if run.best is None else run.best, True),
  'size': (lambda run: run.bytes, True),
  'changed': (lambda run: run.changed, True),
}
