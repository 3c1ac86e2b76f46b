"""Roll call and liveness: one connection from every process to the first, for a whole run.

If a process is missing, JAX's own service ends the others by abort() with a page of addresses, and
it takes a minute or two to detect that one has died. So the processes first hold a roll call: each
reports to the first one, which compares the reports and sends the same verdict to all. The
connections stay open; when a process ends, the operating system closes its connection, and the
others are notified at once.

Messages are lines of JSON. Peers are not authenticated: as with JAX's service, the port must not be
reachable from outside the cluster. Uses only Python's standard library.
"""

from collections.abc import Callable, Sequence
import contextlib
import json
import os
import selectors
import socket
import threading
import time
from typing import Any

GRACE_SECONDS = 10.0
_LONGEST_LINE = 4096
_RETRY_SECONDS = 0.5


class MissingError(RuntimeError):
  """Other processes are missing, unreachable or dead; the message is for the user."""


class ClashError(ValueError):
  """Processes contradict each other; the message is for the user."""


class Connection:
  """A socket for lines of JSON."""

  def __init__(self, own: socket.socket):
    self._socket = own
    self._rest = b''
    # A machine that fails closes nothing: probe after 10 s of silence, give up after 30.
    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (('TCP_KEEPIDLE', 10), ('TCP_KEEPINTVL', 5), ('TCP_KEEPCNT', 4)):
      if hasattr(socket, name):  # Not on every system.
        own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

  def fileno(self) -> int:
    """For selectors."""
    return self._socket.fileno()

  def send(self, message: dict[str, Any]) -> None:
    """Sends a line; a closed peer is detected by the reader."""
    with contextlib.suppress(OSError):
      self._socket.sendall(json.dumps(message).encode() + b'\n')

  def receive(self, timeout: float | None) -> dict[str, Any] | None:
    """The next message; None at the end, after `timeout` seconds, or for invalid data."""
    try:
      while b'\n' not in self._rest:
        self._socket.settimeout(timeout)
        data = self._socket.recv(_LONGEST_LINE)
        if not data or len(self._rest) > _LONGEST_LINE:
          return None
        self._rest += data
      line, _, self._rest = self._rest.partition(b'\n')
      message = json.loads(line)
    except (OSError, ValueError, RecursionError):
      return None
    finally:
      with contextlib.suppress(OSError):
        self._socket.settimeout(None)
    return message if isinstance(message, dict) else None

  def is_open(self) -> bool:
    """Whether the peer still holds it: a process that ends closes it."""
    self._socket.setblocking(False)
    try:
      return bool(self._socket.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
      return True
    except OSError:
      return False
    finally:
      self._socket.setblocking(True)

  def has_more(self) -> bool:
    """Whether a complete line is already buffered."""
    return b'\n' in self._rest

  def close(self) -> None:
    """Closes the connection."""
    self._socket.close()


def listen(port: int) -> socket.socket:
  """A socket that listens on all addresses of this machine.

  Raises:
    ClashError: the port is taken.
  """
  try:
    if socket.has_dualstack_ipv6():
      return socket.create_server(
        ('', port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
      )
    return socket.create_server(('', port), backlog=1024)
  except (OSError, OverflowError) as error:
    number = getattr(error, 'errno', None)
    why = os.strerror(number).lower() if number else str(error)
    raise ClashError(
      f'port {port} of this machine cannot be used ({why}): '
      f'another run uses it, or another process with --process_id=0; choose another port for all.'
    ) from error


def gather(server: socket.socket, count: int, wait: float) -> dict[int, Connection]:
  """Runs the roll call on the first process; closes the server.

  Args:
    server: from `listen`.
    count: expected number of processes, including this one.
    wait: timeout in seconds.

  Returns:
    id -> connection to every other process; each has been told to proceed.

  Raises:
    MissingError: some did not report.
    ClashError: a duplicate id, or a different number of processes. All are told.
  """
  connections: dict[int, Connection] = {}
  who: dict[int, str] = {0: f'{socket.gethostname()}, process {os.getpid()}'}
  deadline = time.monotonic() + wait
  try:
    while True:
      # One that has ended meanwhile may be started again.
      for number in [each for each, open_ in connections.items() if not open_.is_open()]:
        connections.pop(number).close()
        del who[number]
      if len(connections) == count - 1:
        break
      left = deadline - time.monotonic()
      server.settimeout(max(left, 0.01))
      try:
        connection = Connection(server.accept()[0])
      except TimeoutError:
        lost = [str(i) for i in range(count) if i not in who]
        raise MissingError(
          f'{_processes(lost)} of {count} did not start within {wait:g} s: check whether '
          f'{"it was" if len(lost) == 1 else "they were"} started, and '
          f'{"its" if len(lost) == 1 else "their"} output; increase --wait_for_processes to wait '
          f'longer.'
        ) from None
      message = connection.receive(5.0)
      if message is None or not isinstance(message.get('id'), int):
        connection.close()  # Not one of ours: a port scanner, a health check.
        continue
      number, theirs = message['id'], message.get('count')
      name = f'{message.get("host")}, process {message.get("pid")}'
      problem = ''
      if theirs != count:
        problem = (
          f'--num_processes={theirs} on {name} (--process_id={number}), but '
          f'--num_processes={count} on {who[0]} (--process_id=0): start all of them with the same '
          f'number.'
        )
      elif number in who:
        problem = (
          f'--process_id={number} was given twice, to {who[number]} and to {name}: every process '
          f'needs its own number from 0 to {count - 1}.'
        )
      if problem:
        connection.send({'clash': problem})
        connection.close()
        raise ClashError(problem)
      connections[number], who[number] = connection, name
  except (MissingError, ClashError) as error:
    kind = 'clash' if isinstance(error, ClashError) else 'missing'
    for connection in connections.values():
      connection.send({kind: str(error)})
      connection.close()
    raise
  finally:
    server.close()
  for connection in connections.values():
    connection.send({'go': True})
  return connections


def report(
  addresses: Sequence[tuple[str, int]], number: int, count: int, wait: float
) -> Connection:
  """Reports to the first process; returns once all processes have reported.

  Args:
    addresses: candidates for the host and port of the first process.
    number: this process's id.
    count: expected number of processes.
    wait: timeout in seconds.

  Raises:
    MissingError: the first process cannot be reached, or reports that others are missing.
    ClashError: it reports that processes contradict each other.
  """
  where = ' or '.join(f'{host}:{port}' for host, port in addresses)
  deadline = time.monotonic() + wait
  why = 'no answer'
  while True:
    for address in addresses:
      left = deadline - time.monotonic()
      if left <= 0:
        raise MissingError(
          f'process 0 could not be reached at {where} within {wait:g} s ({why}): check whether it '
          f'runs there and whether a firewall blocks it; increase --wait_for_processes to wait '
          f'longer.'
        )
      try:
        own = socket.create_connection(address, timeout=min(left, 10.0))
      except OSError as error:
        why = (error.strerror or str(error)).lower()
        continue
      connection = Connection(own)
      connection.send(
        {'id': number, 'count': count, 'host': socket.gethostname(), 'pid': os.getpid()}
      )
      # The first process may have started later than this one, and waits as long again.
      answer = connection.receive(wait + GRACE_SECONDS) or {}
      if answer.get('go'):
        return connection
      connection.close()
      if 'clash' in answer:
        raise ClashError(answer['clash'])
      if 'missing' in answer:
        raise MissingError(answer['missing'])
      why = 'the answer is not the roll call of this run: does another run use the port, or was '
      why += f'another process {number} started?'
    time.sleep(_RETRY_SECONDS)


class Watch:
  """Watches the open connections for dead processes, in its own thread.

  Args:
    number: this process's id.
    count: number of processes.
    others: id -> connection: the first process has one to every other, the others one to the first.
    on_loss: called once with a message for the user, as soon as a process has died, or
      `GRACE_SECONDS` after one ended with an error, which the others may be about to hit as well.
  """

  def __init__(
    self, number: int, count: int, others: dict[int, Connection], on_loss: Callable[[str], None]
  ):
    self._number, self._count = number, count
    self._others, self._on_loss = others, on_loss
    self._ended: set[int] = set()
    self._leaving = False
    self._lost = ''
    self._changed = threading.Condition()
    threading.Thread(target=self._run, name='roll call', daemon=True).start()

  def describe_loss(self, wait: float = 0.0) -> str:
    """A message naming a process that has died; waits up to `wait` seconds. Empty if none has."""
    with self._changed:
      self._changed.wait_for(lambda: self._lost, wait)
      return self._lost

  def leave(self, status: int) -> None:
    """Announces that this process ends, with its exit status.

    With an error, the first process waits briefly for the others: when it ends, JAX's service ends
    with it and abort()s every process that still needs it. Without one, the others wait for the
    first, which may still draw a report; in JAX they would wait for five minutes, then abort().
    """
    with self._changed:
      self._leaving = status != 0
      for connection in self._others.values():
        connection.send({'end': self._number, 'status': status})
      if status and self._number == 0:
        self._changed.wait_for(lambda: len(self._ended) >= len(self._others), GRACE_SECONDS)
      elif not status and self._number:
        self._changed.wait_for(lambda: 0 in self._ended and not self._lost)
      self._leaving = True

  def _run(self) -> None:
    with selectors.DefaultSelector() as selector:
      for number, connection in self._others.items():
        selector.register(connection, selectors.EVENT_READ, (number, connection))
      while selector.get_map():
        for key, _ in selector.select():
          number, connection = key.data
          message = connection.receive(5.0)
          if message is None:
            selector.unregister(connection)
            self._gone(number, None)
            continue
          self._gone(message.get('end', number), message.get('status'))
          while connection.has_more():
            message = connection.receive(0) or {}
            self._gone(message.get('end', number), message.get('status'))

  def _gone(self, number: int, status: int | None) -> None:
    """Records that a process ended; `status` None: it died."""
    with self._changed:
      if number in self._ended:
        return
      self._ended.add(number)
      self._changed.notify_all()
      if self._leaving or status == 0:
        return
      for other, connection in self._others.items():
        if other != number:
          connection.send({'end': number, 'status': status})
      if self._lost:
        return
      how = 'is gone: it died, or its machine is unreachable'
      if status is not None:
        how = f'ended with exit status {status}; see its own output for the reason'
      self._lost = (
        f'process {number} of {self._count} {how}. This process cannot continue alone and stops. '
        f'Start all processes again with the same command to resume from the last checkpoint.'
      )
      self._changed.notify_all()
    timer = threading.Timer(0.0 if status is None else GRACE_SECONDS, self._act)
    timer.daemon = True
    timer.start()

  def _act(self) -> None:
    with self._changed:
      if self._leaving:
        return
    self._on_loss(self._lost)


def _processes(numbers: Sequence[str]) -> str:
  if len(numbers) == 1:
    return f'process {numbers[0]}'
  shown = numbers if len(numbers) <= 10 else [*numbers[:10], f'{len(numbers) - 10} more']
  return f'processes {", ".join(shown[:-1])} and {shown[-1]}'
