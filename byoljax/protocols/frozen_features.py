"""Evaluations of frozen features of un-augmented images: k-NN, and what others are fitted to."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from byoljax.config import user_errors
from byoljax.encoders.encoder import Encoder
from byoljax.evals import features, frozen, knn
from byoljax.ops import readouts
from byoljax.protocols import answers, extraction, folds, training
from byoljax.protocols.answers import Trained
from byoljax.protocols.extraction import EvalData
from byoljax.workdir import activity

# Features float32 [N, D] and labels, int32 [N] or bool [N, C].
Split = tuple[np.ndarray, np.ndarray]

# A larger bank of neighbors is not kept as a classifier.
MOST_BYTES = 256 * 2**20
# Held-out images of a bank, about so many at most: they fit a single number.
_MOST_HELD = 2_000
_HELD_SHARE = 0.2


def splits(encoder: Encoder, data: EvalData) -> list[tuple[Split, Split]]:
  """Features and labels of training and test images; images without a label are left out.

  Returns:
    One pair, or without a test split one for every part of `folds`.
  """
  if data.has_test:
    train, test = (extraction.extract(encoder, each, data) for each in (data.train, data.test))
    return [(_labelled(*train), _labelled(*test))]
  parts = folds.rows(data.train)
  batches = features.with_index_as_label(extraction.eval_batches(data.train, data))
  found, index = extraction.extractor(encoder)(encoder.params, encoder.bn, batches)
  labels = data.train.labels
  assert labels is not None  # `folds.rows` has looked.

  def part(rows: np.ndarray) -> Split:
    keep = np.isin(index, rows)  # Images that cannot be read have no features.
    return found[keep], labels[index[keep]]

  return [(part(train), part(test)) for train, test in parts]


def _labelled(found: np.ndarray, labels: np.ndarray) -> Split:
  known = labels >= 0 if labels.ndim == 1 else np.full(len(labels), True)
  return found[known], labels[known]


def every_image(data: EvalData, parts: Sequence[tuple[Split, Split]]) -> Split:
  """What a classifier that is kept learns: training images; without a test split all labelled."""
  train, test = parts[0]
  return train if data.has_test else answers.joined([train, test])


def fit(
  encoder: Encoder,
  data: EvalData,
  parts: Sequence[tuple[Split, Split]],
  compute: Callable[[Split, Split], frozen.Fitted],
) -> Trained:
  """A classifier of frozen features, with its result.

  Args:
    encoder: whose features these are.
    data: what they are of.
    parts: of `splits`.
    compute: (training features, test features) -> the fitted classifier. Without a test split it
      is called once more, on all labelled images, if it gives a classifier at all.
  """
  each = [compute(train, test) for train, test in parts]
  result = folds.combined([one.result for one in each], data.train.labels)
  readout = each[0].readout
  if readout is None:
    return Trained(result, encoder, None, ())
  found = [
    answers.answers_of(one.readout, test, one.held)
    for one, (_, test) in zip(each, parts, strict=True)
    if one.readout is not None
  ]
  if not data.has_test:
    readout = compute(every_image(data, parts), parts[0][1]).readout
  return Trained(result, encoder, readout, tuple(found))


def knn_result(encoder: Encoder, data: EvalData, fields: Mapping[str, Any]) -> dict[str, Any]:
  """k-NN of an encoder: {'top1': headline, 'sweep': every k and temperature, ...}.

  Args:
    encoder: see `Encoder`.
    data: bank and queries; without a test split see `folds`.
    fields: 'k' and 'temperature' (tuples).
  """
  folds.require_single(data.train, 'k-NN')
  return _knn_result(splits(encoder, data), data, fields)


def fit_knn(encoder: Encoder, data: EvalData, fields: Mapping[str, Any]) -> Trained:
  """`knn_result` with its classifier, the headline's; without one where the bank is too large.

  Without a test split the bank is all labelled images. Where there is one part, a fifth of its
  bank, about 2,000 images at most, is classified by the others to find the temperature.
  """
  folds.require_single(data.train, 'k-NN')
  parts = splits(encoder, data)
  result = _knn_result(parts, data, fields)
  bank = every_image(data, parts)
  if bank[0].nbytes > MOST_BYTES:
    return Trained(result, encoder, None, ())
  classes, spread = data.train.num_classes, knn.HEADLINE_TEMPERATURE

  def voters(part: Split, k: int) -> readouts.Neighbors:
    return readouts.neighbors(*part, classes=classes, k=k, temperature=spread)

  found = [
    answers.answers_of(voters(train, result['k']), test, held)
    for train, test in parts
    for held in [_held(train, result['k'], voters) if len(parts) == 1 else None]
  ]
  return Trained(result, encoder, voters(bank, result['k']), tuple(found))


def _held(bank: Split, k: int, voters: Callable[[Split, int], readouts.Neighbors]) -> Split | None:
  """Scores and labels of a part of the bank by the rest of it."""
  share = min(_HELD_SHARE, _MOST_HELD / len(bank[1]))
  chosen = training.stratified(bank[1], share, seed=0)
  if not len(chosen):
    return None
  rest = np.setdiff1d(np.arange(len(bank[1])), chosen)
  votes = voters((bank[0][rest], bank[1][rest]), k)
  return readouts.logits_of(votes, bank[0][chosen]), bank[1][chosen]


def _knn_result(
  every: Sequence[tuple[Split, Split]], data: EvalData, fields: Mapping[str, Any]
) -> dict[str, Any]:
  bank = data.train
  most = min(len(train[1]) for train, _ in every)
  with user_errors('k-NN'), activity.doing(f'k-NN of {data.test.size:,} images'):
    results = [
      knn.knn_accuracy(
        *train,
        *test,
        num_classes=bank.num_classes,
        ks=[min(k, most) for k in fields['k']],
        temperatures=fields['temperature'],
        headline_k=min(knn.HEADLINE_K, most),
      )
      for train, test in every
    ]
  made = folds.combined(results, bank.labels)
  best = max(made['sweep'], key=lambda row: row['top1'])
  return made | {'best': best, 'bank_size': bank.size, 'queries': made['queries']}
