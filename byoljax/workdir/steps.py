"""Which checkpoints a run's directory holds, without opening one: nothing here imports JAX."""

import os
import pathlib

from byoljax.workdir import integrity

FOLDER = 'checkpoints'


def latest_finished(workdir: str | os.PathLike[str]) -> int | None:
  """The step of the newest complete checkpoint in a workdir, without opening it; None if none."""
  return max(finished_steps(workdir), default=None)


def finished_steps(workdir: str | os.PathLike[str]) -> list[int]:
  """The steps of all complete checkpoints in a workdir, ascending, without opening it."""
  folder = pathlib.Path(workdir) / FOLDER
  found = (integrity.step_of(path) for path in folder.glob('*') if is_whole(path))
  return sorted(step for step in found if step is not None)


def mark(workdir: str | os.PathLike[str], step: int) -> tuple[int, int] | None:
  """What another checkpoint of the same step has another of; None where there is none."""
  try:
    record = (pathlib.Path(workdir) / FOLDER / str(step) / integrity.ITEM / 'metadata').stat()
  except OSError:
    return None
  return record.st_ino, record.st_mtime_ns


def is_whole(directory: pathlib.Path) -> bool:
  """Whether a step's directory holds a complete checkpoint."""
  # If the record exists, so does everything else: the directory is renamed atomically.
  return (directory / 'state').is_dir() and integrity.is_there(directory)
