"""The classifier that a method has trained itself, tested and kept as evaluations keep theirs.

Of methods that learn from labels while they train, such as FixMatch: `Method.classifies` says which
of their networks it belongs to.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from byoljax.data.sources.source import Source
from byoljax.devices import mapping
from byoljax.encoders import load
from byoljax.encoders.encoder import Encoder, Preprocessing
from byoljax.evals import scores
from byoljax.method import NETWORKS, Method
from byoljax.ops import readouts, trees
from byoljax.protocols import extraction, labelled
from byoljax.protocols.answers import Answers, Scored, Trained
from byoljax.protocols.extraction import EvalData

HEAD = ('head', 'linear1')


def held_out(
  data: EvalData,
  text: str,
  split_seed: int,
  fields: Mapping[str, Any],
  seed: int,
  classes: Sequence[int] = (),
) -> EvalData | None:
  """The data with training images in place of test images, whose label the method never saw.

  Args:
    data: see `EvalData`.
    text: which images have a label, see `labelled.told`.
    split_seed: draws them.
    fields: how many others are enough, as for `extraction.training_only`.
    seed: chooses among the others.
    classes: of the images that it was trained on; () for all.

  Returns:
    None where the method was given every label, or all but one.
  """
  _, told = labelled.told(data.train, text, split_seed, classes)
  others = np.setdiff1d(_of_classes(data.train, classes), told)
  if len(others) < 2:
    return None
  rest = data._replace(train=data.train.subset(others))
  return data._replace(test=extraction.training_only(rest, fields, seed).test, has_test=True)


def tested(data: EvalData, classes: Sequence[int] = ()) -> EvalData | None:
  """The data with the test images that are of the classes that it was trained on, () for all.

  Returns:
    None where there are none.
  """
  rows = _of_classes(data.test, classes)
  return data._replace(test=data.test.subset(rows)) if len(rows) else None


def _of_classes(source: Source, classes: Sequence[int]) -> np.ndarray:
  if not len(classes):
    return np.arange(source.size)
  labels = source.labels
  assert labels is not None
  return np.flatnonzero(np.isin(labels, classes))


def of_state(
  method: Method, state: Any, preprocessing: Preprocessing, fields: Mapping[str, Any]
) -> tuple[Encoder, readouts.Linear]:
  """The encoder and the classifier on it, of a run in training.

  Args:
    method: with `classifies`.
    state: the `TrainState`, whole, on one device or replicated.
    preprocessing: see `Preprocessing`.
    fields: `config.encoder`.
  """
  encoder = load.of_state(method.net, state, preprocessing, method.classifies, fields=fields)
  where, _ = NETWORKS[method.classifies]
  head = mapping.fetch(trees.at(state, (*where, *HEAD)))
  return encoder, readouts.Linear(head['kernel'], head['bias'])


def score(encoder: Encoder, readout: readouts.Linear, data: EvalData) -> dict[str, Any]:
  """Scores of the test images, see `scores.of_logits`."""
  return scores.of_logits(*_scored(encoder, readout, data))


def fit(
  encoder: Encoder, readout: readouts.Linear, data: EvalData, held: EvalData | None
) -> Trained:
  """The classifier with its answers; nothing is trained.

  Args:
    encoder: of `of_state`.
    readout: of `of_state`.
    data: with a test split.
    held: of `held_out`; its images fit the temperature.
  """
  tested = _scored(encoder, readout, data)
  result = scores.of_logits(*tested) | {'test_examples': data.test.size}
  answers = Answers(tested, None if held is None else _scored(encoder, readout, held))
  params, bn = mapping.fetch((encoder.params, encoder.bn))
  kept = dataclasses.replace(encoder, params=params, bn=bn)
  return Trained(result, kept, readout, (answers,))


def _scored(encoder: Encoder, readout: readouts.Linear, data: EvalData) -> Scored:
  features, labels = extraction.extract(encoder, data.test, data)
  return readouts.logits_of(readout, features), labels
