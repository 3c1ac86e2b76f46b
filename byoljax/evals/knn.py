"""Weighted k-nearest-neighbor classification of frozen features.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (2018), §3.4:
every query takes the k bank examples of largest cosine similarity s, each votes for its class with
weight exp(s / T), and the class with the most votes wins.

All k and T are evaluated in one pass over the bank, because the k nearest are a prefix of the k'
nearest for k < k'. The bank is streamed from the host block by block, each read once, so it may be
a memory-mapped file. Device memory, in floats:

  bank_block * D  (twice: raw and normalized)  +  query_block * (bank_block + D)  (twice)
    +  2 * M * max(ks)  +  query_block * max(ks)^2.

With D = 2048 and ImageNet's 1.28 M x 50 k that is about 1 GB on an accelerator; the bank alone has
10.5 GB. On CPUs blocks are smaller, because top-k is faster on similarities that are in the cache,
and two blocks of queries are processed concurrently, because XLA's top-k uses a single core.

Differences from the authors' code: weights are relative to the query's nearest neighbor,
exp((s - s_max) / T), which scales all votes of a query equally and cannot overflow at small T; and
a class without any vote is never among the predictions, so top-5 does not benefit from chance.
"""

from collections.abc import Iterator, Sequence
from concurrent import futures
from functools import partial
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from byoljax.evals import scores
from byoljax.ops import sphere

# k and T of the headline number. Fixed in advance: selecting them on the queries would be selecting
# on the test set.
HEADLINE_K = 200
HEADLINE_TEMPERATURE = 0.1
# Rows of queries and of the bank per block: their similarities are an intermediate result.
_BLOCKS = {'cpu': (256, 12288), 'other': (1024, 32768)}
_unit = jax.jit(sphere.unit)
# Below and above every cosine: no neighbor yet, and a feature that is not finite. No infinities,
# which JAX_DEBUG_INFS would mind.
_NOTHING, _NOT_FINITE = -2.0, 2.0


def knn_accuracy(
  bank: np.ndarray,
  bank_labels: np.ndarray,
  queries: np.ndarray,
  query_labels: np.ndarray,
  *,
  num_classes: int,
  ks: Sequence[int] = (1, 5, 10, 20, 50, 100, 200),
  temperatures: Sequence[float] = (0.07, 0.1, 0.2),
  headline_k: int = HEADLINE_K,
  query_block: int | None = None,
  bank_block: int | None = None,
) -> dict[str, Any]:
  """Accuracy of the weighted k-NN classifier for every k and temperature.

  score_c(q) = sum_{i in N_k(q)} exp(cos(q, b_i) / T) [y_i = c]      (Wu et al. 2018, §3.4)

  Ties are deterministic: between equal similarities the earlier bank row is nearer, between equal
  scores the smaller class wins. A label of -1 means none: such bank rows do not vote, and such
  queries are not counted. A k above the number n of labelled bank rows is reduced to n. An all-zero
  feature has similarity 0 to everything.

  Args:
    bank: features [N, D], float; anything that slices like NumPy (a memory map is streamed).
    bank_labels: int [N], in -1 .. num_classes - 1.
    queries: features [M, D], float.
    query_labels: int [M].
    num_classes: number of classes C.
    ks: numbers of neighbors, each >= 1.
    temperatures: each > 0.
    headline_k: k of the headline.
    query_block: queries per block, at most; None: a default for the platform.
    bank_block: bank rows per block, at most; None likewise.

  Returns:
    'top1' (and 'top5' when C > 5) and 'mean_per_class', the balanced accuracy: the headline,
    fractions in [0, 1], at 'k' = min(headline_k, n) and 'temperature' = 0.1, fixed in advance and
    added to the sweep if it is not in it; 'majority', the share of the queries' largest class;
    'bank' n and 'queries', the labelled rows counted; 'sweep', a list of {'k', 'temperature',
    'top1', ('top5'), 'mean_per_class'}; 'best', its entry of highest top-1, which is selected on
    the queries themselves and is therefore not a test result. No gradient.

  Raises:
    ValueError: shapes that do not match, no labels, a label out of range, a k below 1, a
      temperature that is not positive, or a feature that is not finite.
  """
  bank_labels, query_labels = _labels(bank_labels), _labels(query_labels)
  _check(bank, bank_labels, queries, query_labels, num_classes, ks, temperatures)
  voters = int(np.sum(bank_labels >= 0))
  headline = (min(headline_k, voters), HEADLINE_TEMPERATURE)
  all_ks = tuple(sorted({min(k, voters) for k in ks} | {headline[0]}))
  all_temperatures = tuple(sorted({float(t) for t in temperatures} | {headline[1]}))

  query_block, bank_block = _block_sizes(len(queries), len(bank), query_block, bank_block)
  nearest = _search(
    bank, bank_labels, queries, k=all_ks[-1], query_block=query_block, bank_block=bank_block
  )
  found = []
  for (similarities, labels), truth in zip(
    nearest, _blocks(query_labels, query_block, fill=-1), strict=True
  ):
    block, finite = _vote(similarities, labels, truth, all_ks, all_temperatures)
    if not finite:
      raise ValueError(
        'k-NN needs finite features, but some are NaN or infinite: the encoder may have diverged.'
      )
    found.append(np.asarray(block))

  known = np.flatnonzero(query_labels >= 0)
  ranks, truth = np.concatenate(found, axis=-1)[..., known], query_labels[known]
  sweep = [
    {'k': k, 'temperature': t} | _scores(ranks[i, j], truth, num_classes)
    for i, k in enumerate(all_ks)
    for j, t in enumerate(all_temperatures)
  ]
  main = next(row for row in sweep if (row['k'], row['temperature']) == headline)
  best = max(sweep, key=lambda row: row['top1'])
  counts = {'majority': scores.majority(truth), 'bank': voters, 'queries': len(known)}
  return main | counts | {'sweep': sweep, 'best': best}


def _scores(ranks: np.ndarray, truth: np.ndarray, num_classes: int) -> dict[str, float]:
  """Scores of queries by the rank of their class among the votes, 0 for the first."""
  right = ranks < 1
  made = {'top1': float(np.mean(right))}
  if num_classes > 5:
    made['top5'] = float(np.mean(ranks < 5))
  return made | {'mean_per_class': scores.mean_per_class(right, truth)}


def nearest(
  bank: np.ndarray, queries: np.ndarray, count: int, *, query_block: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """The bank rows of largest cosine similarity for each query.

  Args:
    bank: features [N, D].
    queries: features [M, D].
    count: k; at most N come back.
    query_block: queries per block, at most; None: a default for the platform.

  Returns:
    Similarities float32 [M, k], descending, and rows int32 [M, k].

  Examples:
    >>> bank = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, -2.0]])
    >>> similarities, rows = nearest(bank, np.array([[3.0, 0.0]]), 2)
    >>> print(similarities.round(3), rows)
    [[1.  0.6]] [[0 1]]
  """
  rows_of_queries, rows_of_bank = _block_sizes(len(queries), len(bank), query_block, None)
  # `_search` returns a label for each row; here the row's own number.
  found = _search(
    bank,
    np.arange(len(bank)),
    queries,
    k=min(count, len(bank)),
    query_block=rows_of_queries,
    bank_block=rows_of_bank,
  )
  blocks = jax.device_get(found)
  similarities = np.concatenate([part for part, _ in blocks])
  rows = np.concatenate([part for _, part in blocks])
  return similarities[: len(queries)], rows[: len(queries)]


def vote(similarities: np.ndarray, labels: np.ndarray, temperature: float) -> np.ndarray:
  """The class with the most votes of each query's neighbors, int64 [M]; see `knn_accuracy`.

  Args:
    similarities: [M, k], descending.
    labels: int [M, k], of the neighbors; -1 has no vote.
    temperature: above 0.
  """
  weights = np.exp((similarities - similarities[:, :1]) / temperature) * (labels >= 0)
  # Only classes that a neighbor has: there may be more classes than images.
  classes, numbers = np.unique(np.maximum(labels, 0), return_inverse=True)
  votes = np.zeros((len(labels), len(classes)))
  np.add.at(votes, (np.arange(len(labels))[:, None], numbers.reshape(labels.shape)), weights)
  return classes[votes.argmax(1)]


def _search(
  bank: np.ndarray,
  bank_labels: np.ndarray,
  queries: np.ndarray,
  *,
  k: int,
  query_block: int,
  bank_block: int,
) -> list[tuple[jax.Array, jax.Array]]:
  """The k nearest of each query: per query block, similarities and labels [query_block, k]."""
  running = [
    (jnp.full((query_block, k), _NOTHING, jnp.float32), jnp.full((query_block, k), -1, jnp.int32))
    for _ in range(0, len(queries), query_block)
  ]
  with futures.ThreadPoolExecutor(2 if _on_cpu() else 1) as pool:
    for block, labels in zip(
      _blocks(bank, bank_block, fill=0), _blocks(bank_labels, bank_block, fill=-1), strict=True
    ):
      # Bank blocks in the outer loop: the bank is what may not fit into memory.
      merge = partial(_merge, bank=_unit(block), labels=jnp.asarray(labels))
      running = list(pool.map(merge, running, _blocks(queries, query_block, fill=0)))
  return running


def _on_cpu() -> bool:
  return jax.default_backend() == 'cpu'


def _block_sizes(
  queries: int, bank: int, query_block: int | None, bank_block: int | None
) -> tuple[int, int]:
  """Rows per block: at most those requested, and equal sizes instead of a small last block."""
  limits = _BLOCKS['cpu' if _on_cpu() else 'other']
  return _even(queries, query_block or limits[0]), _even(bank, bank_block or limits[1])


def _even(rows: int, limit: int) -> int:
  return math.ceil(rows / math.ceil(rows / limit))


def _blocks(rows: np.ndarray, size: int, *, fill: int) -> Iterator[np.ndarray]:
  """Consecutive blocks of exactly `size` rows; the last one is padded, to compile only once."""
  # To NumPy, bfloat16 is no floating-point type.
  dtype = np.int32 if np.issubdtype(rows.dtype, np.integer) else np.float32
  for start in range(0, len(rows), size):
    part = np.asarray(rows[start : start + size], dtype)
    missing = size - len(part)
    if missing:
      part = np.concatenate([part, np.full((missing, *part.shape[1:]), fill, dtype)])
    yield part


@partial(jax.jit, donate_argnums=0)
def _merge(
  running: tuple[jax.Array, jax.Array], queries: jax.Array, bank: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Merges one bank block into the k nearest so far, in descending order of similarity.

  `top_k` keeps the earlier of equal entries, and the running ones come first: the earlier bank
  row wins a tie.
  """
  similarities, neighbor_labels = running
  # Full float32: accelerators would otherwise round the products to tf32 or bfloat16.
  block = jnp.matmul(_unit(queries), bank.T, precision=lax.Precision.HIGHEST)
  # A feature that is not finite gives NaN: as the nearest neighbor, `_vote` detects it.
  block = jnp.where(jnp.isnan(block), _NOT_FINITE, block)
  block = jnp.where(labels[None] < 0, _NOTHING, block)
  k = similarities.shape[1]
  best, position = lax.top_k(jnp.concatenate([similarities, block], axis=1), k)
  from_block = jnp.take(labels, jnp.maximum(position - k, 0), axis=0)
  from_running = jnp.take_along_axis(neighbor_labels, jnp.minimum(position, k - 1), axis=1)
  return best, jnp.where(position < k, from_running, from_block)


@partial(jax.jit, static_argnums=(3, 4))
def _vote(
  similarities: jax.Array,
  labels: jax.Array,
  truth: jax.Array,
  ks: tuple[int, ...],
  temperatures: tuple[float, ...],
) -> tuple[jax.Array, jax.Array]:
  """The rank of every query's class among the votes, 5 for a later one or none, and whether all is
  finite: int8 [len(ks), len(temperatures), queries], and bool [].

  Votes are summed per neighbor (the total of its class) rather than per class: [q, k, k] is smaller
  than [q, C] with thousands of classes, and no scatter with an undefined order is needed.
  """
  finite = jnp.all(similarities < _NOT_FINITE)
  scale = jnp.asarray(temperatures)[None, None]
  weights = jnp.exp((similarities - similarities[:, :1])[..., None] / scale)  # [q, k, t]
  same = labels[:, :, None] == labels[:, None, :]  # [q, k, k]
  earlier = jnp.tril(jnp.ones(same.shape[1:], bool), -1)
  first = ~jnp.any(same & earlier[None], axis=-1)[..., None]  # One neighbor represents each class.
  right = (labels == truth[:, None])[..., None]
  lower = (labels < truth[:, None])[..., None]
  ranks = []
  for k in ks:
    votes = jnp.einsum(
      'qij,qjt->qit',
      same[:, :k, :k].astype(jnp.float32),
      weights[:, :k],
      precision=lax.Precision.HIGHEST,
    )
    own = jnp.max(jnp.where(right[:, :k], votes, -jnp.inf), axis=1, keepdims=True)
    ahead = first[:, :k] & ((votes > own) | ((votes == own) & lower[:, :k]))
    # Without a vote for the true class `own` is -inf and every class is ahead: a miss.
    rank = jnp.where(jnp.isfinite(own[:, 0]), jnp.sum(ahead, axis=1), 5)  # [q, t]
    ranks.append(jnp.minimum(rank, 5).astype(jnp.int8).T)
  return jnp.stack(ranks), finite


def _labels(labels: np.ndarray) -> np.ndarray:
  """Labels as an integer array."""
  labels = np.asarray(labels)
  if not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(f'k-NN labels must be integers, not {labels.dtype}: cast them to int32.')
  return labels


def _check(
  bank: np.ndarray,
  bank_labels: np.ndarray,
  queries: np.ndarray,
  query_labels: np.ndarray,
  num_classes: int,
  ks: Sequence[int],
  temperatures: Sequence[float],
) -> None:
  if np.ndim(bank) != 2 or np.ndim(queries) != 2 or bank.shape[1] != queries.shape[1]:
    raise ValueError(
      f'k-NN compares features [N, D] with [M, D] of the same D, but got {np.shape(bank)} and '
      f'{np.shape(queries)}.'
    )
  for name, features, labels in (('bank', bank, bank_labels), ('query', queries, query_labels)):
    if labels.shape != (len(features),):
      raise ValueError(
        f'k-NN needs one {name} label per feature, but got {labels.shape} for {len(features)} rows.'
      )
    outside = labels[(labels < -1) | (labels >= num_classes)]
    if outside.size:
      raise ValueError(
        f'A {name} label is {outside[0]}, outside 0 .. {num_classes - 1}: check num_classes.'
      )
    if not np.any(labels >= 0):
      raise ValueError(
        f'k-NN needs labels, but no {name} example has one (-1 means none): use a labelled split.'
      )
  check_sweep(ks, temperatures)


def check_sweep(ks: Sequence[int], temperatures: Sequence[float]) -> None:
  """Raises ValueError unless there are numbers of neighbors and temperatures to evaluate."""
  if not ks or min(ks) < 1:
    raise ValueError(f'ks={tuple(ks)} must be numbers of neighbors of at least 1.')
  if not temperatures or not min(temperatures) > 0:
    raise ValueError(f'temperatures={tuple(temperatures)} must be positive numbers.')
