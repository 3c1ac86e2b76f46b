"""Evaluations of frozen features of un-augmented images: k-NN, and what others are fitted to."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from byoljax.config import ConfigError, user_errors
from byoljax.encoders.encoder import Encoder
from byoljax.evals import features, knn
from byoljax.protocols import extraction, folds
from byoljax.protocols.extraction import EvalData
from byoljax.workdir import activity

# Features float32 [N, D] and labels, int32 [N] or bool [N, C].
Split = tuple[np.ndarray, np.ndarray]


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


def knn_result(encoder: Encoder, data: EvalData, fields: Mapping[str, Any]) -> dict[str, Any]:
  """k-NN of an encoder: {'top1': headline, 'sweep': every k and temperature, ...}.

  Args:
    encoder: see `Encoder`.
    data: bank and queries; without a test split see `folds`.
    fields: 'k' and 'temperature' (tuples).
  """
  bank = data.train
  if bank.multi_label:
    raise ConfigError(f'{bank.name} has several labels per image: k-NN needs one.')
  every = splits(encoder, data)
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
  made = folds.combined(results)
  best = max(made['sweep'], key=lambda row: row['top1'])
  return made | {'best': best, 'bank_size': bank.size, 'queries': made['queries']}
