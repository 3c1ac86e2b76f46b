"""A memory of many rows, looked up where they lie: negatives, neighbors, one entry per image.

A memory is float32 [N, D], and either every device holds all of it, or each of the devices of an
axis holds the next ceil(N / devices) rows, with zeros behind the last one
(`byoljax.train.sharding`). Which of the two it is shows in the number of rows: a method says how
many rows there are and over which axis they may be shared, and is the same for both. So are the
results, but for the order of sums.

Queries and positions travel to the owners of the rows, and answers travel back. What is moved grows
with the batch and not with the memory, and no device ever holds more rows than its own and those
that it asked for. No gradient flows into a memory.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from byoljax.devices import collectives
from byoljax.ops import sphere

# A logit that counts for nothing. Not -inf, which would turn the gradient of a device without any
# row into NaN.
_NOTHING = -1e30


def is_shared(items: jax.Array, size: int, axis: str | None) -> bool:
  """Whether these are this device's rows of a memory [size, D], and not all of them.

  Raises:
    ValueError: they are neither.
  """
  if items.shape[0] == size:
    return False
  if axis is None or items.shape[0] != -(-size // collectives.axis_size(axis)):
    raise ValueError(
      f'a memory of {size} rows lies whole on each device or in equal parts on the devices of an '
      f'axis, got {items.shape[0]} rows with axis={axis}'
    )
  return True


def put(
  items: jax.Array, index: jax.Array, rows: jax.Array, *, size: int, axis: str | None
) -> jax.Array:
  """Writes rows; donated to a compiled step the memory is changed in place.

  Args:
    items: the memory, or this device's rows of it.
    index: int [B], the same on all devices, none twice. Those outside of [0, size) are left out.
    rows: float32 [B, D], the same on all devices.
    size: N.
    axis: the mapped axis over which the memory may be shared, or None.

  Returns:
    The memory afterwards.
  """
  here = own_rows(items, index, size=size, axis=axis)
  # Each goes past the end at a place of its own: the scatter may rely on that no place is two's.
  past = items.shape[0] + jnp.arange(len(index), dtype=jnp.int32)
  places = jnp.where(here < items.shape[0], here, past)
  return items.at[places].set(rows, unique_indices=True, mode='drop')


def own_rows(items: jax.Array, index: jax.Array, *, size: int, axis: str | None) -> jax.Array:
  """Where rows of the memory lie in `items`; len(items) for those that do not. int32, as index."""
  first = collectives.axis_index(axis) * items.shape[0] if is_shared(items, size, axis) else 0
  here = index.astype(jnp.int32) - first
  outside = (index < 0) | (index >= size) | (here < 0) | (here >= items.shape[0])
  return jnp.where(outside, items.shape[0], here)


def take(items: jax.Array, index: jax.Array, *, size: int, axis: str | None) -> jax.Array:
  """Reads rows.

  Shared, the positions are sent to the rows' owners in a round of equal shares, and what is more
  than an owner's share in further rounds: with positions drawn uniformly one or two.

  Args:
    items: the memory, or this device's rows of it.
    index: int [b, ...], this device's positions in [0, size).
    size: N.
    axis: the mapped axis over which the memory may be shared, or None.

  Returns:
    float32 [b, ..., D].
  """
  items = lax.stop_gradient(items)
  if not is_shared(items, size, axis):
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
  share += 4 * int(share**0.5)  # So that uniform draws mostly need one round.
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
    items: the memory, or this device's rows of it.
    temperature: T > 0.
    size: N.
    axis: the mapped axis over which the memory may be shared, or None.
    chunk: rows at a time; 0 for all at once, [b, N] floats on each device in either case.

  Returns:
    float32 [b]. Gradients flow into z.
  """
  items = lax.stop_gradient(items.astype(jnp.float32))
  if not is_shared(items, size, axis):
    return _log_sum_exp(z, items, jnp.int32(size), temperature, chunk)
  present = jnp.clip(size - collectives.axis_index(axis) * items.shape[0], 0, items.shape[0])
  parts = _log_sum_exp(collectives.all_gather(z, axis), items, present, temperature, chunk)
  return jax.nn.logsumexp(_to_askers(parts, axis), axis=0)


def nearest(
  z: jax.Array, items: jax.Array, *, filled: int | jax.Array, size: int, axis: str | None
) -> jax.Array:
  """The row with the largest inner product with each query; of several the first.

  Args:
    z: this device's queries [b, D], float32.
    items: the memory, or this device's rows of it.
    filled: how many of the first rows are there; at least 1, else the result means nothing.
    size: N.
    axis: the mapped axis over which the memory may be shared, or None.

  Returns:
    float32 [b, D]; no gradient.
  """
  z, items = lax.stop_gradient((z, items))
  shared = is_shared(items, size, axis)
  first = collectives.axis_index(axis) * items.shape[0] if shared else 0
  present = first + jnp.arange(items.shape[0]) < filled
  queries = collectives.all_gather(z, axis) if shared else z
  similarity = jnp.where(present[None, :], sphere.similarities(queries, items), _NOTHING)
  found = items[jnp.argmax(similarity, axis=1)]
  if not shared:
    return found
  best, found = _to_askers(jnp.max(similarity, axis=1), axis), _to_askers(found, axis)
  winner = jnp.argmax(best, axis=0)
  return jnp.take_along_axis(found, winner[None, :, None], axis=0)[0]


def _to_askers(answers: jax.Array, axis: str | None) -> jax.Array:
  """From this owner's answers to all, [B, ...], to all owners' to this device, [owners, b, ...]."""
  owners = collectives.axis_size(axis)
  by_asker = answers.reshape(owners, -1, *answers.shape[1:])
  assert axis is not None
  return lax.all_to_all(by_asker, axis, split_axis=0, concat_axis=0)


def _log_sum_exp(
  z: jax.Array, items: jax.Array, present: jax.Array, temperature: float | jax.Array, chunk: int
) -> jax.Array:
  """The same over the first `present` of these rows; about `_NOTHING` if there are none."""
  count = items.shape[0]

  def logits(rows: jax.Array, counts: jax.Array) -> jax.Array:
    return jnp.where(counts[None, :], sphere.similarities(z, rows) / temperature, _NOTHING)

  if not chunk or chunk >= count:
    return jax.nn.logsumexp(logits(items, jnp.arange(count) < present), axis=1)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def add(total: jax.Array, start: jax.Array) -> tuple[jax.Array, None]:
    # A last piece that is not full begins earlier and does not count what was counted.
    begin = jnp.minimum(start, count - chunk)
    rows = lax.dynamic_slice_in_dim(items, begin, chunk)
    places = begin + jnp.arange(chunk)
    piece = jax.nn.logsumexp(logits(rows, (places >= start) & (places < present)), axis=1)
    return jnp.logaddexp(total, piece), None

  starts = jnp.arange(0, count, chunk, dtype=jnp.int32)
  return lax.scan(add, jnp.full(z.shape[0], _NOTHING, jnp.float32), starts)[0]
