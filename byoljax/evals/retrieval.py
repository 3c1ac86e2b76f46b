"""Image retrieval by features: is what is most similar to an image of its class?

Every query ranks a gallery by cosine similarity. Gallery images of the query's class are relevant,
all others are not; nothing is trained and nothing chosen.

- mAP: a query's average precision is the mean, over its relevant images, of the share of relevant
  images up to that one's rank. No interpolation, the whole ranking counts.
- recall@k: the share of queries that have a relevant image among their k most similar ones, as in
  metric learning (Song et al. 2016, arXiv 1511.06452), not the share of relevant images found.
"""

from typing import Any

import numpy as np

from byoljax.evals import frozen

KS = (1, 5, 10)
_SIMILARITIES = 2**24  # in memory at a time


def retrieval(
  gallery: tuple[np.ndarray, np.ndarray] | None, queries: tuple[np.ndarray, np.ndarray]
) -> dict[str, Any]:
  """Mean average precision and recall@k of a set of queries.

  Ties are deterministic: of equal similarities the earlier gallery image is first. An all-zero
  feature has similarity 0 to everything. Queries without a relevant image cannot be answered and do
  not count, as in the literature; they are counted in 'without_relevant'.

  Args:
    gallery: features [N, D] and labels [N] >= 0; None: every query has the other queries as its
      gallery.
    queries: features [M, D] and labels [M] >= 0.

  Returns:
    {'map', 'recall_at_1', 'recall_at_5', 'recall_at_10', fractions in [0, 1], means over the
    queries; 'queries', those counted; 'gallery', its images; 'without_relevant'}.

  Raises:
    ValueError: several labels for each image, features that do not fit or are not finite, or no
      query with a relevant image.
  """
  itself = gallery is None
  bank, classes = queries if gallery is None else gallery
  frozen.check_single(classes)
  frozen.check_labelled(bank, classes)
  if queries[0].shape[1:] != bank.shape[1:]:
    raise ValueError(
      f'cannot compare features of {queries[0].shape[1]} and {bank.shape[1]} values.'
    )
  bank, asked = _unit(bank), _unit(queries[0])
  block = max(1, _SIMILARITIES // len(bank))
  precisions, firsts, alone = [], [], 0
  for start in range(0, len(asked), block):
    rows = slice(start, start + block)
    similar = asked[rows] @ bank.T
    relevant = queries[1][rows, None] == classes[None]
    if itself:  # Last of all, and not relevant to itself.
      own = np.arange(len(similar)), np.arange(start, start + len(similar))
      similar[own], relevant[own] = -np.inf, False
    hits = np.take_along_axis(relevant, np.argsort(-similar, axis=1, kind='stable'), axis=1)
    hits = hits[hits.any(1)]
    alone += len(similar) - len(hits)
    found = np.cumsum(hits, axis=1)
    share = np.where(hits, found / np.arange(1, len(bank) + 1), 0.0)
    precisions.append(share.sum(1) / found[:, -1])
    firsts.append(hits.argmax(1))
  precision, first = np.concatenate(precisions), np.concatenate(firsts)
  if not len(first):
    raise ValueError('no query has another image of its class in the gallery: nothing to find.')
  return {
    'map': float(precision.mean()),
    **{f'recall_at_{k}': float(np.mean(first < k)) for k in KS},
    'queries': len(first),
    'gallery': len(bank) - itself,
    'without_relevant': alone,
  }


def _unit(features: np.ndarray) -> np.ndarray:
  if not np.isfinite(features).all():
    raise ValueError(
      'retrieval needs finite features, but some are NaN or infinite: the encoder may have '
      'diverged.'
    )
  rows = np.asarray(features, np.float32)
  return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
