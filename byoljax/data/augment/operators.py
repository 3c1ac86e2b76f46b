"""The photometric operators that published code uses, of planes [..., S, S], one per channel.

Three families, of which a view names one (`ViewSpec.operators`):

  byol         the authors' code (arXiv 2006.07733, appendix B): brightness is added, contrast
               stretches around each channel's mean, saturation scales S of HSV
  simclr_v2    TensorFlow's, as in SimCLR's code since v2: as byol, but brightness is multiplied
  torchvision  Pillow's, of all PyTorch code: brightness is multiplied, contrast stretches around
               the mean gray value, saturation blends with gray

All turn the hue in HSV and clip to [0, 1] after every operator. The blur of the first two is a
Gaussian cut off at a twentieth of the image on either side, with zeros around the image, so that
the border darkens and images below 20 pixels are not blurred; Pillow's is three extended box
filters (Gwosdek et al. 2011) that see the border's pixels repeated, of a reach that follows sigma.

Pillow rounds every operator to 8 bits; here nothing is rounded.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Planes = Sequence[Any]
Change = Callable[[Planes, Any], list[Any]]
"""(planes, d) -> planes in [0, 1], changed by d in [-strength, strength], which broadcasts."""

# Below this chroma a pixel is gray: keeps the reciprocal finite.
_MIN_CHROMA = 1e-20


class Operators(NamedTuple):
  """A family.

  Attributes:
    brightness: one of the operators of the jitter, which are applied in any order.
    contrast: another.
    saturation: another.
    hue: another; d is in turns.
    luma: weights of red, green and blue in a gray value.
    adding: whether brightness is added.
    blending: whether brightness, contrast and saturation blend with a darker or grayer image.
    box_blur: whether the blur is Pillow's.
  """

  brightness: Change
  contrast: Change
  saturation: Change
  hue: Change
  luma: tuple[float, float, float]
  adding: bool = False
  blending: bool = False
  box_blur: bool = False


def luma(planes: Planes, weights: Sequence[float]) -> Any:
  """The gray value of three planes, any shape."""
  return weights[0] * planes[0] + weights[1] * planes[1] + weights[2] * planes[2]


def mean(plane: Any) -> Any:
  """Over height and width, which are kept as axes of 1."""
  return jnp.mean(plane, axis=(-2, -1), keepdims=True)


def _clipped(planes: Planes) -> list[Any]:
  return [jnp.clip(plane, 0.0, 1.0) for plane in planes]


def _add_brightness(planes: Planes, d: Any) -> list[Any]:
  return _clipped([plane + d for plane in planes])


def _multiply_brightness(planes: Planes, d: Any) -> list[Any]:
  return _clipped([plane * (1.0 + d) for plane in planes])


def _contrast_by_channel(planes: Planes, d: Any) -> list[Any]:
  return _clipped([plane * (1.0 + d) + mean(plane) * -d for plane in planes])


def _contrast_of_gray(planes: Planes, d: Any) -> list[Any]:
  shift = mean(gray(planes)) * -d
  return _clipped([plane * (1.0 + d) + shift for plane in planes])


def _saturation_of_hsv(planes: Planes, d: Any) -> list[Any]:
  return color(planes, 1.0 + d, None)


def _saturation_of_gray(planes: Planes, d: Any) -> list[Any]:
  shift = gray(planes) * -d
  return _clipped([plane * (1.0 + d) + shift for plane in planes])


def gray(planes: Planes) -> Any:
  """Pillow's gray value; for contrast in images that are not RGB the mean of their channels."""
  if len(planes) == 3:
    return luma(planes, PIL_LUMA)
  return sum(planes) / len(planes)


def _turn_hue(planes: Planes, d: Any) -> list[Any]:
  return color(planes, None, 6.0 * d)


# ITU-R BT.601, as TensorFlow and as Pillow write it.
TF_LUMA = (0.2989, 0.5870, 0.1140)
PIL_LUMA = (0.299, 0.587, 0.114)
FAMILIES: dict[str, Operators] = {
  'byol': Operators(
    _add_brightness, _contrast_by_channel, _saturation_of_hsv, _turn_hue, TF_LUMA, adding=True
  ),
  'simclr_v2': Operators(
    _multiply_brightness, _contrast_by_channel, _saturation_of_hsv, _turn_hue, TF_LUMA
  ),
  'torchvision': Operators(
    _multiply_brightness, _contrast_of_gray, _saturation_of_gray, _turn_hue, PIL_LUMA,
    blending=True, box_blur=True,
  ),
}  # fmt: skip


def color(planes: Planes, factor: Any, turn: Any) -> list[Any]:
  """Scales the HSV saturation by `factor` (clipped at 1), turns the hue by `turn` sextants.

  `planes` are red, green and blue in [0, 1], of any one shape; `factor` >= 0 and `turn` >= -6
  broadcast against them, and None leaves saturation or hue as it is.

  With V the largest and C the largest minus the smallest channel, S = C / V, so scaling S is
  scaling C by min(factor, V / C). The channels of hue h in [0, 6) are V - C + C * ramp(h).
  """
  value, chroma, inverse = _value_and_chroma(planes)
  ratio = 1.0 if factor is None else jnp.minimum(factor, value * inverse)
  if turn is None:
    return [value - (value - plane) * ratio for plane in planes]
  return from_hue(_hue(planes, inverse) + turn, chroma * ratio, value)


def to_hue(planes: Planes) -> tuple[Any, Any, Any]:
  """Hue in sextants [-1, 5], 0 where there is none; chroma and value, both in [0, 1].

  `planes` are red, green and blue in [0, 1], of any one shape. The HSV saturation is chroma over
  value.
  """
  value, chroma, inverse = _value_and_chroma(planes)
  return _hue(planes, inverse), chroma, value


def from_hue(hue: Any, chroma: Any, value: Any) -> list[Any]:
  """Red, green and blue of a hue in sextants, of any turn, a chroma and a value."""
  hue = hue - 6.0 * jnp.floor(hue * (1 / 6))
  low = value - chroma
  ramps = (jnp.abs(hue - 3.0) - 1.0, 2.0 - jnp.abs(hue - 2.0), 2.0 - jnp.abs(hue - 4.0))
  return [low + chroma * jnp.clip(ramp, 0.0, 1.0) for ramp in ramps]


def _value_and_chroma(planes: Planes) -> tuple[Any, Any, Any]:
  r, g, b = planes
  value = jnp.maximum(jnp.maximum(r, g), b)
  chroma = value - jnp.minimum(jnp.minimum(r, g), b)
  return value, chroma, 1.0 / jnp.maximum(chroma, _MIN_CHROMA)


def _hue(planes: Planes, inverse: Any) -> Any:
  r, g, b = planes
  # Not by `value == r`: a compiler may compute r twice, and round it differently.
  return jnp.where(
    (r >= g) & (r >= b),
    (g - b) * inverse,
    jnp.where(g >= b, (b - r) * inverse + 2.0, (r - g) * inverse + 4.0),
  )


def blur_reach(family: str, size: int, largest_sigma: float) -> int:
  """Pixels to either side that a blurred pixel depends on; 0: images of this size are not blurred.

  Of byol and simclr_v2 11 at 224, 4 at 96, 1 at 32; of Pillow's three times that of its boxes.
  """
  if not FAMILIES[family].box_blur:
    return int(size / 10 / 2)
  return 3 * _box_taps(largest_sigma)


def blur_matrix(family: str, sigma: jax.Array, size: int, largest_sigma: float) -> jax.Array:
  """Matrix M of a one-dimensional blur: M @ plane @ M^T blurs rows and columns.

  A matrix product costs more arithmetic than shifted sums, but XLA fuses those with all that comes
  before and computes the jitter once per tap: on a CPU they are twice to four times slower.

  Args:
    family: a key of FAMILIES.
    sigma: standard deviation in pixels, float32 [b].
    size: side of the image in pixels.
    largest_sigma: no sigma is larger.

  Returns:
    float32 [b, size, size]; symmetric but for Pillow's.
  """
  reach = blur_reach(family, size, largest_sigma)
  make = _box_matrix if FAMILIES[family].box_blur else _gaussian_matrix
  return make(sigma, size, reach)


def _gaussian_matrix(sigma: jax.Array, size: int, reach: int) -> jax.Array:
  """M[i, j] = g(i - j) / sum_k g(k), g(k) = exp(-k^2 / (2 sigma^2)) for |k| <= reach, else 0."""
  rate = -0.5 / (sigma * sigma)
  taps = np.arange(-reach, reach + 1, dtype=np.float32)[None]
  total = jnp.sum(jnp.exp(rate[:, None] * (taps * taps)), axis=1)
  steps = np.arange(size, dtype=np.float32)
  steps = (steps[:, None] - steps)[None]
  weights = jnp.exp(rate[:, None, None] * (steps * steps)) / total[:, None, None]
  return jnp.where(np.abs(steps) <= reach, weights, 0.0)


def _box_taps(sigma: float) -> int:
  return math.floor((math.sqrt(4 * sigma * sigma + 1) - 1) / 2) + 1


def _box_matrix(sigma: jax.Array, size: int, reach: int) -> jax.Array:
  """The third power of Pillow's box filter of the same variance, borders repeated.

  Of an image with more than 2 reach + 1 pixels the rows near the ends are those of the shortest one
  in which the ends do not meet, and all others are its middle one, shifted: the third power of a
  small matrix is enough.
  """
  short = min(size, 2 * reach + 1)
  small = _box_filter(sigma, short)
  small = jnp.matmul(small, jnp.matmul(small, small))
  if short == size:
    return small
  place = np.arange(size)
  row = np.where(place < reach, place, np.where(place >= size - reach, place - size + short, reach))
  column = row[:, None] + place[None, :] - place[:, None]
  inside = (column >= 0) & (column < short)
  taken = small[:, row[:, None], np.where(inside, column, 0)]
  return jnp.where(inside[None], taken, 0.0)


def _box_filter(sigma: jax.Array, size: int) -> jax.Array:
  """One box filter of radius r, w(k) = clip(r + 1 - |k|, 0, 1) / (2 r + 1), [b, size, size].

  Its fractional radius makes three of them have the variance sigma^2 (Gwosdek et al. 2011).
  """
  third = sigma * sigma / 3.0
  whole = jnp.floor((jnp.sqrt(12.0 * third + 1.0) - 1.0) / 2.0)
  part = (2 * whole + 1) * (whole * (whole + 1) - 3 * third) / (6 * (third - (whole + 1) ** 2))
  radius = (whole + part)[:, None, None]
  # The filter at pixel i, of all pixels before k + 1/2 - i: the sum of its weights up to there.
  edges = np.arange(size + 1, dtype=np.float32) - 0.5
  edges[0], edges[-1] = -1e6, 1e6  # The border's pixels are repeated beyond it.
  steps = (edges[None, :] - np.arange(size, dtype=np.float32)[:, None])[None]
  below = jnp.clip(steps + radius + 0.5, 0.0, 2 * radius + 1) / (2 * radius + 1)
  return below[:, :, 1:] - below[:, :, :-1]
