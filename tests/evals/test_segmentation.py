"""Scores of binary masks: by hand, and over devices."""

import functools

import jax
import numpy as np
import pytest

from byoljax.evals import segmentation

PREDICTED = np.array([[True, True, False, False], [False, False, True, True]])
TARGET = np.array([[True, False, True, False], [False, False, True, True]])


def test_by_hand():
  """3 right of the 5 pixels in either, 6 of all 8 pixels."""
  found = segmentation.binary_scores(PREDICTED, TARGET)
  assert found == {'iou': pytest.approx(3 / 5), 'pixel_accuracy': pytest.approx(6 / 8)}
  nothing = segmentation.binary_scores(np.zeros((2, 3), bool), np.zeros((2, 3), bool))
  assert nothing == {'iou': 1.0, 'pixel_accuracy': 1.0}
  with pytest.raises(ValueError, match='one shape'):
    segmentation.binary_scores(PREDICTED, TARGET[:, 1:])


def test_pixels_are_counted_over_all_devices():
  """Not the mean of what each device finds, 1/3 and 1."""
  scores = functools.partial(segmentation.binary_scores, axis='batch')
  found = jax.vmap(scores, axis_name='batch')(PREDICTED, TARGET)
  assert found['iou'] == pytest.approx([3 / 5] * 2)
  assert found['pixel_accuracy'] == pytest.approx([6 / 8] * 2)
