"""The lock of a run's directory: one run at a time, and one directory for all of its processes.

<workdir>/lock is locked during a run, and names the process that holds it.
"""

from collections.abc import Iterator
import contextlib
import logging
import os
import pathlib
import platform
import secrets
import time

from byoljax.config import ConfigError
from byoljax.devices import hosts, processes
from byoljax.workdir.files import opened

try:
  import fcntl
except ImportError:  # Windows has no flock: two runs in one directory are not detected.
  fcntl = None

log = logging.getLogger('byoljax')
LOCK = 'lock'
_START = ', start '


@contextlib.contextmanager
def lock_workdir(workdir: pathlib.Path) -> Iterator[None]:
  """Locks a directory against other runs for the duration of the block.

  The lock is the operating system's (flock), on `<workdir>/lock`, held by the first process. It is
  released when the process ends for any reason, so a killed run leaves no stale lock; the file only
  names the holder. If the file system does not support locks, the run continues without one.

  Raises:
    ConfigError: another run holds it, it cannot be written, or the processes of this run see
      different directories of that name; on every process.
  """
  problem, descriptor, start = '', None, secrets.randbelow(1 << 31)
  if hosts.is_first_process():
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      descriptor = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
      problem = _lock(workdir, descriptor) or _sign(descriptor, start)
    except OSError as error:
      problem = f"--workdir='{workdir}' cannot be written: {error.strerror}."
  try:
    if not hosts.all_agree(not problem):
      raise ConfigError(problem or f"the first process could not take '{workdir}'.")
    if processes.is_multiprocess():
      _require_shared(workdir, hosts.broadcast_from_first(start))
    yield
  finally:
    if descriptor is not None:
      os.close(descriptor)


def _lock(workdir: pathlib.Path, descriptor: int) -> str:
  """Locks an open file and writes the holder's name into it; returns an error message or ''."""
  if fcntl is None:
    return ''
  try:
    for _ in range(3):  # `is_locked` may hold it for a moment.
      with contextlib.suppress(BlockingIOError, PermissionError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return ''
      time.sleep(0.05)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except (BlockingIOError, PermissionError):
    holder = ' '.join(os.pread(descriptor, 200, 0).decode(errors='replace').split())
    return (
      f"'{workdir}' is in use by another run ({holder or 'it has just been started'}): "
      f'wait for it, stop it, or choose another --workdir.'
    )
  except OSError as error:
    log.info('%s: no locks on this file system (%s)', workdir, error.strerror)
  return ''


def is_locked(workdir: pathlib.Path) -> bool:
  """Whether a run holds a directory now; False where the file system has no locks."""
  if fcntl is None:
    return False
  try:
    with opened(workdir / LOCK) as file:
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except (BlockingIOError, PermissionError):
    return True
  except OSError:
    return False
  return False


def _sign(descriptor: int, start: int) -> str:
  """Writes the holder's name and the number of this start into the lock; returns ''."""
  os.ftruncate(descriptor, 0)
  os.pwrite(descriptor, f'process {os.getpid()} on {platform.node()}{_START}{start}\n'.encode(), 0)
  os.fsync(descriptor)  # Other machines read it.
  return ''


def _require_shared(workdir: pathlib.Path, start: int) -> None:
  """Raises ConfigError unless all processes see in the directory what the first one has written.

  Without this check processes would wait for each other's part of a checkpoint, for 20 minutes.
  """
  blind = ', '.join(map(str, hosts.dissenters(_sees(workdir, start))))
  if blind:
    raise ConfigError(
      f"--workdir='{workdir}' is not the same directory for process {blind} as for process 0: it "
      f'must be on a file system that all of them share.'
    )


def _sees(workdir: pathlib.Path, start: int, seconds: float = 5.0) -> bool:
  """Whether the lock is signed with this start; network file systems may take a moment."""
  end = time.monotonic() + seconds
  while True:
    with contextlib.suppress(OSError, UnicodeDecodeError):
      if (workdir / LOCK).read_text().strip().endswith(f'{_START}{start}'):
        return True
    if time.monotonic() > end:
      return False
    time.sleep(0.1)
