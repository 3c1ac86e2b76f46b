"""PSNR and SSIM by hand, and against SciPy in float64 with the formula as scikit-image has it."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from byoljax.evals import image_quality
from byoljax.evals.image_quality import psnr, ssim


def images(seed, shape=(3, 20, 24, 3)):
  return np.random.default_rng(seed).uniform(size=shape)


def scipy_ssim(x, y, width=11):
  """Of one channel [H, W] each, float64."""
  offsets = np.arange(width) - width // 2
  window = np.exp(-0.5 * (offsets / 1.5) ** 2)
  window = np.outer(window, window) / window.sum() ** 2

  def mean(values):
    pad = width // 2
    inside = slice(pad, -pad) if pad else slice(None)
    return scipy.ndimage.correlate(values, window, mode='reflect')[inside, inside]

  mu_x, mu_y = mean(x), mean(y)
  var_x, var_y = mean((x - 0.5) ** 2) - (mu_x - 0.5) ** 2, mean((y - 0.5) ** 2) - (mu_y - 0.5) ** 2
  both = mean((x - 0.5) * (y - 0.5)) - (mu_x - 0.5) * (mu_y - 0.5)
  above = (2 * mu_x * mu_y + 1e-4) * (2 * both + 9e-4)
  return np.mean(above / ((mu_x**2 + mu_y**2 + 1e-4) * (var_x + var_y + 9e-4)))


def test_psnr_by_hand():
  x = jnp.zeros((4, 2, 2, 1))
  y = x.at[1].set(0.1).at[2, 0, 0].set(1.0).at[3].set(1.0)
  # Errors of 0, 0.01, 1/4 and 1.
  np.testing.assert_allclose(psnr(x, y), [100, 20, 10 * np.log10(4), 0], rtol=1e-6, atol=1e-5)
  np.testing.assert_array_equal(psnr(x, y), psnr(y, x))


def test_ssim_by_hand():
  """Constant images have no variance: what is left is the comparison of the means."""
  x, y = jnp.full((1, 16, 16, 3), 0.5), jnp.full((1, 16, 16, 3), 0.25)
  expected = (2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4)
  # Variances are 0 up to rounding of 1e-7, beside c2 = 9e-4.
  np.testing.assert_allclose(ssim(x, y), [expected], rtol=1e-3)
  np.testing.assert_allclose(ssim(x, x), [1.0], rtol=1e-6)
  # Every other pixel the wrong way round: the covariance is minus the variance.
  board = jnp.indices((16, 16)).sum(0)[None, ..., None] % 2 * 1.0
  assert float(ssim(board, 1 - board)[0]) < -0.99


@pytest.mark.parametrize(('side', 'width'), [(20, 11), (11, 11), (10, 9), (8, 7), (1, 1)])
def test_ssim_is_scipys(side, width):
  x = images(0, (3, side, side + 4 * (side > 11), 3))
  y = np.clip(x + 0.2 * np.random.default_rng(1).normal(size=x.shape), 0, 1)
  y[2] = 0.8 * x[2]
  expected = [
    np.mean([scipy_ssim(a[..., c], b[..., c], width) for c in range(3)])
    for a, b in zip(x, y, strict=True)
  ]
  # float32 variances around 0.1 from squares around 0.5, divided by at least 1e-3: 2e-5 seen.
  np.testing.assert_allclose(ssim(jnp.asarray(x), jnp.asarray(y)), expected, atol=1e-4)


def test_each_image_by_itself():
  x, y = (jnp.asarray(images(seed)) for seed in (0, 1))
  for measure in (psnr, ssim):
    whole = measure(x, y)
    assert whole.shape == (3,) and whole.dtype == jnp.float32
    np.testing.assert_allclose(whole[1:2], measure(x[1:2], y[1:2]), rtol=1e-5)


def test_other_shapes_are_refused():
  for measure in (psnr, ssim):
    with pytest.raises(ValueError, match='of one shape'):
      measure(jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 8, 8, 1)))
  with pytest.raises(ValueError, match=r'\[b, H, W, C\]'):
    image_quality.ssim(jnp.zeros((8, 8, 3)), jnp.zeros((8, 8, 3)))
