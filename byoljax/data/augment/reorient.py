"""Views upside down, turned, shifted, distorted, with a square cut out.

Upside down, by quarters and by whole pixels nothing is computed. By any angle pixels are
interpolated. Beyond its border a view goes on mirrored, so that no corner shows the angle, no edge
the shift. All come after the crop. A cutout (DeVries and Taylor 2017, arXiv 1708.04552) is a square
of a random share of the view's area, whole within the view, where theirs has one size and may hang
over the border; it is filled with the mean, 0 after normalization.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.scipy import ndimage
import numpy as np

from byoljax.data.augment import elastic, views


def orient(images: jax.Array, u: jax.Array, spec: views.ViewSpec) -> jax.Array:
  """Turns images upside down, by quarters and by any angle, shifts and distorts each by itself.

  Args:
    images: [b, S, S, C].
    u: float32 [b, spec.num_draws] in [0, 1).
    spec: `vflip_prob` and `turn_prob`; a turn is by 90, 180 or 270 degrees, equally often; and
      `rotate_degrees`; and `shift`, by whole pixels, the border not repeated: FixMatch's weak
      augmentation (arXiv 2001.07685, section 2.3); and `elastic`, see `elastic`.

  Returns:
    [b, S, S, C], the same where all of them are 0.
  """
  if spec.vflip_prob > 0:
    over = u[:, views.VFLIP] < spec.vflip_prob
    images = jnp.where(over[:, None, None, None], images[:, ::-1], images)
  if spec.turn_prob > 0:
    draw = u[:, views.TURN]
    number = 1 + jnp.minimum(jnp.floor(draw / spec.turn_prob * 3), 2).astype(jnp.int32)
    quarters = jnp.where(draw < spec.turn_prob, number, 0)[:, None, None, None]
    turned = {count: jnp.rot90(images, count, axes=(1, 2)) for count in (1, 2, 3)}
    for count, turn in turned.items():
      images = jnp.where(quarters == count, turn, images)
  if spec.rotate_degrees > 0:
    degrees = (2.0 * u[:, views.ROTATE] - 1.0) * spec.rotate_degrees
    images = jax.vmap(rotated)(images, jnp.deg2rad(degrees))
  reach = round(spec.shift * spec.size)
  if reach:
    room = u[:, np.array([views.SHIFT_Y, views.SHIFT_X])] * (2 * reach + 1)
    images = jax.vmap(functools.partial(_shifted, reach))(images, room.astype(jnp.int32))
  return elastic.distort(images, u, spec)


def _shifted(reach: int, image: jax.Array, start: jax.Array) -> jax.Array:
  padded = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode='reflect')
  return lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)


def rotated(image: jax.Array, angle: jax.Array) -> jax.Array:
  """One image turned about its center, counterclockwise, by bilinear interpolation.

  Args:
    image: float32 [S, S, C].
    angle: in radians.
  """
  center = (image.shape[0] - 1) / 2
  y, x = jnp.indices(image.shape[:2], jnp.float32) - center
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  place = (center + cos * y + sin * x, center - sin * y + cos * x)
  take = functools.partial(ndimage.map_coordinates, coordinates=place, order=1, mode='reflect')
  return jax.vmap(take, in_axes=-1, out_axes=-1)(image)


def cut_out(images: jax.Array, u: jax.Array, spec: views.ViewSpec) -> jax.Array:
  """Sets a square to 0 in each image, with probability `cutout_prob`.

  Args:
    images: normalized, float32 [b, S, S, C].
    u: float32 [b, NUM_DRAWS] in [0, 1).
    spec: `cutout_prob`, and `cutout_scale`, (low, high) share of the area, drawn uniformly.
  """
  if spec.cutout_prob <= 0:
    return images
  size = images.shape[1]
  low, high = spec.cutout_scale
  share = low + u[:, views.CUTOUT_AREA] * (high - low)
  side = jnp.clip(jnp.round(size * jnp.sqrt(share)), 1, size)
  room = size - side + 1
  top, left = (jnp.floor(u[:, column] * room) for column in (views.CUTOUT_Y, views.CUTOUT_X))
  place = jnp.arange(size, dtype=jnp.float32)[None]

  def within(start: jax.Array) -> jax.Array:
    return (place >= start[:, None]) & (place < (start + side)[:, None])

  square = within(top)[:, :, None] & within(left)[:, None, :]
  square &= (u[:, views.CUTOUT] < spec.cutout_prob)[:, None, None]
  return jnp.where(square[..., None], 0.0, images)
