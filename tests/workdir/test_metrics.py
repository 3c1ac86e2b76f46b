"""The record of a run, its progress line and its clock."""

import csv
import io
import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.config import ConfigError
from byoljax.workdir import clock as clock_module
from byoljax.workdir import metrics
from byoljax.workdir.clock import Clock, ProfileWindow
from byoljax.workdir.metrics import Writer, read
from byoljax.workdir.progress import Progress, duration


def steps(workdir):
  return [row['step'] for row in read(workdir)]


def write_steps(workdir, numbers, **options):
  with Writer(workdir, tensorboard=False, **options) as writer:
    for number in numbers:
      writer.write(number, {'loss': 1 / (number + 1)})


# The record.


def test_rows_are_plain_json_in_order(tmp_path):
  with Writer(tmp_path / 'new' / 'run', tensorboard=False) as writer:
    writer.write(0, {'loss': jnp.float32(0.1), 'count': np.int64(3), 'done': np.bool_(True)})
    writer.write(5, {'knn/top1': 0.5, 'note': 'k-NN', 'none': None, 'tau': np.ones((1,)) * 0.99})
    writer.write(6, {'half': jnp.bfloat16(1.5)})
  lines = (tmp_path / 'new' / 'run' / 'metrics.jsonl').read_text().splitlines()
  assert lines == [
    '{"step": 0, "loss": 0.1, "count": 3, "done": true}',
    '{"step": 5, "knn/top1": 0.5, "note": "k-NN", "none": null, "tau": 0.99}',
    '{"step": 6, "half": 1.5}',
  ]
  assert read(tmp_path / 'new' / 'run') == [json.loads(line) for line in lines]


def test_values_that_json_cannot_say_survive(tmp_path):
  with Writer(tmp_path, tensorboard=False) as writer:
    writer.write(1, {'a': math.nan, 'b': jnp.inf, 'c': np.float32(-math.inf)})

  def refuse(name):
    raise AssertionError(name)

  text = (tmp_path / 'metrics.jsonl').read_text()
  strict = json.loads(text, parse_constant=refuse)
  assert strict == {'step': 1, 'a': 'NaN', 'b': 'Infinity', 'c': '-Infinity'}
  (row,) = read(tmp_path)
  assert math.isnan(row['a'])
  assert (row['b'], row['c']) == (math.inf, -math.inf)


@pytest.mark.parametrize('value', [np.zeros(2), [1, 2], {'a': 1}, 1j])
def test_only_scalars(tmp_path, value):
  with (
    Writer(tmp_path, tensorboard=False) as writer,
    pytest.raises(ValueError, match="'loss' must be one number"),
  ):
    writer.write(1, {'loss': value})


def test_resumed_record_equals_the_uninterrupted_one(tmp_path):
  write_steps(tmp_path / 'whole', range(0, 60, 10))
  write_steps(tmp_path / 'resumed', [0, 10, 20, 30])  # Killed; the checkpoint is of step 20.
  write_steps(tmp_path / 'resumed', [30, 40, 50], resume_step=20)
  whole, resumed = ((tmp_path / n / 'metrics.jsonl').read_bytes() for n in ('whole', 'resumed'))
  assert resumed == whole
  assert [p.name for p in (tmp_path / 'resumed').iterdir()] == ['metrics.jsonl']


def test_a_fresh_start_drops_the_old_record(tmp_path):
  write_steps(tmp_path, [0, 10])
  write_steps(tmp_path, [0, 5])
  assert steps(tmp_path) == [0, 5]


def test_a_line_cut_off_by_a_crash_is_left_out_and_other_damage_is_told(tmp_path):
  write_steps(tmp_path, [10, 20])
  path = tmp_path / 'metrics.jsonl'
  text = path.read_text()
  path.write_text(text + '{"step": 30, "lo')
  assert steps(tmp_path) == [10, 20]
  write_steps(tmp_path, [30], resume_step=20)
  assert steps(tmp_path) == [10, 20, 30]
  for line in (b'{"step": 5, "lo', b'{"loss": 1}', b'[5]', b'{"step": 5, "note": "\xff"}'):
    path.write_bytes(line + b'\n' + text.encode())
    with pytest.raises(ConfigError, match='line 1 of .*metrics.jsonl. is not a row of metrics'):
      read(tmp_path)


def test_a_crash_while_dropping_rows_keeps_the_old_record(tmp_path, monkeypatch):
  write_steps(tmp_path, [10, 20, 30])

  def crash(*_):
    raise OSError('power cut')

  monkeypatch.setattr(metrics.os, 'fsync', crash)
  with pytest.raises(OSError, match='power cut'):
    Writer(tmp_path, tensorboard=False, resume_step=10)
  assert steps(tmp_path) == [10, 20, 30]


def test_no_record_yet_is_empty(tmp_path):
  assert read(tmp_path) == []


def test_csv_columns_may_appear_later_and_rows_are_dropped_alike(tmp_path):
  def table():
    with (tmp_path / 'metrics.csv').open(newline='') as file:
      return list(csv.reader(file))

  with Writer(tmp_path, tensorboard=False, csv=True) as writer:
    writer.write(1, {'loss': 2.0, 'note': 'a, "b"'})
    writer.write(2, {'loss': 1.0})
    writer.write(3, {'knn/top1': 0.5, 'loss': math.nan})
    writer.write(4, {'loss': 0.5})
  expected = [
    ['step', 'loss', 'note', 'knn/top1'],
    ['1', '2.0', 'a, "b"', ''],
    ['2', '1.0', '', ''],
    ['3', 'nan', '', '0.5'],
    ['4', '0.5', '', ''],
  ]
  assert table() == expected
  with Writer(tmp_path, tensorboard=False, csv=True, resume_step=2) as writer:
    assert table() == [row[:3] for row in expected[:3]]
    writer.write(3, {'loss': 7.0, 'lr': 0.1})
  assert table()[0] == ['step', 'loss', 'note', 'lr']
  assert table()[-1] == ['3', '7.0', '', '0.1']


def test_tensorboard_without_tensorflow(tmp_path):
  code = (
    'import sys; from byoljax.workdir.metrics import Writer\n'
    f'with Writer({str(tmp_path)!r}) as w: w.write(3, {{"loss": 0.25, "note": "text"}})\n'
    'assert "tensorflow" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
  (events,) = (tmp_path / 'tensorboard').iterdir()
  from tensorboardX.proto.event_pb2 import Event

  found = {}
  data = events.read_bytes()
  while data:  # Length, its checksum, the record, its checksum.
    size = int.from_bytes(data[:8], 'little')
    event = Event.FromString(data[12 : 12 + size])
    found |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
    data = data[16 + size :]
  assert found == {'loss': (3, 0.25)}


def test_only_the_first_process_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  with Writer(tmp_path / 'run') as writer:
    writer.write(1, {'loss': 1.0})
    writer.flush()
  assert not (tmp_path / 'run').exists()
  stream = io.StringIO()
  Progress(10, stream).update(1, {'loss': 1.0})
  assert stream.getvalue() == ''


# The progress line.

ROW = {
  'loss': 1.23456,
  'lr': 0.03,
  'tau': 0.996,
  'time/img_per_s': 1234.5,
  'time/wait': 0.031,
  'time/left_s': 133.0,
}
LINE = (
  ' 120/5000  epoch 1.2/50  loss 1.2346  lr 0.03  tau 0.99600  1,234 img/s  data wait 3%  2:13 left'
)


class Terminal(io.StringIO):
  def isatty(self):
    return True

  def screen(self):
    """What a terminal would show: lines, each overwritten from its start after a return."""
    lines = []
    for line in self.getvalue().split('\n'):
      shown = ''
      for part in line.split('\r'):
        shown = part + shown[len(part) :]
      lines.append(shown.rstrip())
    return lines


class Seconds:
  """A clock that is set by hand."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


def test_plain_lines_now_and_then_when_not_a_terminal():
  stream, time = io.StringIO(), Seconds()
  progress = Progress(5000, stream, steps_per_epoch=100, interval=10, time=time)
  for step in range(120, 145):
    progress.update(step, ROW)
    time.now += 1
  progress.update(5000, {'loss': 0.5})
  progress.close()
  lines = stream.getvalue().split('\n')
  assert [line.split('/')[0] for line in lines] == [' 120', ' 130', ' 140', '5000', '']
  assert lines[0] == ' ' + LINE.lstrip()
  assert '\r' not in stream.getvalue()


def test_one_line_on_a_terminal():
  stream, time = Terminal(), Seconds()
  progress = Progress(5000, stream, steps_per_epoch=100, width=120, time=time)
  progress.update(120, ROW)
  assert stream.screen() == [LINE]
  time.now += 0.01
  progress.update(121, ROW)  # Too soon to redraw.
  assert stream.screen() == [LINE]
  time.now += 1
  progress.update(300, {'loss': 1.0})
  assert stream.screen() == [' 300/5000  epoch 3.0/50  loss 1.0000']
  progress.close()
  assert stream.screen() == [' 300/5000  epoch 3.0/50  loss 1.0000', '']


@pytest.mark.parametrize(
  ('width', 'shown'),
  [
    (98, LINE),
    (97, LINE),  # 96 characters and the last column.
    (96, LINE.replace('epoch 1.2/50  ', '')),
    (82, LINE.replace('epoch 1.2/50  ', '').replace('tau 0.99600  ', '')),
    (61, ' 120/5000  loss 1.2346  1,234 img/s  data wait 3%  2:13 left'),
    (60, ' 120/5000  loss 1.2346  1,234 img/s  2:13 left'),
    (40, ' 120/5000  loss 1.2346  2:13 left'),
    (20, ' 120/5000'),
    (5, ' 120'),
  ],
)
def test_fields_that_do_not_fit_are_left_out(width, shown):
  stream = Terminal()
  Progress(5000, stream, steps_per_epoch=100, width=width).update(120, ROW)
  assert stream.screen() == [shown]
  assert all(len(line) < width for line in stream.getvalue().split('\r'))


def test_quiet_shows_nothing():
  stream = Terminal()
  progress = Progress(10, stream, quiet=True)
  progress.update(1, ROW)
  progress.close()
  assert stream.getvalue() == ''


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (0, '0:00'),
    (9.6, '0:10'),
    (133, '2:13'),
    (3599.7, '1:00:00'),
    (86399, '23:59:59'),
    (100000, '1 d 3 h'),
    (math.nan, '?'),
    (math.inf, '?'),
  ],
)
def test_durations(seconds, text):
  assert duration(seconds) == text


# The clock.


def test_first_step_is_apart_and_rates_are_of_the_window():
  time = Seconds()
  clock = Clock(21, 64, time=time)
  assert clock.read() == {'time/elapsed_s': 0}  # Nothing else can be known.
  with clock.waiting():
    time.now += 2
  time.now += 30  # Compiles.
  clock.tick(1)
  first = clock.read()
  assert first == {'time/first_step_s': 30, 'time/elapsed_s': 32}
  for step in range(2, 7):
    with clock.waiting():
      time.now += 0.5
    time.now += 1.5
    clock.tick(step)
  window = clock.read()
  assert window['time/img_per_s'] == window['time/img_per_s_run'] == 32
  assert window['time/wait'] == 0.25
  assert window['time/left_s'] == 15 * 2  # Not 15 * 42 / 6: the first step does not count.
  for step in range(7, 12):
    time.now += 1
    clock.tick(step)
  window = clock.read()
  assert (window['time/img_per_s'], window['time/wait']) == (64, 0)
  assert window['time/img_per_s_run'] == pytest.approx(640 / 15)
  assert window['time/wait_run'] == pytest.approx(2.5 / 15)
  clock.tick(21)
  assert clock.read()['time/left_s'] == 0


def test_pauses_are_no_training_time_but_will_come_again():
  time = Seconds()
  clock = Clock(31, 10, time=time)
  clock.tick(1)
  for step in range(2, 12):
    time.now += 1
    clock.tick(step)
  with clock.paused():
    time.now += 10
  row = clock.read()
  assert row['time/img_per_s'] == 10
  assert row['time/left_s'] == 20 * 2


def test_a_resumed_run_counts_its_own_steps():
  time = Seconds()
  clock = Clock(100, 10, start_step=50, time=time)
  time.now += 5
  clock.tick(51)
  for step in (52, 54):  # Steps may come in blocks.
    time.now += 2
    clock.tick(step)
  row = clock.read()
  assert row['time/img_per_s'] == 30 / 4
  assert row['time/left_s'] == pytest.approx(46 * 4 / 3)


def test_waiting_counts_even_if_the_data_ends():
  time = Seconds()
  clock = Clock(10, 1, time=time)
  clock.tick(1)
  with pytest.raises(StopIteration), clock.waiting():
    time.now += 3
    raise StopIteration
  clock.tick(2)
  assert clock.read()['time/wait'] == 1


@pytest.mark.parametrize(
  ('start', 'count', 'seen', 'expected'),
  [
    (5, 2, range(1, 10), [('start', 5), ('stop', 7)]),
    (5, 2, range(20, 30), [('start', 20), ('stop', 22)]),
    (5, 2, range(1, 6), [('start', 5), ('stop', 'close')]),
    (5, 0, range(1, 10), []),
    (50, 2, range(1, 10), []),
  ],
)
def test_profile_window(monkeypatch, tmp_path, start, count, seen, expected):
  events, now = [], [None]
  profiler = clock_module.jax.profiler
  monkeypatch.setattr(profiler, 'start_trace', lambda _: events.append(('start', now[0])))
  monkeypatch.setattr(profiler, 'stop_trace', lambda: events.append(('stop', now[0])))
  window = ProfileWindow(tmp_path, start=start, steps=count)
  for now[0] in seen:
    window(now[0], wait_for=jnp.zeros(()))
  now[0] = 'close'
  window.close()
  window.close()
  assert events == expected


def test_profile_window_writes_a_trace(tmp_path):
  window = ProfileWindow(tmp_path, start=1, steps=1)
  window(1)
  window(2, wait_for=jax.jit(jnp.sin)(jnp.ones(3)))
  assert list(tmp_path.rglob('*.xplane.pb'))
