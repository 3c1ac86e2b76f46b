"""Agreement among the processes of one run. JAX is imported only when needed."""

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


def is_first_process() -> bool:
  """Whether this is process 0, which writes what only one process may write."""
  import jax

  return jax.process_index() == 0
