"""Who is there, and who is gone: one connection from every process to the first, for a whole run.

JAX's own service ends a process by abort() and a page of addresses when another one is missing, and
takes a minute or two to notice that one has died. So the processes first call the roll among
themselves: each says who it is, the first one compares and answers all of them with the same
verdict. The connections stay open; when a process ends, the operating system closes its, and
the others know at once.

Messages are lines of JSON. Nobody proves who he is: as with JAX's service, the port must not be
reachable from outside of the cluster. Python's standard library only.
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
  """Other processes did not come, cannot be reached, or are gone; the message is for the user."""


class ClashError(ValueError):
  """Processes contradict each other; the message is for the user."""


class Connection:
  """A socket that carries lines of JSON."""

  def __init__(self, own: socket.socket):
    self._socket = own
    self._rest = b''
    # A machine that vanished closes nothing: ask after 10 s of silence, give up after 30.
    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (('TCP_KEEPIDLE', 10), ('TCP_KEEPINTVL', 5), ('TCP_KEEPCNT', 4)):
      if hasattr(socket, name):  # Not on every system.
        own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

  def fileno(self) -> int:
    """For selectors."""
    return self._socket.fileno()

  def send(self, message: dict[str, Any]) -> None:
    """Sends a line; that nobody is there any more is noticed by who reads."""
    with contextlib.suppress(OSError):
      self._socket.sendall(json.dumps(message).encode() + b'\n')

  def receive(self, timeout: float | None) -> dict[str, Any] | None:
    """The next line; None at the end, after so many seconds, or for anything that is no line."""
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

  def has_more(self) -> bool:
    """Whether a whole line has already been read from the socket."""
    return b'\n' in self._rest

  def close(self) -> None:
    """Ends the connection."""
    self._socket.close()


def listen(port: int) -> socket.socket:
  """A socket that waits on all addresses of this machine.

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
      f'another run has it, or another process with --process_id=0; choose another port for all.'
    ) from error


def gather(server: socket.socket, count: int, wait: float) -> dict[int, Connection]:
  """The first process calls the roll; closes the server.

  Args:
    server: from `listen`.
    count: processes that there should be, this one among them.
    wait: seconds until it gives up.

  Returns:
    id -> connection, of all the others. Each has been told to go on.

  Raises:
    MissingError: some did not come.
    ClashError: one id was claimed twice, or a process counts otherwise. All are told.
  """
  there: dict[int, Connection] = {}
  who: dict[int, str] = {0: f'{socket.gethostname()}, process {os.getpid()}'}
  deadline = time.monotonic() + wait
  try:
    while len(there) < count - 1:
      left = deadline - time.monotonic()
      server.settimeout(max(left, 0.01))
      try:
        connection = Connection(server.accept()[0])
      except TimeoutError:
        lost = [str(i) for i in range(count) if i not in who]
        raise MissingError(
          f'{_processes(lost)} of {count} did not come within {wait:g} s: see whether '
          f'{"it was" if len(lost) == 1 else "they were"} started, and what '
          f'{"it says" if len(lost) == 1 else "they say"}; --wait_for_processes waits longer.'
        ) from None
      message = connection.receive(5.0)
      if message is None or not isinstance(message.get('id'), int):
        connection.close()  # Somebody else: a port scanner, a health check.
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
          f'needs a number of its own from 0 to {count - 1}.'
        )
      if problem:
        connection.send({'clash': problem})
        connection.close()
        raise ClashError(problem)
      there[number], who[number] = connection, name
  except (MissingError, ClashError) as error:
    kind = 'clash' if isinstance(error, ClashError) else 'missing'
    for connection in there.values():
      connection.send({kind: str(error)})
      connection.close()
    raise
  finally:
    server.close()
  for connection in there.values():
    connection.send({'go': True})
  return there


def report(
  addresses: Sequence[tuple[str, int]], number: int, count: int, wait: float
) -> Connection:
  """Answers the roll call of the first process; returns once all are there.

  Args:
    addresses: host and port of the first process, any of them.
    number: this process's id.
    count: processes that there should be.
    wait: seconds until it gives up.

  Raises:
    MissingError: the first process cannot be reached, or says that others are missing.
    ClashError: it says that processes contradict each other.
  """
  where = ' or '.join(f'{host}:{port}' for host, port in addresses)
  deadline = time.monotonic() + wait
  why = 'nobody answers'
  while True:
    for address in addresses:
      left = deadline - time.monotonic()
      if left <= 0:
        raise MissingError(
          f'process 0 could not be reached at {where} within {wait:g} s ({why}): see whether it '
          f'runs there and whether a firewall is between; --wait_for_processes waits longer.'
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
      # The first process may have come later than this one, and waits as long again.
      answer = connection.receive(wait + GRACE_SECONDS) or {}
      if answer.get('go'):
        return connection
      connection.close()
      if 'clash' in answer:
        raise ClashError(answer['clash'])
      if 'missing' in answer:
        raise MissingError(answer['missing'])
      why = 'something answers that is not the roll call of this run: is another run there, or did '
      why += f'the run start with another process {number}?'
    time.sleep(_RETRY_SECONDS)


class Watch:
  """Listens on the open connections for processes that are gone, in a thread of its own.

  Args:
    number: this process's id.
    count: how many processes there are.
    others: id -> connection; the first process's are to all others, theirs to the first alone.
    on_loss: called with a sentence for the user, once, as soon as a process has died, or
      `GRACE_SECONDS` after one ended with an error: until then the reason may be everybody's.
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

  def lost(self, wait: float = 0.0) -> str:
    """Which process is gone, a sentence; waits so many seconds for one to be. Empty: none."""
    with self._changed:
      self._changed.wait_for(lambda: self._lost, wait)
      return self._lost

  def leave(self, status: int) -> None:
    """Says goodbye with the status that this process ends with.

    With an error the first process waits a while for the others: when it ends, so does JAX's
    service, and with it, by abort(), everyone who still needs that.
    """
    with self._changed:
      self._leaving = True
      for connection in self._others.values():
        connection.send({'end': self._number, 'status': status})
      if status and self._number == 0:
        self._changed.wait_for(lambda: len(self._ended) >= len(self._others), GRACE_SECONDS)

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
    """Notes that a process ended; `status` None: it died."""
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
      how = 'is gone: it died, or its machine cannot be reached'
      if status is not None:
        how = f'ended with exit status {status}: its own message says why'
      self._lost = (
        f'process {number} of {self._count} {how}. This process cannot go on alone and stops. '
        f'The same command, for all processes, goes on from the last checkpoint.'
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
