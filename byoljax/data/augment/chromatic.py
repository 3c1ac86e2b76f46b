"""Defenses against colors as a trace of where a part of an image was.

A lens focuses colors at different distances, and so magnifies them differently: away from the
center of a photograph red and blue fringes point outwards. A network that is asked for the place of
a tile learns to see that instead of the picture (Doersch et al. 2015, arXiv 1505.05192, section
4.2). What is done against it, image by image or tile by tile:

    gray             luma in all channels
    project          the part along green against magenta is taken out (the same paper)
    keep_one         one channel stays, the others become almost its mean (the same paper)
    shift_channels   channels are moved against each other (jigsaw, arXiv 1603.09246)

Only `keep_one` takes the trace away altogether: with the others a sharp picture's edges may still
be doubled, away from the center or by the shift.
"""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from byoljax.data.augment import operators
from byoljax.wording import counted

_A = np.array([-1.0, 2.0, -1.0])
GREEN_MAGENTA = (np.eye(3) - np.outer(_A, _A) / (_A @ _A)).astype(np.float32)
"""I - a^T a / (a a^T), a = (-1, 2, -1): symmetric, idempotent, takes a to 0 and keeps grays."""
_NOISE = 0.5 / 255  # of the channels that are left out; a tenth of a percent of the range


def gray(images: jax.Array) -> jax.Array:
  """Luma (BT.601) in all three channels: [..., 3] -> [..., 3]."""
  luma = operators.luma([images[..., channel] for channel in range(3)], operators.PIL_LUMA)
  return jnp.broadcast_to(luma[..., None], images.shape)


def project(images: jax.Array) -> jax.Array:
  """Images without their part along green against magenta, [..., 3]; not clipped."""
  return jnp.matmul(images, GREEN_MAGENTA, precision=lax.Precision.HIGHEST)


def keep_one(images: jax.Array, kept: jax.Array, noise: jax.Array) -> jax.Array:
  """One channel of every image; the others become its mean and noise of half a gray level.

  Args:
    images: float32 [n, h, w, 3] in [0, 1].
    kept: int [n], which.
    noise: float32 [n, h, w, 3] in [-1, 1].
  """
  own = kept[:, None, None, None] == jnp.arange(3)[None, None, None]
  channel = jnp.sum(jnp.where(own, images, 0.0), axis=-1, keepdims=True)
  empty = jnp.mean(channel, axis=(1, 2), keepdims=True) + _NOISE * noise
  return jnp.where(own, images, empty)


def shift_channels(images: jax.Array, shifts: jax.Array, reach: int) -> jax.Array:
  """Moves every channel of every image by itself; what comes in repeats the border.

  Args:
    images: [n, h, w, C].
    shifts: int [n, C, 2] in [-reach, reach]: pixels down and to the right.
    reach: the largest.
  """
  height, width = images.shape[1:3]
  padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode='edge')

  def one(plane: jax.Array, shift: jax.Array) -> jax.Array:
    return lax.dynamic_slice(plane, (reach - shift[0], reach - shift[1]), (height, width))

  planes = jnp.moveaxis(padded, -1, 1)
  return jnp.moveaxis(jax.vmap(jax.vmap(one))(planes, shifts), 1, -1)


def defended(
  tiles: jax.Array,
  key: jax.Array,
  *,
  gray_prob: float,
  project_prob: float,
  drop_prob: float,
  channel_shift: int,
) -> jax.Array:
  """The defenses of one image's tiles; a probability of 0 is absent from the graph.

  The image is made gray, or else projected, or else reduced to one channel in every tile; and
  unless it is gray, channels are shifted.

  Args:
    tiles: float32 [n, h, w, C] in [0, 1], of one image; C = 3 unless everything is off.
    key: of the image.
    gray_prob: of the image.
    project_prob: of an image that is not gray.
    drop_prob: of an image that is neither.
    channel_shift: largest shift in pixels; not of gray images.

  Returns:
    As the tiles; only projection may leave [0, 1].

  Raises:
    ValueError: colors of images that are not RGB.
  """
  if not (gray_prob or project_prob or drop_prob or channel_shift):
    return tiles
  if tiles.shape[-1] != 3:
    raise ValueError(
      f'gray_prob, project_prob, drop_prob and channel_shift are for RGB, but the images have '
      f'{counted(tiles.shape[-1], "channel")}: set them to 0.'
    )
  chances, channel, grain, shift = jax.random.split(key, 4)
  u = jax.random.uniform(chances, (3,))
  is_gray = u[0] < gray_prob
  changed = tiles
  if drop_prob:
    kept = jax.random.randint(channel, tiles.shape[:1], 0, 3)
    noise = jax.random.uniform(grain, tiles.shape, minval=-1.0, maxval=1.0)
    changed = jnp.where(u[2] < drop_prob, keep_one(tiles, kept, noise), changed)
  if project_prob:
    changed = jnp.where(u[1] < project_prob, project(tiles), changed)
  if channel_shift:
    shifts = jax.random.randint(shift, (len(tiles), 3, 2), -channel_shift, channel_shift + 1)
    changed = shift_channels(changed, shifts, channel_shift)
  return jnp.where(is_gray, gray(tiles), changed) if gray_prob else changed
