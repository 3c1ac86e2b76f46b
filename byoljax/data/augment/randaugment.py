"""RandAugment: a few operations out of fourteen, each of a random strength, one after the other.

The operations and their ranges are those of FixMatch (Sohn et al. 2020, arXiv 2001.07685, table
12), which follows Cubuk et al. (arXiv 1909.13719) but draws every strength anew in place of one
that is tuned. Each is Pillow's, without its rounding to 8 bits after every operation: blends and
the contrast are exact here, and `posterize` and `equalize`, which are about bytes, round first.
Pixels are moved to the nearest neighbor, as Pillow does unless told otherwise.

As in the authors' code for small images, an operation that was drawn is done with a probability,
theirs 1/2, and what comes in from outside of the image is the mean. There strengths are nine steps
of a scale and blends go up to 1.9; here strengths are uniform in the ranges of the paper's table.

Every operation is (image, strength, fill) -> image, of one image float32 [H, W, C] in [0, 1], any
number of channels; it can be compiled and vectorized, and none has a gradient that matters. They
run on the devices, whether the host has cut the views or not.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from byoljax.data.augment import operators, views

Apply = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
_BYTE = 255.0
# Pillow's filter SMOOTH, what an image is sharp in comparison with.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def identity(image: jax.Array, strength: jax.Array, fill: jax.Array) -> jax.Array:
  """The image."""
  del strength, fill
  return image


def autocontrast(image: jax.Array, strength: jax.Array, fill: jax.Array) -> jax.Array:
  """Stretches every channel so that its darkest pixel is 0 and its lightest 1; not flat ones."""
  del strength, fill
  low, high = (edge(image, axis=(0, 1), keepdims=True) for edge in (jnp.min, jnp.max))
  flat = high <= low
  return jnp.where(flat, image, (image - low) / jnp.where(flat, 1.0, high - low))


def equalize(image: jax.Array, strength: jax.Array, fill: jax.Array) -> jax.Array:
  """Makes the gray values of every channel about equally frequent: `ImageOps.equalize`.

  With h the histogram of its bytes, n the number of pixels darker than the lightest value and
  s = n // 255: byte i becomes (s // 2 + h[0] + ... + h[i - 1]) // s, at most 255. A channel with
  n < 255 stays.
  """
  del strength, fill

  def one(plane: jax.Array) -> jax.Array:
    value = jnp.round(plane * _BYTE).astype(jnp.int32)
    counts = jnp.bincount(value.reshape(-1), length=256)
    step = (plane.size - counts[value.max()]) // 255
    below = jnp.cumsum(counts) - counts
    table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table[value] / _BYTE, plane)

  return jax.vmap(one, in_axes=-1, out_axes=-1)(image)


def posterize(image: jax.Array, strength: jax.Array, fill: jax.Array) -> jax.Array:
  """Keeps the highest bits of every byte, so many as the whole part of the strength, in [1, 8]."""
  del fill
  step = jnp.exp2(8.0 - jnp.clip(jnp.floor(strength), 1.0, 8.0))
  return jnp.floor(jnp.round(image * _BYTE) / step) * step / _BYTE


def solarize(image: jax.Array, strength: jax.Array, fill: jax.Array) -> jax.Array:
  """Inverts every value at or above a threshold."""
  del fill
  return jnp.where(image < strength, image, 1.0 - image)


def color(image: jax.Array, strength: jax.Array, fill: jax.Array) -> jax.Array:
  """Blends with the gray image: 0 is gray, 1 the image."""
  del fill
  return _blended(_gray(image)[..., None], image, strength)


def contrast(image: jax.Array, strength: jax.Array, fill: jax.Array) -> jax.Array:
  """Blends with the mean gray value: 0 is flat, 1 the image."""
  del fill
  return _blended(_gray(image).mean(), image, strength)


def brightness(image: jax.Array, strength: jax.Array, fill: jax.Array) -> jax.Array:
  """Blends with black: 0 is black, 1 the image."""
  del fill
  return _blended(0.0, image, strength)


def sharpness(image: jax.Array, strength: jax.Array, fill: jax.Array) -> jax.Array:
  """Blends with the image smoothed by a 3 x 3 filter, its border kept: 1 is the image."""
  del fill
  height, width = image.shape[:2]
  smooth = jnp.zeros((height - 2, width - 2, image.shape[2]), image.dtype)
  for (y, x), weight in np.ndenumerate(_SMOOTH):
    smooth += weight * image[y : y + height - 2, x : x + width - 2]
  return _blended(image.at[1:-1, 1:-1].set(smooth), image, strength)


def rotate(image: jax.Array, strength: jax.Array, fill: jax.Array) -> jax.Array:
  """Turns counterclockwise about the center, by degrees."""
  angle = jnp.deg2rad(strength)
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  y, x = image.shape[0] / 2, image.shape[1] / 2
  shift = jnp.stack([y - cos * y - sin * x, x + sin * y - cos * x])
  return _moved(image, jnp.array([[cos, sin], [-sin, cos]]), shift, fill)


def shear_x(image: jax.Array, strength: jax.Array, fill: jax.Array) -> jax.Array:
  """Moves each row to the left by the strength times its height below the top."""
  return _moved(image, jnp.array([[1.0, 0.0], [strength, 1.0]]), jnp.zeros(2), fill)


def shear_y(image: jax.Array, strength: jax.Array, fill: jax.Array) -> jax.Array:
  """Moves each column up by the strength times its distance from the left."""
  return _moved(image, jnp.array([[1.0, strength], [0.0, 1.0]]), jnp.zeros(2), fill)


def translate_x(image: jax.Array, strength: jax.Array, fill: jax.Array) -> jax.Array:
  """Moves to the left by a share of the width."""
  return _moved(image, jnp.eye(2), jnp.array([0.0, strength * image.shape[1]]), fill)


def translate_y(image: jax.Array, strength: jax.Array, fill: jax.Array) -> jax.Array:
  """Moves up by a share of the height."""
  return _moved(image, jnp.eye(2), jnp.array([strength * image.shape[0], 0.0]), fill)


class Operation(NamedTuple):
  """An operation and the range that its strength is drawn from, uniformly.

  Attributes:
    apply: (image, strength, fill) -> image.
    low: smallest strength; unused where it makes no difference.
    high: largest.
  """

  apply: Apply
  low: float = 0.0
  high: float = 0.0


_BLEND = (0.05, 0.95)
OPERATIONS: dict[str, Operation] = {
  'autocontrast': Operation(autocontrast),
  'brightness': Operation(brightness, *_BLEND),
  'color': Operation(color, *_BLEND),
  'contrast': Operation(contrast, *_BLEND),
  'equalize': Operation(equalize),
  'identity': Operation(identity),
  'posterize': Operation(posterize, 4.0, 9.0),  # 4 to 8 bits, equally often
  'rotate': Operation(rotate, -30.0, 30.0),
  'sharpness': Operation(sharpness, *_BLEND),
  'shear_x': Operation(shear_x, -0.3, 0.3),
  'shear_y': Operation(shear_y, -0.3, 0.3),
  'solarize': Operation(solarize, 0.0, 1.0),
  'translate_x': Operation(translate_x, -0.3, 0.3),
  'translate_y': Operation(translate_y, -0.3, 0.3),
}
_LOW, _HIGH = (
  np.array([getattr(each, name) for each in OPERATIONS.values()], np.float32)
  for name in ('low', 'high')
)
_IDENTITY = list(OPERATIONS).index('identity')


def apply(
  images: jax.Array, u: jax.Array, spec: views.ViewSpec, fill: Sequence[float]
) -> jax.Array:
  """Does `spec.randaugment_ops` random operations to each image, each image by itself.

  Args:
    images: float32 [b, S, S, C] in [0, 1].
    u: float32 [b, spec.num_draws] in [0, 1).
    spec: `randaugment_ops` and `randaugment_prob`.
    fill: C numbers, or one for all: what comes in from outside of an image.

  Returns:
    float32 [b, S, S, C] in [0, 1]; the images themselves where there are no operations.
  """
  if not spec.randaugment_ops:
    return images
  outside = jnp.broadcast_to(jnp.asarray(fill, jnp.float32), images.shape[-1:])
  return _apply(images, *drawn(u, spec), outside)


def drawn(u: jax.Array, spec: views.ViewSpec) -> tuple[jax.Array, jax.Array]:
  """Which operations images get, int32 [b, n] in the order of the table, and their strengths.

  Args:
    u: float32 [b, spec.num_draws] in [0, 1).
    spec: n operations.
  """
  last = views.RANDAUGMENT + views.DRAWS_PER_OPERATION * spec.randaugment_ops
  columns = u[:, views.RANDAUGMENT : last].reshape(len(u), -1, views.DRAWS_PER_OPERATION)
  which, whether, strength = jnp.moveaxis(columns, -1, 0)
  number = jnp.floor(which * len(OPERATIONS)).astype(jnp.int32)
  number = jnp.where(whether < spec.randaugment_prob, number, _IDENTITY)
  low, high = jnp.asarray(_LOW)[number], jnp.asarray(_HIGH)[number]
  return number, low + strength * (high - low)


@jax.jit
def _apply(images: jax.Array, number: jax.Array, strength: jax.Array, fill: jax.Array) -> jax.Array:
  """Traced once for all views that are alike.

  A CPU takes one image after the other and does what it gets; elsewhere, where there are no
  branches per image, all operations are computed for all images.
  """

  def one(args: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    return in_turn(*args, fill)

  return lax.platform_dependent(
    (images, number, strength),
    cpu=functools.partial(lax.map, one),
    default=jax.vmap(one),
  )


def in_turn(
  image: jax.Array, numbers: jax.Array, strengths: jax.Array, fill: jax.Array
) -> jax.Array:
  """One image after n operations.

  Args:
    image: float32 [H, W, C] in [0, 1].
    numbers: int32 [n], of the operations in the table.
    strengths: float32 [n].
    fill: float32 [C].
  """
  branches = [functools.partial(_clipped, each.apply) for each in OPERATIONS.values()]

  def turn(image: jax.Array, which: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    return lax.switch(which[0], branches, image, which[1], fill), None

  return lax.scan(turn, image, (numbers, strengths))[0]


def _clipped(operation: Apply, image: jax.Array, strength: jax.Array, fill: jax.Array) -> jax.Array:
  return jnp.clip(operation(image, strength, fill), 0.0, 1.0)


def _blended(other: Any, image: jax.Array, strength: jax.Array) -> jax.Array:
  return other + strength * (image - other)


def _gray(image: jax.Array) -> jax.Array:
  return operators.gray([image[..., channel] for channel in range(image.shape[-1])])


def _moved(image: jax.Array, matrix: jax.Array, shift: jax.Array, fill: jax.Array) -> jax.Array:
  """The pixel at p, its center, comes from matrix @ p + shift; outside of the image from `fill`.

  Args:
    image: [H, W, C].
    matrix: [2, 2], of (y, x), the identity's diagonal first.
    shift: [2], (y, x) in pixels.
    fill: [C].
  """
  height, width = image.shape[:2]
  place = jnp.indices((height, width), jnp.float32) + 0.5
  y, x = (
    jnp.floor(matrix[row, 0] * place[0] + matrix[row, 1] * place[1] + shift[row]).astype(jnp.int32)
    for row in (0, 1)
  )
  inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
  found = image[jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)]
  return jnp.where(inside[..., None], found, fill[None, None])
