"""Readouts by hand: what a class without neighbors is worth, features of unit length."""

import numpy as np

from byoljax.ops import readouts


def test_votes_are_shared_with_one_more():
  """Of two neighbors, at cosines 1 and 0 and T = 0.5, and of a class without any."""
  bank, labels = np.eye(3, dtype=np.float32), np.array([0, 1, 1])
  made = readouts.neighbors(bank, labels, classes=3, k=2, temperature=0.5)
  (found,) = readouts.logits_of(made, np.array([[2.0, 0.0, 0.0]], np.float32))
  votes = np.array([1.0, np.exp(-2.0), 0.0])
  np.testing.assert_allclose(np.exp(found), (votes + 1 / 3) / (votes.sum() + 1), rtol=1e-5)


def test_features_of_unit_length():
  """x / (|x| + 1e-5), as for support vector machines; without it, x as it is."""
  kernel, bias = np.array([[1.0], [2.0]], np.float32), np.array([0.5], np.float32)
  x = np.array([[3e-3, 4e-3]], np.float32)
  for unit, length in ((True, 5e-3 + 1e-5), (False, 1.0)):
    found = readouts.logits_of(readouts.Linear(kernel, bias, unit), x)
    np.testing.assert_allclose(found, [[11e-3 / length + 0.5]], rtol=1e-6)
