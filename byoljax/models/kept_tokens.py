"""A vision transformer that computes only the patches of an image that were kept.

Which patches those are comes with the images, as one more channel: 1 in the pixels of a patch that
is kept, 0 in those of one that is left out. So it follows an image wherever a method takes it, and
images without that channel, as evaluations have them, are computed whole.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.ops import masking


class KeptTokens(nn.Module):
  """A vision transformer that leaves patches out; parameters and taps are its own.

  Attributes:
    transformer: called as transformer(images, train=..., keep=...), with an attribute `patch`.
    channels: C of the images, without the one that says which patches are kept.
    share: of the patches that is kept, the same for every image, in (0, 1).
  """

  transformer: nn.Module
  channels: int
  share: float

  def setup(self) -> None:
    """Gives the transformer this module's place among parameters, running statistics and taps."""
    nn.share_scope(self, self.transformer)

  def __call__(self, x: jax.Array, *, train: bool, **inputs: jax.Array) -> jax.Array:
    """Images float32 [b,H,W,C], or [b,H,W,C + 1] with what is kept -> embedding [b,D]."""
    if x.shape[-1] == self.channels:
      return self.transformer(x, train=train, **inputs)
    left_out = x[:, :: self.patch, :: self.patch, -1].reshape(len(x), -1) < 0.5
    keep = masking.visible_places(left_out, kept_count(left_out.shape[1], self.share))
    return self.transformer(x[..., :-1], train=train, keep=keep, **inputs)

  @property
  def patch(self) -> int:
    """Edge of a patch in pixels."""
    return self.transformer.patch  # type: ignore[attr-defined]


def kept_count(count: int, share: float) -> int:
  """How many of `count` patches are kept: count x share, to the nearest, and at least one."""
  return max(1, round(count * share))


def with_channel(images: jax.Array, keys: jax.Array, patch: int, share: float) -> jax.Array:
  """The images with one more channel, in which a random set of each one's patches is kept.

  Args:
    images: float32 [b,H,W,C].
    keys: one for each image, [b].
    patch: edge in pixels.
    share: of the patches that is kept, in (0, 1).

  Returns:
    float32 [b,H,W,C + 1].

  Raises:
    ValueError: H or W is not a multiple of the patch.
  """
  batch, height, width, _ = images.shape
  if height % patch or width % patch:
    raise ValueError(
      f'views of {height} x {width} pixels cannot be cut into patches of {patch}: choose a size '
      f'that is a multiple of {patch}, or another encoder.patch_size.'
    )
  rows, columns = height // patch, width // patch
  left_out = masking.random_masks(keys, rows * columns, kept_count(rows * columns, share))
  kept = 1.0 - left_out.reshape(batch, rows, columns).astype(images.dtype)
  kept = jnp.repeat(jnp.repeat(kept, patch, axis=1), patch, axis=2)
  return jnp.concatenate([images, kept[..., None]], axis=-1)
