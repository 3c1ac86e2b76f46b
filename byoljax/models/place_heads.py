"""Heads that say something of every place of a map."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import layers


class PlaceHead(nn.Module):
  """A linear function of every place of a map: [b,h,w,C] -> float32 [b,h,w,outputs].

  It begins as zeros: all classes alike, whose cross-entropy is ln Q.
  """

  outputs: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,h,w,C] -> float32 [b,h,w,outputs]."""
    del train
    conv = layers.conv(self.outputs, 1, 1, 0, self.dtype, 'conv', use_bias=True,
                       kernel_init=nn.initializers.zeros)  # fmt: skip
    return conv(x).astype(jnp.float32)


class HalfOf(nn.Module):
  """A decoder of the first (0) or the second (1) half of a map's channels."""

  half: int
  decoder: nn.Module

  def setup(self) -> None:
    """Gives the decoder this module's place among the parameters."""
    nn.share_scope(self, self.decoder)

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,h,w,C] -> what the decoder makes of [b,h,w,C / 2]."""
    return self.decoder(jnp.split(x, 2, axis=-1)[self.half], train=train)
