"""Random masks over the patches of images."""

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.devices import collectives


def visible_count(count: int, ratio: float) -> int:
  """How many of `count` patches stay visible: count (1 - ratio), rounded down (MAE's code).

  Raises:
    ValueError: none would stay, or none would be masked.
  """
  visible = int(count * (1 - ratio) + 1e-6)  # 10 (1 - .9) is a little less than 1
  if not 0 < visible < count:
    what = 'all of them visible' if visible else 'none of them visible'
    raise ValueError(
      f'mask_ratio={ratio} of {count} patches leaves {what}: take a ratio nearer to 0.5, larger '
      'images or smaller patches.'
    )
  return visible


def draw_masks(
  key: jax.Array,
  count: int,
  height: int,
  width: int,
  hidden: int,
  *,
  least_block: int = 0,
  axis: str | None,
) -> jax.Array:
  """Masks of this device's images, bool [count,height,width], True where masked.

  Args:
    key: the same on all devices; an image's mask depends on its place in the global batch.
    count: of images.
    height: places.
    width: places.
    hidden: how many are masked in each image.
    least_block: places of the smallest rectangle, see `block_masks`; 0: places anywhere.
    axis: the mapped axis, or None.
  """
  keys = collectives.example_keys(jax.random.fold_in(key, streams.MASKS), count, axis)
  if least_block:
    masks = block_masks(keys, height, width, hidden, least=least_block, aspect=0.3)
  else:
    masks = random_masks(keys, height * width, height * width - hidden)
  return masks.reshape(count, height, width)


def random_masks(keys: jax.Array, count: int, visible: int) -> jax.Array:
  """Masks over `count` patches, each a uniformly drawn set: bool [b,count], True where masked.

  Args:
    keys: one for each image, [b].
    count: of patches of an image.
    visible: of patches that stay, the same for all images.
  """
  return lowest_visible(jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys), visible)


def lowest_visible(noise: jax.Array, visible: int) -> jax.Array:
  """Masks, bool [b,n], False for the `visible` smallest values of each row of float32 [b,n]."""
  return jnp.argsort(jnp.argsort(noise, axis=1), axis=1) >= visible


def visible_places(masked: jax.Array, visible: int) -> jax.Array:
  """Numbers of the patches that are not masked, ascending: int32 [b,visible]."""
  return jnp.argsort(masked, axis=1, stable=True)[:, :visible].astype(jnp.int32)


def put_back(tokens: jax.Array, masked: jax.Array, filler: jax.Array) -> jax.Array:
  """The tokens of visible patches at their places, `filler` at the others: [b,n,D].

  Args:
    tokens: [b,k,D], of the visible patches in ascending order.
    masked: bool [b,n], False k times in each row.
    filler: [D].
  """
  place = jnp.maximum(jnp.cumsum(~masked, axis=1) - 1, 0)
  spread = jnp.take_along_axis(tokens, place[:, :, None], axis=1)
  return jnp.where(masked[:, :, None], filler[None, None], spread)


def block_masks(
  keys: jax.Array, height: int, width: int, hidden: int, *, least: int, aspect: float
) -> jax.Array:
  """Masks of rectangles, as BEiT's (Bao et al. 2021, arXiv 2106.08254, algorithm 1).

  Rectangles are laid anywhere until `hidden` places are masked: of `least` to as many places as are
  left to mask, uniformly, with sides in a ratio in [aspect, 1 / aspect], log-uniformly. Different
  from the paper: of the last rectangle the rows that are too many, the lower or the upper ones,
  stay visible, so that all images have as many masked places.

  Args:
    keys: one for each image, [b].
    height: places.
    width: places.
    hidden: how many are masked, from 1 to all.
    least: places of a rectangle, at most `hidden`.
    aspect: in (0, 1].

  Returns:
    bool [b,height * width], True where masked.
  """
  most = 4 * height * width  # Rectangles: enough to cover everything.
  rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]

  def one(key: jax.Array) -> jax.Array:
    draws = jax.random.uniform(key, (most, 5))

    def is_short(state: tuple[jax.Array, jax.Array]) -> jax.Array:
      number, first = state
      return (jnp.sum(first < most) < hidden) & (number < most)

    def add(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
      number, first = state
      own, left = draws[number], hidden - jnp.sum(first < most)
      area = least + own[0] * jnp.maximum(left - least, 0)
      ratio = jnp.exp((2 * own[1] - 1) * -jnp.log(aspect))
      tall = jnp.clip(jnp.round(jnp.sqrt(area * ratio)), 1, height)
      wide = jnp.clip(jnp.round(jnp.sqrt(area / ratio)), 1, width)
      top = jnp.floor(own[2] * (height - tall + 1))
      side = jnp.floor(own[3] * (width - wide + 1))
      inside = (rows >= top) & (rows < top + tall) & (columns >= side) & (columns < side + wide)
      return number + 1, jnp.where(inside & (first == most), number, first)

    nothing = jnp.full((height, width), most, jnp.int32)
    number, first = jax.lax.while_loop(is_short, add, (jnp.int32(0), nothing))
    # Places by rectangle, within one row by row, from above or from below.
    place = (jnp.arange(height * width) / (height * width)).reshape(height, width)
    upwards = draws[number - 1, 4] < 0.5
    return -(first + jnp.where(upwards, place[::-1], place)).ravel()

  return lowest_visible(jax.vmap(one)(keys), height * width - hidden)
