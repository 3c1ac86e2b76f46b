"""The tf.data graph that turns image files into views, and how it ends.

    range of groups -> plan (Python: reading, headers, crops) -> decode, crop, resize, mirror
    (TensorFlow) -> prefetch

Every stage processes several groups of examples in parallel and preserves their order. The content
of a group is a function of its number alone, so a stream can start at any group, and nothing
depends on the number of threads or on timing.

Three problems that tf.data does not solve:

- An iterator must not be destroyed while its Python functions are running or scheduled, above all
  not at exit: the destructor holds the interpreter lock and waits for a function that needs it. So
  a stream is kept alive until it is exhausted, which `close` forces by ending the range of groups
  and returning empty plans. Streams left open are closed at exit.
- A file that cannot be decoded fails its whole group. `take` returns None for such a group, and for
  one that could not be planned; the caller rebuilds it.
- For every group TensorFlow creates and destroys an object whose destructor swallows a
  KeyboardInterrupt. So an interrupt is delivered once the group has arrived.
"""

import atexit
from collections.abc import Callable, Iterator
import contextlib
import functools
import signal
import threading
from types import FrameType
from typing import Any, NamedTuple
import weakref

import numpy as np

from byoljax.data.batches.aligned import Aligned
from byoljax.data.batches.examples import Plan
from byoljax.data.sources import tensorflow_import


class Made(NamedTuple):
  """A finished group of n examples, m of which could be read.

  Attributes:
    index: number of each example in its source, int32 [n]; -1: padding or unreadable.
    label: int32 [n], or [n, C] of several labels each; -1: none.
    row: row of the group that each image belongs to, int32 [m].
    views: uint8 or float32 [m, S, S, C] for each view.
    further: fields beside the views, of the m images, as in the plan.
  """

  index: np.ndarray
  label: np.ndarray
  row: np.ndarray
  views: tuple[np.ndarray, ...]
  further: tuple[np.ndarray, ...] = ()


class Stream:
  """The running graph: finished groups in the order of their numbers."""

  def __init__(
    self,
    numbers: range,
    plan_of: Callable[[int], Plan],
    decoder: Any,
    num_views: int,
    *,
    threads: int,
    ahead: int,
    wanted: tuple[Aligned, ...] = (),
  ):
    """Starts the graph.

    Args:
      numbers: which groups, ascending by one.
      plan_of: number -> the plan of the group; called by several threads at once.
      decoder: carries plans out (`decode.make_decoder`).
      num_views: number of views V.
      threads: for all stages together; also how many groups each stage works on at once.
      ahead: how many finished groups are kept.
      wanted: the further fields of the plans.
    """
    for stream in list(_OPEN):
      if not stream._wanted:
        stream.close()
    tf = tensorflow_import.tensorflow()
    _close_at_exit()
    self._errors = tf.errors.OpError
    self._wanted = True
    self._next: tuple[Any, ...] | None = None
    self._iterator: Iterator[Any] | None = None
    data = tf.data.Dataset.range(numbers.start, numbers.stop)
    fields = _fields(num_views, wanted)
    data = _stages(tf, data, lambda: self._wanted, plan_of, decoder, fields, threads)
    data = data.prefetch(ahead).with_options(_options(tf, threads))
    _OPEN.add(self)
    self._iterator = data.as_numpy_iterator()

  def take(self, number: int) -> Made | None:
    """The group of this number, in ascending order; None where the graph could not make it."""
    assert self._iterator is not None, 'the stream is closed'
    while self._next is None or self._next[0] < number:
      try:
        with _interrupts_afterwards():
          self._next = next(self._iterator)
      except (self._errors, StopIteration):
        return None
    found, *rest = self._next
    made = Made(*rest)
    return made if found == number and len(made.row) else None

  def close_with(self, owner: object) -> None:
    """Closes when `owner` is garbage-collected."""
    weakref.finalize(owner, self._abandon).atexit = False

  def _abandon(self) -> None:
    self._wanted = False
    # The collector may run in a thread of the graph, which must not wait for itself, or while a
    # function is being traced, which would record the reads here. In these cases the next stream
    # that is created closes this one, or the exit of the process does.
    here = threading.get_ident() == threading.main_thread().ident
    if here and tensorflow_import.tensorflow().executing_eagerly():
      self.close()

  def close(self) -> None:
    """Exhausts the graph, so that none of its Python functions is left. Idempotent."""
    self._wanted = False
    with _interrupts_afterwards():
      while self._iterator is not None:
        try:
          next(self._iterator)
        except StopIteration:
          self._iterator = None
        except self._errors:
          continue  # Whatever the error, the iterator is not exhausted yet.
      self._next = None
      _OPEN.discard(self)


@contextlib.contextmanager
def _interrupts_afterwards() -> Iterator[None]:
  """Delays SIGINT, which only the main thread receives, until the block is left."""
  handler = signal.getsignal(signal.SIGINT)
  if threading.current_thread() is not threading.main_thread() or not callable(handler):
    yield
    return
  received: list[FrameType | None] = []
  signal.signal(signal.SIGINT, lambda number, frame: received.append(frame))
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, handler)
    if received:
      handler(signal.SIGINT, received[0])


# Streams that are not exhausted; referenced here so that they are not destroyed.
_OPEN: set[Stream] = set()


@functools.cache
def _close_at_exit() -> None:
  """Call after importing TensorFlow: handlers run in the reverse order of registration."""

  def close_all() -> None:
    for stream in list(_OPEN):
      with contextlib.suppress(KeyboardInterrupt):
        stream.close()

  atexit.register(close_all)


def _stages(
  tf: Any,
  numbers: Any,
  wanted: Callable[[], bool],
  plan_of: Callable[[int], Plan],
  decoder: Any,
  fields: 'list[_Type]',
  threads: int | None,
) -> Any:
  """From a data set of group numbers to one of finished groups, while `wanted` returns True.

  Without `threads` nothing is computed ahead.
  """
  nothing = tuple(np.zeros([side or 0 for side in f.shape or [None]], f.dtype) for f in fields)

  def plan(number: np.ndarray) -> tuple[np.ndarray, ...]:
    if not wanted():
      return nothing
    try:
      made = plan_of(int(number))
    except Exception:  # Raised again when the group is rebuilt; TensorFlow would garble it.
      return nothing
    return (*made[:-1], *made.further) if len(made.row) else nothing

  def still_wanted(number: Any) -> Any:
    del number
    return tf.ensure_shape(tf.numpy_function(wanted, [], tf.bool), [])

  def planned(number: Any) -> tuple[Any, ...]:
    made = tf.numpy_function(plan, [number], [tf.as_dtype(f.dtype) for f in fields])
    for array, field in zip(made, fields, strict=True):
      array.set_shape(field.shape)
    return (number, *made)

  def carried_out(number: Any, index: Any, label: Any, row: Any, *inputs: Any) -> Any:
    count = len(fields) - 3 - sum(field.is_further for field in fields)
    return number, index, label, row, decoder(*inputs[:count]), inputs[count:]

  plain = tf.autograph.experimental.do_not_convert
  data = numbers.take_while(plain(still_wanted))
  data = data.map(plain(planned), num_parallel_calls=threads)
  return data.map(plain(carried_out), num_parallel_calls=threads)


class _Type(NamedTuple):
  """Type and shape of an array of a `Plan`; a shape of None may be any."""

  dtype: Any
  shape: list[int | None] | None
  is_further: bool = False


def _fields(num_views: int, wanted: tuple[Aligned, ...]) -> list[_Type]:
  """The arrays of a `Plan` in their order."""
  return [
    _Type(np.int32, [None]),
    _Type(np.int32, None),  # Labels: a number, or a row of them.
    _Type(np.int32, [None]),
    _Type(np.bytes_, [None]),
    _Type(np.int32, [None]),
    _Type(np.int32, [None, 4]),
    _Type(np.int32, [None, num_views, 4]),
    _Type(np.bool_, [None, num_views]),
    *(_Type(one.dtype, [None, *one.shape], is_further=True) for one in wanted),
  ]


@functools.lru_cache(maxsize=16)
def make_one(
  decoder: Any, num_views: int, wanted: tuple[Aligned, ...] = ()
) -> Callable[[Plan], Made]:
  """Builds the function that carries out one plan, bit-equal to what a stream gives.

  A plain call of the decoder is not always bit-equal: with more threads the sums of a matrix
  product are rounded differently. So this is a graph, too, without prefetching.

  Args:
    decoder: `decode.make_decoder`.
    num_views: number of views V.
    wanted: the further fields of the plans.

  Returns:
    A function that raises an OpError when a file of the plan cannot be decoded.
  """
  tf = tensorflow_import.tensorflow()
  waiting: list[Plan] = []
  lock = threading.Lock()
  options = _options(tf, 1)
  # The default optimizations would make the stages parallel.
  options.experimental_optimization.apply_default_optimizations = False
  data = tf.data.Dataset.range(tf.int64.max)
  fields = _fields(num_views, wanted)
  data = _stages(tf, data, lambda: True, lambda _: waiting[0], decoder, fields, None)
  results = data.with_options(options).as_numpy_iterator()

  def one(plan: Plan) -> Made:
    with lock, _interrupts_afterwards():
      waiting[:] = [plan]
      _, *made = next(results)
    return Made(*made)

  return one


def _options(tf: Any, threads: int) -> Any:
  options = tf.data.Options()
  options.deterministic = True
  # The parallelism is fixed: it bounds the memory, so there is nothing to tune.
  options.autotune.enabled = False
  options.threading.private_threadpool_size = threads
  options.threading.max_intra_op_parallelism = 1
  # Work begins when the iterator is created, while the train step is being compiled.
  options.experimental_warm_start = True
  return options
