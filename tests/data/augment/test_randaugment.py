"""RandAugment's operations against Pillow, by hand, and as part of a view."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageEnhance, ImageOps
import pytest

from byoljax.data.augment import device, draws, randaugment, reorient, views
from byoljax.data.augment.randaugment import OPERATIONS
from byoljax.data.augment.views import ViewSpec

LEVEL = 1 / 255
PLAIN = ViewSpec(
  size=16, crop_scale=(1, 1), crop_ratio=(1, 1), flip_prob=0, jitter_prob=0, gray_prob=0,
  blur_prob=0,
)  # fmt: skip
WHOLE = dataclasses.replace(PLAIN, size=32)
STRONG = dataclasses.replace(WHOLE, randaugment_ops=3, randaugment_prob=1.0)
FILL = (10, 200, 90)


def pictures():
  """Noise; a dim ramp, of few gray values; a flat image; black and white squares."""
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:32, :32]
  ramp = np.stack([40 + x, 200 - 2 * y, 90 + (x + y) // 2], -1)
  squares = ((x // 4 + y // 4) % 2 * 255)[..., None].repeat(3, -1)
  noise = rng.integers(0, 256, (32, 32, 3))
  return np.stack([noise, ramp, np.full_like(noise, 77), squares]).astype(np.uint8)


def moved(data):
  def operation(image):
    return image.transform(image.size, Image.Transform.AFFINE, data, fillcolor=FILL)

  return operation


def enhanced(kind, factor):
  return lambda image: kind(image).enhance(factor)


# name -> strengths, Pillow's operation of a strength, and the tolerance in levels: Pillow truncates
# to bytes, and rounds a gray value before it blends with it (at most 0.95 of half a level).
BLENDS = (0.05, 0.5, 0.95)
CASES = {
  'autocontrast': ((0,), lambda s: ImageOps.autocontrast, 1),
  'brightness': (BLENDS, functools.partial(enhanced, ImageEnhance.Brightness), 1),
  'color': (BLENDS, functools.partial(enhanced, ImageEnhance.Color), 1.5),
  'contrast': (BLENDS, functools.partial(enhanced, ImageEnhance.Contrast), 2),
  'equalize': ((0,), lambda s: ImageOps.equalize, 0),
  'identity': ((0,), lambda s: lambda image: image, 0),
  'posterize': ((4, 5, 6.5, 8.9), lambda s: lambda image: ImageOps.posterize(image, int(s)), 0),
  'rotate': (
    (-30, -7, 11, 30),
    lambda s: lambda image: image.rotate(s, fillcolor=FILL),
    0,
  ),
  'sharpness': (BLENDS, functools.partial(enhanced, ImageEnhance.Sharpness), 1.5),
  'shear_x': ((-0.3, 0.13, 0.3), lambda s: moved((1, s, 0, 0, 1, 0)), 0),
  'shear_y': ((-0.3, 0.13, 0.3), lambda s: moved((1, 0, 0, s, 1, 0)), 0),
  'solarize': (
    (0, 0.31, 1),
    lambda s: lambda image: ImageOps.solarize(image, int(np.ceil(255 * s))),
    0,
  ),
  'translate_x': ((-0.3, 0.11, 0.3), lambda s: moved((1, 0, 32 * s, 0, 1, 0)), 0),
  'translate_y': ((-0.3, 0.11, 0.3), lambda s: moved((1, 0, 0, 0, 1, 32 * s)), 0),
}


@functools.cache
def compiled(name):
  fill = jnp.array(FILL, jnp.float32) / 255
  return jax.jit(jax.vmap(lambda x, s: OPERATIONS[name].apply(x, s, fill), (0, None)))


@pytest.mark.parametrize('name', OPERATIONS)
def test_every_operation_is_pillows(name):
  strengths, operation, levels = CASES[name]
  images = pictures()
  for strength in strengths:
    expected = [np.asarray(operation(strength)(Image.fromarray(image))) for image in images]
    found = np.asarray(compiled(name)(images.astype(np.float32) / 255, float(strength)))
    error = np.abs(255 * found - np.stack(expected).astype(np.float32))
    if levels:
      assert error.max() < levels + 1e-3, (strength, error.max())
      continue
    # A place exactly between two pixels may fall to either: Pillow adds up along a row.
    wrong = (error > 1e-3).any(-1).mean()
    assert wrong <= (0.01 if name in ('rotate', 'shear_x', 'shear_y') else 0), (strength, wrong)


def test_the_table_is_the_papers():
  assert len(OPERATIONS) == 14 and set(OPERATIONS) == set(CASES)
  ranges = {name: (each.low, each.high) for name, each in OPERATIONS.items() if each.high}
  assert ranges == {
    **dict.fromkeys(('brightness', 'color', 'contrast', 'sharpness'), (0.05, 0.95)),
    'posterize': (4, 9), 'rotate': (-30, 30), 'solarize': (0, 1),
    **dict.fromkeys(('shear_x', 'shear_y', 'translate_x', 'translate_y'), (-0.3, 0.3)),
  }  # fmt: skip


def test_values_by_hand():
  one = np.array([[[0.2], [0.6]], [[0.4], [1.0]]], np.float32)
  steps = {
    'autocontrast': (0, [[0, 0.5], [0.25, 1]]),
    'contrast': (0, np.full((2, 2), 0.55)),
    'brightness': (0.5, one[..., 0] / 2),
    'solarize': (0.6, [[0.2, 0.4], [0.4, 0]]),
    'posterize': (1, [[0, 128 / 255], [0, 128 / 255]]),
    'equalize': (0, one[..., 0]),  # too few pixels
    'translate_x': (0.5, [[0.6, 0.5], [1.0, 0.5]]),
    'translate_y': (-0.5, [[0.5, 0.5], [0.2, 0.6]]),
    'rotate': (90, [[0.6, 1.0], [0.2, 0.4]]),
  }

  @jax.jit
  def every(image):
    fill = jnp.array([0.5])
    return [OPERATIONS[n].apply(image, jnp.float32(s), fill)[..., 0] for n, (s, _) in steps.items()]

  for (name, (_, expected)), found in zip(steps.items(), every(one), strict=True):
    np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)


def spread_draws(rows, spec):
  return draws.uniforms(np, 3, 0, np.arange(rows), 0, spec.num_draws)


def test_operations_are_drawn_equally_often_and_do_what_they_are():
  spec = dataclasses.replace(PLAIN, randaugment_ops=2, randaugment_prob=0.5)
  u = spread_draws(4000, spec)
  number, strength = map(np.asarray, randaugment.drawn(u, spec))
  counts = np.bincount(number.ravel(), minlength=14) / number.size
  rest = np.full(14, 0.5 / 14)
  rest[list(OPERATIONS).index('identity')] += 0.5
  # Five standard deviations of a share of 8,000.
  np.testing.assert_allclose(counts, rest, atol=5 * np.sqrt(0.25 / 8000))
  for place, each in enumerate(OPERATIONS.values()):
    own = strength[number == place]
    assert own.min() >= each.low and own.max() <= each.high
    assert np.ptp(own) >= 0.9 * (each.high - each.low)
  assert len(np.unique(np.floor(strength[number == list(OPERATIONS).index('posterize')]))) == 5


def test_one_after_the_other_in_both_forms():
  """The form for CPUs, and that for other processors, are the operations one by one."""
  spec, images = STRONG, pictures().astype(np.float32) / 255
  fill = jnp.array(FILL, jnp.float32) / 255
  together = jax.jit(jax.vmap(randaugment.in_turn, (0, 0, 0, None)))
  for u in spread_draws(16, spec).reshape(4, 4, -1):
    number, strength = map(np.asarray, randaugment.drawn(u, spec))
    expected = images.copy()
    for row, turn in np.ndindex(number.shape):
      one = compiled(list(OPERATIONS)[number[row, turn]])(expected, strength[row, turn])
      expected[row] = np.clip(one, 0, 1)[row]
    # Posterize and equalize step where rounding decides: measured 0.
    for found in (
      randaugment.apply(images, u, spec, fill),
      together(images, number, strength, fill),
    ):
      assert (np.abs(found - expected) > 1e-5).mean() < 0.01
  assert randaugment.apply(images, u, PLAIN, (0.5,)) is images


def test_a_shift_moves_whole_pixels_and_mirrors():
  spec = dataclasses.replace(PLAIN, shift=0.125)
  images = np.random.default_rng(0).random((300, 16, 16, 3)).astype(np.float32)
  u = spread_draws(300, spec)
  found = np.asarray(reorient.orient(images, u, spec))
  padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode='reflect')
  seen = set()
  for whole, made in zip(padded, found, strict=True):
    (where,) = [
      (y, x) for y in range(5) for x in range(5) if (whole[y : y + 16, x : x + 16] == made).all()
    ]
    seen.add(where)
  assert len(seen) == 25 and spec.reorients


def test_they_are_part_of_the_augmentation_and_leave_other_views_alone():
  spec = dataclasses.replace(STRONG, cutout_prob=1.0, cutout_scale=(0.25, 0.25))
  batch = {
    'image': pictures(), 'index': np.arange(4), 'epoch': np.int32(0), 'label': np.zeros(4, np.int32)
  }  # fmt: skip
  augment = jax.jit(device.make_augment([WHOLE, spec], seed=0, mean=(0.5,) * 3, std=(0.25,)))
  plain, strong = map(np.asarray, augment(batch)['views'])
  np.testing.assert_allclose(plain, (batch['image'] / 255 - 0.5) * 4, atol=1e-5)
  u = draws.uniforms(np, 0, 0, np.arange(4), 1, spec.num_draws)
  np.testing.assert_array_equal(
    u[:, : views.NUM_DRAWS], draws.uniforms(np, 0, 0, np.arange(4), 1, views.NUM_DRAWS)
  )
  unit = batch['image'].astype(np.float32) / 255
  changed = randaugment.apply(unit, u, spec, (0.5,) * 3)
  expected = np.asarray(reorient.cut_out((changed - 0.5) * 4, u, spec))
  # As above, and a share of the pixels in float32.
  assert (np.abs(strong - expected) > 1e-4).mean() < 0.01
  assert ((strong == 0).all(-1).sum((1, 2)) >= 256).all()


@pytest.mark.parametrize('field', [{'randaugment_ops': 17}, {'randaugment_ops': 1.0},
                                   {'randaugment_prob': 2}, {'shift': 0.6}])  # fmt: skip
def test_what_cannot_be_is_refused(field):
  with pytest.raises(ValueError, match=next(iter(field))):
    ViewSpec(**field)
