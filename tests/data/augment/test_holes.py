"""Holes: their shapes and areas, that images have their own, and borders that are seen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from byoljax.data.augment import holes

HEIGHT, WIDTH, COUNT = 32, 48, 40


@functools.cache
def drawn(name, share=0.25, height=HEIGHT, width=WIDTH):
  keys = jax.random.split(jax.random.key(0), COUNT)
  made = jax.jit(jax.vmap(lambda key: holes.HOLES[name](key, height, width, share)))(keys)
  assert made.shape == (COUNT, height, width, 1) and made.dtype == bool
  return np.asarray(made)[..., 0]


def test_the_center_is_half_of_each_side():
  expected = np.zeros((HEIGHT, WIDTH), bool)
  expected[8:24, 12:36] = True
  assert all(np.array_equal(one, expected) for one in drawn('center'))
  # Sides that do not divide evenly: 8 of 15 rows, with 3 above and 4 below.
  assert list(drawn('center', height=15)[0].any(1)) == [False] * 3 + [True] * 8 + [False] * 4


def test_blocks_are_four_squares_that_may_overlap():
  made = drawn('blocks')
  area = made.mean((1, 2))
  assert area.max() <= 0.25 and area.min() >= 0.0625 and len(set(area)) > 5
  square = np.ones((8, 12), bool)
  for one in made:
    # A union of such squares is what is left of it when it is opened by one.
    np.testing.assert_array_equal(scipy.ndimage.binary_opening(one, square), one)
  assert made.any((0, 1)).all() and made.any((0, 2)).all(), 'they reach every row and column'


def test_regions_cover_a_fifth_to_three_tenths_in_smooth_shapes():
  made = drawn('region')
  area = made.mean((1, 2))
  # Rounding to a pixel.
  assert area.min() >= 0.2 - 1e-3 and area.max() <= 0.3 + 1e-3 and np.ptp(area) > 0.05
  # Means over 40 images and a row of some eight cells.
  for axis in (1, 2):
    np.testing.assert_allclose(made.mean((0, axis)), 0.25, atol=0.1, err_msg='every place alike')
  pieces = [scipy.ndimage.label(one)[1] for one in made]
  # Pixels of noise would fall into 150 pieces; cells of an eighth of a side merge to a few.
  assert np.mean(pieces) < 12
  assert len({one.tobytes() for one in made}) == COUNT
  tenth = drawn('region', share=0.1).mean((1, 2))
  assert tenth.min() >= 0.08 - 1e-3 and tenth.max() <= 0.12 + 1e-3


@pytest.mark.parametrize('width', [0, 1, 3])
def test_a_border_is_seen_but_not_at_the_images_edge(width):
  made = np.concatenate([drawn('region')[:4], drawn('blocks')[:4]])
  found = holes.eroded(jnp.asarray(made)[..., None], width)
  window = np.ones((2 * width + 1,) * 2, bool)
  for one, inner in zip(made, np.asarray(found)[..., 0], strict=True):
    expected = scipy.ndimage.binary_erosion(one, window, border_value=1)
    np.testing.assert_array_equal(inner, expected)
