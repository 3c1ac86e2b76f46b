"""Contrastive losses: identify the positive of a query or an anchor among negatives.

InfoNCE against given negatives (InterCLR), a memory's rows (MoCo) or the batch's keys (MoCo v3,
NNCLR), and NT-Xent (SimCLR). All are per example; a method averages them, and its mean over devices
is the objective.

Constant factors are left to the methods: SimCLR's code returns twice the mean over the 2B anchors,
MoCo v3's multiplies each direction by 2T.

Different from the authors' code: NT-Xent excludes the anchor from its candidates, where SimCLR's
code subtracts 1e9 from that similarity; and it can stream over the candidates, so that large
batches do not need the [2b, 2B] similarities in memory.
"""

from functools import partial
import numbers

import jax
from jax import lax
import jax.numpy as jnp

from byoljax.devices import collectives
from byoljax.ops import memory as memory_ops
from byoljax.ops import sphere


def info_nce(
  q: jax.Array,
  k: jax.Array,
  negatives: jax.Array,
  temperature: float | jax.Array,
  *,
  margin: float = 0.0,
  negative_mask: jax.Array | None = None,
) -> jax.Array:
  """-log(e^{(q.k - m)/T} / (e^{(q.k - m)/T} + sum_j e^{q.n_j/T})) (MoCo, arXiv 1911.05722, eq. 1).

  Args:
    q: queries [b,D], any norm: normalized here.
    k: the positive of every query [b,D], any norm: normalized here.
    negatives: unit rows, [K,D] shared by all queries or [b,K,D] per query.
    temperature: T > 0.
    margin: m, subtracted from the positive's cosine; negative values loosen the boundary (InterCLR,
      arXiv 2008.11702, uses -0.5).
    negative_mask: bool [b,K], False excludes a negative; all of a query's may be excluded.

  Returns:
    float32 [b], per query; positive if m = 0. Gradients flow into q, k and negatives: stop them at
    the call where they should not.

  Raises:
    ValueError: invalid shapes, or T <= 0.

  Examples:
    If all candidates are equally similar, it is the log of their number, here log 8:

    >>> one = jnp.ones((1, 4))
    >>> print(info_nce(one, one, jnp.full((7, 4), 0.5), 0.2).round(4))
    [2.0794]
  """
  _check_pair('q', q, 'k', k)
  check_temperature(temperature)
  shapes = ((negatives.shape[0], q.shape[1]), (q.shape[0], *negatives.shape[1:2], q.shape[1]))
  if negatives.shape not in shapes:
    raise ValueError(
      f'negatives must be [K,D] or [b,K,D] for queries {q.shape}, got {negatives.shape}'
    )
  q, k, negatives = sphere.normalize(q), sphere.normalize(k), negatives.astype(jnp.float32)
  positive = (jnp.sum(q * k, axis=-1) - margin) / temperature
  form = 'bd,kd->bk' if negatives.ndim == 2 else 'bd,bkd->bk'
  others = jnp.einsum(form, q, negatives, precision=lax.Precision.HIGHEST) / temperature
  if negative_mask is not None:
    if negative_mask.shape != others.shape:
      raise ValueError(f'negative_mask must be [b,K] {others.shape}, got {negative_mask.shape}')
    others = jnp.where(negative_mask, others, -jnp.inf)
  candidates = jnp.concatenate([positive[:, None], others], axis=1)
  return jax.nn.logsumexp(candidates, axis=1) - positive


def info_nce_in_memory(
  q: jax.Array,
  k: jax.Array,
  memory: jax.Array,
  temperature: float | jax.Array,
  *,
  size: int,
  axis: str | None,
) -> jax.Array:
  """`info_nce` with all rows of a memory as negatives; the memory may be sharded.

  Args:
    q: queries [b,D], any norm: normalized here.
    k: the positive of every query [b,D], any norm: normalized here.
    memory: unit rows [K,D], or this device's shard of them (`ops.memory`); constants.
    temperature: T > 0.
    size: K.
    axis: the mapped axis over which the memory may be sharded, or None.

  Returns:
    float32 [b], per query, positive. Gradients flow into q and k.

  Raises:
    ValueError: invalid shapes, or T <= 0.
  """
  _check_pair('q', q, 'k', k)
  check_temperature(temperature)
  _check_memory(memory, q)
  q, k = sphere.normalize(q), sphere.normalize(k)
  positive = jnp.sum(q * k, axis=-1) / temperature
  others = memory_ops.log_sum_exp(q, memory, temperature, size=size, axis=axis)
  return jnp.logaddexp(positive, others) - positive


def info_nce_in_batch(
  q: jax.Array,
  keys: jax.Array,
  temperature: float | jax.Array,
  *,
  offset: int | jax.Array,
) -> jax.Array:
  """InfoNCE among the keys of the whole batch (MoCo v3, arXiv 2104.02057, algorithm 1).

  Args:
    q: this device's queries [b,D], any norm: normalized here.
    keys: keys of all devices [B,D] in device order, any norm: normalized here.
    temperature: T > 0.
    offset: position in `keys` of the first query's positive, device * b; int or int32 [].

  Returns:
    float32 [b], per query, >= 0, without the paper's factor 2T. Gradients flow into both.

  Raises:
    ValueError: invalid shapes, or T <= 0.
  """
  if q.ndim != 2 or keys.ndim != 2 or q.shape[1] != keys.shape[1] or len(q) > len(keys):
    raise ValueError(f'need q [b,D] and keys [B,D] with b <= B, got {q.shape} and {keys.shape}')
  check_temperature(temperature)
  similarity = sphere.similarities(sphere.normalize(q), sphere.normalize(keys)) / temperature
  own = jnp.asarray(offset, jnp.int32) + jnp.arange(q.shape[0], dtype=jnp.int32)
  positive = jnp.take_along_axis(similarity, own[:, None], axis=1)[:, 0]
  return jax.nn.logsumexp(similarity, axis=1) - positive


def nt_xent(
  first: jax.Array,
  second: jax.Array,
  temperature: float | jax.Array,
  *,
  axis: str | None = None,
  chunk: int = 0,
  memory: jax.Array | None = None,
  memory_size: int | None = None,
) -> tuple[jax.Array, jax.Array]:
  """-log(e^{z_i.z_j/T} / sum_{k != i} e^{z_i.z_k/T}) (SimCLR, arXiv 2002.05709, equation 1).

  Every row of either view is an anchor, its positive is the same row of the other view, and its
  candidates are the 2B - 1 other rows of both views and of all devices.

  Args:
    first: projections of one view [b,D], any norm: normalized here.
    second: projections of the other view [b,D].
    temperature: T > 0.
    axis: the mapped axis over which the views are gathered, gradients included; None for one
      device.
    chunk: 0 computes all similarities at once, [2b, 2B] floats; above 0 streams over this many
      candidates at a time: O(b * chunk) floats, also in the backward pass, at the cost of computing
      the similarities twice. Value and gradient do not depend on it.
    memory: unit rows [K,D], additional negatives of every anchor (SimCLR v2), replicated, or this
      device's shard of them (`ops.memory`); constants.
    memory_size: K; needed if `memory` may be a shard.

  Returns:
    (float32 [b], float32 [b]), the losses of both views' anchors, >= 0; their mean is the paper's
    equation.

  Raises:
    ValueError: invalid shapes, T <= 0, or a negative chunk.
  """
  _check_pair('first', first, 'second', second)
  check_temperature(temperature)
  if chunk < 0:
    raise ValueError(f'chunk must be 0 (all at once) or a positive number, got {chunk}')
  first, second = sphere.normalize(first), sphere.normalize(second)
  b = first.shape[0]
  views = [collectives.all_gather(first, axis), collectives.all_gather(second, axis)]
  if memory is not None:
    _check_memory(memory, first)
  candidates = jnp.concatenate(views)
  own = collectives.axis_index(axis) * b + jnp.arange(b, dtype=jnp.int32)
  own = jnp.concatenate([own, views[0].shape[0] + own])
  anchors = jnp.concatenate([first, second])
  positive = jnp.sum(first * second, axis=-1) / temperature
  positive = jnp.concatenate([positive, positive])
  if chunk:
    total = _streamed_log_sum_exp(anchors, candidates, own, positive, temperature, chunk)
  else:
    similarity = sphere.similarities(anchors, candidates) / temperature
    is_self = jnp.arange(candidates.shape[0])[None, :] == own[:, None]
    total = jax.nn.logsumexp(jnp.where(is_self, -jnp.inf, similarity), axis=1)
  if memory is not None:
    of_memory = memory_ops.log_sum_exp(
      anchors, memory, temperature, size=memory_size or len(memory), axis=axis, chunk=chunk
    )
    total = jnp.logaddexp(total, of_memory)
  losses = total - positive
  return losses[:b], losses[b:]


# Running maximum of the logits, and the sum of exponentials relative to it, both [a].
_Sums = tuple[jax.Array, jax.Array]


def _streamed_log_sum_exp(
  anchors: jax.Array,
  candidates: jax.Array,
  own: jax.Array,
  positive: jax.Array,
  temperature: float | jax.Array,
  chunk: int,
) -> jax.Array:
  """log sum_{k != own_i} e^{a_i.c_k/T} for all anchors [a,D], `chunk` candidates at a time.

  Candidates [M,D] are split into blocks, and so are their gradients.

  The running maximum is initialized with the positive's logit, one of the terms, so it is always
  finite. It cancels in the result, so no gradient flows through it.
  """

  @partial(jax.checkpoint, prevent_cse=False)
  def add(carry: _Sums, block: tuple[jax.Array, jax.Array]) -> tuple[_Sums, None]:
    highest, total = carry
    rows, start = block
    position = start + jnp.arange(chunk, dtype=jnp.int32)[None, :]
    counts = (position < count) & (position != own[:, None])
    logits = jnp.where(counts, sphere.similarities(anchors, rows) / temperature, -jnp.inf)
    raised = jnp.maximum(highest, lax.stop_gradient(jnp.max(logits, axis=1)))
    added = jnp.sum(jnp.exp(logits - raised[:, None]), axis=1)
    return (raised, total * jnp.exp(highest - raised) + added), None

  count, dim = candidates.shape
  starts = jnp.arange(0, count, chunk, dtype=jnp.int32)
  padded = jnp.pad(candidates, ((0, len(starts) * chunk - count), (0, 0)))
  sums = (lax.stop_gradient(positive), jnp.zeros_like(positive))
  sums, _ = lax.scan(add, sums, (padded.reshape(-1, chunk, dim), starts))
  highest, total = sums
  return highest + jnp.log(total)


def _check_pair(name: str, a: jax.Array, other: str, b: jax.Array) -> None:
  if a.ndim != 2 or a.shape != b.shape:
    raise ValueError(f'need {name} and {other} of one shape [b,D], got {a.shape} and {b.shape}')


def _check_memory(memory: jax.Array, queries: jax.Array) -> None:
  if memory.ndim != 2 or memory.shape[1] != queries.shape[1]:
    raise ValueError(f'memory must be [K,{queries.shape[1]}], got {memory.shape}')


def check_temperature(temperature: float | jax.Array) -> None:
  """Raises ValueError unless the temperature is a positive number; an array is not checked."""
  if isinstance(temperature, jax.Array):
    return
  if not (isinstance(temperature, numbers.Real) and temperature > 0):
    raise ValueError(f'temperature must be above 0, got {temperature!r}')
