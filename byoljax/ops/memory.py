"""A memory of many rows, queried in place: negatives, neighbors, one entry per image.

A memory is float32 [N, D]. It is either replicated, or sharded by rows over the devices of an axis:
device d has rows d * k to (d + 1) * k, k = ceil(N / devices), padded with zeros at the end
(`byoljax.train.sharding`). The number of rows tells which: a method states N and the axis, and its
code is the same for both. So are the results, up to the order of summation.

Queries and positions are sent to the owners of the rows, and answers are sent back. Traffic grows
with the batch and not with the memory, and no device holds more rows than its shard and those it
requested. No gradient flows into a memory.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from byoljax.devices import collectives
from byoljax.ops import sphere

# A negligible logit. Not -inf, which would make the gradient of a device without rows NaN.
_NEGLIGIBLE = -1e30


def is_sharded(items: jax.Array, size: int, axis: str | None) -> bool:
  """Whether `items` is this device's shard of a memory [size, D] rather than all of it.

  Raises:
    ValueError: it is neither.
  """
  if items.shape[0] == size:
    return False
  if axis is None or items.shape[0] != -(-size // collectives.axis_size(axis)):
    raise ValueError(
      f'a memory of {size} rows must be replicated or sharded equally over the devices of an axis, '
      f'got {items.shape[0]} rows with axis={axis}'
    )
  return True


def put(
  items: jax.Array, index: jax.Array, rows: jax.Array, *, size: int, axis: str | None
) -> jax.Array:
  """Writes rows, in place in a compiled step that donates the memory.

  Args:
    items: the memory, or this device's shard.
    index: int [B], the same on all devices, without duplicates. Indices outside [0, size) are
      dropped.
    rows: float32 [B, D], the same on all devices.
    size: N.
    axis: the mapped axis over which the memory may be sharded, or None.

  Returns:
    The updated memory.
  """
  here = own_rows(items, index, size=size, axis=axis)
  # Dropped rows get distinct positions past the end, because unique_indices is promised.
  past = items.shape[0] + jnp.arange(len(index), dtype=jnp.int32)
  places = jnp.where(here < items.shape[0], here, past)
  return items.at[places].set(rows, unique_indices=True, mode='drop')


def own_rows(items: jax.Array, index: jax.Array, *, size: int, axis: str | None) -> jax.Array:
  """Positions in `items` of rows of the memory, len(items) for rows elsewhere; int32 like index."""
  first = collectives.axis_index(axis) * items.shape[0] if is_sharded(items, size, axis) else 0
  here = index.astype(jnp.int32) - first
  outside = (index < 0) | (index >= size) | (here < 0) | (here >= items.shape[0])
  return jnp.where(outside, items.shape[0], here)


def take(items: jax.Array, index: jax.Array, *, size: int, axis: str | None) -> jax.Array:
  """Reads rows.

  If sharded, positions are sent to the owners of the rows in rounds of equal size per owner;
  positions that are distributed uniformly need one or two rounds.

  Args:
    items: the memory, or this device's shard.
    index: int [b, ...], this device's positions in [0, size).
    size: N.
    axis: the mapped axis over which the memory may be sharded, or None.

  Returns:
    float32 [b, ..., D].
  """
  items = lax.stop_gradient(items)
  if not is_sharded(items, size, axis):
    return items[index]
  assert axis is not None
  wanted = index.reshape(-1).astype(jnp.int32)
  owners, own = collectives.axis_size(axis), items.shape[0]
  order = jnp.argsort(wanted)
  row = wanted[order]
  owner = row // own
  rank = jnp.arange(len(row), dtype=jnp.int32) - jnp.searchsorted(owner, owner).astype(jnp.int32)
  most = lax.pmax(jnp.max(rank) + 1, axis)
  share = -(-len(row) // owners)
  share += 4 * int(share**0.5)  # Slack, so that uniform positions mostly need one round.
  exchange = functools.partial(lax.all_to_all, axis_name=axis, split_axis=0, concat_axis=0)

  def ask(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    done, found = carry
    place = rank - done
    now = (place >= 0) & (place < share)
    slot = jnp.where(now, owner * share + place, owners * share)
    request = jnp.zeros(owners * share, jnp.int32).at[slot].set(row - owner * own, mode='drop')
    answers = exchange(items[exchange(request.reshape(owners, share))])
    got = answers.reshape(-1, items.shape[1]).at[slot].get(mode='fill', fill_value=0)
    return done + share, jnp.where(now[:, None], got, found)

  start = (jnp.zeros((), jnp.int32), jnp.zeros((len(row), items.shape[1]), items.dtype))
  _, found = lax.while_loop(lambda carry: carry[0] < most, ask, start)
  return jnp.zeros_like(found).at[order].set(found).reshape(*index.shape, -1)


def log_sum_exp(
  z: jax.Array,
  items: jax.Array,
  temperature: float | jax.Array,
  *,
  size: int,
  axis: str | None,
  chunk: int = 0,
) -> jax.Array:
  """log sum_j e^{z.m_j/T} over all rows m_j of the memory.

  Args:
    z: this device's queries [b, D], float32.
    items: the memory, or this device's shard.
    temperature: T > 0.
    size: N.
    axis: the mapped axis over which the memory may be sharded, or None.
    chunk: rows at a time; 0 for all at once, which takes [b, N] floats on each device.

  Returns:
    float32 [b]. Gradients flow into z.
  """
  items = lax.stop_gradient(items.astype(jnp.float32))
  if not is_sharded(items, size, axis):
    return _log_sum_exp(z, items, jnp.int32(size), temperature, chunk)
  present = jnp.clip(size - collectives.axis_index(axis) * items.shape[0], 0, items.shape[0])
  parts = _log_sum_exp(collectives.all_gather(z, axis), items, present, temperature, chunk)
  return jax.nn.logsumexp(_return_answers(parts, axis), axis=0)


def nearest(
  z: jax.Array, items: jax.Array, *, filled: int | jax.Array, size: int, axis: str | None
) -> jax.Array:
  """The row of largest inner product with each query, the first of several.

  Args:
    z: this device's queries [b, D], float32.
    items: the memory, or this device's shard.
    filled: how many rows, from the first, are valid; if 0, the result is undefined.
    size: N.
    axis: the mapped axis over which the memory may be sharded, or None.

  Returns:
    float32 [b, D]; no gradient.
  """
  z, items = lax.stop_gradient((z, items))
  sharded = is_sharded(items, size, axis)
  first = collectives.axis_index(axis) * items.shape[0] if sharded else 0
  present = first + jnp.arange(items.shape[0]) < filled
  queries = collectives.all_gather(z, axis) if sharded else z
  similarity = jnp.where(present[None, :], sphere.similarities(queries, items), _NEGLIGIBLE)
  found = items[jnp.argmax(similarity, axis=1)]
  if not sharded:
    return found
  best, found = _return_answers(jnp.max(similarity, axis=1), axis), _return_answers(found, axis)
  winner = jnp.argmax(best, axis=0)
  return jnp.take_along_axis(found, winner[None, :, None], axis=0)[0]


def _return_answers(answers: jax.Array, axis: str | None) -> jax.Array:
  """From this owner's answers to all, [B, ...], to all owners' to this device, [owners, b, ...]."""
  owners = collectives.axis_size(axis)
  by_device = answers.reshape(owners, -1, *answers.shape[1:])
  assert axis is not None
  return lax.all_to_all(by_device, axis, split_axis=0, concat_axis=0)


def _log_sum_exp(
  z: jax.Array, items: jax.Array, present: jax.Array, temperature: float | jax.Array, chunk: int
) -> jax.Array:
  """`log_sum_exp` over the first `present` rows; about `_NEGLIGIBLE` if there are none."""
  count = items.shape[0]

  def logits(rows: jax.Array, counts: jax.Array) -> jax.Array:
    return jnp.where(counts[None, :], sphere.similarities(z, rows) / temperature, _NEGLIGIBLE)

  if not chunk or chunk >= count:
    return jax.nn.logsumexp(logits(items, jnp.arange(count) < present), axis=1)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def add(total: jax.Array, start: jax.Array) -> tuple[jax.Array, None]:
    # A last chunk that is not full overlaps the one before, and the overlap is masked.
    begin = jnp.minimum(start, count - chunk)
    rows = lax.dynamic_slice_in_dim(items, begin, chunk)
    places = begin + jnp.arange(chunk)
    piece = jax.nn.logsumexp(logits(rows, (places >= start) & (places < present)), axis=1)
    return jnp.logaddexp(total, piece), None

  starts = jnp.arange(0, count, chunk, dtype=jnp.int32)
  return lax.scan(add, jnp.full(z.shape[0], _NEGLIGIBLE, jnp.float32), starts)[0]
