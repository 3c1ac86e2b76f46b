"""Files that are there whole or not at all."""

from collections.abc import Iterator, Mapping
import contextlib
import json
import os
import pathlib
import secrets
from typing import IO, Any


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: str = 'wb') -> Iterator[IO[Any]]:
  """Opens a file whose contents take the place of `path` when the block ends without an error.

  A reader, or whoever comes after a crash, finds the old contents or the new ones, never half of
  them. Several processes may do this at once: the last one wins.

  Args:
    path: the file; its directory must exist.
    mode: 'wb', or 'w' for text in UTF-8 with newlines as they are written.

  Raises:
    OSError: it cannot be written; `path` is as it was, and nothing else is left behind.
  """
  target = pathlib.Path(path)
  # In the same directory: a file is renamed atomically only within one file system.
  scratch = target.with_name(f'{target.name}.{secrets.token_hex(4)}.tmp')
  encoding, newline = (None, None) if 'b' in mode else ('utf-8', '')
  try:
    with scratch.open(mode, encoding=encoding, newline=newline) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(scratch, target)
  except BaseException:
    with contextlib.suppress(OSError):
      scratch.unlink()
    raise


def write_json(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
  """Writes indented JSON; see `replacing`."""
  with replacing(path, 'w') as file:
    file.write(json.dumps(data, indent=2) + '\n')
