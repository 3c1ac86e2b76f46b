"""Joins several processes into one run, or reports in one message why that failed.

`join` has two modes: three numbers given by the user, or a launcher's environment, which JAX reads
(Slurm, Open MPI, Kubernetes, Cloud TPU). Nothing is detected automatically: a process that is
started alone inside an allocation stays alone.

Every wait has a timeout. Failures end the process with `STATUS` and without a traceback, before
JAX's service would abort() it. `byoljax.devices.roll_call` detects dead processes.
"""

from collections.abc import Iterator
import contextlib
import os
import re
import socket
import sys
import threading
import time
import traceback
from typing import Any, NamedTuple

from byoljax.devices import roll_call, stop
from byoljax.devices.roll_call import MissingError
from byoljax.version import __version__, versions

STATUS = 5  # Exit status if other processes are missing or dead.
MODES = ('off', 'auto')
# Settings of JAX, from the environment, that change numbers.
_SWITCHES = (
  'jax_default_matmul_precision', 'jax_default_prng_impl', 'jax_threefry_partitionable',
)  # fmt: skip
# (launcher, environment variable of a process's rank, of their number)
_LAUNCHERS = (
  ('Slurm', 'SLURM_PROCID', 'SLURM_STEP_NUM_TASKS'),
  ('Open MPI', 'OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'),
)


class Launch(NamedTuple):
  """How this process joins the others.

  Attributes:
    distributed: 'off', or 'auto' to read the three below from the launcher's environment.
    coordinator_address: 'host:port' of process 0.
    num_processes: number of processes.
    process_id: index of this one, from 0.
    wait: seconds to wait for the others.
  """

  distributed: str = 'off'
  coordinator_address: str | None = None
  num_processes: int | None = None
  process_id: int | None = None
  wait: float = 300.0


class _Joined(NamedTuple):
  number: int
  count: int
  watch: roll_call.Watch | None


_joined: _Joined | None = None


def join(launch: Launch, command: str = '') -> None:
  """Joins the other processes, before any device is used; does nothing if there are none.

  Args:
    launch: from the command line.
    command: must be equal on all processes.

  Raises:
    ValueError: flags or processes contradict each other.
    MissingError: other processes did not start, or cannot be reached.
  """
  global _joined
  address = check(launch)
  if launch.distributed == 'off' and address is None:
    return
  if address is not None:
    number, count = launch.process_id, launch.num_processes
    assert number is not None and count is not None
    _joined = _Joined(number, count, None)
    if number == 0:
      others = roll_call.gather(roll_call.listen(address[1]), count, launch.wait)
    else:
      others = {0: roll_call.report([address], number, count, launch.wait)}
    _joined = _Joined(number, count, roll_call.Watch(number, count, others, _stop))
  _initialize(launch)
  stop.hear_beside_jax()
  import jax

  number, count = jax.process_index(), jax.process_count()
  if address is None:
    _joined = _Joined(number, count, None)
  if count == 1:
    return
  _compare_devices()
  _compare(command)
  if address is None:
    connected = _connect_afterwards(number, count)
    if connected is not None:
      _joined = _Joined(number, count, roll_call.Watch(number, count, connected, _stop))


def check(launch: Launch) -> tuple[str, int] | None:
  """Checks the flags; returns the host and port of process 0 if they were given.

  Raises:
    ValueError: they contradict each other, or are out of range.
  """
  if launch.distributed not in MODES:
    raise ValueError(f'--distributed={launch.distributed} is not one of {", ".join(MODES)}.')
  if not 0 < launch.wait < 1e6:
    raise ValueError(f'--wait_for_processes={launch.wait:g} must be seconds above 0.')
  given = [value is not None for value in launch[1:4]]
  if launch.distributed == 'auto':
    if any(given):
      raise ValueError(
        '--distributed=auto determines the coordinator and the numbers itself: drop '
        '--coordinator_address, --num_processes and --process_id, or --distributed.'
      )
    return None
  if not any(given):
    return None
  if not all(given):
    raise ValueError(
      '--coordinator_address, --num_processes and --process_id go together: give all three or '
      'none, or --distributed=auto under Slurm, Open MPI, Kubernetes or on a TPU.'
    )
  address, count, number = launch[1:4]
  assert address is not None and count is not None and number is not None
  if count < 1 or not 0 <= number < count:
    raise ValueError(
      f'--process_id={number} must be from 0 to --num_processes={count} minus 1, and '
      f'--num_processes at least 1.'
    )
  host, _, port = address.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 65536:
    raise ValueError(
      f"--coordinator_address='{address}' must be the host of process 0 and a free port on it, as "
      f'in 10.0.0.1:1234.'
    )
  return host.strip('[]'), int(port)


def launcher_hint(environment: dict[str, str]) -> str:
  """A hint if a launcher started several processes without --distributed; empty otherwise."""
  for name, number, count in _LAUNCHERS:
    size = environment.get(count, '')
    if number in environment and size.isdecimal() and int(size) > 1:
      return (
        f'note: {name} started this as task {environment[number]} of {size}. Each is a separate '
        f'run; --distributed=auto joins them into one.'
      )
  return ''


def prefix() -> str:
  """'[2/4] ' in process 2 of 4; empty if there is only one."""
  return f'[{_joined.number}/{_joined.count}] ' if _joined and _joined.count > 1 else ''


def describe_loss(wait: float = 0.0) -> str:
  """A message naming a process that has died; waits up to `wait` seconds. Empty if none has."""
  watch = _joined.watch if _joined else None
  return watch.describe_loss(wait) if watch else ''


def is_multiprocess() -> bool:
  """Whether this process is one of several."""
  return _joined is not None and _joined.count > 1


def report_failure() -> int:
  """Reports an unexpected exception in one of several processes: the dead process, or a traceback.

  A collective with a process that has just died fails immediately, so its death is checked first.

  Returns:
    The exit status.
  """
  sentence = describe_loss(wait=5.0)
  if sentence:
    print(f'{prefix()}error: {sentence}', file=sys.stderr)
    return STATUS
  traceback.print_exc()
  return 1


def leave(status: int) -> None:
  """Tells the other processes how this one ends; exits immediately if it is an error.

  Otherwise JAX would wait for the others at exit, for minutes, and they for it. A request to stop
  is none: all of them save and end together.
  """
  if not is_multiprocess():
    return
  if status == stop.STATUS:
    status = 0
  assert _joined is not None
  if _joined.watch is not None:
    _joined.watch.leave(status)
  elif status and _joined.number == 0:
    time.sleep(2.0)  # The others fail for the same reason, and need JAX's service until then.
  if status:
    _exit(status)


def _stop(sentence: str) -> None:
  print(f'{prefix()}error: {sentence}', file=sys.stderr)
  _exit(STATUS)


def _exit(status: int) -> None:
  """Ends the process without running destructors, which would wait for the others."""
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  os._exit(status)


def _initialize(launch: Launch) -> None:
  """Starts or joins JAX's distributed service."""
  # Longer than our own timeout: JAX's ends in abort().
  options: dict[str, Any] = {'initialization_timeout': int(launch.wait) + 60}
  if launch.coordinator_address is not None:
    options |= {
      'coordinator_address': launch.coordinator_address,
      'num_processes': launch.num_processes,
      'process_id': launch.process_id,
      # The flags take precedence over anything in the environment.
      'cluster_detection_method': 'deactivate',
    }
    _initialize_within(launch.wait, 'although all of them had answered the roll call', options)
    return
  try:
    _initialize_within(launch.wait, 'increase --wait_for_processes to wait longer', options)
  except (ValueError, RuntimeError, OSError, LookupError, AttributeError, TypeError) as error:
    if isinstance(error, ValueError) and 'should be defined' in str(error):
      raise ValueError(_nothing_detected()) from error
    text = re.sub(r'\s+', ' ', str(error))[:400]
    raise ValueError(
      f'--distributed=auto: JAX could not learn from the environment which process this is: {text}'
    ) from error


def _initialize_within(seconds: float, remark: str, options: dict[str, Any]) -> None:
  import jax

  sentence = (
    f'the processes did not connect within {seconds:g} s: some were not started, have ended, or '
    f'cannot reach process 0 ({remark}). See the output of the others.'
  )
  with _at_most(seconds, sentence):
    jax.distributed.initialize(**options)


@contextlib.contextmanager
def _at_most(seconds: float, sentence: str) -> Iterator[None]:
  """Ends the process with a message if the block takes longer."""
  timer = threading.Timer(seconds, _stop, [sentence])
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def _nothing_detected() -> str:
  text = (
    '--distributed=auto finds nothing to go by: start with srun, mpirun, as an indexed job of '
    'Kubernetes or on a TPU VM, or give --coordinator_address, --num_processes and --process_id.'
  )
  if 'KUBERNETES_SERVICE_HOST' in os.environ:
    text += ' In Kubernetes JAX needs one more package: pip install "jax[k8s]".'
  if 'SLURM_JOB_ID' in os.environ:
    text += ' This is a Slurm allocation, but not a task started by srun.'
  return text


def _compare_devices() -> None:
  """Raises ValueError unless all processes have the same number of devices."""
  import jax

  counts = dict.fromkeys(range(jax.process_count()), 0)
  for device in jax.devices():
    counts[device.process_index] = counts.get(device.process_index, 0) + 1
  if len(set(counts.values())) > 1:
    listed = ', '.join(f'{count} in process {index}' for index, count in counts.items())
    raise ValueError(f'all processes need the same number of devices, but there are {listed}.')


def _compare(command: str) -> None:
  """Raises ValueError on every process unless all run the same command in equal environments."""
  import jax

  from byoljax.devices import hosts

  if others := hosts.differing(f'{__version__}\n{command}'):
    raise ValueError(
      f'another configuration, --workdir or version of byoljax ({__version__} here) in '
      f'process {", ".join(map(str, others))} than in process 0: start all of them with the same '
      f'command.'
    )
  settings: Any = jax.config  # Its attributes are unknown to type checkers.
  here = versions() | {name: getattr(settings, name, None) for name in _SWITCHES}
  text = ', '.join(f'{name} {value}' for name, value in here.items())
  if others := hosts.differing(text):
    raise ValueError(
      f'other versions of packages or settings of JAX in process {", ".join(map(str, others))} '
      f'than in process 0 ({text} here): their results would differ, so make them equal.'
    )


def _connect_afterwards(number: int, count: int) -> dict[int, roll_call.Connection] | None:
  """Roll-call connections among processes that JAX has connected; None if they cannot be made."""
  from jax.experimental import multihost_utils
  import numpy as np

  from byoljax.devices import hosts

  server = roll_call.listen(0) if number == 0 else None
  text = ''
  if server is not None:
    text = f'{server.getsockname()[1]} {socket.gethostname()} {_own_address()}'
  sent = np.frombuffer(text.encode()[:256].ljust(256), np.uint8)
  port, *names = bytes(np.asarray(multihost_utils.broadcast_one_to_all(sent))).decode().split()
  others: dict[int, roll_call.Connection] | None = None
  with contextlib.suppress(MissingError, ValueError):
    if server is not None:
      others = roll_call.gather(server, count, 20.0)
    else:
      addresses = [(host, int(port)) for host in dict.fromkeys(names)]
      others = {0: roll_call.report(addresses, number, count, 20.0)}
  if hosts.all_agree(others is not None):
    return others
  for connection in (others or {}).values():
    connection.close()
  return None


def _own_address() -> str:
  """This machine's network address if its host name resolves, else the host name."""
  try:
    return socket.gethostbyname(socket.gethostname())
  except OSError:
    return socket.gethostname()
