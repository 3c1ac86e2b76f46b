"""How a classifier fares on corrupted images: accuracy by kind and strength of corruption."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from byoljax import streams
from byoljax.data.augment import corruptions
from byoljax.data.augment.corruptions import CORRUPTIONS, STRENGTHS
from byoljax.data.sources.source import Source
from byoljax.encoders.classifier import Classifier
from byoljax.evals import scores
from byoljax.ops import readouts
from byoljax.protocols import extraction
from byoljax.protocols.extraction import EvalData
from byoljax.suggest import check_name
from byoljax.workdir import activity


def robustness(
  classifier: Classifier,
  data: EvalData,
  *,
  kinds: Sequence[str] = (),
  strengths: Sequence[int] = STRENGTHS,
  seed: int = 0,
) -> dict[str, Any]:
  """Accuracy on clean and on corrupted test images.

  How an image is corrupted is a function of the seed and its position in the set: all classifiers
  see the same images, whatever the batch size and the number of devices.

  Args:
    classifier: see `Classifier`.
    data: its test images are classified.
    kinds: of `CORRUPTIONS`; () for all.
    strengths: of `STRENGTHS`.
    seed: of the corruptions.

  Returns:
    {'clean': scores, 'rows': [{'corruption', 'group', 'top1' (mean over the strengths),
    'by_strength': {strength: top-1}}], 'by_group': {group: mean over its kinds}, 'corrupted': mean
    over the kinds, 'kept': its share of the clean top-1 (None if that is 0), 'test_examples'}.

  Raises:
    ValueError: an unknown kind, or a strength out of range.
  """
  kinds = check(kinds, strengths)
  clean = _scores(classifier, extraction.eval_batches(data.test, data))
  key = jax.random.fold_in(jax.random.key(seed), streams.CORRUPTIONS)
  rows, known = [], list(CORRUPTIONS)
  for number, name in enumerate(kinds, 1):
    of_kind, found = jax.random.fold_in(key, known.index(name)), {}
    with activity.doing(f'{name}, {number} of {len(kinds)} corruptions'):
      for strength in strengths:
        batches = corrupted(extraction.eval_batches(data.test, data), of_kind, name, strength)
        found[str(strength)] = _scores(classifier, batches)['top1']
    rows.append(
      {
        'corruption': name,
        'group': CORRUPTIONS[name].group,
        'top1': float(np.mean(list(found.values()))),
        'by_strength': found,
      }
    )
  groups = dict.fromkeys(row['group'] for row in rows)
  mean = float(np.mean([row['top1'] for row in rows]))
  return {
    'clean': clean,
    'rows': rows,
    'by_group': {
      group: float(np.mean([row['top1'] for row in rows if row['group'] == group]))
      for group in groups
    },
    'corrupted': mean,
    'kept': mean / clean['top1'] if clean['top1'] else None,
    'test_examples': clean['examples'],
  }


def check(kinds: Sequence[str], strengths: Sequence[int]) -> tuple[str, ...]:
  """The kinds that are meant.

  Raises:
    ValueError: an unknown one, or a strength out of range.
  """
  for name in kinds:
    check_name('corruption', name, CORRUPTIONS)
  wrong = [strength for strength in strengths if strength not in STRENGTHS]
  if wrong or not strengths:
    raise ValueError(f'strengths={tuple(strengths)} must be some of {STRENGTHS}.')
  return tuple(kinds) or tuple(CORRUPTIONS)


def some(source: Source, count: int, seed: int) -> Source:
  """So many images of a source, drawn at random; all where `count` is 0 or more than there are.

  Raises:
    ValueError: a negative number.
  """
  if count < 0 or seed < 0:
    raise ValueError(f'max_images={count} and seed={seed} must be at least 0.')
  if not 0 < count < source.size:
    return source
  order = np.random.default_rng((seed, streams.ROBUSTNESS_SUBSET)).permutation(source.size)
  return source.subset(np.sort(order[:count]))


def corrupted(
  batches: Iterator[Mapping[str, Any]], key: jax.Array, name: str, strength: int
) -> Iterator[dict[str, Any]]:
  """Batches of evaluation with their images corrupted, each by the key of its position."""
  for batch in batches:
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(np.abs(batch['index']))
    images = corruptions.corrupt(keys, batch['image'], name=name, strength=strength)
    yield {**batch, 'image': np.asarray(images)}


def _scores(classifier: Classifier, batches: Any) -> dict[str, Any]:
  encoder = classifier.encoder
  found, labels = extraction.extractor(encoder)(encoder.params, encoder.bn, batches)
  logits = readouts.logits_of(classifier.readout, found)
  return scores.of_logits(logits, labels) | {'examples': int((labels >= 0).sum())}
