"""Agreement among the processes of one run. JAX is imported only when needed."""

from collections.abc import Iterable, Iterator
import contextlib
import hashlib
import os

import numpy as np


def broadcast_from_first(value: int) -> int:
  """The first process's value on all processes, whose own values may differ."""
  import jax
  from jax.experimental import multihost_utils

  if jax.process_count() == 1:
    return value
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def all_agree(fine: bool) -> bool:
  """Whether `fine` is true on every process. All processes must call it; it is a barrier."""
  return not dissenters(fine)


def dissenters(fine: bool) -> list[int]:
  """The processes on which `fine` is false. All processes must call it; it is a barrier."""
  import jax
  from jax.experimental import multihost_utils

  if jax.process_count() == 1:
    return [] if fine else [0]
  found = np.asarray(multihost_utils.process_allgather(np.asarray(fine)))
  return [int(index) for index in np.flatnonzero(~found)]


def differing(text: str) -> list[int]:
  """The processes whose text is not the first one's. All must call it; it is a barrier."""
  import jax
  from jax.experimental import multihost_utils

  if jax.process_count() == 1:
    return []
  digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
  found = np.asarray(multihost_utils.process_allgather(digest))
  return [index for index, row in enumerate(found) if not np.array_equal(row, found[0])]


def count_distinct(names: Iterable[str]) -> int:
  """How many different names there are on all processes together. All must call it."""
  import jax
  from jax.experimental import multihost_utils

  own = {hashlib.sha256(os.fsencode(name)).digest() for name in names}
  if jax.process_count() == 1:
    return len(own)
  most = np.asarray(multihost_utils.process_allgather(np.int32(len(own)))).max()
  rows = np.zeros((most + 1, 32), np.uint8)  # At least one is no name: 0.
  for row, digest in zip(rows, own, strict=False):
    row[:] = np.frombuffer(digest, np.uint8)
  return len(np.unique(multihost_utils.process_allgather(rows).reshape(-1, 32), axis=0)) - 1


@contextlib.contextmanager
def raising_together(kind: type[Exception], elsewhere: str) -> Iterator[None]:
  """Around what some processes may fail in: all of them raise then; it ends with a barrier.

  Args:
    kind: of the errors.
    elsewhere: the message on processes that did not fail themselves.

  Raises:
    kind: on every process, if the block raised it on any.
  """
  failed = None
  try:
    yield
  except kind as error:
    failed = error
  if not all_agree(failed is None):
    raise failed or kind(elsewhere)


def is_first_process() -> bool:
  """Whether this is process 0, which writes what only one process may write."""
  import jax

  return jax.process_index() == 0
