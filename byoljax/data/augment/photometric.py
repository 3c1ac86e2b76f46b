"""Photometric augmentation of whole batches: color jitter, gray, blur, solarize, normalize.

The operators are those of the view's family (`operators`), in the order of BYOL's code: the four of
the jitter in a random order per image, gray, blur, solarize.

The form is chosen for compilers without per-image branches: all operators are computed for all
images, in as few passes as give every order. Of byol and simclr_v2, saturation and hue change
different HSV coordinates and never leave [0, 1], so neighbors among them commute: any order of the
four is one sequence "color, affine, color, affine, color", where the two affine steps are
brightness and contrast in either order, and saturation and hue act in one of the three color steps
and are the identity in the others. Of torchvision three operators blend the image with a gray one,
black, of one value or its own: any order is "hue, blend, hue, blend, hue, blend, hue". This is
exact, where four slots with four operators each would cost up to four times as much. An operator
whose probability or strength is 0 is absent from the graph. `branches` has the form for CPUs, which
do have branches.

Images are handled as planes [b, S, S], one per channel, because a minor axis of three wastes vector
lanes.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byoljax.data.augment import operators, view_checks, views
from byoljax.wording import counted


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
  view_checks.check_channels(spec, channels)
  planes = [images[..., channel] for channel in range(channels)]
  family = operators.FAMILIES[spec.operators]
  if spec.jitter_prob > 0:
    jitter = _blended if family.blending else _jitter
    planes = _chosen(u[:, views.JITTER], spec.jitter_prob, jitter(planes, u, spec), planes)
  if spec.gray_prob > 0:
    gray = [operators.luma(planes, family.luma)] * 3
    planes = _chosen(u[:, views.GRAY], spec.gray_prob, gray, planes)
  if spec.blurs:
    matrix = spec.blur_matrix(u[:, views.SIGMA])
    second = jnp.swapaxes(matrix, 1, 2) if family.box_blur else matrix  # the others' are symmetric
    blurred = [jnp.matmul(jnp.matmul(matrix, plane), second) for plane in planes]
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
      f'the images have {counted(channels, "channel")}, but mean has {len(mean)} and std '
      f'{len(std)} numbers: give one for each channel, or a single one for all.'
    )
  shift, scale = (np.asarray(x, np.float32).reshape(1, 1, 1, -1) for x in (mean, std))
  shift, scale = (np.broadcast_to(x, (1, 1, 1, channels)) for x in (shift, scale))
  return (images - shift) * (1 / scale)


def to_unit(images: Any) -> jax.Array:
  """Images as float32 in [0, 1]: uint8 is divided by 255, floats are taken to be there already."""
  if images.dtype == np.uint8:
    return jnp.asarray(images, np.float32) * np.float32(1 / 255)
  return jnp.asarray(images, np.float32)


def _chosen(draw, probability, yes, no):
  """Elementwise over two lists: `yes` where draw < probability, else `no`."""
  if probability >= 1:
    return yes
  on = (draw < probability)[:, None, None]
  return [jnp.where(on, a, b) for a, b in zip(yes, no, strict=True)]


def _symmetric(draw, strength):
  return ((2.0 * draw - 1.0) * strength)[:, None, None]


def _jitter(planes, u, spec):
  """Of byol and simclr_v2."""
  affine = []
  if spec.brightness > 0:
    delta = _symmetric(u[:, views.BRIGHTNESS], spec.brightness)
    adding = operators.FAMILIES[spec.operators].adding
    pair = (1.0, delta) if adding else (1.0 + delta, 0.0)
    affine.append((u[:, views.ORDER_BRIGHTNESS], lambda _: pair))
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
  scale, shift = operation(operators.mean(plane))
  return jnp.clip(plane * scale + shift, 0.0, 1.0)


def _either(plane, condition, yes, no):
  def operation(mean):
    pairs = zip(yes(mean), no(mean), strict=True)
    return tuple(jnp.where(condition, a, b) for a, b in pairs)

  return _affine(plane, operation)


def _color_steps(u, spec, affine_orders):
  """Returns apply(planes, step): the share of saturation and hue that falls into that step."""

  def apply(planes, step):
    factor = turn = None
    if spec.saturation > 0:
      factor = 1.0 + _symmetric(u[:, views.SATURATION], spec.saturation)
      factor = _at(step, u[:, views.ORDER_SATURATION], affine_orders, factor, 1.0)
    if spec.hue > 0:
      turn = _symmetric(u[:, views.HUE], 6.0 * spec.hue)
      turn = _at(step, u[:, views.ORDER_HUE], affine_orders, turn, 0.0)
    return planes if factor is None and turn is None else operators.color(planes, factor, turn)

  return apply


def _at(step, order, others, drawn, identity):
  """What was drawn for an operator where exactly `step` of the others come before it."""
  if not others:
    return drawn
  before = sum((other < order).astype(np.float32) for other in others)
  return jnp.where((before == step)[:, None, None], drawn, identity)


def _blended(planes, u, spec):
  """Of torchvision: brightness, contrast and saturation scale, and add what they blend with."""
  known = (
    (spec.saturation, views.SATURATION, views.ORDER_SATURATION, lambda gray: gray),
    (spec.contrast, views.CONTRAST, views.ORDER_CONTRAST, operators.mean),
    (spec.brightness, views.BRIGHTNESS, views.ORDER_BRIGHTNESS, None),
  )
  blends = [
    (u[:, order], _symmetric(u[:, column], strength), towards)
    for strength, column, order, towards in known
    if strength > 0
  ]
  orders = [order for order, _, _ in blends]

  def hue(planes, step):
    if not spec.hue:
      return planes
    turn = _symmetric(u[:, views.HUE], 6.0 * spec.hue)
    return operators.color(planes, None, _at(step, u[:, views.ORDER_HUE], orders, turn, 0.0))

  ranks = _ranks(orders)
  for step in range(len(blends)):
    planes = hue(planes, step)
    gray, scale, shift = operators.gray(planes), 1.0, 0.0
    for rank, (_, d, towards) in zip(ranks, blends, strict=True):
      now = jnp.where((rank == step)[:, None, None], d, 0.0)
      scale += now
      shift -= now * towards(gray) if towards else 0.0
    planes = [jnp.clip(plane * scale + shift, 0.0, 1.0) for plane in planes]
  return hue(planes, len(blends))


def _ranks(orders):
  """The turn of each, int32 [b]; of equal ones the first in the list acts first."""
  return [
    sum(
      ((other < order) | ((other == order) & (place < own))).astype(np.int32)
      for place, other in enumerate(orders)
      if place != own
    )
    + jnp.zeros(order.shape, np.int32)
    for own, order in enumerate(orders)
  ]
