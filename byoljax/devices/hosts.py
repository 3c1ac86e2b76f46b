"""What the processes of one run agree on. JAX is imported when it is asked, not before."""

import numpy as np


def first_says(value: int) -> int:
  """The first process's value, in all of them: what each has measured for itself may differ."""
  import jax
  from jax.experimental import multihost_utils

  if jax.process_count() == 1:
    return value
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def all_agree(fine: bool) -> bool:
  """Whether `fine` on every process; all of them call it, and none goes on before the others."""
  import jax
  from jax.experimental import multihost_utils

  if jax.process_count() == 1:
    return fine
  return bool(np.all(multihost_utils.process_allgather(np.asarray(fine))))


def is_first_process() -> bool:
  """Whether this process writes what only one may write."""
  import jax

  return jax.process_index() == 0
