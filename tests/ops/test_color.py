"""Conversions of color: published values, round trips, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.ops import color

# sRGB's corners in CIE L*a*b* (D65), as published by Bruce Lindbloom's calculator and in tables.
PUBLISHED = {
  (0, 0, 0): (0, 0, 0),
  (1, 1, 1): (100, 0, 0),
  (1, 0, 0): (53.2408, 80.0925, 67.2032),
  (0, 1, 0): (87.7347, -86.1827, 83.1793),
  (0, 0, 1): (32.2970, 79.1875, -107.8602),
  (0, 1, 1): (91.1132, -48.0875, -14.1312),
  (1, 0, 1): (60.3242, 98.2343, -60.8249),
  (1, 1, 0): (97.1393, -21.5537, 94.4780),
  (0.5, 0.5, 0.5): (53.3890, 0, 0),
}


@pytest.mark.parametrize(('rgb', 'lab'), PUBLISHED.items())
def test_published_colors(rgb, lab):
  # Four decimals are published.
  np.testing.assert_allclose(color.rgb_to_lab(jnp.asarray(rgb, jnp.float32)), lab, atol=2e-4)


def test_there_and_back():
  rng = np.random.default_rng(0)
  rgb = rng.random((20_000, 3)).astype(np.float32)
  rgb[:8000] **= 6  # dark: where the curves are lines
  rgb[:500] = np.round(rgb[:500])
  back = jax.jit(lambda x: color.lab_to_rgb(color.rgb_to_lab(x)))(rgb)
  # 6e-6 by two powers and two matrices in float32, five times; a byte is 4e-3.
  np.testing.assert_allclose(back, rgb, rtol=0, atol=3e-5)


def test_grays_have_no_color_and_values_outside_are_clipped():
  gray = np.repeat(np.linspace(0, 1, 50, dtype=np.float32)[:, None], 3, 1)
  lab = color.rgb_to_lab(gray)
  # 500 times the difference of two numbers near 1, each rounded by 6e-8 or twice that.
  np.testing.assert_allclose(lab[:, 1:], 0, atol=2e-4)
  assert np.all(np.diff(lab[:, 0]) > 0)
  np.testing.assert_array_equal(color.rgb_to_lab(jnp.asarray([-0.1, 0.5, 1.1])),
                                color.rgb_to_lab(jnp.asarray([0.0, 0.5, 1.0])))  # fmt: skip
  assert color.lab_to_rgb(jnp.asarray([50.0, 120.0, -120.0])).max() <= 1


def test_gradients_are_finite_at_black_and_of_grays():
  for level in (0.0, 0.5, 1.0):
    gradient = jax.grad(lambda x: color.rgb_to_lab(x).sum())(jnp.full(3, level))
    assert np.all(np.isfinite(gradient)) and np.abs(gradient).max() > 0
  gradient = jax.grad(lambda x: color.lab_to_rgb(x).sum())(jnp.asarray([1.0, 0.5, 0.5]))
  assert np.all(np.isfinite(gradient)) and np.abs(gradient).max() > 0


def test_luma():
  np.testing.assert_allclose(color.luma(jnp.eye(3)), [[0.299], [0.587], [0.114]], rtol=1e-6)
