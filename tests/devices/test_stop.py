"""Signals: whatever is going on, one line and a status of its own; the loop saves first."""

import os
import pathlib
import pty
import signal
import subprocess
import sys
import textwrap

import pytest

from byoljax import flags
from byoljax.devices import stop
from tests.paths import ROOT

EACH = [pytest.param(number, id=number.name) for number in stop.SIGNALS]


@pytest.fixture
def heard():
  """All signals are heard, as on a terminal, and what they do is noted instead of done."""
  found = []
  before = {number: signal.getsignal(number) for number in stop.SIGNALS}
  for number in stop.SIGNALS:
    signal.signal(number, lambda number, frame: found.append(number))
  yield found
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.mark.parametrize('number', EACH)
def test_a_request_is_noted_and_ends_with_a_status_of_its_own(heard, number, capfd):
  with stop.StopRequest() as request:
    assert not request.requested()
    signal.raise_signal(number)
    assert request.requested() and request.received == number
  assert heard == [], 'it was answered'
  assert capfd.readouterr().err.startswith(f'{number.name}: stopping after this step')

  def program():
    raise stop.Stopped(request.received)

  assert flags.exit_status(program) == (130 if number == signal.SIGINT else 75)
  assert signal.raise_signal(number) is None and heard == [number], 'as before again'


def test_only_a_second_interrupt_does_not_wait(heard):
  with stop.StopRequest() as request:
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
      signal.raise_signal(number)
    assert request.requested() and request.received == signal.SIGTERM and heard == []
    signal.raise_signal(signal.SIGINT)
    assert heard == [signal.SIGINT]


def test_a_signal_that_nobody_asked_for_any_more_takes_its_usual_effect(heard):
  with stop.StopRequest() as request:
    assert not request.requested()
    signal.raise_signal(signal.SIGHUP)
    assert heard == []
  assert heard == [signal.SIGHUP]


def test_what_a_process_was_started_to_ignore_stays_ignored(heard):
  """By nohup, or by a shell for a job in the background."""
  signal.signal(signal.SIGHUP, signal.SIG_IGN)
  with stop.StopRequest() as request:
    signal.raise_signal(signal.SIGHUP)
    assert not request.requested()


PROGRAM = """
  import gc, signal, sys, time, types
  for number in (signal.SIGINT, signal.SIGHUP):  # What the test was started with does not count.
    signal.signal(number, signal.SIG_DFL if number == signal.SIGHUP else signal.default_int_handler)
  from byoljax.devices import stop
  from byoljax import flags

  sys.modules['jax'] = types.SimpleNamespace(process_count=lambda: 1)  # Imports take seconds.

  def ready(*unused):
    print('ready', flush=True)
    time.sleep(30)

  class Dropped:
    __del__ = ready

  def in_the_open():
    ready()

  def in_a_destructor():
    Dropped()

  def at_the_end():
    import atexit
    atexit.register(ready)
    return 0

  def in_the_loop():
    with stop.StopRequest() as request:
      print('ready', flush=True)
      while not request.requested():
        time.sleep(0.01)
      time.sleep(SAVING)
      open(sys.argv[2], 'w').close()
      print('saved', flush=True)
      sys.stderr.write('saved')
    raise stop.Stopped(request.received)

  def run():
    return flags.exit_status(globals()[sys.argv[1]])

  stop.run_program(run)
"""


def test_a_second_interrupt_ends_a_process_that_has_no_handler_of_its_own():
  code = """
    import signal, sys, types
    from byoljax.devices import stop
    sys.modules['jax'] = types.SimpleNamespace(process_count=lambda: 1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with stop.StopRequest():
      signal.raise_signal(signal.SIGINT)
      signal.raise_signal(signal.SIGINT)
    print('still here')
  """
  ended = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code)], cwd=ROOT, text=True, capture_output=True
  )
  assert (ended.returncode, ended.stdout) == (-signal.SIGINT, '')
  assert 'Traceback' not in ended.stderr


def start(where, *arguments, saving=0.0, **streams):
  code = textwrap.dedent(PROGRAM).replace('SAVING', str(saving))
  piped = dict.fromkeys(('stdout', 'stderr'), subprocess.PIPE) | streams
  return subprocess.Popen(
    [sys.executable, '-c', code, where, *arguments], cwd=ROOT, text=True, **piped
  )


@pytest.mark.parametrize(
  'where, numbers',
  [
    ('in_the_open', (signal.SIGTERM,)),
    ('in_the_open', (signal.SIGHUP,)),
    ('in_a_destructor', (signal.SIGINT, signal.SIGINT)),
    ('at_the_end', (signal.SIGINT,)),
  ],
)
def test_a_process_ends_at_once_with_one_line(where, numbers):
  process = start(where)
  assert process.stdout.readline() == 'ready\n'
  for number in numbers:
    process.send_signal(number)
  _, error = process.communicate(timeout=20)
  said = {signal.SIGINT: 'interrupted', signal.SIGTERM: 'stopped by SIGTERM.'}
  if signal.SIGHUP not in numbers:  # Nobody may be there to read.
    assert error == f'{said[numbers[0]]}\n'
  status = -signal.SIGINT if signal.SIGINT in numbers else stop.STATUS
  assert process.returncode == status, 'a shell ends its loop only if SIGINT ended the process'


def test_a_second_interrupt_ends_the_loop_without_a_traceback(tmp_path):
  process = start('in_the_loop', str(tmp_path / 'saved'), saving=30)
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGINT)
  assert 'stopping after this step' in process.stderr.readline()
  process.send_signal(signal.SIGINT)
  _, error = process.communicate(timeout=20)
  assert (error, process.returncode) == ('interrupted\n', -signal.SIGINT)
  assert not (tmp_path / 'saved').exists()


def test_a_closed_terminal_loses_nothing(tmp_path):
  """Not even by what is printed to it afterwards."""
  ours, theirs = pty.openpty()
  process = start('in_the_loop', str(tmp_path / 'saved'), stdout=theirs, stderr=theirs)
  os.close(theirs)
  assert os.read(ours, 100).startswith(b'ready')
  os.close(ours)
  process.send_signal(signal.SIGHUP)
  assert process.wait(timeout=20) == stop.STATUS
  assert pathlib.Path(tmp_path / 'saved').exists()
