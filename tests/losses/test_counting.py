"""The counting loss by hand, against NumPy in float64, and over devices."""

import numpy as np
import pytest

from byoljax.devices import mapping
from byoljax.losses import counting

RNG = np.random.default_rng(0)


def test_zero_counts_give_the_margin():
  value, terms = counting.counting(np.zeros((3, 5)), np.zeros((4, 3, 5)), margin=10.0)
  assert float(value) == 10.0
  assert {name: float(term) for name, term in terms.items()} == {
    'count': 0.0, 'contrast': 10.0, 'active': 1.0,
  }  # fmt: skip


def test_by_hand():
  """Two images with 2 and 5 things; the quarters of the first show 1 + 0 + 1 + 1."""
  whole = np.array([[2.0], [5.0]])
  parts = np.array([[[1.0], [2.0]], [[0.0], [1.0]], [[1.0], [1.0]], [[1.0], [1.0]]])
  value, _ = counting.counting(whole, parts, margin=10.0)
  # (2 - 3)^2 + (10 - (5 - 3)^2) = 7 and 0 + (10 - (2 - 5)^2) = 1.
  assert float(value) == 4.0


def reference(whole, parts, margin):
  values = []
  for i in range(len(whole)):
    total = sum(part[i] for part in parts)
    other = whole[(i + 1) % len(whole)]
    values.append(np.sum((whole[i] - total) ** 2) + max(0.0, margin - np.sum((other - total) ** 2)))
  return np.mean(values)


def test_is_the_formula_and_that_of_the_whole_batch_on_four_devices():
  whole, parts = RNG.uniform(0, 2, (8, 6)), RNG.uniform(0, 0.5, (4, 8, 6))
  expected = reference(whole, parts, 3.0)
  alone, terms = counting.counting(whole, parts, margin=3.0)
  assert 0 < float(terms['active']) < 1, 'both sides of the hinge'
  assert float(alone) == pytest.approx(expected, rel=1e-5)

  def of_device(_, batch):
    own = batch['parts'].swapaxes(0, 1)
    return counting.counting(batch['whole'], own, margin=3.0, axis='batch')[0]

  batch = {'whole': whole.astype(np.float32), 'parts': parts.swapaxes(0, 1).astype(np.float32)}
  each = mapping.spmd_map(of_device)(mapping.replicate(np.zeros(1)), mapping.shard(batch))
  assert float(np.mean(each)) == pytest.approx(expected, rel=1e-5)


def test_one_image_has_no_other():
  with pytest.raises(ValueError, match='at least two'):
    counting.counting(np.zeros((1, 2)), np.zeros((4, 1, 2)), margin=1.0)
