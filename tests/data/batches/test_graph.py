"""The tf.data graph: how it ends in every case, and groups that it leaves out."""

import io
import signal
import subprocess
import sys
import textwrap
import time
import weakref

import numpy as np
from PIL import Image
import pytest

from byoljax.data.augment import views
from byoljax.data.batches import decode, file_batches, graph, order, pipeline
from byoljax.data.sources import source, tensorflow_import
from tests.paths import ROOT

_ROOT = str(ROOT)
SPECS = (views.ViewSpec(size=16), views.ViewSpec(size=8, crop_scale=(0.05, 0.3)))


def _encoded(image, kind):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, kind)
  return buffer.getvalue()


def _contents(count, side=24):
  """Noise in the formats that TensorFlow, and that Pillow decodes."""
  images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
  return [_encoded(image, ('PNG', 'JPEG', 'BMP')[i % 3]) for i, image in enumerate(images)]


def _source(contents, busy=0.0):
  """Files in memory whose reader keeps the interpreter busy for some seconds."""
  data = np.empty(len(contents), object)
  data[:] = contents

  def fetch(rows, names):
    end = time.monotonic() + busy
    while time.monotonic() < end:
      sum(range(100))
    values = {'image': data[rows], 'label': np.full(len(rows), -1, np.int32)}
    return tuple(values[name] for name in names)

  return source.Source(
    name='files',
    size=len(data),
    num_classes=0,
    class_names=(),
    encoded=True,
    image_shape=None,
    fingerprint='0',
    fetch=fetch,
    fetch_labels=lambda: None,
    locate=lambda row: f'file {row}',
  )


def _train(data, stop=10**9, specs=SPECS, batch_size=8, start_step=0, threads=3):
  return pipeline.train_batches(
    data,
    specs,
    order=order.Order(data.size, batch_size, seed=0),
    seed=0,
    start_step=start_step,
    stop_step=stop,
    threads=threads,
  )


def _evaluate(data):
  return pipeline.eval_batches(data, image_size=16, batch_size=2, threads=3)


def half_used():
  """Batches whose reading functions are running, for training and for evaluation."""
  data = _source(_contents(30), busy=0.02)
  made = [_train(data), _evaluate(data)]
  for batches in made:
    next(batches)
  return made


# --- the end ------------------------------------------------------------------------------------


def test_garbage_ends_the_graph(collect):
  before = set(graph._OPEN)
  for _ in range(3):
    made = half_used()
    assert len(graph._OPEN - before) == 2
    made[0].itself = made[0]  # A cycle, which only the collector finds.
    del made
    collect()
    assert not graph._OPEN - before


def test_close_waits_for_the_reader():
  data = _source(_contents(30), busy=0.05)
  for batches in (_train(data), _evaluate(data)):
    next(batches)
    batches.close()
    assert not [stream for stream in graph._OPEN if stream is batches._stream]
    batches.close()
    with pytest.raises(StopIteration):
      next(batches)


def test_garbage_in_another_thread_is_closed_later(monkeypatch, collect):
  """The collector may run in a thread of the graph itself: there it only asks for the end."""
  (batches, other) = half_used()
  stream = batches._stream
  with monkeypatch.context() as patch:
    patch.setattr(graph.threading, 'get_ident', lambda: -1)
    del batches
    collect()
    assert stream in graph._OPEN and not stream._wanted
  half_used()
  assert stream not in graph._OPEN and other._stream in graph._OPEN
  other.close()


def test_garbage_while_a_function_is_traced_is_closed_later(collect):
  """What the collector meets must not become a part of the function."""
  (batches, other) = half_used()
  stream = batches._stream

  @tensorflow_import.tensorflow().function(autograph=False)
  def traced():
    nonlocal batches
    batches = None
    collect()
    return 3

  assert int(traced()) == 3
  kinds = {op.type for op in traced.get_concrete_function().graph.get_operations()}
  assert kinds == {'Const', 'Identity'}
  assert stream in graph._OPEN and not stream._wanted
  other.close()
  _evaluate(_source(_contents(3))).close()
  assert stream not in graph._OPEN


@pytest.fixture
def interruptible():
  """SIGINT as Python has it: a shell hands down one that is ignored to what runs in background."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


class _Interrupted:
  """An iterator during whose calls, where destructors lose exceptions, a SIGINT arrives."""

  def __init__(self, iterator, interrupts):
    self._iterator = iterator
    self._interrupts = interrupts

  def __next__(self):
    if self._interrupts and self._interrupts.pop():
      weakref.finalize(type('Dropped', (), {})(), signal.raise_signal, signal.SIGINT)
    return next(self._iterator)


@pytest.mark.usefixtures('interruptible')
def test_an_interrupt_does_not_leave_the_graph_half_closed():
  (batches, other) = half_used()
  other.close()
  stream, real = batches._stream, batches._stream._iterator
  stream._iterator = _Interrupted(real, [True, False, True])
  with pytest.raises(KeyboardInterrupt):
    batches.close()
  assert stream._iterator is None and stream not in graph._OPEN
  assert next(real, None) is None


@pytest.mark.usefixtures('interruptible')
def test_an_interrupt_while_waiting_is_not_lost():
  (batches, other) = half_used()
  stream = batches._stream
  stream._iterator = _Interrupted(stream._iterator, [True])
  with pytest.raises(KeyboardInterrupt):
    next(batches)
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
  assert stream not in graph._OPEN
  other.close()


_ENDINGS = {
  'sys.exit': ('sys.exit(3)', 3, ''),
  'exception': ('raise RuntimeError("boom")', 1, 'RuntimeError: boom'),
  'SIGINT': (
    'print("ready", flush=True)\nwhile True:\n  held[0] = held[0] and next(held[0]) and held[0]',
    -signal.SIGINT,
    'KeyboardInterrupt',
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', _ENDINGS)
def test_a_process_that_forgets_to_close_exits(name):
  """In the middle of reading, with many graphs open; a deadlock would run into the timeout."""
  ending, code, said = _ENDINGS[name]
  setup = """
    import atexit, signal, sys
    from byoljax.data.batches import graph
    # A parent that was started in the background by a shell hands down a SIGINT that is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from tests.data.batches import test_graph
    # Runs after the streams' own hook, which is registered later.
    atexit.register(lambda: print('left open:', len(graph._OPEN)))
    held = [batches for _ in range(3) for batches in test_graph.half_used()]
    print('open:', len(graph._OPEN), flush=True)
  """
  process = subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(setup) + ending],
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    if name == 'SIGINT':
      lines = [process.stdout.readline(), process.stdout.readline()]
      assert lines == ['open: 6\n', 'ready\n']
      process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=120)
  finally:
    process.kill()
  assert process.returncode == code, error
  assert out.splitlines()[-1] == 'left open: 0'
  assert said in error if said else not error


# --- groups that the graph cannot make -----------------------------------------------------------


def _half_damaged_jpeg(side=96):
  """A JPEG in whose second half another one begins: crops above that can be decoded."""
  noise = np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)
  whole = _encoded(noise, 'JPEG')
  return whole[: len(whole) // 2] + whole


def _damaged_png():
  content = bytearray(
    _encoded(np.random.default_rng(2).integers(0, 256, (24, 24, 3)).astype(np.uint8), 'PNG')
  )
  start = content.index(b'IDAT') + 60
  content[start : start + 40] = bytes(40)
  return bytes(content)


def _flat(batch):
  return [batch['index'], batch['label'], *batch['views']]


def _same(first, second):
  return all(np.array_equal(a, b) for a, b in zip(_flat(first), _flat(second), strict=True))


def test_a_group_made_again_is_the_same(monkeypatch):
  """What the graph makes, and what is made by a call where it could not."""
  data = _source(_contents(70, 144))
  # Large enough for matrix products that may be shared out among threads.
  large = (views.ViewSpec(size=128), views.ViewSpec(size=96))
  settings = {'batch_size': 35, 'stop': 6, 'specs': large}
  due = list(_train(data, **settings))
  monkeypatch.setattr(graph.Stream, 'take', lambda self, number: None)
  again = list(_train(data, **settings))
  assert len(due) == len(again) == 6
  assert all(_same(a, b) for a, b in zip(due, again, strict=True))


def test_batches_do_not_depend_on_which_damage_was_met():
  contents = _contents(16)
  contents[3], contents[9] = _damaged_png(), _half_damaged_jpeg()
  data = _source(contents)
  whole = list(_train(data, stop=24))
  for start in (1, 2, 7, 12, 23):
    fresh = _source(contents)
    rest = list(_train(fresh, stop=24, start_step=start))
    assert all(_same(a, b) for a, b in zip(whole[start:], rest, strict=True))
  assert data.unreadable.names.keys() == {'file 3', 'file 9'}
  # The PNG is never there. The JPEG is, in the epochs whose crops leave the damage out.
  epochs = [np.concatenate([whole[t]['index'], whole[t + 1]['index']]) for t in range(0, 24, 2)]
  assert not any(3 in epoch for epoch in epochs)
  assert {9 in epoch for epoch in epochs} == {True, False}


def test_damage_is_met_once(monkeypatch):
  """A file that cannot be decoded costs one group, not one in every epoch."""
  contents = _contents(16)
  contents[3] = _damaged_png()
  made_again = []
  again = file_batches.FileBatches._again
  monkeypatch.setattr(
    file_batches.FileBatches,
    '_again',
    lambda self, number: made_again.append(number) or again(self, number),
  )
  assert len(list(_train(_source(contents), stop=40, threads=1))) == 40
  # One group, and those that had been planned by then.
  assert 1 <= len(made_again) <= 4 and max(made_again) < 12


def test_nothing_but_damage_is_an_error():
  with pytest.raises(ValueError, match='12 examples of files in a row cannot be read; .*damaged'):
    next(_train(_source([_damaged_png()] * 12)))
  batch = next(_evaluate(_source([_damaged_png()] * 12)))
  assert not batch['valid'].any() and not batch['image'].any()


def test_an_error_of_the_reader_is_raised_as_it_is():
  data = _source(_contents(16))
  calls = []

  def fetch(rows, names):
    calls.append(rows)
    if len(calls) > 3:
      raise OSError('the disk is gone')
    return data.fetch(rows, names)

  broken = source.dataclasses.replace(data, fetch=fetch)
  batches = _train(broken, threads=1)
  with pytest.raises(OSError, match='the disk is gone'):
    for _ in range(10):
      next(batches)
  assert batches._stream not in graph._OPEN


def test_work_ahead_is_bounded():
  data = _source(_contents(16))
  read = []
  counted = source.dataclasses.replace(data, fetch=lambda *a: read.append(1) or data.fetch(*a))
  batches = _train(counted, threads=2)
  next(batches)
  seen = 0
  while len(read) > seen:  # Until the stages are full.
    seen = len(read)
    time.sleep(1)
  batches.close()
  assert 3 <= seen <= 12


def test_parts_are_whole_for_png_and_small_images():
  boxes = np.array([[[10, 20, 30, 40]]] * 3, np.int32)
  sides = np.full((3, 2), 100, np.int32)
  kind = np.array([0, 1, 2], np.int32)
  whole, part = [0, 0, 100, 100], [6, 16, 38, 48]
  np.testing.assert_array_equal(decode.parts(kind, sides, boxes, None), [part, whole, part])
  assert decode.parts(kind, sides, boxes, (100, 100))[0].tolist() == part
  assert decode.parts(kind, sides // 2, boxes, (50, 50)).tolist() == [[0, 0, 50, 50]] * 3
