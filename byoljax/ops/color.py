"""sRGB and CIE L*a*b*, both ways, in float32.

IEC 61966-2-1 for sRGB (its matrix for primaries and white D65 to seven digits, as Lindbloom gives
it) and CIE 15 for L*a*b* with the same white, so that grays have a = b = 0 up to rounding. L is in
[0, 100]; of the colors of sRGB, a is in [-86.2, 98.3] and b in [-107.9, 94.5].

    black (0, 0, 0), white (100, 0, 0), red (53.24, 80.09, 67.20), green (87.73, -86.18, 83.18),
    blue (32.30, 79.19, -107.86)
"""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

_RGB_TO_XYZ = np.array(
  [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
  ]
)
_WHITE = _RGB_TO_XYZ.sum(1)
# Divided by the white, so that white is (1, 1, 1) in between.
_TO_RELATIVE = _RGB_TO_XYZ / _WHITE[:, None]
_TO_LINEAR = np.linalg.inv(_TO_RELATIVE)
_EPSILON, _KAPPA = 216 / 24389, 24389 / 27  # CIE's exact (6/29)^3 and (29/3)^3
# Luma of ITU-R BT.601, of gamma-compressed RGB.
LUMA = (0.299, 0.587, 0.114)


def luma(rgb: jax.Array) -> jax.Array:
  """0.299 R + 0.587 G + 0.114 B: [..., 3] -> [..., 1]."""
  return (LUMA[0] * rgb[..., :1] + LUMA[1] * rgb[..., 1:2]) + LUMA[2] * rgb[..., 2:]


def rgb_to_lab(rgb: jax.Array) -> jax.Array:
  """sRGB in [0, 1] -> CIE L*a*b*, float32 [..., 3]; values outside are clipped."""
  rgb = jnp.clip(rgb.astype(jnp.float32), 0.0, 1.0)
  f = _compress(_product(_decode(rgb), _TO_RELATIVE))
  x, y, z = f[..., 0], f[..., 1], f[..., 2]
  return jnp.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)], axis=-1)


def lab_to_rgb(lab: jax.Array) -> jax.Array:
  """CIE L*a*b* -> sRGB, float32 [..., 3]; colors outside of sRGB are clipped to [0, 1]."""
  lab = lab.astype(jnp.float32)
  y = (lab[..., 0] + 16.0) / 116.0
  f = jnp.stack([y + lab[..., 1] / 500.0, y, y - lab[..., 2] / 200.0], axis=-1)
  return jnp.clip(_encode(_product(_expand(f), _TO_LINEAR)), 0.0, 1.0)


def _product(x: jax.Array, matrix: np.ndarray) -> jax.Array:
  """matrix @ x over the last axis; highest precision, for bfloat16 would shift colors."""
  return jnp.matmul(x, matrix.T.astype(np.float32), precision=lax.Precision.HIGHEST)


# Both branches of every curve are computed: the arguments of the powers are kept in their own
# range, so that gradients are finite everywhere.
def _decode(x: jax.Array) -> jax.Array:
  """Gamma-compressed to linear light."""
  power = ((jnp.maximum(x, 0.04045) + 0.055) / 1.055) ** 2.4
  return jnp.where(x <= 0.04045, x / 12.92, power)


def _encode(x: jax.Array) -> jax.Array:
  power = 1.055 * jnp.maximum(x, 0.0031308) ** (1 / 2.4) - 0.055
  return jnp.where(x <= 0.0031308, 12.92 * x, power)


def _compress(x: jax.Array) -> jax.Array:
  """CIE's f: the cube root, and a line near black."""
  return jnp.where(x > _EPSILON, jnp.cbrt(jnp.maximum(x, _EPSILON)), (_KAPPA * x + 16) / 116)


def _expand(f: jax.Array) -> jax.Array:
  cube = f * f * f
  return jnp.where(cube > _EPSILON, cube, (116 * f - 16) / _KAPPA)
