"""How close an image is to another: PSNR and SSIM, one number an image.

    PSNR = 10 log10(1 / MSE)   in decibels, of values in [0, 1]
    SSIM = (2 mu_x mu_y + c1)(2 s_xy + c2) / ((mu_x^2 + mu_y^2 + c1)(s_x^2 + s_y^2 + c2))

SSIM is that of Wang, Bovik, Sheikh and Simoncelli 2004 ("Image quality assessment: from error
visibility to structural similarity"), equation 13, with their constants: moments under a Gaussian
window of 11 x 11 pixels with sigma 1.5, c1 = 0.01^2, c2 = 0.03^2, and the mean over all windows
that lie inside of the image. As scikit-image computes it with `gaussian_weights=True, sigma=1.5,
use_sample_covariance=False, data_range=1`.

Different from the paper, which is about gray images: channels are averaged; an image with a side of
less than 11 pixels has the largest odd window that fits it.
"""

import jax
import jax.numpy as jnp
import numpy as np

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
# Equal images have 100 dB and not infinity, which no mean and no curve could take.
LEAST_ERROR = 1e-10


def psnr(x: jax.Array, y: jax.Array) -> jax.Array:
  """Peak signal-to-noise ratio of each image, float32 [b], in decibels; at most 100.

  Args:
    x: [b, H, W, C], values in [0, 1].
    y: of the same shape; the ratio is symmetric.

  Raises:
    ValueError: other shapes.

  Examples:
    >>> x = jnp.zeros((1, 2, 2, 3))
    >>> print(psnr(x, x + 0.1), psnr(x, x))
    [20.] [100.]
  """
  x, y = _checked('psnr', x, y)
  return -10.0 * jnp.log10(jnp.maximum(jnp.square(x - y).mean((1, 2, 3)), LEAST_ERROR))


def ssim(x: jax.Array, y: jax.Array) -> jax.Array:
  """Structural similarity of each image, float32 [b] in [-1, 1]; 1 for equal ones.

  Arguments and errors as for `psnr`.
  """
  x, y = _checked('ssim', x, y)
  rows, columns = (_averaging(side) for side in x.shape[1:3])

  def mean(values: jax.Array) -> jax.Array:
    # Variances are differences of large numbers: no shortened products.
    return jnp.einsum('yi,xj,bijc->byxc', rows, columns, values, precision='highest')

  mu_x, mu_y = mean(x), mean(y)
  var_x, var_y = mean(x * x) - mu_x * mu_x, mean(y * y) - mu_y * mu_y
  both = mean(x * y) - mu_x * mu_y
  above = (2.0 * mu_x * mu_y + C1) * (2.0 * both + C2)
  below = (mu_x * mu_x + mu_y * mu_y + C1) * (var_x + var_y + C2)
  return (above / below).mean((1, 2, 3))


def _averaging(side: int) -> np.ndarray:
  """The window at every place along a side: float32 [places, side], rows that sum to 1."""
  width = min(WINDOW, side - (side + 1) % 2)
  offsets = np.arange(width) - width // 2
  weights = np.exp(-0.5 * np.square(offsets / SIGMA))
  matrix = np.zeros((side - width + 1, side))
  for place in range(len(matrix)):
    matrix[place, place : place + width] = weights / weights.sum()
  return matrix.astype(np.float32)


def _checked(name: str, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
  if x.ndim != 4 or x.shape != y.shape:
    raise ValueError(f'{name} compares images of one shape [b, H, W, C], got {x.shape}, {y.shape}.')
  return x.astype(jnp.float32), y.astype(jnp.float32)
