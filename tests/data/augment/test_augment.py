"""The photometric operations, against torchvision, colorsys and values computed by hand.

tests/golden/make_augment.py made the golden file and says what is compared with what.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.augment import branches, draws, operators, photometric, views
from tests.paths import GOLDEN

GOLDEN = np.load(GOLDEN / 'augment.npz')
OFF = views.ViewSpec(jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0, solarize_prob=0.0)
# For accelerators, and for CPUs.
WHOLE, ONE = photometric.photometric, branches.one_by_one
FORMS = [WHOLE, ONE]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def spec_with(**changes):
  """A view with only the named operations, each applied to every image."""
  base = {field: getattr(OFF, field) for field in OFF.__dataclass_fields__}
  strengths = {'brightness': 0.0, 'contrast': 0.0, 'saturation': 0.0, 'hue': 0.0}
  return views.ViewSpec(**(base | strengths | changes))


def apply(form, images, u, spec):
  return np.asarray(jax.jit(functools.partial(form, spec=spec))(images, u))


def draw(count, epoch=0, view=0):
  return draws.uniforms(np, 0, epoch, np.arange(count), view, views.NUM_DRAWS)


def columns(count, **values):
  """Draws in which the named columns are set and the rest are 0 (every operation is on)."""
  u = np.zeros((count, views.NUM_DRAWS), np.float32)
  for name, value in values.items():
    u[:, getattr(views, name.upper())] = value
  return u


def random_images(count, size, seed=0):
  return np.random.default_rng(seed).random((count, size, size, 3), np.float32)


# --- one operation at a time ----------------------------------------------------------------------


@pytest.mark.parametrize('form', FORMS)
def test_hue_equals_torchvision(form):
  images = GOLDEN['images'].astype(np.float32) / 255
  spec = spec_with(size=16, jitter_prob=1.0, hue=0.5)
  for k, hue in enumerate(GOLDEN['hues']):
    out = apply(form, images, columns(3, hue=hue + 0.5), spec)
    np.testing.assert_allclose(out, GOLDEN[f'hue_{k}'], atol=1e-5)


def test_gray_and_solarize_equal_torchvision():
  images = GOLDEN['images'].astype(np.float32) / 255
  gray = apply(WHOLE, images, columns(3), spec_with(size=16, gray_prob=1.0))
  np.testing.assert_allclose(gray, GOLDEN['gray'], atol=1e-6)
  solarized = apply(
    photometric.photometric, images, columns(3), spec_with(size=16, solarize_prob=1.0)
  )
  np.testing.assert_allclose(solarized, GOLDEN['solarize'], atol=1e-6)


@pytest.mark.parametrize('form', FORMS)
def test_blur_equals_torchvision_in_the_interior(form):
  images = GOLDEN['large'].astype(np.float32) / 255
  for k, sigma in enumerate(GOLDEN['sigmas']):
    spec = spec_with(size=64, blur_prob=1.0, blur_sigma=(sigma, sigma))
    out = apply(form, images, columns(1), spec)[:, 24:-24, 3:-3]
    np.testing.assert_allclose(out, GOLDEN[f'blur_{k}'], atol=1e-5)


JITTER = {'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.6, 'hue': 0.2}


def golden_draws(order, values):
  u = columns(len(order))
  u[:, views.ORDER_BRIGHTNESS : views.ORDER_HUE + 1] = (order + 0.5) / 4
  u[:, views.BRIGHTNESS : views.HUE + 1] = values
  return u


@pytest.mark.parametrize('form', FORMS)
def test_all_24_orders_equal_the_operations_one_by_one(form):
  """The reference applies four operations in turn; here they are three color and two affine."""
  images = GOLDEN['jittered'].astype(np.float32) / 255
  u = golden_draws(GOLDEN['jitter_order'], GOLDEN['jitter_u'])
  assert len({tuple(order) for order in GOLDEN['jitter_order']}) == 24
  out = apply(form, images, u, spec_with(size=8, jitter_prob=1.0, **JITTER))
  np.testing.assert_allclose(out, GOLDEN['jitter'], atol=1e-5)


@pytest.mark.parametrize('form', FORMS)
def test_whole_chain_equals_the_reference(form):
  images = GOLDEN['piped'].astype(np.float32) / 255
  u = golden_draws(GOLDEN['pipeline_order'], GOLDEN['pipeline_u'])
  u[:, views.GRAY] = np.where(GOLDEN['pipeline_gray'], 0.1, 0.9)
  u[:, views.SOLARIZE] = np.where(GOLDEN['pipeline_solarize'], 0.1, 0.9)
  u[:, views.SIGMA] = (GOLDEN['pipeline_sigma'] - 0.1) / 1.9
  probabilities = {'jitter_prob': 1.0, 'gray_prob': 0.2, 'blur_prob': 1.0, 'solarize_prob': 0.2}
  out = apply(form, images, u, spec_with(size=24, **probabilities, **JITTER))
  np.testing.assert_allclose(out, GOLDEN['pipeline'], atol=1e-5)


def test_operations_by_hand():
  red, gray, dark = [0.8, 0.2, 0.2], [0.5, 0.5, 0.5], [0.1, 0.3, 0.2]
  image = np.zeros((1, 8, 8, 3), np.float32)
  image[0, :4, :4], image[0, :4, 4:], image[0, 4:, :4] = red, gray, dark  # the rest is black

  def corners(u, **changes):
    out = apply(WHOLE, image, u, spec_with(size=8, jitter_prob=1.0, **changes))[0]
    return np.array([out[0, 0], out[0, 7], out[7, 0], out[7, 7]])

  def check(u, expected, **changes):
    np.testing.assert_allclose(corners(u, **changes), expected, atol=1e-6)

  # delta = 0.4 * (2 * 0.875 - 1) = 0.3, clipped at 1.
  check(
    columns(1, brightness=0.875),
    [[1, 0.5, 0.5], [0.8] * 3, [0.4, 0.6, 0.5], [0.3] * 3],
    brightness=0.4,
  )
  # factor = 1 + 0.4 * (2 * 0.25 - 1) = 0.8 around the channel means 0.35, 0.25, 0.225.
  contrast = 0.8 * np.array([red, gray, dark, [0] * 3]) + 0.2 * np.array([0.35, 0.25, 0.225])
  check(columns(1, contrast=0.25), contrast, contrast=0.4)
  # factor 0 leaves V in every channel; factor 2 reaches S = 1 in both colored corners.
  check(columns(1, saturation=0.0), [[0.8] * 3, gray, [0.3] * 3, [0] * 3], saturation=1.0)
  full = [[0.8, 0, 0], gray, [0, 0.3, 0.15], [0] * 3]
  check(columns(1, saturation=1.0), full, saturation=1.0)
  # A third of the circle (0.5 * (2 * 5 / 6 - 1) = 1 / 3) turns red into green.
  turned = [[0.2, 0.8, 0.2], gray, [0.2, 0.1, 0.3], [0] * 3]
  check(columns(1, hue=5 / 6), turned, hue=0.5)


def test_hue_goes_once_around():
  images = random_images(2, 8)
  spec = spec_with(size=8, jitter_prob=1.0, hue=0.5)
  forth = apply(WHOLE, images, columns(2, hue=1.0), spec)
  back = apply(WHOLE, images, columns(2, hue=0.0), spec)
  np.testing.assert_allclose(forth, back, atol=1e-6)  # +1/2 and -1/2 turn are the same
  np.testing.assert_allclose(apply(WHOLE, forth, columns(2, hue=1.0), spec), images, atol=1e-6)


def test_contrast_of_a_ramp_keeps_its_mean():
  ramp = np.broadcast_to(np.linspace(0.3, 0.7, 16, dtype=np.float32)[:, None], (1, 16, 16, 3))
  spec = spec_with(size=16, jitter_prob=1.0, contrast=0.4)
  out = apply(WHOLE, ramp, columns(1, contrast=1.0), spec)
  np.testing.assert_allclose(out, 0.5 + 1.4 * (ramp - 0.5), atol=1e-6)


@pytest.mark.parametrize(('size', 'radius'), [(8, 0), (32, 1), (96, 4), (128, 6), (224, 11)])
def test_blur_kernel(size, radius):
  assert operators.blur_reach('byol', size, 2.0) == radius
  sigma = np.array([0.1, 0.7, 2.0], np.float32)
  matrix = np.asarray(operators.blur_matrix('byol', jnp.asarray(sigma), size, 2.0))
  sums = matrix.sum(axis=2)
  np.testing.assert_allclose(sums[:, radius : size - radius], 1, atol=1e-6)
  np.testing.assert_array_equal(matrix, np.swapaxes(matrix, 1, 2))
  assert np.count_nonzero(matrix[2, size // 2]) == 2 * radius + 1
  if radius:
    assert sums[2, 0] < 0.9  # zeros outside of the image
    steps = np.arange(-radius, radius + 1)
    kernel = np.exp(-(steps**2) / 8.0)
    row = matrix[2, size // 2, size // 2 - radius : size // 2 + radius + 1]
    np.testing.assert_allclose(row, kernel / kernel.sum(), atol=1e-6)


def test_blur_of_an_impulse_is_the_kernel():
  images = np.zeros((1, 32, 32, 3), np.float32)
  images[0, 16, 10, 1] = 1
  out = apply(
    photometric.photometric, images, columns(1), spec_with(blur_prob=1.0, blur_sigma=(1.0, 1.0))
  )
  side = np.exp(-0.5) / (1 + 2 * np.exp(-0.5))
  kernel = np.array([side, 1 - 2 * side, side])
  np.testing.assert_allclose(out[0, 15:18, 9:12, 1], np.outer(kernel, kernel), atol=1e-6)
  assert np.count_nonzero(out) == 9


# --- probabilities, order, range ------------------------------------------------------------------

OPERATIONS = [
  ('jitter_prob', JITTER),
  ('gray_prob', {}),
  ('blur_prob', {'blur_sigma': (0.5, 2.0)}),  # at 0.1 the blur rounds to nothing
  ('solarize_prob', {}),
]


@pytest.mark.parametrize('form', FORMS)
def test_all_off_is_exactly_the_identity(form):
  images = random_images(4, 32)
  np.testing.assert_array_equal(apply(form, images, draw(4), OFF), images)
  zero = spec_with(jitter_prob=1.0)  # on, but of strength 0
  np.testing.assert_array_equal(apply(form, images, draw(4), zero), images)


@pytest.mark.parametrize(('name', 'strengths'), OPERATIONS)
def test_probabilities(name, strengths):
  images, u = random_images(600, 20), draw(600)
  changed = {}
  for p in (1.0, 0.3):
    out = apply(WHOLE, images, u, spec_with(size=20, **{name: p}, **strengths))
    changed[p] = np.any(out != images, axis=(1, 2, 3)), out
  assert changed[1.0][0].all()
  # Five standard errors; the images left out are bit-equal (`changed`), the others are the same
  # pictures that p = 1 gives.
  on = changed[0.3][0]
  np.testing.assert_array_equal(on, u[:, getattr(views, name[:-5].upper())] < np.float32(0.3))
  assert abs(on.mean() - 0.3) < 5 * np.sqrt(0.21 / 600)
  # Two programs round differently, by one unit in the last place of numbers below 1: 6e-8.
  np.testing.assert_allclose(changed[0.3][1][on], changed[1.0][1][on], rtol=0, atol=3e-7)


def test_every_order_is_equally_likely():
  keys = draw(24000)[:, views.ORDER_BRIGHTNESS : views.ORDER_HUE + 1]
  orders = np.argsort(keys, axis=1) @ np.array([64, 16, 4, 1])
  valid = [np.dot(p, [64, 16, 4, 1]) for p in itertools.permutations(range(4))]
  counts = np.array([np.sum(orders == code) for code in valid])
  assert counts.sum() == len(keys)
  # Chi-square with 23 degrees of freedom: mean 23, deviation 6.8.
  assert np.sum((counts - 1000) ** 2 / 1000) < 23 + 5 * 6.8


@pytest.mark.parametrize('form', FORMS)
def test_output_stays_in_range(form):
  strong = views.ViewSpec(
    size=32, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5, gray_prob=0.2, solarize_prob=0.5
  )
  images = np.concatenate(
    [
      random_images(60, 32),
      np.random.default_rng(1).choice(np.float32([0, 1]), (60, 32, 32, 3)),
      np.broadcast_to(
        np.float32([0, 1e-8, 1, 0.5]).repeat(5)[:, None, None, None], (20, 32, 32, 3)
      ),
    ]
  )
  out = apply(form, images, draw(140), strong)
  assert out.dtype == np.float32
  assert np.isfinite(out).all()
  assert out.min() >= 0
  assert out.max() <= 1


def test_normalize_and_levels():
  images = np.full((1, 2, 2, 3), 0.5, np.float32)
  out = photometric.normalize(images, MEAN, STD)
  np.testing.assert_allclose(out[0, 0, 0], (0.5 - np.array(MEAN)) / np.array(STD), atol=1e-6)
  levels = np.arange(256, dtype=np.uint8)
  unit = photometric.to_unit(levels)
  np.testing.assert_allclose(unit, levels / 255, atol=1e-7)
  np.testing.assert_array_equal(photometric.to_unit(unit), unit)


# --- two forms of the same operations -------------------------------------------------------------


@pytest.mark.parametrize('size', [8, 40])
def test_both_forms_make_the_same_pictures(size):
  spec = views.ViewSpec(size=size, blur_prob=0.5, solarize_prob=0.3, solarize_threshold=0.5)
  images, u = random_images(64, size), draw(64)
  np.testing.assert_allclose(
    apply(ONE, images, u, spec),
    apply(WHOLE, images, u, spec),
    atol=3e-6,
  )


def test_equal_draws_of_the_order_are_resolved_alike():
  u = draw(40)
  rng = np.random.default_rng(1)
  for name in ('BRIGHTNESS', 'CONTRAST', 'SATURATION', 'HUE'):
    u[:, getattr(views, f'ORDER_{name}')] = rng.integers(0, 2, 40) / 2
  images, spec = random_images(40, 8), spec_with(size=8, jitter_prob=1.0, **JITTER)
  np.testing.assert_allclose(
    apply(ONE, images, u, spec),
    apply(WHOLE, images, u, spec),
    atol=3e-6,
  )


def test_the_platform_chooses_the_form():
  spec = views.ViewSpec(size=8, solarize_prob=0.2)
  arguments = random_images(2, 8), draw(2)
  traced = jax.jit(functools.partial(branches.apply, spec=spec)).trace(*arguments)
  for platform, one_by_one in (('cpu', True), ('tpu', False), ('cuda', False)):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ('stablehlo.while' in text) == one_by_one, platform
