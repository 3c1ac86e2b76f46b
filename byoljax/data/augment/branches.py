"""The photometric operations image by image, with real branches: the form for CPUs.

`photometric.photometric` computes every operation for every image and then chooses, because
accelerators have no branches per image. A CPU has them. Here a loop takes one image after the
other, does the four operations of the jitter once each in the order that was drawn, and leaves out
what an image does not get. Same draws and, up to 1e-6, same pictures in a fifth to three quarters
of the time. Within its turn an image is a plane [S, S] per channel, since XLA would read an
interleaved one several times as slowly; what goes into the loop and comes out of it is interleaved,
one array instead of three, and bytes where they came as bytes.
"""

from collections.abc import Callable
import functools

import jax
from jax import lax
import jax.numpy as jnp

from byoljax.data.augment import operators, photometric, view_checks, views

Planes = tuple[jax.Array, ...]


def apply(images: jax.Array, u: jax.Array, spec: views.ViewSpec) -> jax.Array:
  """Jitter in random order, gray, blur, solarize; each with its own probability per image.

  On CPUs as here, elsewhere `photometric.photometric`, chosen when the program is compiled.

  Args:
    images: uint8 [b, S, S, C], or float32 in [0, 1], with S = spec.size.
    u: float32 [b, NUM_DRAWS] in [0, 1).
    spec: probabilities and strengths.

  Returns:
    float32 [b, S, S, C] in [0, 1].

  Raises:
    ValueError: gray, saturation or hue for images that are not RGB.
  """
  return _apply(images, u, spec)


@functools.partial(jax.jit, static_argnums=2)
def _apply(images: jax.Array, u: jax.Array, spec: views.ViewSpec) -> jax.Array:
  """Traced once for all views that are alike."""
  return lax.platform_dependent(
    images,
    u,
    cpu=lambda images, u: one_by_one(images, u, spec),
    default=lambda images, u: photometric.photometric(photometric.to_unit(images), u, spec),
  )


def one_by_one(images: jax.Array, u: jax.Array, spec: views.ViewSpec) -> jax.Array:
  """`apply` in the form for CPUs, on any platform; same arguments."""
  channels = images.shape[-1]
  view_checks.check_channels(spec, channels)
  steps = _steps(spec)
  if not steps:
    return jnp.clip(photometric.to_unit(images), 0.0, 1.0)

  def one(args: tuple[jax.Array, jax.Array]) -> jax.Array:
    image, draw = args
    planes: Planes = tuple(photometric.to_unit(image[..., i]) for i in range(channels))
    for probability, column, operation in steps:
      if probability >= 1:
        planes = operation(planes, draw)
      else:
        planes = lax.cond(
          draw[column] < probability, operation, lambda planes, draw: planes, planes, draw
        )
    return jnp.clip(jnp.stack(planes, axis=-1), 0.0, 1.0)

  return lax.map(one, (images, u))


_Operation = Callable[[Planes, jax.Array], Planes]


def _steps(spec: views.ViewSpec) -> list[tuple[float, int, _Operation]]:
  """What may happen to an image, in order: probability, column of its draw, operation."""
  weights = operators.FAMILIES[spec.operators].luma
  steps: list[tuple[float, int, _Operation]] = [
    (spec.jitter_prob, views.JITTER, _jitter(spec)),
    (spec.gray_prob, views.GRAY, lambda planes, draw: (operators.luma(planes, weights),) * 3),
    (spec.blur_prob if spec.blurs else 0.0, views.BLUR, _blur(spec)),
    (spec.solarize_prob, views.SOLARIZE, _solarize(spec)),
  ]
  return [step for step in steps if step[0] > 0]


def _jitter(spec: views.ViewSpec) -> _Operation:
  """The operations of the jitter in the order of their draws."""
  family = operators.FAMILIES[spec.operators]

  def operation(change: operators.Change, column: int, strength: float) -> _Operation:
    def operate(planes: Planes, draw: jax.Array) -> Planes:
      return tuple(change(planes, (2.0 * draw[column] - 1.0) * strength))

    return operate

  # Of two equal draws the first in this list acts first, as in `photometric.photometric`.
  known = [
    (spec.hue, views.HUE, views.ORDER_HUE, family.hue),
    (spec.saturation, views.SATURATION, views.ORDER_SATURATION, family.saturation),
    (spec.contrast, views.CONTRAST, views.ORDER_CONTRAST, family.contrast),
    (spec.brightness, views.BRIGHTNESS, views.ORDER_BRIGHTNESS, family.brightness),
  ]
  present = [
    (order, operation(change, column, strength))
    for strength, column, order, change in known
    if strength > 0
  ]

  def jitter(planes: Planes, draw: jax.Array) -> Planes:
    if len(present) < 2:
      return present[0][1](planes, draw) if present else planes
    order = jnp.argsort(jnp.stack([draw[column] for column, _ in present]), stable=True)
    for turn in range(len(present)):
      planes = lax.switch(order[turn], [operation for _, operation in present], planes, draw)
    return planes

  return jitter


# Rows of the blur's matrix that are multiplied at once. Smaller blocks meet fewer of its zeros, but
# are slower products.
_BLUR_BLOCK = 64


def _blur(spec: views.ViewSpec) -> _Operation:
  size, reach = spec.size, spec.blur_reach
  # Rows, and what they depend on.
  blocks = [
    (slice(start, start + _BLUR_BLOCK), slice(max(start - reach, 0), start + _BLUR_BLOCK + reach))
    for start in range(0, size, _BLUR_BLOCK)
  ]

  def blur(planes: Planes, draw: jax.Array) -> Planes:
    matrix = spec.blur_matrix(draw[views.SIGMA][None])[0]

    def one(plane: jax.Array) -> jax.Array:
      plane = jnp.concatenate([matrix[rows, near] @ plane[near] for rows, near in blocks])
      columns = [plane[:, near] @ matrix[these, near].T for these, near in blocks]
      return jnp.concatenate(columns, axis=1)

    return tuple(map(one, planes))

  return blur


def _solarize(spec: views.ViewSpec) -> _Operation:
  def solarize(planes: Planes, draw: jax.Array) -> Planes:
    del draw
    return tuple(jnp.where(plane < spec.solarize_threshold, plane, 1.0 - plane) for plane in planes)

  return solarize
