"""A first-in, first-out queue of rows: MoCo's dictionary, SwAV's and NNCLR's support sets.

Different from the authors' code: the batch need not divide the queue, because rows are written
at positions modulo its size.
"""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from byoljax.ops import memory, sphere


class Queue(NamedTuple):
  """A ring buffer of rows.

  Attributes:
    items: float32 [K,D], or this device's shard (`ops.memory`).
    pointer: int32 scalar in [0, K), where the next row is written: the oldest one once the queue is
      full.
    filled: int32 scalar in [0, K], how many rows have been pushed, for methods that wait until it
      is full.
  """

  items: jax.Array
  pointer: jax.Array
  filled: jax.Array


# `Method.memories` of a method whose state has a `queue`.
MEMORIES = (('queue', 'items'),)


def init(key: jax.Array, size: int, dim: int) -> Queue:
  """A queue of `size` random unit rows of dimension `dim`, none of which counts as pushed.

  Raises:
    ValueError: size or dim below 1.
  """
  if size < 1 or dim < 1:
    raise ValueError(f'a queue needs a size and a dimension of at least 1, got {size} and {dim}')
  zero = jnp.zeros((), jnp.int32)
  return Queue(sphere.random_points(key, size, dim), zero, jnp.zeros_like(zero))


def push(
  queue: Queue,
  rows: jax.Array,
  valid: jax.Array | bool = True,
  *,
  size: int | None = None,
  axis: str | None = None,
) -> Queue:
  """Writes a batch over the oldest rows.

  Args:
    queue: K rows; updated in place in a compiled step that donates it.
    rows: [B,D] of all devices, oldest first, any float dtype. Of more than K rows the last K are
      kept. No gradient flows through the queue.
    valid: bool scalar; if False, nothing is pushed.
    size: K; needed if `items` may be a shard.
    axis: the mapped axis over which it may be sharded, or None.

  Returns:
    The queue after B pushes.

  Raises:
    ValueError: rows are not [B,D] with the queue's D.
  """
  size, dim = size or queue.items.shape[0], queue.items.shape[1]
  if rows.ndim != 2 or rows.shape[1] != dim:
    raise ValueError(f'a queue of {dim} numbers per row takes rows [B,{dim}], got {rows.shape}')
  count = rows.shape[0]
  kept = lax.stop_gradient(rows[max(count - size, 0) :].astype(jnp.float32))
  first = queue.pointer + (count - kept.shape[0])
  positions = (first + jnp.arange(kept.shape[0], dtype=jnp.int32)) % size
  # Positions past the end are dropped; selecting between two queues would copy them.
  positions += jnp.where(valid, 0, size)
  items = memory.put(queue.items, positions, kept, size=size, axis=axis)
  pushed = jnp.where(valid, count, 0)
  pointer = (queue.pointer + pushed) % size
  return Queue(items, pointer, jnp.minimum(queue.filled + pushed, size))
