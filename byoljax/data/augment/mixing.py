"""Mixed images: mixup (Zhang et al. 2017, arXiv 1710.09412) and CutMix (Yun et al., 1905.04899).

An image becomes w x + (1 - w) y, with y its partner, and its label mean(w) of its own and the rest
of its partner's. Mixup's w is a number lambda ~ Beta(a, a); CutMix's is 0 within a box that covers
about 1 - lambda of the image, somewhere on it, and 1 outside. Everything is drawn once for a whole
batch, as timm does by default, and with both kinds each batch is one of them at even odds.

Different from timm, the partner is the neighbor in the batch, 2 i and 2 i + 1, not the image at the
same distance from the end: partners are on the same device, whatever the number of devices.
"""

import jax
import jax.numpy as jnp


def weights(key: jax.Array, height: int, width: int, *, mixup: float, cutmix: float) -> jax.Array:
  """What is kept of an image, w: float32 [height,width] in [0, 1], the same for a whole batch.

  Args:
    key: the same on all devices.
    height: of images.
    width: of images.
    mixup: a of mixup's Beta(a, a); 0 for none.
    cutmix: a of CutMix's; 0 for none.

  Raises:
    ValueError: both are 0, or one is negative.
  """
  if min(mixup, cutmix) < 0 or mixup == cutmix == 0:
    raise ValueError(f'mixup={mixup}, cutmix={cutmix} must not be negative, and not both be 0.')
  which, share, place = jax.random.split(key, 3)
  mixed = jax.random.beta(share, mixup or 1.0, mixup or 1.0)
  cut = jax.random.beta(share, cutmix or 1.0, cutmix or 1.0)
  center = jax.random.uniform(place, (2,))
  boxed = outside_box(height, width, cut, center)
  if not mixup:
    return boxed
  level = jnp.full((height, width), mixed)
  if not cutmix:
    return level
  return jnp.where(jax.random.bernoulli(which), boxed, level)


def outside_box(height: int, width: int, share: jax.Array, center: jax.Array) -> jax.Array:
  """1 outside of a box and 0 within: float32 [height,width].

  The box has sqrt(1 - share) of both sides, rounded down (timm's arithmetic), around the pixel that
  `center` [2] in [0, 1) says, and ends where the image does.
  """
  ratio = jnp.sqrt(1.0 - share)
  inside = []
  for axis, size in enumerate((height, width)):
    side = jnp.floor(size * ratio)
    middle = jnp.floor(center[axis] * size)
    low, place = middle - side // 2, jnp.arange(size)
    inside.append((place >= low) & (place < middle + (side + 1) // 2))
  return 1.0 - (inside[0][:, None] & inside[1][None, :]).astype(jnp.float32)


def partners(x: jax.Array) -> jax.Array:
  """The rows of [b, ...] with each two neighbors swapped.

  Raises:
    ValueError: b is odd.
  """
  if x.shape[0] % 2:
    raise ValueError(
      f'mixup and CutMix need an even number of images on each device, not {x.shape[0]}.'
    )
  return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)


def mixed_images(images: jax.Array, kept: jax.Array) -> jax.Array:
  """Images [b,H,W,C] mixed with their partners; `kept` is w [H,W]."""
  own = kept[None, :, :, None]
  return images * own + partners(images) * (1.0 - own)


def mixed_labels(labels: jax.Array, kept: jax.Array) -> jax.Array:
  """Distributions over classes [b,C] mixed in the same way."""
  share = kept.mean()
  return labels * share + partners(labels) * (1.0 - share)
