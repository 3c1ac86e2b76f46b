"""The families of operators, against torchvision, Pillow, TensorFlow and float64.

tests/golden/make_operators.py made the golden file and says what is compared with what.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.augment import branches, operators, photometric, resize, views
from tests.data.augment.test_augment import JITTER, columns, draw, golden_draws, spec_with
from tests.paths import GOLDEN

GOLDEN = np.load(GOLDEN / 'operators.npz')
FORMS = [photometric.photometric, branches.one_by_one]
LEVEL = 1 / 255


def apply(form, images, u, spec):
  return np.asarray(jax.jit(functools.partial(form, spec=spec))(images, u))


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize(
  ('family', 'golden', 'tolerance'),
  [
    ('torchvision', 'jitter_exact', 1e-5),
    ('torchvision', 'jitter', 2.5e-4),
    ('simclr_v2', 'simclr_v2', 1e-5),
  ],
)
def test_all_24_orders(form, family, golden, tolerance):
  images = GOLDEN['jittered'].astype(np.float32) / 255
  u = golden_draws(GOLDEN['jitter_order'], GOLDEN['jitter_u'])
  assert len({tuple(order) for order in GOLDEN['jitter_order']}) == 24
  spec = spec_with(size=8, operators=family, jitter_prob=1.0, **JITTER)
  np.testing.assert_allclose(apply(form, images, u, spec), GOLDEN[golden], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
  ('name', 'levels', 'rms'),
  [
    ('brightness', 1.0, 0.6),
    # Half a level more, times |1 - f|: of the mean, of the gray value.
    ('contrast', 1.25, 0.6),
    ('saturation', 1.35, 0.6),
    # Six sectors of 42 or 43 hues each: a hue that is half a step off moves a channel by 3 levels.
    ('hue', 16, 2),
  ],
)
def test_single_operators_are_pillows_to_its_truncation(name, levels, rms):
  images = GOLDEN['jittered'].astype(np.float32) / 255
  u = golden_draws(GOLDEN['jitter_order'], GOLDEN['jitter_u'])
  spec = spec_with(size=8, operators='torchvision', jitter_prob=1.0, **{name: JITTER[name]})
  error = 255 * apply(FORMS[0], images, u, spec) - GOLDEN[f'pil_{name}']
  assert np.abs(error).max() < levels + 1e-3 and np.sqrt(np.mean(error**2)) < rms


def test_gray_is_pillows():
  images = GOLDEN['jittered'].astype(np.float32) / 255
  spec = spec_with(size=8, operators='torchvision', gray_prob=1.0)
  out = apply(FORMS[0], images, columns(len(images)), spec)
  np.testing.assert_allclose(out[..., 0], GOLDEN['pil_gray'] / 255, rtol=0, atol=0.51 * LEVEL)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('size', [8, 32])
def test_the_blur_is_pillows_at_the_border_too(form, size):
  for sigma, expected in zip(GOLDEN['sigmas'], GOLDEN[f'pil_blur_{size}'], strict=True):
    spec = spec_with(size=size, operators='torchvision', blur_prob=1.0, blur_sigma=(0.1, 2.0))
    u = columns(1, sigma=(sigma - 0.1) / 1.9)
    out = apply(form, GOLDEN[f'sharp_{size}'].astype(np.float32) / 255, u, spec)
    # Pillow rounds six times, by half a level at most.
    error = 255 * out[0] - expected
    assert np.abs(error).max() < 3 and np.sqrt(np.mean(error**2)) < (1.2 if sigma < 0.5 else 0.6)


def test_the_box_filter_has_the_variance_and_keeps_constants():
  sigma = np.array([0.1, 0.7, 1.2, 2.0], np.float32)
  matrix = np.asarray(operators.blur_matrix('torchvision', jnp.asarray(sigma), 40, 2.0), np.float64)
  np.testing.assert_allclose(matrix.sum(2), 1, atol=1e-6)
  steps = np.arange(40) - 20
  np.testing.assert_allclose(matrix[:, 20] @ steps**2, sigma**2, rtol=1e-4)
  reach = operators.blur_reach('torchvision', 40, 2.0)
  assert reach == 6 and not matrix[:, 20, : 20 - reach].any() and matrix[-1, 20, 20 - reach] > 0
  # The rows near both ends mirror each other.
  np.testing.assert_allclose(matrix, matrix[:, ::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize('kernel', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('size', [16, 34])
def test_crops_are_pillows(kernel, size):
  boxes = GOLDEN['boxes'].astype(np.int32)
  images = np.repeat(GOLDEN['whole'], len(boxes), 0)
  golden = GOLDEN[f'crop_{kernel}_{size}'] / 255
  made = {
    'numpy': resize.resample(np, images, boxes, None, size, f'pil_{kernel}'),
    'jax': resize.resample(jnp, images, boxes, None, size, f'pil_{kernel}'),
  }
  for out in made.values():
    error = np.abs(np.asarray(out) - golden)
    assert error.max() < {'bilinear': 1.01, 'bicubic': 4.01}[kernel] * LEVEL
    assert np.sqrt(np.mean(error**2)) < 0.5 * LEVEL


@pytest.mark.parametrize('kernel', ['tf1_bicubic', 'pil_bilinear', 'pil_bicubic'])
def test_files_are_resized_as_arrays_are(kernel):
  """TensorFlow's own operators, which decode and crop files, make the same pictures."""
  tf = pytest.importorskip('tensorflow')
  from byoljax.data.batches import decode

  boxes, size = GOLDEN['boxes'].astype(np.int32), 24
  images = np.repeat(GOLDEN['whole'], len(boxes), 0)
  flips = np.array([False, True, False, True])
  out = resize.resample(np, images, boxes, flips, size, kernel)
  for image, (y, x, h, w), flip, found in zip(images, boxes, flips, out, strict=True):
    cut = image[y : y + h, x : x + w]
    expected = decode._resized(tf, tf.constant(cut), size, kernel, tf.constant(flip)).numpy() / 255
    # Levels round apart where the sums are summed in another order, and TF 1's positions on
    # its grid of 1/1024 pixel, which they compute in float32.
    error = np.abs(found - expected)
    assert error.max() < 1.01 * LEVEL and (error > 0.5 * LEVEL).mean() < 0.02
  xp = tf.experimental.numpy
  small = resize.resample(xp, tf.constant(images), boxes, flips, size, kernel).numpy()
  np.testing.assert_allclose(small, out, rtol=0, atol=1.01 * LEVEL)
  assert (np.abs(small - out) > 0.5 * LEVEL).mean() < 0.01


@pytest.mark.parametrize('family', sorted(operators.FAMILIES))
def test_both_forms_make_the_same_pictures(family):
  spec = views.ViewSpec(
    size=24, operators=family, blur_prob=0.5, solarize_prob=0.3, brightness=0.8, contrast=0.8,
    saturation=0.8, hue=0.2,
  )  # fmt: skip
  images, u = np.random.default_rng(0).random((64, 24, 24, 3), np.float32), draw(64)
  u[:20, views.ORDER_BRIGHTNESS : views.ORDER_HUE + 1] = (
    np.random.default_rng(1).integers(0, 2, (20, 4)) / 2  # equal draws, too
  )
  found = [apply(form, images, u, spec) for form in FORMS]
  np.testing.assert_allclose(*found, atol=3e-6)
  assert found[0].min() >= 0 and found[0].max() <= 1


def test_multiplied_brightness_saturates_less():
  """At strength .8, on uniform values: a tenth and more of all values less than added ones."""
  images = np.random.default_rng(0).random((256, 8, 8, 3), np.float32)
  share = {}
  for family in operators.FAMILIES:
    spec = spec_with(size=8, operators=family, jitter_prob=1.0, brightness=0.8)
    out = apply(FORMS[0], images, draw(256), spec)
    share[family] = np.mean((out == 0) | (out == 1))
  assert share['byol'] == pytest.approx(0.4, abs=0.05)
  assert share['torchvision'] == share['simclr_v2'] == pytest.approx(0.13, abs=0.03)


def test_channels_other_than_three():
  images = np.random.default_rng(0).random((2, 8, 8, 5), np.float32)
  spec = spec_with(size=8, operators='torchvision', jitter_prob=1.0, contrast=0.4)
  for form in FORMS:
    out = apply(form, images, columns(2, contrast=1.0), spec)
    mean = images.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(out, np.clip(1.4 * images - 0.4 * mean, 0, 1), atol=1e-6)


def test_mistakes():
  with pytest.raises(ValueError, match="unknown operators 'torchvison'.*did you mean 'torchvis"):
    views.ViewSpec(operators='torchvison')
  with pytest.raises(ValueError, match="resize is 'bilinear', but byol resizes by bicubic"):
    views.ViewSpec(resize='bilinear')
