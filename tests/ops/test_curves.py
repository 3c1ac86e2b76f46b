"""Curves: where their pixels are, and in which color."""

import numpy as np

from byoljax.ops import curves


def test_a_line_is_where_its_numbers_are():
  found = curves.draw(np.array([[[0.0], [1.0]], [[0.5], [0.5]]]), 9, 9)
  assert found.shape == (2, 9, 9, 3)
  dark = (found < 1).any(-1)
  # From the lower left to the upper right corner; a level one in the middle.
  assert dark[0, 8, 0] and dark[0, 0, 8] and not dark[0, 0, 0] and dark[0].any(0).all()
  np.testing.assert_array_equal(dark[1], (np.arange(9) == 4)[:, None].repeat(9, 1))


def test_channels_have_colors_of_their_own_and_values_are_clipped():
  found = curves.draw(np.array([[[0.0, 2.0]] * 3]), 5, 4)
  below, above = found[0, 4, 0], found[0, 0, 0]
  assert (below < 1).any() and (above < 1).any() and not np.array_equal(below, above)
  assert curves.draw(np.zeros((1, 1, 1)), 5, 4).shape == (1, 5, 4, 3)
