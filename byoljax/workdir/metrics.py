"""The metrics that a run writes, to be read and plotted.

`metrics.jsonl` is the primary record: one JSON object per row, 'step' first. TensorBoard (through
tensorboardX, which does not import TensorFlow), CSV and services are copies of it. After a resume
it has the rows of an uninterrupted run, and one more where the run was stopped between two of them.

JSON has no NaN: such values are written as the strings "NaN", "Infinity" and "-Infinity", so that
any JSON parser accepts the file; `read` converts them back to floats.
"""

from collections.abc import Iterable, Mapping, Sequence
import csv as csv_module
import io
import json
import math
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from byoljax.config import ConfigError
from byoljax.devices import hosts
from byoljax.workdir.files import replacing

JSONL = 'metrics.jsonl'
CSV = 'metrics.csv'
TENSORBOARD = 'tensorboard'

_NON_FINITE = {'NaN': math.nan, 'Infinity': math.inf, '-Infinity': -math.inf}


class Writer:
  """Appends rows of metrics to a run's directory; does nothing except on the first process.

  Args:
    workdir: directory of the run, created if necessary.
    tensorboard: whether to write `tensorboard/` as well (numbers only).
    sinks: services that get the rows as well; see `byoljax.workdir.sinks`.
    csv: whether to write `metrics.csv` as well; a column that appears later is added to the header
      and is empty in earlier rows.
    resume_step: the step of the restored checkpoint. Rows of later steps are dropped, because they
      will be written again; 0 is a fresh start and drops everything. So a loop must write the row
      of a step before it saves that step's checkpoint.

  Raises:
    ConfigError: on the first process: a damaged row, or a service that does not take the run.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    *,
    tensorboard: bool = True,
    csv: bool = False,
    sinks: Sequence[str] = (),
    resume_step: int = 0,
  ) -> None:
    self._active = hosts.is_first_process()
    if not self._active:
      return
    directory = pathlib.Path(workdir)
    directory.mkdir(parents=True, exist_ok=True)
    self._path = directory / JSONL
    rows = [row for row in read(directory) if row['step'] <= resume_step] if resume_step else []
    with replacing(self._path, 'w') as file:
      file.writelines(_to_json(row) for row in rows)
    self._file = self._path.open('a', encoding='utf-8')
    self._csv = _Csv(directory / CSV, rows) if csv else None
    self._sinks = None
    if sinks:
      from byoljax.workdir.sinks import Sinks

      self._sinks = Sinks(sinks, directory)
    self._board = None
    if tensorboard:
      import tensorboardX

      if not resume_step:
        shutil.rmtree(directory / TENSORBOARD, ignore_errors=True)
      # Event files cannot be truncated; `purge_step` makes TensorBoard ignore the dropped steps.
      purge = resume_step + 1 if resume_step else None
      self._board = tensorboardX.SummaryWriter(str(directory / TENSORBOARD), purge_step=purge)

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Appends one row.

    Args:
      step: number of optimizer steps done.
      metrics: name -> number, bool, string, None, or array of one number; reading arrays waits for
        the device.

    Raises:
      ValueError: a value is none of these.
    """
    if not self._active:
      return
    row = {'step': int(step)} | {k: _plain(k, v) for k, v in metrics.items() if k != 'step'}
    self._file.write(_to_json(row))
    self._file.flush()
    if self._csv is not None:
      self._csv.write(row)
    if self._board is not None:
      for name, value in row.items():
        if name != 'step' and isinstance(value, int | float):
          self._board.add_scalar(name, float(value), int(step))
    if self._sinks is not None:
      self._sinks.write(row)

  def flush(self) -> None:
    """Syncs everything to disk; call it before saving a checkpoint."""
    if not self._active:
      return
    self._file.flush()
    os.fsync(self._file.fileno())
    if self._csv is not None:
      self._csv.file.flush()
    if self._board is not None:
      self._board.flush()

  def close(self, outcome: str = 'finished') -> None:
    """Flushes and closes; idempotent.

    Args:
      outcome: how the run ended: 'finished', 'stopped' or 'failed'.
    """
    if not self._active or self._file.closed:
      return
    self.flush()
    self._file.close()
    if self._csv is not None:
      self._csv.file.close()
    if self._board is not None:
      self._board.close()
    if self._sinks is not None:
      self._sinks.close(outcome)

  def __enter__(self) -> 'Writer':
    return self

  def __exit__(self, kind: object, *exception: object) -> None:
    self.close('finished' if kind is None else 'failed')


def read(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """The rows of `workdir/metrics.jsonl` in order; [] if there is none.

  A last line that was truncated by a crash is ignored.

  Raises:
    ConfigError: another line is damaged.
  """
  path = pathlib.Path(workdir) / JSONL
  if not path.is_file():
    return []
  lines = path.read_bytes().splitlines(keepends=True)
  rows = []
  for number, line in enumerate(lines, 1):
    row = parsed(line)
    if row:
      rows.append(row)
    elif number < len(lines) or line.endswith(b'\n'):
      raise ConfigError(f"line {number} of '{path}' is not a row of metrics: delete the line.")
  return rows


def parsed(line: bytes) -> dict[str, Any]:
  """The row of one line, which may be half written; {} where it is no row."""
  try:
    row = json.loads(line)
    row = {k: _NON_FINITE.get(v, v) if type(v) is str else v for k, v in row.items()}
  except (ValueError, AttributeError, RecursionError):
    return {}
  return row if isinstance(row.get('step'), int) else {}


def _plain(name: str, value: Any) -> Any:
  """A JSON value: number, bool, string or None."""
  if value is None or isinstance(value, str | bool):
    return value
  array = np.asarray(value)
  if array.size != 1 or array.dtype.kind not in 'biuf' and array.dtype.name != 'bfloat16':
    raise ValueError(
      f'Metric {name!r} must be one number, but has shape {array.shape} and type {array.dtype}.'
    )
  if array.dtype.kind == 'b':
    return bool(array.item())
  if array.dtype.kind in 'iu':
    return int(array.item())
  # The shortest decimal that is this float32: 0.1 rather than 0.10000000149011612.
  return float(str(array.reshape(()))) if array.dtype == np.float32 else float(array.item())


def _to_json(row: Mapping[str, Any]) -> str:
  return json.dumps({name: _finite(value) for name, value in row.items()}, allow_nan=False) + '\n'


def _finite(value: Any) -> Any:
  if not isinstance(value, float) or math.isfinite(value):
    return value
  return 'NaN' if math.isnan(value) else 'Infinity' if value > 0 else '-Infinity'


class _Csv:
  """The same rows as comma-separated values, under a header that may grow."""

  def __init__(self, path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    self._path = path
    self._columns = ['step']
    self._rewrite(rows)

  def write(self, row: Mapping[str, Any]) -> None:
    if set(row) <= set(self._columns):
      csv_module.DictWriter(self.file, self._columns, lineterminator='\n').writerow(row)
      self.file.flush()
      return
    self.file.close()
    with self._path.open(encoding='utf-8', newline='') as file:
      before = list(csv_module.DictReader(file))
    self._rewrite([*before, row])

  def _rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
    rows = list(rows)
    self._columns = list(dict.fromkeys([*self._columns, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv_module.DictWriter(text, self._columns, lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    with replacing(self._path, 'w') as file:
      file.write(text.getvalue())
    self.file = self._path.open('a', encoding='utf-8', newline='')
