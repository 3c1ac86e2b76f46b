"""Random masks over the patches of images."""

import jax
import jax.numpy as jnp


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
