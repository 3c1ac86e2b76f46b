"""Long steps are never silent: what is printed, when, and that other output is left whole."""

import functools
import io
import re

import pytest

from byoljax import cli
from byoljax.workdir import activity
from byoljax.workdir.progress import Progress


class Terminal(io.StringIO):
  def isatty(self):
    return True


class Clock:
  def __init__(self):
    self.seconds = 0.0

  def __call__(self):
    return self.seconds


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(activity.time, 'monotonic', clock)
  return clock


def look_at(watch, clock, *seconds):
  for second in seconds:
    clock.seconds = second
    watch.look()


def test_after_five_seconds_then_more_and_more_seldom(clock):
  stream = io.StringIO()
  watch = activity.Watch(stream, now=clock)
  with activity.doing('working'), activity.doing('features of val', 100, 'images') as did:
    look_at(watch, clock, 1.0, 4.9)
    assert stream.getvalue() == ''
    look_at(watch, clock, 5.0)
    did(10)  # The first part took 5 seconds, and what follows takes 1 for every 2.
    clock.seconds = 10.0
    did(10)
    look_at(watch, clock, 10.0, 15.0, 30.0)
    assert stream.getvalue().splitlines() == [
      'features of val: 0 of 100 images, 0:05 so far',
      'features of val: 20 of 100 images, 1:20 left',
    ]
  with activity.doing('t-SNE'):
    look_at(watch, clock, 34.0, 35.0)
  assert stream.getvalue().endswith('t-SNE, 0:05 so far\n')
  look_at(watch, clock, 999.0)
  assert stream.getvalue().count('\n') == 3, 'nothing is being done'


def test_other_output_starts_the_wait_anew_and_finds_a_clean_line(clock):
  stream = Terminal()
  watch = activity.Watch(stream, now=clock)
  with activity.doing('reading'):
    look_at(watch, clock, 5.0, 5.5, 6.0)
    assert stream.getvalue() == '\rreading, 0:05 so far\rreading, 0:06 so far'
    watch.shown(open_line=True)
    assert stream.getvalue().endswith('\r' + ' ' * len('reading, 0:06 so far') + '\r')
    look_at(watch, clock, 10.9)
    assert stream.getvalue().endswith('\r')
    look_at(watch, clock, 11.0)
  assert stream.getvalue().endswith('\nreading, 0:11 so far'), 'the open line stays'


def test_counted_items_are_closed(clock):
  class Batches(list):
    closed = False

    def close(self):
      self.closed = True

  batches = Batches([{'n': 2}, {'n': 3}])
  watched = activity.counted(batches, 'x', 5, lambda batch: batch['n'], 'images')
  next(watched)
  assert activity._steps[-1].done == 0
  next(watched)
  assert activity._steps[-1].done == 2
  watched.close()
  assert batches.closed and not activity._steps


def test_nothing_without_watching_and_nested_watching_is_one(capsys):
  with activity.doing('alone'):
    activity.shown()
  with activity.watching('outer', look_every=9.0):
    watch = activity._watch
    with activity.watching('inner', look_every=9.0):
      assert activity._watch is watch and activity._steps[-1].what == 'inner'
    assert activity._watch is watch
  assert activity._watch is None and not activity._steps
  assert capsys.readouterr() == ('', '')


def test_the_line_of_a_run_shows_how_it_does():
  stream = io.StringIO()
  row = {'loss': 1.0, 'knn/top1': 0.254, 'collapse/std': 0.91, 'collapse/rank': 33.3}
  Progress(10, stream, interval=0.0).update(10, row)
  assert '  k-NN 25.4%  spread 0.91  rank 33.3' in stream.getvalue()


def test_a_command_says_what_takes_long(untrained, tmp_path, monkeypatch, capsys):
  """With no patience at all, whatever is being done is said, on standard error alone."""
  monkeypatch.setattr(activity, 'FIRST', 0.0)
  monkeypatch.setattr(activity, 'AGAIN', 0.0)
  # Looked at so often that not even a command of compiled programs ends before.
  often = functools.partial(activity.watching, look_every=1e-3)
  monkeypatch.setattr(activity, 'watching', often)
  assert cli.run(['knn', str(untrained), f'--workdir={tmp_path}']) == 0
  shown = capsys.readouterr()
  said = shown.err.splitlines()
  assert said and all(re.search(r' (so far|left)$', line) for line in said)
  assert {re.split('[:,]| of ', line)[0] for line in said} <= {'knn', 'features', 'k-NN'}
  assert 'so far' not in shown.out
