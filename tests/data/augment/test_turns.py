"""Turns of images against NumPy and SciPy, and by what they must leave as it is."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from byoljax.data.augment import turns

RNG = np.random.default_rng(0)


def test_quarter_turns_are_exact_and_counterclockwise():
  images = RNG.normal(size=(3, 8, 8, 3)).astype(np.float32)
  by_hand = np.array([[[[1], [2]], [[3], [4]]]])
  assert np.asarray(turns.turn(by_hand, 90))[0, ..., 0].tolist() == [[2, 4], [1, 3]]
  for degrees in (0, 90, 180, 270, 360, -90):
    expected = np.stack([np.rot90(image, degrees // 90) for image in images])
    np.testing.assert_array_equal(turns.turn(images, degrees), expected)


def test_four_quarter_turns_are_the_identity():
  turned = images = jnp.asarray(RNG.integers(0, 256, (2, 7, 7, 3)), jnp.uint8)
  for _ in range(4):
    turned = turns.turn(turned, 90)
  assert turned.dtype == images.dtype
  np.testing.assert_array_equal(turned, images)


@pytest.mark.parametrize('degrees', [45, 225])
def test_half_a_quarter_is_bilinear(degrees):
  image = RNG.normal(size=(9, 9)).astype(np.float32)
  border = {'reshape': False, 'mode': 'nearest'}
  expected = scipy.ndimage.rotate(image.astype(np.float64), degrees, order=1, **border)
  found = np.asarray(turns.turn(image[None, ..., None], degrees))[0, ..., 0]
  # Inside of the image's disc; five times float32's rounding (4e-7).
  inside = turns.inscribed_disc(9)[0, ..., 0] > 0
  np.testing.assert_allclose(found[inside], expected[inside], atol=2e-6)


def test_the_disc_is_round_and_touches_the_edges():
  disc = turns.inscribed_disc(16)[0, ..., 0]
  assert disc[0, 7] == disc[8, 15] == 1 and disc[0, 0] == disc[2, 1] == 0
  np.testing.assert_array_equal(disc, np.rot90(disc))
  assert disc.mean() == pytest.approx(np.pi / 4, abs=0.03)


@pytest.mark.parametrize(
  ('shape', 'degrees', 'said'), [((1, 4, 4, 3), 30, '30 degrees'), ((1, 4, 5, 3), 90, 'square')]
)
def test_what_cannot_be_turned(shape, degrees, said):
  with pytest.raises(ValueError, match=said):
    turns.turn(np.zeros(shape), degrees)
