"""What an encoder is evaluated on, and its features of it.

An evaluation sees an encoder (`byoljax.encoders.encoder`) and two labelled sets, never the method
that trained it; the same functions serve a randomly initialized encoder and raw pixels, which is
what a result has to be compared with. Classifiers trained on an encoder are in
`byoljax.protocols.training`.
"""

from collections.abc import Iterable, Iterator, Mapping
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from byoljax import streams
from byoljax.config import user_errors
from byoljax.data.batches import pipeline
from byoljax.data.sources.source import Source
from byoljax.encoders.encoder import Encoder, Preprocessing, outputs
from byoljax.evals import features
from byoljax.models.net import Net
from byoljax.workdir import activity

PyTree = Any


class EvalData(NamedTuple):
  """What an encoder is evaluated on.

  Attributes:
    train: labelled training images.
    test: labelled test images.
    image_size: side of the square that the encoder sees.
    mean: per channel, of images in [0, 1].
    std: per channel.
    batch_size: global batch for features; it does not change results.
    threads: input threads, 0 for as many as there are cores.
    resident: whether a probe's images live on the accelerator: 'auto', 'on' or 'off'.
    has_test: False: there is no test split, and `test` is `train`; evaluations then
      cross-validate, see `protocols.folds`.
  """

  train: Source
  test: Source
  image_size: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  batch_size: int
  threads: int = 0
  resident: str = 'auto'
  has_test: bool = True


def training_only(data: EvalData, fields: Mapping[str, Any], seed: int) -> EvalData:
  """Evaluation data without the test set: training images, at random, as queries and as bank.

  Args:
    data: see `EvalData`.
    fields: 'max_bank' (0 = all the others) and 'max_queries', which takes at most a fifth of all.
    seed: chooses the images.
  """
  order = np.random.default_rng((seed, streams.KNN_HELD_OUT)).permutation(data.train.size)
  queries = max(1, min(fields['max_queries'], data.train.size // 5))
  bank = order[queries:][: fields['max_bank'] or None]
  return data._replace(
    test=data.train.subset(np.sort(order[:queries])),
    train=data.train.subset(np.sort(bank)),
    has_test=True,
  )


def fit_to_devices(batch_size: int) -> int:
  """The nearest batch size that all devices can share; evaluation does not depend on it."""
  devices = jax.device_count()
  return max(1, round(batch_size / devices)) * devices


def eval_batches(source: Source, data: EvalData, *, whole: bool = False) -> Any:
  """Every example once, un-augmented, over all processes; see `pipeline.eval_batches`."""
  with user_errors():  # A size that is none.
    batches = pipeline.eval_batches(
      source,
      image_size=data.image_size,
      batch_size=data.batch_size,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      threads=data.threads,
      whole=whole,
    )
  return watched(batches, source)


def watched(batches: Iterable[Mapping[str, Any]], source: Source) -> Iterator[Any]:
  """Batches of a source for evaluation; where they take long, it is said how far they are."""
  own = -(-source.size // jax.process_count())
  return activity.counted(batches, f'features of {source.name}', own, activity.rows, 'images')


def extract(encoder: Encoder, source: Source, data: EvalData) -> tuple[np.ndarray, np.ndarray]:
  """Features float32 [N, D] and labels int32 [N] of all images of a source; see `extractor`."""
  return extractor(encoder)(encoder.params, encoder.bn, eval_batches(source, data))


def extractor(encoder: Encoder) -> features.Extract:
  """`extract(params, bn, batches) -> (features, labels)` of an encoder at its tap.

  The answer depends on the images alone: neither on the size of the batches, nor on how the last
  one is padded, nor on the number of devices and processes, up to the rounding of float32.
  """
  return _extractor(encoder.net, encoder.tap, encoder.pool, encoder.preprocessing)


@functools.cache
def _extractor(
  net: Net, tap: str, pool: str | None, preprocessing: Preprocessing
) -> features.Extract:
  """One for every network, so that periodic evaluations compile only once."""
  embed = functools.partial(outputs, net, (tap,), pool)
  return features.make_extractor(embed, preprocessing.normalize, tap=tap)
