"""Photometric augmentation of whole batches: color jitter, gray, blur, solarize, normalize.

Operators and order follow the BYOL authors' code (arXiv 2006.07733, appendix B): brightness is
additive, contrast stretches around each channel's mean, saturation and hue act in HSV, each of the
four is clipped to [0, 1], and they are applied in a random order per image. torchvision's jitter is
another one: multiplicative brightness, contrast around the mean gray value, saturation by blending
with gray.

The form is chosen for compilers without per-image branches. Saturation and hue change different HSV
coordinates and never leave [0, 1], so neighbors among them commute: any order of the four is one
sequence "color, affine, color, affine, color", where the two affine steps are brightness and
contrast in either order, and saturation and hue act in one of the three color steps and are the
identity in the others. This is exact and costs three color steps and two means, where four slots
with four operations each would cost four times as much. An operation whose probability or strength
is 0 is absent from the graph. `branches` has the form for CPUs, which do have branches.

Images are handled as planes [b, S, S], one per channel, because a minor axis of three wastes vector
lanes.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byoljax.data.augment import views

# ITU-R BT.601 luma, as in tf.image.rgb_to_grayscale.
_LUMA = (0.2989, 0.5870, 0.1140)
# Below this chroma a pixel is gray: keeps the reciprocal finite.
_MIN_CHROMA = 1e-20


def photometric(images: jax.Array, u: jax.Array, spec: views.ViewSpec) -> jax.Array:
  """Jitter in random order, gray, blur, solarize; each with its own probability per image.

  An image that an operation leaves out keeps its exact values.

  Args:
    images: float32 [b, S, S, C] in [0, 1], with S = spec.size.
    u: float32 [b, NUM_DRAWS] in [0, 1).
    spec: probabilities and strengths.

  Returns:
    float32 [b, S, S, C] in [0, 1].

  Raises:
    ValueError: gray, saturation or hue for images that are not RGB.
  """
  channels = images.shape[-1]
  views.check_channels(spec, channels)
  planes = [images[..., channel] for channel in range(channels)]
  if spec.jitter_prob > 0:
    planes = _chosen(u[:, views.JITTER], spec.jitter_prob, _jitter(planes, u, spec), planes)
  if spec.gray_prob > 0:
    planes = _chosen(u[:, views.GRAY], spec.gray_prob, [luma(planes)] * 3, planes)
  if spec.blur_prob > 0 and blur_radius(spec.size) > 0:
    low, high = spec.blur_sigma
    matrix = blur_matrix(low + u[:, views.SIGMA] * (high - low), spec.size)
    blurred = [jnp.matmul(jnp.matmul(matrix, plane), matrix) for plane in planes]
    planes = _chosen(u[:, views.BLUR], spec.blur_prob, blurred, planes)
  if spec.solarize_prob > 0:
    inverted = [jnp.where(plane < spec.solarize_threshold, plane, 1.0 - plane) for plane in planes]
    planes = _chosen(u[:, views.SOLARIZE], spec.solarize_prob, inverted, planes)
  return jnp.clip(jnp.stack(planes, axis=-1), 0.0, 1.0)


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
  """(images - mean) / std per channel.

  Args:
    images: float32 [b, H, W, C] in [0, 1].
    mean: C numbers, or one for all channels.
    std: C positive numbers, or one for all channels.

  Raises:
    ValueError: another number of them.
  """
  channels = images.shape[-1]
  if not {len(mean), len(std)} <= {1, channels}:
    raise ValueError(
      f'the images have {channels} channels, but mean has {len(mean)} and std {len(std)} numbers: '
      'give one for each channel, or a single one for all.'
    )
  shift, scale = (np.asarray(x, np.float32).reshape(1, 1, 1, -1) for x in (mean, std))
  shift, scale = (np.broadcast_to(x, (1, 1, 1, channels)) for x in (shift, scale))
  return (images - shift) * (1 / scale)


def to_unit(images: Any) -> jax.Array:
  """Images as float32 in [0, 1]: uint8 is divided by 255, floats are taken to be there already."""
  if images.dtype == np.uint8:
    return jnp.asarray(images, np.float32) * np.float32(1 / 255)
  return jnp.asarray(images, np.float32)


def blur_radius(size: int) -> int:
  """Radius of the blur's kernel for an image of `size` pixels: 11 at 224, 4 at 96, 1 at 32."""
  return int(size / 10 / 2)


def blur_matrix(sigma: jax.Array, size: int) -> jax.Array:
  """Matrix M of a one-dimensional Gaussian blur; M @ plane @ M blurs rows and columns.

  M[i, j] = g(i - j) / sum_k g(k), g(k) = exp(-k^2 / (2 sigma^2)) for |k| <= blur_radius(size), else
  0. Outside of the image there are zeros, so the border darkens, as in the authors' code. A
  matrix product costs more arithmetic than shifted sums, but XLA fuses those with all that comes
  before and computes the jitter once per tap: on a CPU they are twice to four times slower.

  Args:
    sigma: standard deviation in pixels, float32 [b].
    size: side of the image in pixels.

  Returns:
    float32 [b, size, size], symmetric.
  """
  radius = blur_radius(size)
  rate = -0.5 / (sigma * sigma)
  taps = np.arange(-radius, radius + 1, dtype=np.float32)[None]
  total = jnp.sum(jnp.exp(rate[:, None] * (taps * taps)), axis=1)
  steps = np.arange(size, dtype=np.float32)
  steps = (steps[:, None] - steps)[None]
  weights = jnp.exp(rate[:, None, None] * (steps * steps)) / total[:, None, None]
  return jnp.where(np.abs(steps) <= radius, weights, 0.0)


def _chosen(draw, probability, yes, no):
  """Elementwise over two lists: `yes` where draw < probability, else `no`."""
  if probability >= 1:
    return yes
  on = (draw < probability)[:, None, None]
  return [jnp.where(on, a, b) for a, b in zip(yes, no, strict=True)]


def _symmetric(draw, strength):
  return ((2.0 * draw - 1.0) * strength)[:, None, None]


def _jitter(planes, u, spec):
  affine = []
  if spec.brightness > 0:
    delta = _symmetric(u[:, views.BRIGHTNESS], spec.brightness)
    affine.append((u[:, views.ORDER_BRIGHTNESS], lambda _: (1.0, delta)))
  if spec.contrast > 0:
    factor = 1.0 + _symmetric(u[:, views.CONTRAST], spec.contrast)
    affine.append((u[:, views.ORDER_CONTRAST], lambda mean: (factor, mean * (1.0 - factor))))
  color = _color_steps(u, spec, [order for order, _ in affine])
  planes = color(planes, 0)
  if len(affine) == 1:
    ((_, operation),) = affine
    planes = color([_affine(plane, operation) for plane in planes], 1)
  elif affine:
    (order_a, a), (order_b, b) = affine
    a_first = (order_a < order_b)[:, None, None]
    for step, first in enumerate((a, b)):
      second = b if first is a else a
      planes = [_either(plane, a_first, first, second) for plane in planes]
      planes = color(planes, step + 1)
  return planes


def _affine(plane, operation):
  scale, shift = operation(jnp.mean(plane, axis=(1, 2), keepdims=True))
  return jnp.clip(plane * scale + shift, 0.0, 1.0)


def _either(plane, condition, yes, no):
  def operation(mean):
    pairs = zip(yes(mean), no(mean), strict=True)
    return tuple(jnp.where(condition, a, b) for a, b in pairs)

  return _affine(plane, operation)


def _color_steps(u, spec, affine_orders):
  """Returns apply(planes, step): the share of saturation and hue that falls into that step."""

  def share(order, drawn, identity, step):
    if not affine_orders:
      return drawn
    before = sum((affine < order).astype(np.float32) for affine in affine_orders)
    return jnp.where((before == step)[:, None, None], drawn, identity)

  def apply(planes, step):
    factor = turn = None
    if spec.saturation > 0:
      factor = 1.0 + _symmetric(u[:, views.SATURATION], spec.saturation)
      factor = share(u[:, views.ORDER_SATURATION], factor, 1.0, step)
    if spec.hue > 0:
      turn = _symmetric(u[:, views.HUE], 6.0 * spec.hue)
      turn = share(u[:, views.ORDER_HUE], turn, 0.0, step)
    return planes if factor is None and turn is None else color(planes, factor, turn)

  return apply


def color(planes: Sequence[Any], factor: Any, turn: Any) -> list[Any]:
  """Scales the HSV saturation by `factor` (clipped at 1), turns the hue by `turn` sextants.

  `planes` are red, green and blue in [0, 1], of any one shape; `factor` >= 0 and `turn` >= -6
  broadcast against them, and None leaves saturation or hue as it is.

  With V the largest and C the largest minus the smallest channel, S = C / V, so scaling S is
  scaling C by min(factor, V / C). The channels of hue h in [0, 6) are V - C + C * ramp(h).
  """
  r, g, b = planes
  value = jnp.maximum(jnp.maximum(r, g), b)
  chroma = value - jnp.minimum(jnp.minimum(r, g), b)
  inverse = 1.0 / jnp.maximum(chroma, _MIN_CHROMA)
  ratio = 1.0 if factor is None else jnp.minimum(factor, value * inverse)
  if turn is None:
    return [value - (value - plane) * ratio for plane in planes]
  # Not by `value == r`: a compiler may compute r twice, and round it differently.
  sector = jnp.where(
    (r >= g) & (r >= b),
    (g - b) * inverse,
    jnp.where(g >= b, (b - r) * inverse + 2.0, (r - g) * inverse + 4.0),
  )
  hue = sector + turn
  hue = hue - 6.0 * jnp.floor(hue * (1 / 6))
  chroma = chroma * ratio
  low = value - chroma
  ramps = (jnp.abs(hue - 3.0) - 1.0, 2.0 - jnp.abs(hue - 2.0), 2.0 - jnp.abs(hue - 4.0))
  return [low + chroma * jnp.clip(ramp, 0.0, 1.0) for ramp in ramps]


def luma(planes: Sequence[Any]) -> Any:
  """The gray value of three planes, with the weights of ITU-R BT.601; any shape."""
  return _LUMA[0] * planes[0] + _LUMA[1] * planes[1] + _LUMA[2] * planes[2]
