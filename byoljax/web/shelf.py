"""What the page shows of the runs of a directory: all of it from their files, nothing is written.

A run is named by its path below the directory, and only names that looking through the directory
has found lead to files: no request can name a path of its own. Nothing here imports JAX.
"""

from collections.abc import Mapping
import contextlib
import os
import pathlib
import threading
import time
from typing import Any

import numpy as np

from byoljax.report import by_tap, charts, curves, evaluations, final_table
from byoljax.workdir import description, listing, metrics
from byoljax.workdir.files import opened

# Where pictures of a run lie, in the order of the page.
PICTURES = ('*.png', 'samples/*.png', 'report/*.png', 'evals/*/*.png')
MOST_PICTURES = 60
_PNG = b'\x89PNG\r\n\x1a\n'
_LOG_BYTES, _LOG_LINES = 20_000, 15
_REPORT = 'report.html'


class Shelf:
  """The runs of a directory.

  Args:
    directory: looked through as by `listing.find`.
    rest: seconds between two looks, at least; several pages share one.
  """

  def __init__(self, directory: pathlib.Path, rest: float = 1.5):
    self.directory = directory
    self._rest, self._next = rest, 0.0
    self._runs: list[listing.Listed] = []
    self._records: dict[pathlib.Path, Record] = {}
    self._lock = threading.Lock()

  def runs(self) -> list[listing.Listed]:
    """All runs, as of a moment ago.

    Raises:
      ConfigError: the directory is gone.
    """
    with self._lock:
      began = time.monotonic()
      if began >= self._next:
        self._runs = listing.listed(self.directory)
        ended = time.monotonic()
        # Slow file systems are not kept busy.
        self._next = ended + max(self._rest, 5 * (ended - began))
      return self._runs

  def path(self, name: str) -> pathlib.Path:
    """A run's directory.

    Raises:
      KeyError: there is no run of that name.
    """
    if name not in {run.name for run in self.runs()}:
      raise KeyError(name)
    return self.directory / name

  def curves(self, name: str) -> dict[str, Any]:
    """Every metric of a run as a curve of some hundred points, and what it is compared with.

    Returns:
      {'series': {metric: [steps, values]}, 'known': [[panel, label, value]], 'steps_per_epoch'}

    Raises:
      KeyError: there is no run of that name.
    """
    run = self.path(name)
    facts = description.read(run).get('facts', {})
    with self._lock:
      rows = self._records.setdefault(run, Record(run)).rows()
      known = dict.fromkeys(key for row in rows for key in row)
      series = {key: _thinned(rows, key) for key in known if key not in ('step', 'epoch')}
    return {
      'series': {key: points for key, points in series.items() if points[0]},
      'known': [list(each) for each in curves.references(run)],
      'steps_per_epoch': facts.get('steps_per_epoch'),
    }

  def details(self, name: str) -> dict[str, Any]:
    """Settings, results, pictures and the end of the log of a run.

    Raises:
      KeyError: there is no run of that name.
    """
    run = self.path(name)
    stored = description.read(run)
    return {
      'settings': description.flat(stored.get('config', {})),
      'facts': description.flat(stored.get('facts', {})),
      'versions': description.flat(
        {'byoljax': stored.get('byoljax', ''), **(stored.get('versions') or {})}
      ),
      'tables': _tables(run),
      'pictures': [
        {'name': picture, 'changed': (run / picture).stat().st_mtime_ns}
        for picture in pictures(run)
      ],
      'report': (run / _REPORT).is_file(),
      'log': _end_of_log(run / 'run.log'),
    }

  def picture(self, name: str, picture: str) -> bytes:
    """A picture of a run, as PNG.

    Raises:
      KeyError: there is no such run, or it has no such picture.
      OSError: it cannot be read.
    """
    run = self.path(name)
    if picture not in pictures(run):
      raise KeyError(picture)
    return (run / picture).read_bytes()

  def report(self, name: str) -> bytes:
    """A run's report, HTML.

    Raises:
      KeyError: there is no such run, or it has none.
      OSError: it cannot be read.
    """
    run = self.path(name)
    if not _is_inside(run / _REPORT, run):
      raise KeyError(_REPORT)
    return (run / _REPORT).read_bytes()


class Record:
  """The rows of a run's metrics: what was appended since is read, not the whole file again.

  Args:
    run: its directory.
  """

  def __init__(self, run: pathlib.Path):
    self._path = run / metrics.JSONL
    self._file, self._read = -1, 0
    self._rows: list[dict[str, Any]] = []

  def rows(self) -> list[dict[str, Any]]:
    """All complete rows; lines that are none are passed over."""
    try:
      with opened(self._path) as file:
        about = os.fstat(file.fileno())  # Of this file, whatever has its name by now.
        # A run that resumes puts another file in its place.
        if about.st_ino != self._file or about.st_size < self._read:
          self._file, self._read, self._rows = about.st_ino, 0, []
        file.seek(self._read)
        text = file.read()
    except OSError:
      return []
    whole = text[: text.rfind(b'\n') + 1]
    self._read += len(whole)
    self._rows += [row for row in map(metrics.parsed, whole.splitlines()) if row]
    return self._rows


def _thinned(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
  x, y = charts.thinned(*curves.points(rows, curves.Curve(key, key)))
  return np.round(x, 1).tolist(), [float(f'{value:.6g}') for value in y]


def pictures(run: pathlib.Path) -> list[str]:
  """Names of a run's pictures, relative to it; links that lead out of it are none of them."""
  found = [path for pattern in PICTURES for path in sorted(run.glob(pattern))]
  # The page draws the curves itself.
  shown = [path for path in found if path.name != curves.FILE and _is_inside(path, run)]
  return [path.relative_to(run).as_posix() for path in shown[:MOST_PICTURES] if _is_png(path)]


def _is_png(path: pathlib.Path) -> bool:
  with path.open('rb') as file:
    return file.read(len(_PNG)) == _PNG


def _is_inside(path: pathlib.Path, run: pathlib.Path) -> bool:
  """Whether a file is there, and really lies in the run's directory."""
  return path.is_file() and path.resolve().is_relative_to(run.resolve())


def _tables(run: pathlib.Path) -> dict[str, list[dict[str, str]]]:
  """Title -> rows of text: the final table and later evaluations, as far as they can be read."""
  made: dict[str, list[dict[str, Any]]] = {}
  final = evaluations.final(run)
  with contextlib.suppress(*evaluations.ODD):
    if final.results:
      made[final.heading] = final_table.rows(final.results)
  made |= evaluations.tables(run) | by_tap.tables(run)
  return {title: [_texts(row) for row in rows] for title, rows in made.items()}


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
  return {
    key: f'{value:.1%}' if isinstance(value, float) else str(value) for key, value in row.items()
  }


def _end_of_log(path: pathlib.Path) -> str:
  try:
    with opened(path) as file:
      file.seek(max(0, path.stat().st_size - _LOG_BYTES))
      lines = file.read().decode(errors='replace').splitlines()
  except OSError:
    return ''
  return '\n'.join(lines[-_LOG_LINES:])
