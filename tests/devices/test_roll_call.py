"""Who is there and who is gone: sockets between threads, and real processes for what JAX does."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from byoljax import cli, flags, main
from byoljax.config import ConfigError
from byoljax.devices import processes, roll_call
from byoljax.devices.processes import Launch


@pytest.fixture
def server():
  found = roll_call.listen(0)
  yield found
  found.close()


def port_of(server):
  return server.getsockname()[1]


def in_threads(*functions):
  """What each gives or raises, run side by side."""
  results = [None] * len(functions)

  def run(place):
    try:
      results[place] = functions[place]()
    except Exception as error:
      results[place] = error

  threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(30)
  return results


def call(server, *answers, count, wait=5.0):
  """The roll called once: `answers` are (id, count) of those who report."""
  address = ('localhost', port_of(server))
  return in_threads(
    lambda: roll_call.gather(server, count, wait),
    *(lambda a=a: roll_call.report([address], *a, wait) for a in answers),
  )


def test_all_are_there(server):
  first, *others = call(server, (2, 3), (1, 3), count=3)
  assert sorted(first) == [1, 2]
  assert all(isinstance(other, roll_call.Connection) for other in others)


def test_a_stranger_is_no_process(server):
  with socket.create_connection(('localhost', port_of(server))) as stranger:
    stranger.sendall(b'GET / HTTP/1.1\r\n\r\n')
    first, other = call(server, (1, 2), count=2)
  assert sorted(first) == [1]
  assert isinstance(other, roll_call.Connection)


def test_who_is_missing_is_named_to_all(server):
  began = time.monotonic()
  results = call(server, (2, 4), count=4, wait=1.0)
  assert time.monotonic() - began < 10
  for error in results:
    assert isinstance(error, roll_call.MissingError)
    assert 'processes 1 and 3 of 4 did not start within 1 s' in str(error)


def test_an_id_claimed_twice(server):
  results = call(server, (1, 3), (1, 3), count=3)
  assert all(isinstance(error, roll_call.ClashError) for error in results), results
  assert '--process_id=1 was given twice' in str(results[0])
  assert len({str(error) for error in results}) == 1


def test_one_that_died_is_started_again(server):
  """As schedulers do before all are there: the roll is not called complete without it."""
  with socket.create_connection(('localhost', port_of(server))) as died:
    died.sendall(b'{"id": 1, "count": 3}\n')
  first, *others = call(server, (2, 3), (1, 3), count=3)
  assert sorted(first) == [1, 2] and first[1].is_open()
  assert all(isinstance(other, roll_call.Connection) for other in others)


def test_numbers_that_contradict(server):
  results = call(server, (2, 3), count=2)
  assert all(isinstance(error, roll_call.ClashError) for error in results)
  assert '--num_processes=3' in str(results[1]) and '--num_processes=2' in str(results[1])


def test_nobody_at_the_address(server):
  port = port_of(server)
  server.close()
  with pytest.raises(roll_call.MissingError, match=rf'localhost:{port} within 0.6 s .*refused'):
    roll_call.report([('localhost', port)], 1, 2, 0.6)


def test_somebody_else_at_the_address():
  with socket.create_server(('localhost', 0)) as other:

    def answer():
      for _ in range(2):
        connection, _ = other.accept()
        connection.sendall(b'\x00\x00\x12\x04\n')
        connection.close()

    threading.Thread(target=answer, daemon=True).start()
    with pytest.raises(roll_call.MissingError, match='not the roll call'):
      roll_call.report([('localhost', port_of(other))], 1, 2, 0.6)


def test_a_port_that_is_taken(server):
  with pytest.raises(roll_call.ClashError, match=f'port {port_of(server)} .*already in use'):
    roll_call.listen(port_of(server))


@pytest.fixture
def watched(server):
  """Watches of three processes, what each was told, and their connections."""
  first, *others = call(server, (1, 3), (2, 3), count=3)
  told = [threading.Event(), threading.Event(), threading.Event()]
  connections = [first, {0: others[0]}, {0: others[1]}]
  watches = [roll_call.Watch(i, 3, connections[i], lambda _, i=i: told[i].set()) for i in range(3)]
  yield watches, told, connections
  for table in connections:
    for connection in table.values():
      connection.close()


def shut(connection):
  """What the operating system does for a process that dies."""
  connection._socket.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize('victim', [0, 1, 2])
def test_a_death_is_known_at_once_to_all(watched, victim):
  watches, told, connections = watched
  watches[victim]._leaving = True  # The dead hear nothing.
  for connection in connections[victim].values():
    shut(connection)
  for survivor in {0, 1, 2} - {victim}:
    assert told[survivor].wait(5)
    assert f'process {victim} of 3 is gone' in watches[survivor].describe_loss()
  assert not told[victim].is_set()


def test_an_end_with_an_error_leaves_the_others_time(watched, monkeypatch):
  monkeypatch.setattr(roll_call, 'GRACE_SECONDS', 0.5)
  watches, told, _ = watched
  watches[2].leave(4)
  assert 'process 2 of 3 ended with exit status 4' in watches[1].describe_loss(wait=5)
  assert not told[1].is_set()
  assert told[1].wait(5) and told[0].wait(5)


def test_a_good_end_is_no_loss_and_waits_for_the_first(watched):
  """Which may draw a report for longer than JAX would wait at the end."""
  watches, told, connections = watched
  ends = [threading.Thread(target=watches[i].leave, args=(0,), daemon=True) for i in (1, 2)]
  for end in ends:
    end.start()
  ends[0].join(0.5)
  assert all(end.is_alive() for end in ends) and watches[0].describe_loss() == ''
  watches[0].leave(0)
  for end in ends:
    end.join(5)
  shut(connections[1][0])
  assert watches[0].describe_loss(wait=0.5) == ''
  assert not any(end.is_alive() for end in ends) and not any(event.is_set() for event in told)


def test_who_waits_at_the_end_hears_that_the_first_died(watched):
  watches, told, connections = watched
  threading.Thread(target=watches[1].leave, args=(0,), daemon=True).start()
  watches[0]._leaving = True
  shut(connections[0][1])
  assert told[1].wait(5) and 'process 0 of 3 is gone' in watches[1].describe_loss()


def test_the_first_waits_for_the_others_before_it_ends_with_an_error(watched):
  watches, _, _ = watched
  threading.Timer(0.3, lambda: [watch.leave(2) for watch in watches[1:]]).start()
  began = time.monotonic()
  watches[0].leave(2)
  assert 0.2 < time.monotonic() - began < 5


@pytest.mark.parametrize(
  ('launch', 'words'),
  [
    (Launch(num_processes=2), 'all three or none'),
    (Launch('auto', process_id=1), 'drop .* or --distributed'),
    (Launch('on'), 'not one of off, auto'),
    (Launch('auto', wait=0), '--wait_for_processes=0'),
    (Launch('off', 'host:1', 2, 2), '--process_id=2'),
    (Launch('off', 'host:1', 0, 0), '--num_processes=0'),
    (Launch('off', 'host', 2, 0), "coordinator_address='host'"),
    (Launch('off', 'host:99999', 2, 0), "coordinator_address='host:99999'"),
  ],
)
def test_flags_that_do_not_fit(launch, words):
  with pytest.raises(ValueError, match=words):
    processes.check(launch)


def test_an_address_of_version_six():
  assert processes.check(Launch('off', '[::1]:1234', 2, 0)) == ('::1', 1234)


def test_alone_unless_asked(monkeypatch):
  """Inside of an allocation nothing is detected, joined or waited for; a task gets a hint."""
  environment = {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '8'}
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  processes.join(Launch())
  assert not processes.is_multiprocess() and processes.prefix() == ''
  assert processes.launcher_hint(environment) == ''
  task = environment | {'SLURM_PROCID': '3', 'SLURM_STEP_NUM_TASKS': '8'}
  assert 'task 3 of 8' in processes.launcher_hint(task)
  shell = environment | {'SLURM_PROCID': '0', 'SLURM_STEP_NUM_TASKS': '1'}
  assert processes.launcher_hint(shell) == ''


def test_the_flags_are_parsed():
  options, _ = main.parse(['--config=x', '--distributed=auto', '--wait_for_processes=20'])
  assert flags.launch_of(options) == Launch('auto', None, None, None, 20.0)
  _, options, overrides = cli.parse(
    ['pretrain', 'byol', '--distributed=auto', '--seed=1', '--wait_for_processes=2']
  )
  assert flags.launch_of(options) == Launch('auto', None, None, None, 2.0)
  assert overrides == [('seed', '1')]
  with pytest.raises(ConfigError, match='distributed'):
    main.parse(['--config=x', '--distributed=yes'])


_MEMBER = """
import sys, time
import jax
from byoljax.devices import hosts, processes
address, count, number, command, what = sys.argv[1:]
if address == 'auto':
  launch = processes.Launch('auto', wait=60)
else:
  launch = processes.Launch('off', address, int(count), int(number), 60)
try:
  processes.join(launch, command)
except ValueError as error:
  print(processes.prefix(), error, flush=True)
  processes.leave(2)
  sys.exit(2)
print(processes.prefix(), 'joined', flush=True)
while what == 'work':
  try:
    hosts.all_agree(True)
  except Exception:
    processes.leave(processes.report_failure())
if what == 'fail':
  processes.leave(3)
processes.leave(0)
"""


def free_port():
  with socket.socket() as found:
    found.bind(('localhost', 0))
    return found.getsockname()[1]


def members(*arguments, environments=({}, {}), program=_MEMBER):
  return [
    subprocess.Popen(
      [sys.executable, '-c', program, *each],
      env=dict(os.environ) | {'XLA_FLAGS': '--xla_force_host_platform_device_count=1'} | more,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for each, more in zip(arguments, environments, strict=True)
  ]


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_ends_the_other(number):
  """No abort(), no traceback, not after minutes: one sentence and status 5."""
  address = f'localhost:{free_port()}'
  survivor, victim = members((address, '2', '0', 'x', 'work'), (address, '2', '1', 'x', 'work'))
  while 'joined' not in (line := victim.stdout.readline()):
    assert line, survivor.communicate()[0]
  time.sleep(0.5)
  victim.send_signal(number)
  try:
    output, _ = survivor.communicate(timeout=60)
  finally:
    survivor.kill()
    victim.kill()
    victim.communicate()
  assert survivor.returncode == processes.STATUS, output
  assert '[0/2] error: process 1 of 2 is gone' in output
  assert 'Traceback' not in output and 'Check failure' not in output


@pytest.mark.parametrize(
  ('command', 'environment', 'problem'),
  [
    ('that', {}, 'another configuration'),
    ('this', {'JAX_THREEFRY_PARTITIONABLE': 'false'}, 'other versions of packages or settings'),
  ],
)
def test_what_has_to_be_equal_is_compared(command, environment, problem):
  """With other random numbers in one process, each would train a network of its own."""
  address = f'localhost:{free_port()}'
  arguments = (address, '2', '0', 'this', ''), (address, '2', '1', command, '')
  both = members(*arguments, environments=({}, environment))
  for number, process in enumerate(both):
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert f'[{number}/2]  {problem}' in output
    assert 'in process 1 than in process 0' in ' '.join(output.split())


LAUNCHERS = {
  'slurm': lambda port, i: {
    'SLURM_JOB_ID': str(port), 'SLURM_STEP_NODELIST': 'localhost', 'SLURM_NTASKS': '2',
    'SLURM_PROCID': str(i), 'SLURM_LOCALID': str(i), 'JAX_COORDINATOR_PORT': str(port),
  },
  'openmpi': lambda port, i: {
    'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://127.0.0.1:34911', 'OMPI_VERSION': '4.1.6',
    'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_COMM_WORLD_RANK': str(i),
    'OMPI_COMM_WORLD_LOCAL_RANK': str(i), 'JAX_COORDINATOR_PORT': str(port),
  },
}  # fmt: skip


@pytest.mark.parametrize('launcher', ['slurm', pytest.param('openmpi', marks=pytest.mark.slow)])
def test_what_a_launcher_says_is_detected(launcher):
  """The launcher's variables, as JAX reads them; the roll is called afterwards, and heard."""
  port = free_port()
  environments = [LAUNCHERS[launcher](port, i) for i in range(2)]
  arguments = ('auto', '', '', 'x')
  both = members((*arguments, 'work'), (*arguments, 'fail'), environments=environments)
  outputs = [process.communicate(timeout=60)[0] for process in both]
  assert [process.returncode for process in both] == [processes.STATUS, 3], outputs
  assert '[0/2]  joined' in outputs[0] and '[1/2]  joined' in outputs[1]
  assert 'process 1 of 2 ended with exit status 3' in outputs[0]


def test_nothing_to_detect(monkeypatch):
  for name in ('SLURM_JOB_ID', 'OMPI_MCA_orte_hnp_uri', 'KUBERNETES_SERVICE_HOST'):
    monkeypatch.delenv(name, raising=False)
  (process,) = members(('auto', '', '', 'x', ''), environments=({},))
  output, _ = process.communicate(timeout=60)
  assert process.returncode == 2, output
  assert '--distributed=auto finds nothing to go by' in output


_ALONE = """
from byoljax.devices import processes
processes._joined = processes._Joined(0, 2, None)
with processes._at_most(20, 'they did not come'):
  import jax
  from byoljax.devices.processes import Launch
  jax.distributed.initialize('localhost:PORT', 2, 0, initialization_timeout=60)
"""


def test_our_time_out_comes_before_the_abort():
  program = _ALONE.replace('PORT', str(free_port())).replace('20,', '3,')
  (process,) = members((), environments=({},), program=program)
  output, _ = process.communicate(timeout=60)
  assert process.returncode == processes.STATUS, output
  assert output.strip() == '[0/2] error: they did not come'
