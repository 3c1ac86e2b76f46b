"""A random part of a data set with its embeddings: its neighbors, and its map in the plane."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np

from byoljax import streams
from byoljax.data.batches import pipeline
from byoljax.data.sources import pixels, series
from byoljax.data.sources.source import Source
from byoljax.encoders.encoder import Encoder
from byoljax.evals import features, hypersphere, knn
from byoljax.ops import curves
from byoljax.protocols import extraction
from byoljax.report.page import Gallery, Map
from byoljax.workdir import activity

MOST_POINTS = 1_000  # of the map
_GALLERY_ROWS, _GALLERY_COLUMNS = 12, 8
_MOST_CLASSES = 200  # Of more, a confusion matrix has only those that occur.


class Sample(NamedTuple):
  """A random part of a data set with its embeddings; the images stay where they are.

  Attributes:
    source: the data set.
    rows: int [n], positions in it.
    features: float32 [n, D].
    labels: int32 [n], -1 where unknown.
    image_size: side S of the images that the encoder saw.
  """

  source: Source
  rows: np.ndarray
  features: np.ndarray
  labels: np.ndarray
  image_size: int


def sample(encoder: Encoder, source: Source, most: int, seed: int, batch_size: int) -> Sample:
  """At most `most` of the images that can be read, chosen by `seed`."""
  order = np.random.default_rng((0, streams.REPORT_SAMPLE, seed)).permutation(source.size)[:most]
  rows = np.sort(order)
  chosen = source.subset(rows)
  image_size = encoder.preprocessing.image_size
  batches = pipeline.eval_batches(
    chosen,
    image_size=image_size,
    batch_size=extraction.fit_to_devices(batch_size),
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  extract = extraction.extractor(encoder)
  found, index = extract(
    encoder.params,
    encoder.bn,
    features.with_index_as_label(extraction.watched(batches, chosen)),
  )
  labels = chosen.labels
  known = np.full(len(index), -1, np.int32) if labels is None else labels[index]
  return Sample(source, rows[index], found, known, image_size)


def without_self(
  similarities: np.ndarray, rows: np.ndarray, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """One neighbor fewer: the query itself where it is among them, else the farthest.

  Args:
    similarities: [M, k], descending.
    rows: [M, k].
    own: bool [M, k], at most one a row: where the neighbor is the query. Without a test split
      queries and bank are the same images; the query need not come first, for images may occur
      twice, and need not be there at all, for a large bank is a part of them.
  """
  keep = ~own
  keep[~own.any(1), -1] = False
  shape = (len(rows), rows.shape[1] - 1)
  return similarities[keep].reshape(shape), rows[keep].reshape(shape)


def _images(sample: Sample, rows: np.ndarray) -> np.ndarray:
  """The images at these rows of a sample, uint8 [..., h, w, 3]; every process reads all of them.

  Of series their curves.
  """
  wanted, back = np.unique(sample.rows[rows], return_inverse=True)
  side = sample.image_size
  made = np.zeros((len(wanted), side, side, 3), np.uint8)
  for batch in pipeline.eval_batches(sample.source.subset(wanted), image_size=side, batch_size=64):
    real = batch['valid']
    made[batch['index'][real]] = pixels.shown(batch['image'][real])
  if sample.source.series is not None:
    numbers = series.of_images(made[..., :1], sample.source.series) / np.float32(255)
    made = (curves.draw(numbers) * 255).astype(np.uint8)
  return made[back.reshape(rows.shape)]


def gallery(queries: Sample, bank: Sample, rows: np.ndarray) -> Gallery:
  """A dozen random queries, of every class in turn where there are classes.

  Args:
    queries: n of them.
    bank: what is shown beside them.
    rows: int [n, k], the nearest rows of the bank.
  """
  order = np.random.default_rng((0, streams.REPORT_GALLERY)).permutation(len(queries.labels))
  # Stable: the first of every class, then the second of every class, ...
  seen: dict[int, int] = {}
  turn = []
  for i in order:
    label = int(queries.labels[i])
    turn.append(seen.get(label, 0))
    seen[label] = turn[-1] + 1
  chosen = order[np.lexsort((np.arange(len(order)), turn))][:_GALLERY_ROWS]
  near = rows[chosen, :_GALLERY_COLUMNS]
  # Features of rectified maps all point into one corner: their own cosines are all near 1.
  center = bank.features.mean(0)
  directions = hypersphere.unit(bank.features - center)
  cosines = np.einsum(
    'qd,qkd->qk', hypersphere.unit(queries.features[chosen] - center), directions[near]
  )
  return Gallery(
    _images(queries, chosen),
    queries.labels[chosen],
    _images(bank, near),
    bank.labels[near],
    cosines,
    _names(queries, chosen),
    [_names(bank, rows) for rows in near],
  )


def _names(sample: Sample, rows: np.ndarray) -> list[str]:
  """Of the files, without their folders; of what is no file, of the records."""
  return [pathlib.PurePath(sample.source.locate(int(sample.rows[row]))).name for row in rows]


def confusion(
  queries: Sample, bank: Sample, similarities: np.ndarray, rows: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
  """Counts of (true class, class by k-NN vote); queries without a label are left out.

  Args:
    queries: n of them.
    bank: what votes.
    similarities: [n, k], descending.
    rows: int [n, k], the nearest rows of the bank.
    num_classes: C.

  Returns:
    Counts int [c, c], and the classes int [c] that they are of: all, or those that occur where
    there are more than `_MOST_CLASSES`, so that c is at most 2 n.
  """
  predicted = knn.vote(similarities, bank.labels[rows], knn.HEADLINE_TEMPERATURE)
  known = queries.labels >= 0
  pairs = np.stack([queries.labels[known], predicted[known]])
  classes = np.arange(num_classes) if num_classes <= _MOST_CLASSES else np.unique(pairs)
  counts = np.zeros((len(classes), len(classes)), int)
  np.add.at(counts, tuple(np.searchsorted(classes, pairs)), 1)
  return counts, classes


def layouts(sample: Sample) -> Map:
  """Principal components of unit features, and t-SNE where scikit-learn is installed.

  Of more than `MOST_POINTS` images a random part: in folders the first are of the first classes.
  """
  try:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits
  except ImportError:  # Machines for training may have little more than JAX.
    TSNE = threadpool_limits = None
  order = np.random.default_rng((0, streams.REPORT_MAP)).permutation(len(sample.labels))
  chosen = np.sort(order[:MOST_POINTS])
  count = len(chosen)
  unit = hypersphere.unit(sample.features[chosen])
  centered = unit - unit.mean(0)
  _, _, axes = np.linalg.svd(centered, full_matrices=False)
  made = {}
  if TSNE is not None and threadpool_limits is not None and count > 5:
    perplexity = min(30.0, (count - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init='pca', random_state=0)
    # Its threads spin while they wait for one another: on a busy machine that takes minutes.
    with activity.doing('map of the embeddings (t-SNE)'), threadpool_limits(1):
      made['t-SNE'] = tsne.fit_transform(unit)
  components = centered @ axes[:2].T
  made['PCA'] = np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
  return Map(made, sample.labels[chosen], _images(sample, chosen), _names(sample, chosen))
