"""The one type of all data: subsets, classes, labels, what cannot be read."""

import os

import numpy as np
import pytest

from byoljax.data.sources import (
  arrays,
  source,
)


def test_subset_renumbers_and_keeps_labels():
  images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 5, 3), np.uint8)
  whole = arrays.from_arrays(images, np.arange(10) % 3)
  part = whole.subset(np.array([7, 2, 9]))
  x, y = part.read(np.array([2, 0]))
  assert part.size == 3 and part.num_classes == 3 and part.image_shape == (4, 5)
  np.testing.assert_array_equal(x[:, 0, 0, 0], [9, 7])
  np.testing.assert_array_equal(y, [0, 1])
  np.testing.assert_array_equal(part.labels, [1, 2, 0])
  np.testing.assert_array_equal(part.subset(np.array([1])).labels, [2])
  assert part.fingerprint != whole.fingerprint
  assert part.fingerprint != whole.subset(np.array([2, 7, 9])).fingerprint


@pytest.mark.parametrize(
  ('indices', 'message'),
  [([10], 'index 10 .* 0 to 9'), ([-1], 'index -1'), ([[1]], 'one row'), ([0.5], 'whole numbers')],
)
def test_indices_out_of_range(indices, message):
  whole = arrays.from_arrays(np.zeros((10, 4, 4, 3), np.uint8))
  with pytest.raises(ValueError, match=message):
    whole.read(np.array(indices))


def test_unreadable_log_lists_each_name_once_over_several_runs(tmp_path):
  log = source.UnreadableLog(tmp_path / 'run')
  assert not os.path.exists(tmp_path / 'run')
  log.add('a.jpg', 'broken\nin two lines')
  log.add('a.jpg', 'again')
  again = source.UnreadableLog(tmp_path / 'run' / 'unreadable.txt')
  again.add('a.jpg', 'broken')
  again.add('b.jpg', 'empty')
  assert (tmp_path / 'run' / 'unreadable.txt').read_text() == (
    'a.jpg\tbroken in two lines\nb.jpg\tempty\n'
  )
  assert len(log) == 1 and len(again) == 2


def test_some_classes_alone():
  images, labels = np.zeros((6, 8, 8, 3), np.uint8), np.array([0, 2, 1, 2, 0, 2], np.int32)
  images[:] += np.arange(6, dtype=np.uint8)[:, None, None, None]
  whole = arrays.from_arrays(images, labels, name='few', class_names=None, num_classes=4)
  assert whole.of_classes(()) is whole
  part = whole.of_classes((2, 0))
  assert part.size == 5 and part.num_classes == 4 and part.fingerprint != whole.fingerprint
  np.testing.assert_array_equal(part.labels, [0, 2, 2, 0, 2])
  np.testing.assert_array_equal(part.read(np.arange(5))[0][:, 0, 0, 0], [0, 1, 3, 4, 5])
  with pytest.raises(ValueError, match='no image of few is of class 3; classes are 0 to 3'):
    whole.of_classes((1, 3))
  unlabelled = arrays.from_arrays(images, None, name='few', class_names=None, num_classes=0)
  with pytest.raises(ValueError, match='no label, or several'):
    unlabelled.of_classes((1,))
