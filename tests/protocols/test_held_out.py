"""Images that choose something are none that were trained on, nor test images."""

import numpy as np
import pytest

from byoljax.data.sources import arrays
from byoljax.protocols import extraction, training
from byoljax.protocols.extraction import EvalData

LABELS = np.repeat([0, 1, 2], [40, 19, 1])


def source(name='train'):
  return arrays.from_arrays(np.zeros((60, 4, 4, 3), np.uint8), LABELS, name=name)


def names(part):
  return {part.locate(row) for row in range(part.size)}


@pytest.mark.parametrize('hold', [training.hold_out, training.hold_out_stratified])
def test_what_is_held_out_is_not_in_the_rest(hold):
  whole = source()
  held, rest = hold(whole, 0.2, 0)
  assert not names(held) & names(rest) and names(held) | names(rest) == names(whole)
  assert held.size == 12
  if hold is training.hold_out_stratified:
    assert np.bincount(held.labels).tolist() == [8, 4], 'a single image of a class stays'
  assert names(hold(whole, 0.2, 1)[0]) != names(held) == names(hold(whole, 0.2, 0)[0])


def test_where_every_class_has_one_image_nothing_is_held_out():
  few = source().subset(np.array([0, 40, 59]))
  held, rest = training.hold_out_stratified(few, 0.2, 0)
  assert held is None and rest is few


def test_queries_while_training_are_neither_in_the_bank_nor_test_images():
  data = EvalData(source(), source('test'), 4, (0.5,) * 3, (0.5,) * 3, 16)
  made = extraction.training_only(data, {'max_queries': 50, 'max_bank': 0}, 0)
  queries, bank = names(made.test), names(made.train)
  assert not queries & bank and queries | bank == names(data.train)
  assert made.test.size == 12, 'a fifth at most'
  small = extraction.training_only(data, {'max_queries': 5, 'max_bank': 7}, 0)
  assert (small.test.size, small.train.size) == (5, 7) and not names(small.test) & names(
    small.train
  )
