"""GEOM's transforms against SciPy's shift and NumPy's turns, in the order of their names."""

import itertools

import numpy as np
import pytest
import scipy.ndimage

from byoljax.data.augment import geometric

SIZE, SHIFT = 8, 2


def test_every_transform_is_a_flip_a_reflected_shift_and_quarter_turns():
  image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.float64)
  maps = geometric.index_maps(SIZE, SHIFT)
  assert maps.shape == (geometric.COUNT, SIZE * SIZE) == (72, 64)
  found = [image.reshape(-1, 3)[own].reshape(image.shape) for own in maps]
  ways = itertools.product((False, True), (0, -1, 1), (0, -1, 1), range(4))
  for number, (flip, down, right, quarter) in enumerate(ways):
    expected = image[:, ::-1] if flip else image
    by = (SHIFT * down, SHIFT * right, 0)
    expected = scipy.ndimage.shift(expected, by, order=0, mode='reflect')
    np.testing.assert_array_equal(found[number], np.rot90(expected, quarter))
  assert len(np.unique(maps, axis=0)) == geometric.COUNT, 'all differ'
  names = geometric.names()
  assert len(set(names)) == 72 and names[0] == '0' and names[-1] == 'mirrored, down, right, 270'


def test_each_image_is_transformed_as_it_is_told():
  images = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 2)).astype(np.uint8)
  maps = geometric.index_maps(SIZE, SHIFT)
  found = np.asarray(geometric.apply(images, maps, np.array([0, 71, 5])))
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found[0], images[0])
  np.testing.assert_array_equal(found[1].reshape(-1, 2), images[1].reshape(-1, 2)[maps[71]])
  alone = geometric.apply(images, maps, np.int32(5))
  np.testing.assert_array_equal(alone[2], found[2])


@pytest.mark.parametrize('shift', [0, 8])
def test_a_shift_out_of_range(shift):
  with pytest.raises(ValueError, match=f'shift of {shift} pixels'):
    geometric.index_maps(SIZE, shift)
