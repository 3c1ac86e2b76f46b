"""Features of several taps of one run, of un-augmented images or of augmented views.

A tap is a place where the network is read out (`byoljax.encoders.encoder`): an inner map, the
embedding h, the projection z, the prediction p. One pass over the images gives all of them, so
memory is N times the sum of the taps' widths, in float32.
"""

from collections.abc import Iterable, Sequence
import functools
from typing import Any

import jax
import numpy as np

from byoljax.data.augment import device
from byoljax.data.augment.views import ViewSpec
from byoljax.data.batches import pipeline
from byoljax.data.sources.source import Source
from byoljax.encoders import load
from byoljax.encoders.encoder import EMBEDDING, Encoder, Preprocessing, outputs
from byoljax.evals import features
from byoljax.protocols import extraction
from byoljax.protocols.extraction import EvalData

# What losses and evaluations see: h, z, p.
OUTPUTS = (EMBEDDING, 'projection', 'prediction')


def load_outputs(pretrained: str, network: str, taps: Sequence[str] = ()) -> load.Loaded:
  """The encoder with the named taps; without any, with h, z and p as far as the network has them.

  Args:
    pretrained: see `encoders.load.load_taps`, as for `network` and what is raised.
    network: which network of the run.
    taps: names of taps.
  """
  if taps:
    return load.load_taps(pretrained, network, taps)
  loaded = load.load_taps(pretrained, network)
  return loaded._replace(taps=tuple(tap for tap in loaded.taps if tap in OUTPUTS))


def of_images(
  encoder: Encoder, taps: Sequence[str], source: Source, data: EvalData
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """{tap: float32 [N, D]} of un-augmented images, and their labels."""
  extract = _extractor(encoder.net, tuple(taps), encoder.pool, encoder.preprocessing)
  return extract(encoder.params, encoder.bn, extraction.eval_batches(source, data))


@functools.cache
def _extractor(
  net: Any, taps: tuple[str, ...], pool: str | None, preprocessing: Preprocessing
) -> Any:
  embed = functools.partial(outputs, net, taps, pool)
  return features.side_by_side(embed, preprocessing.normalize)


def of_views(
  encoder: Encoder, taps: Sequence[str], views: Sequence[ViewSpec], data: EvalData, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """{tap: float32 [N, D]} of two augmented views of every image, as pretraining makes them.

  They are the first two of `views`, the large ones where there are small crops; one view is drawn
  twice.
  """
  specs = (tuple(views) * 2)[:2]
  augment = device.make_augment(specs, seed=seed, mean=tuple(data.mean), std=tuple(data.std))
  pairs = ('first', 'second')

  def embed(params: Any, bn: Any, views: Iterable[jax.Array]) -> dict[str, jax.Array]:
    made = {}
    for name, view in zip(pairs, views, strict=True):
      found = outputs(encoder.net, taps, encoder.pool, params, bn, view)
      made |= {f'{name}/{tap}': x for tap, x in found.items()}
    return made

  extract = features.side_by_side(embed, lambda batch: augment(batch)['views'])
  batches = pipeline.view_batches(
    data.test,
    specs,
    batch_size=data.batch_size,
    seed=seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    threads=data.threads,
  )
  whole = ({**batch, 'image': batch} for batch in extraction.watched(batches, data.test))
  found, _ = extract(encoder.params, encoder.bn, whole)
  first, second = ({tap: found[f'{name}/{tap}'] for tap in taps} for name in pairs)
  return first, second
