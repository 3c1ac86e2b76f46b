"""Corruptions by hand, JPEG against Pillow, and what all of them promise."""

import io

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from byoljax.data.augment import corruptions, jpeg
from byoljax.data.augment.corruptions import CORRUPTIONS, STRENGTHS

KEY = jax.random.key(3)
ONE_OF_A_GROUP = tuple({kind.group: name for name, kind in CORRUPTIONS.items()}.values())


def picture(side=32, channels=3):
  """Smooth and colorful, with an edge."""
  y, x = np.mgrid[:side, :side] / side
  planes = [x, y, 0.5 + 0.4 * np.sin(5 * (x + y)), 1 - x][:channels]
  image = np.stack(planes, -1)
  image[side // 3 : side // 2, side // 4 : side // 2] = 0.9
  return jnp.asarray(image, jnp.float32)


def change(name, strength, image=None):
  kind = CORRUPTIONS[name]
  out = kind.apply(KEY, picture() if image is None else image, kind.levels[strength - 1])
  return np.clip(np.asarray(out), 0, 1)


def test_there_are_fifteen_at_five_strengths():
  assert len(CORRUPTIONS) == 15 and STRENGTHS == (1, 2, 3, 4, 5)
  assert all(len(kind.levels) == 5 for kind in CORRUPTIONS.values())
  assert {kind.group for kind in CORRUPTIONS.values()} == {'noise', 'blur', 'weather', 'digital'}


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=() if name in ONE_OF_A_GROUP else pytest.mark.slow)
    for name in CORRUPTIONS
  ],
)
def test_the_strongest_changes_more_than_the_weakest_but_no_shape(name):
  clean = np.asarray(picture())
  weakest, strongest = (change(name, strength) for strength in (1, 5))
  weak, strong = (np.abs(changed - clean).mean() for changed in (weakest, strongest))
  assert 0.002 < weak < strong < 0.6
  assert weakest.shape == clean.shape and np.isfinite(strongest).all()


@pytest.mark.parametrize('name', ['snow', 'jpeg', 'brightness', 'zoom_blur'])
def test_any_number_of_channels_and_uneven_sides(name):
  image = picture(20, 4)[:, :13]
  assert change(name, 3, image).shape == (20, 13, 4)
  assert change(name, 3, image[..., :1]).shape == (20, 13, 1)


def test_an_image_is_a_function_of_its_key():
  images = np.asarray(picture()[None] * 255).astype(np.uint8).repeat(3, 0)
  keys = jax.random.split(KEY, 3)
  found = np.asarray(corruptions.corrupt(keys, images, name='gaussian_noise', strength=2))
  assert found.dtype == np.uint8 and not np.array_equal(found[0], found[1])
  alone = corruptions.corrupt(keys[1:2], images[1:2], name='gaussian_noise', strength=2)
  np.testing.assert_array_equal(found[1], alone[0])
  spread = (found[0].astype(float) - images[0])[(images[0] > 100) & (images[0] < 155)].std()
  assert spread / 255 == pytest.approx(0.12, rel=0.2)  # a few hundred values; 5 % is one sigma


def test_noise_by_its_numbers():
  gray = jnp.full((100, 100, 1), 0.5)
  hit = change('impulse_noise', 4, gray)
  assert np.mean(hit != 0.5) == pytest.approx(0.17, abs=0.02)  # five sigma of 10,000 draws
  assert np.mean(hit == 1.0) == pytest.approx(0.085, abs=0.015)
  shot = np.asarray(corruptions.shot_noise(KEY, gray, 12.0))
  assert shot.mean() == pytest.approx(0.5, abs=0.012) and shot.var() == pytest.approx(
    0.5 / 12, rel=0.1
  )
  np.testing.assert_allclose(shot * 12, np.round(shot * 12), atol=1e-5)


def test_brightness_and_contrast_by_hand():
  image = jnp.array([[[0.2, 0.4, 0.1], [0.0, 0.0, 0.0]], [[0.9, 0.3, 0.6], [0.5, 0.5, 0.5]]])
  lighter = np.asarray(corruptions.brightness(KEY, image, 0.3))
  expected = [[[0.35, 0.7, 0.175], [0.3] * 3], [[1.0, 1 / 3, 2 / 3], [0.8] * 3]]
  np.testing.assert_allclose(lighter, expected, atol=1e-6)
  flat = np.asarray(corruptions.contrast(KEY, image, 0.1))
  mean = np.asarray(image).mean((0, 1))
  np.testing.assert_allclose(flat, mean + 0.1 * (np.asarray(image) - mean), atol=1e-6)


def test_pixels_become_blocks():
  image = jnp.arange(36.0).reshape(6, 6, 1) / 36
  blocks = np.asarray(corruptions.pixelate(KEY, image, 0.5))[..., 0]
  whole = np.asarray(image)[..., 0].reshape(3, 2, 3, 2).mean((1, 3))
  np.testing.assert_allclose(blocks, whole.repeat(2, 0).repeat(2, 1), atol=1e-6)
  uneven = np.asarray(corruptions.pixelate(KEY, picture(7), 0.6))  # 4 blocks of 1.75 pixels
  np.testing.assert_allclose(uneven[:2, :2], np.broadcast_to(uneven[0, 0], (2, 2, 3)), atol=1e-6)


def test_blurs_keep_what_is_even_and_the_disk_has_its_area():
  even = jnp.full((16, 16, 2), 0.3)
  for name in ('defocus_blur', 'glass_blur', 'motion_blur', 'zoom_blur', 'elastic'):
    np.testing.assert_allclose(change(name, 5, even), 0.3, atol=1e-5)
  disk = corruptions._disk(3.0)
  assert disk.shape == (9, 9) and disk.sum() == pytest.approx(1)
  assert 1 / disk.max() == pytest.approx(np.pi * 9, rel=0.02)  # 64 points in each pixel
  point = jnp.zeros((9, 9, 1)).at[4, 4].set(1.0)
  np.testing.assert_allclose(corruptions._filtered(point, disk)[..., 0], disk, atol=1e-6)


def test_gaussian_by_the_formula():
  point = jnp.zeros((21, 21, 1)).at[10, 10].set(1.0)
  offsets = np.arange(-10, 11)
  bell = np.exp(-0.5 * (offsets / 2.0) ** 2) * (np.abs(offsets) <= 8)
  bell /= bell.sum()
  np.testing.assert_allclose(
    corruptions._smooth(point, 2.0)[..., 0], bell[:, None] * bell[None], atol=1e-6
  )


@pytest.mark.parametrize('quality', [15, 25])
def test_jpeg_is_pillows(quality):
  pixels = np.round(np.asarray(picture(48)) * 255).astype(np.uint8)
  written = io.BytesIO()
  Image.fromarray(pixels).save(written, 'JPEG', quality=quality)
  theirs = np.asarray(Image.open(written)).astype(float)
  ours = np.asarray(jpeg.jpeg(jnp.asarray(pixels / 255, jnp.float32), quality)) * 255
  # Coefficients between two steps fall to either side: 5 and 8 % of the change, measured.
  assert np.abs(ours - theirs).mean() < 0.4 * np.abs(pixels - theirs).mean()
  gray = pixels[..., 0]
  written = io.BytesIO()
  Image.fromarray(gray).save(written, 'JPEG', quality=quality)
  theirs = np.asarray(Image.open(written)).astype(float)
  ours = np.asarray(jpeg.jpeg(jnp.asarray(gray[..., None] / 255, jnp.float32), quality))[..., 0]
  assert np.abs(ours * 255 - theirs).max() <= 3  # Pillow's transform is of whole numbers


def test_jpeg_tables():
  assert jpeg.table(jpeg._LUMA, 50)[0, 0] == 16 and jpeg.table(jpeg._LUMA, 25)[0, 0] == 32
  assert jpeg.table(jpeg._CHROMA, 100).max() == 1 and jpeg.table(jpeg._CHROMA, 1).max() == 255
  np.testing.assert_allclose(jpeg._COSINES @ jpeg._COSINES.T, np.eye(8), atol=1e-6)
