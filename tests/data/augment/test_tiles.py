"""Tiles: where they lie, what is done to them; against NumPy and values computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.augment import chromatic, tiles
from byoljax.data.augment.tiles import TileSpec
from byoljax.suggest import from_fields

PLAIN = {'gap': 0, 'jitter': 0, 'standardize': 'none'}
ZERO_ONE = ((0.0,) * 3, (1.0,) * 3)


make = jax.jit(tiles.make_tiles, static_argnums=(3, 4, 5))


def cut(images, spec, key=0, positions=None, mean=ZERO_ONE[0], std=ZERO_ONE[1]):
  positions = np.arange(len(images), dtype=np.int32) if positions is None else positions
  return np.asarray(make(np.float32(images), jax.random.key(key), positions, spec, mean, std))


def noise(*shape):
  return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


def test_without_gap_and_jitter_tiles_are_the_image():
  images = noise(2, 6, 6, 3)
  found = cut(images, TileSpec(grid=3, tile=2, **PLAIN))
  assert found.shape == (9, 2, 2, 2, 3)
  rows = [np.concatenate(list(found[3 * row : 3 * row + 3]), axis=2) for row in range(3)]
  np.testing.assert_array_equal(np.concatenate(rows, axis=1), images)


def test_gap_jitter_and_origin():
  """Every place that is allowed occurs, and no other."""
  spec = TileSpec(grid=2, tile=3, gap=3, jitter=2)
  keys = jax.random.split(jax.random.key(0), 400)
  places = np.asarray(jax.jit(jax.vmap(lambda key: tiles.corners(key, spec, 19)))(keys))
  assert spec.cell == 8 and places.shape == (400, 4, 2)
  # 3 free pixels, gap // 2 before and jitter: the first corner lies in 1 ... 1 + 3 + 2.
  for axis in range(2):
    assert set(places[:, 0, axis]) == set(range(1, 7))
  between = places[:, [1, 2], [1, 0]] - places[:, [0, 0], [1, 0]] - spec.tile
  assert set(between.ravel()) == {3, 4, 5, 6, 7}  # gap + up to 2 jitters
  assert (places + spec.tile <= 19).all()
  # Tiles move by themselves.
  assert len(np.unique(between[:, 0] - between[:, 1])) > 5


def test_an_images_tiles_are_a_function_of_its_position_and_the_key():
  images = noise(4, 12, 12, 3)
  spec = TileSpec(grid=2, tile=4, jitter=2, gray_prob=0.5, channel_shift=1, coarse_prob=0.5,
                  coarse_side=2)  # fmt: skip
  together = cut(images, spec, positions=np.arange(4))
  backwards = cut(images[::-1], spec, positions=np.arange(4)[::-1])
  # Sums of 48 values and their root, five times.
  np.testing.assert_allclose(together, backwards[:, ::-1], rtol=0, atol=2e-5)
  assert not np.allclose(together, cut(images, spec, key=1))


def test_normalization_is_undone_and_done_again():
  images, mean, std = noise(1, 4, 4, 3), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
  normalized = (images - np.float32(mean)) / np.float32(std)
  spec = TileSpec(grid=2, tile=2, **PLAIN)
  # Rounding of a handful of float32 operations on values up to 3, five times.
  kept = cut(normalized, spec, mean=mean, std=std)
  np.testing.assert_allclose(kept, cut(normalized, spec), rtol=0, atol=5e-6)
  gray = cut(normalized, TileSpec(grid=2, tile=2, gray_prob=1.0, **PLAIN), mean=mean, std=std)
  luma = images @ np.array([0.299, 0.587, 0.114])
  np.testing.assert_allclose(
    gray[0, 0, ..., 1] * std[1] + mean[1], luma[0, :2, :2], rtol=0, atol=2e-6
  )


@pytest.mark.parametrize(('per_channel', 'axes'), [(True, (1, 2)), (False, (1, 2, 3))])
def test_standardization(per_channel, axes):
  values = noise(3, 5, 5, 3)
  values[1], values[2] = 0.25, 0.1 * values[2]
  found = tiles.standardize(jnp.asarray(values), per_channel=per_channel)
  wide = values.astype(np.float64)
  centered = wide - wide.mean(axes, keepdims=True)
  expected = centered / np.maximum(wide.std(axes, keepdims=True), 1 / 255)
  # Five times the rounding of sums of 75 values, over the least deviation, .028.
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
  # A tile of one color becomes 0, and so does a ramp's place on the ramp.
  np.testing.assert_allclose(found[1], 0.0, atol=1e-4)


def test_a_gradient_over_the_image_is_gone_after_standardization():
  ramp = np.linspace(0.1, 0.9, 9)[:, None] * 0.3 + np.linspace(0.1, 0.9, 9)[None] * 0.7
  image = np.repeat(ramp[None, :, :, None], 3, axis=3)
  found = cut(image, TileSpec(grid=3, tile=3, gap=0, jitter=0))
  # 1e-6 of rounding over a deviation of .06, five times.
  np.testing.assert_allclose(found, np.broadcast_to(found[:1], found.shape), rtol=0, atol=1e-4)


def test_coarser_is_area_averaging_and_linear_interpolation():
  values = noise(2, 6, 6, 3)
  coarser = jax.jit(tiles.coarser)
  found = np.asarray(coarser(values, np.array([6, 3])))
  np.testing.assert_allclose(found[0], values[0], rtol=0, atol=1e-6)
  small = values[1].reshape(3, 2, 3, 2, 3).mean((1, 3), dtype=np.float64)
  place = np.clip((np.arange(6) + 0.5) / 2 - 0.5, 0, 2)
  low = np.minimum(np.floor(place).astype(int), 1)
  rest = place - low
  matrix = np.zeros((6, 3))
  matrix[np.arange(6), low], matrix[np.arange(6), low + 1] = 1 - rest, rest
  expected = np.einsum('ij,jkc,lk->ilc', matrix, small, matrix)
  np.testing.assert_allclose(found[1], expected, rtol=0, atol=2e-6)
  # Of a size that does not divide: rows still sum to 1.
  np.testing.assert_allclose(coarser(np.ones_like(values), np.array([4, 1])), 1.0, atol=2e-6)


def test_green_magenta_projection():
  matrix = chromatic.GREEN_MAGENTA
  expected = [[5 / 6, 1 / 3, -1 / 6], [1 / 3, 1 / 3, 1 / 3], [-1 / 6, 1 / 3, 5 / 6]]
  np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-7)
  np.testing.assert_allclose(matrix @ matrix, matrix, rtol=0, atol=5e-7)
  np.testing.assert_allclose(matrix @ np.array([-1.0, 2.0, -1.0]), 0.0, atol=5e-7)
  found = chromatic.project(jnp.array([[0.2, 0.9, 0.4], [0.5, 0.5, 0.5]]))
  np.testing.assert_allclose(found, [[0.4, 0.5, 0.6], [0.5, 0.5, 0.5]], rtol=0, atol=5e-7)


def test_gray_has_one_value():
  found = chromatic.gray(jnp.array([[[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]]))
  np.testing.assert_allclose(found[0, 0], [[0.299] * 3, [0.587] * 3], rtol=0, atol=1e-7)


def test_one_channel_is_kept():
  images = jnp.asarray(noise(3, 4, 4, 3))
  grain = jnp.asarray(2 * noise(3, 4, 4, 3) - 1)
  found = np.asarray(chromatic.keep_one(images, jnp.array([0, 1, 2]), grain))
  for i in range(3):
    np.testing.assert_array_equal(found[i, ..., i], images[i, ..., i])
    for other in {0, 1, 2} - {i}:
      level = found[i, ..., other] - np.asarray(images[i, ..., i]).mean()
      assert 1e-4 < np.abs(level).max() <= 0.5 / 255 + 1e-6


def test_channels_are_shifted_and_the_border_repeats():
  image = np.arange(9.0).reshape(1, 3, 3, 1).repeat(3, axis=3)
  shifts = jnp.array([[[0, 0], [1, 0], [0, -2]]])
  found = np.asarray(chromatic.shift_channels(jnp.asarray(image), shifts, 2))[0]
  np.testing.assert_array_equal(found[..., 0], image[0, ..., 0])
  np.testing.assert_array_equal(found[..., 1], [[0, 1, 2], [0, 1, 2], [3, 4, 5]])
  np.testing.assert_array_equal(found[..., 2], [[2, 2, 2], [5, 5, 5], [8, 8, 8]])


def test_shares_of_the_defenses():
  """Of 400 images; six standard deviations of a binomial."""
  images = np.broadcast_to(np.float32([0.2, 0.9, 0.4]), (400, 4, 4, 3))
  spec = TileSpec(grid=2, tile=2, gray_prob=0.4, project_prob=0.5, drop_prob=1.0, **PLAIN)
  found = cut(images, spec)[0, :, 0, 0]
  gray = np.ptp(found, axis=1) < 1e-6
  projected = np.abs(found - [0.4, 0.5, 0.6]).max(1) < 1e-5
  dropped = (np.ptp(found, axis=1) < 0.01) & ~gray
  assert (gray | projected | dropped).all() and not (gray & projected).any()
  for share, expected in ((gray, 0.4), (projected, 0.3), (dropped, 0.3)):
    assert abs(share.mean() - expected) < 6 * np.sqrt(0.25 / 400)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'grid': 4}, 'grid=4: cut images into 2x2 or 3x3'),
    ({'jitter': -1}, 'jitter=-1 .* whole number of at least 0'),
    ({'tile': 1.5}, 'tile=1.5'),
    ({'gray_prob': 2.0}, 'gray_prob=2.0'),
    ({'standardize': 'chanel'}, "did you mean 'channel'"),
    ({'coarse_prob': 0.5, 'coarse_side': 70}, 'coarse_side=70'),
    ({'drop_prob': 0.5, 'standardize': 'channel'}, "use standardize='tile'"),
    ({'jiter': 1}, "did you mean 'jitter'"),
  ],
)
def test_what_cannot_be_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    from_fields(TileSpec, 'field of tiles', fields)


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match='3x3 cells of tile . gap . jitter = 85 .* views of 32'):
    cut(noise(1, 32, 32, 3), TileSpec())
  with pytest.raises(ValueError, match='1 channel: set them to 0'):
    cut(noise(1, 8, 8, 1), TileSpec(grid=2, tile=4, gap=0, jitter=0, gray_prob=0.5), mean=(0.0,),
        std=(1.0,))  # fmt: skip
  gray = cut(noise(1, 8, 8, 1), TileSpec(grid=2, tile=4, gap=0, jitter=0), mean=(0.0,), std=(1.0,))
  assert gray.shape == (4, 1, 4, 4, 1)
