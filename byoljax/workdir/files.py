"""Atomic writes: files and folders that are complete or absent; reads that do not wait."""

from collections.abc import Iterator, Mapping
import contextlib
import errno
import json
import os
import pathlib
import re
import secrets
import shutil
from typing import IO, Any

try:
  import fcntl
except ImportError:  # Windows has no flock: what killed processes leave stays.
  fcntl = None


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: str = 'wb') -> Iterator[IO[Any]]:
  """Opens a temporary file that replaces `path` if the block ends without an error.

  Readers, also after a crash, see the old contents or the new ones, never a part. Several processes
  may do this at the same time: the last one wins.

  Args:
    path: the file; its directory must exist.
    mode: 'wb', or 'w' for text in UTF-8 with newlines as they are written.

  Raises:
    OSError: it cannot be written; `path` is unchanged and no temporary file is left behind.
  """
  target = pathlib.Path(path)
  # In the same directory, because renames are atomic only within one file system.
  scratch = target.with_name(f'{target.name}.{secrets.token_hex(4)}.tmp')
  encoding, newline = (None, None) if 'b' in mode else ('utf-8', '')
  try:
    with scratch.open(mode, encoding=encoding, newline=newline) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(scratch, target)
  except BaseException as error:
    with contextlib.suppress(OSError):
      scratch.unlink()
    if isinstance(error, OSError) and error.filename == str(scratch):
      error.filename = str(target)  # The name that was asked for.
    raise


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """An empty folder to fill, which becomes `path` if the block ends without an error.

  What processes that were killed have left of it goes first.

  Raises:
    ValueError: there is something in `path`.
    OSError: it cannot be written; nothing is left behind.
  """
  target = pathlib.Path(path).resolve()  # Neither '.' nor a link.
  made = not target.exists()
  # In a folder that is there, which may be all that can be written to, or on a disk of its own.
  place = target.parent if made else target
  _remove_abandoned(place, target.name)
  if not made and any(target.iterdir()):
    raise ValueError(f"'{target}' is not empty: choose another folder.")
  scratch = place / f'{target.name}.{secrets.token_hex(4)}.tmp'
  try:
    scratch.mkdir(parents=True)
    with _held(scratch):
      yield scratch
      if made:
        scratch.rename(target)
      else:
        for each in sorted(scratch.iterdir()):
          each.rename(target / each.name)
        scratch.rmdir()
  except BaseException:
    shutil.rmtree(scratch, ignore_errors=True)
    raise


@contextlib.contextmanager
def _held(folder: pathlib.Path) -> Iterator[bool]:
  """Locks a folder for the block, if it can be; the lock ends with the process."""
  if fcntl is None:
    yield False
    return
  locked, descriptor = False, os.open(folder, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):  # Another process holds it, or the disk has no locks.
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      locked = True
    yield locked
  finally:
    os.close(descriptor)


def _remove_abandoned(place: pathlib.Path, name: str) -> None:
  """Removes folders of `whole_folder` that no process holds any more."""
  ours = re.compile(re.escape(name) + r'\.[0-9a-f]{8}\.tmp')
  for old in place.iterdir() if place.is_dir() else ():
    if ours.fullmatch(old.name):
      with contextlib.suppress(OSError), _held(old) as locked:
        if locked:
          shutil.rmtree(old)


def opened(path: pathlib.Path) -> IO[bytes]:
  """Opens a file to read it.

  Raises:
    OSError: it cannot be read, or is none: a pipe would wait for a writer, a device may never end.
  """
  if not path.is_file():
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
  return path.open('rb')


def write_json(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
  """Writes indented JSON; see `replacing`."""
  with replacing(path, 'w') as file:
    file.write(json.dumps(data, indent=2) + '\n')
