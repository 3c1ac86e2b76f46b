"""Contestants as processes that take turns.

Every contestant is one process that lives through all of its turns, because what is compared is
the steady state: libraries are imported, programs compiled and allocators filled once, outside of
what is timed. Turns alternate (A B A B ...), so that a machine that gets slower or busier meanwhile
does so for all. Between turns the others sit in a read of a pipe; that they really do nothing then
is measured too (`idle_cpu_s`), since spinning thread pools would slow the one whose turn it is.

Requests and replies are JSON objects, one per line. This module is read by every contestant's
interpreter: standard library only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
import traceback
from typing import Any

try:
  import resource
except ModuleNotFoundError:  # Not on Windows; there is no CPU time of children then.
  resource = None

Reply = dict[str, Any]


def versions(packages: Iterable[str]) -> dict[str, str]:
  """Versions of Python and of those packages that are installed."""
  found = {'python': platform.python_version()}
  for name in packages:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      continue
  return found


def cpu_seconds() -> float:
  """CPU time of this process's threads and of its children that have ended, in seconds."""
  if resource is None:
    return time.process_time()
  parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
  return sum(part.ru_utime + part.ru_stime for part in parts)


def resident_bytes() -> dict[str, int]:
  """Memory of this process: 'now' and 'peak', in bytes; empty without /proc."""
  try:
    with open('/proc/self/status', encoding='ascii') as file:
      fields = dict(line.split(':', 1) for line in file)
  except OSError:
    return {}
  wanted = {'now': 'VmRSS', 'peak': 'VmHWM'}
  return {name: int(fields[key].split()[0]) * 1024 for name, key in wanted.items()}


def resident_bytes_anew() -> dict[str, int]:
  """The same with the peak set back to now, where the system can do that (Linux)."""
  try:
    with open('/proc/self/clear_refs', 'w', encoding='ascii') as file:
      file.write('5')
  except OSError:
    pass
  return resident_bytes()


def timed(work: Callable[[], Any]) -> tuple[float, float]:
  """Wall and CPU seconds of a call; see `cpu_seconds`."""
  cpu, wall = cpu_seconds(), time.perf_counter()
  work()
  return time.perf_counter() - wall, cpu_seconds() - cpu


def serve(handlers: Mapping[str, Callable[..., Reply]]) -> None:
  """The contestant's side: answers requests from standard input until it is closed.

  What libraries print goes to standard error, so that it cannot be taken for a reply.
  """
  replies = os.fdopen(os.dup(1), 'w', encoding='utf-8')
  os.dup2(2, 1)
  before = cpu_seconds()
  for line in sys.stdin:
    request = json.loads(line)
    idle = cpu_seconds() - before
    try:
      reply = handlers[request.pop('do')](**request)
    except Exception:
      reply = {'error': traceback.format_exc()}
    before = cpu_seconds()
    print(json.dumps(reply | {'idle_cpu_s': idle}), file=replies, flush=True)


class Contestant:
  """The other end of `serve`; a context manager that ends the process.

  Args:
    name: for messages and the name of the log.
    command: starts the process.
    env: its environment.
    log: file that gets what it prints.
  """

  def __init__(
    self, name: str, command: Sequence[str], env: Mapping[str, str], log: pathlib.Path
  ) -> None:
    self.name = name
    self._log = log
    with log.open('wb') as printed:
      self._process = subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=printed,
        env=dict(env),
        text=True,
      )

  def ask(self, do: str, **arguments: Any) -> Reply:
    """Sends a request and waits for the reply.

    Raises:
      RuntimeError: the contestant failed; with its traceback or the end of its log.
    """
    assert self._process.stdin is not None and self._process.stdout is not None
    try:
      self._process.stdin.write(json.dumps({'do': do, **arguments}) + '\n')
      self._process.stdin.flush()
    except BrokenPipeError:
      pass  # It has died; the log says why.
    line = self._process.stdout.readline()
    if not line:
      status = self._process.wait()
      end = ''.join(self._log.read_text(errors='replace').splitlines(keepends=True)[-20:])
      raise RuntimeError(f'{self.name} ended with status {status} during {do!r}:\n{end}')
    reply = json.loads(line)
    if 'error' in reply:
      raise RuntimeError(f'{self.name} failed during {do!r}:\n{reply["error"]}')
    return reply

  def __enter__(self) -> 'Contestant':
    return self

  def __exit__(self, *unused: object) -> None:
    assert self._process.stdin is not None and self._process.stdout is not None
    self._process.stdin.close()
    try:
      self._process.wait(timeout=10)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._process.stdout.close()


def alternate(
  turns: Mapping[str, Callable[[], Reply]],
  rounds: int,
  *,
  pause: float,
  say: Callable[[str], None],
) -> dict[str, list[Reply]]:
  """Lets everyone have a turn, `rounds` times.

  Args:
    turns: name -> what it does when it is its turn.
    rounds: turns of each.
    pause: seconds before every turn, in which the thread pools of the one before fall asleep.
    say: called after every turn.

  Returns:
    name -> its replies in order.
  """
  replies: dict[str, list[Reply]] = {name: [] for name in turns}
  for number in range(rounds):
    for name, turn in turns.items():
      time.sleep(pause)
      replies[name].append(turn())
      say(f'  round {number + 1}/{rounds}  {name}')
  return replies
