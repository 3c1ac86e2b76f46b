"""Networks that tell real images from made ones."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import layers
from byoljax.models.initializers import normal

# DCGAN's weights (Radford et al., arXiv 1511.06434, section 4).
_INIT = normal(0.02)
_SLOPE = 0.2


class PatchDiscriminator(nn.Module):
  """PatchGAN (Isola et al., arXiv 1611.07004, section 6.1.2): a logit for every patch of an image.

  `stages` 4x4 convolutions of stride 2, one of stride 1 and one for the logits; channels double up
  to 8 times the first ones. BN but in the first and the last, leaky ReLU of 0.2.

  Attributes: see `ConvDiscriminator`.
  """

  width: int = 64
  stages: int = 3
  bn_axis: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b, H, W, C] -> logits float32 [b, h, w]; larger for patches that look real.

    Raises:
      ValueError: nothing is left of so small an image.
    """
    smallest = 3 * 2**self.stages
    if min(x.shape[1:3]) < smallest:
      raise ValueError(
        f'a discriminator of patches with {self.stages} stages needs images of at least {smallest} '
        f'pixels, not {x.shape[1]}x{x.shape[2]}: give it fewer.'
      )
    for stage in range(self.stages + 1):
      stride = 2 if stage < self.stages else 1
      x = layers.conv(
        self.width * 2 ** min(stage, 3), 4, stride, 1, self.dtype, f'stage{stage + 1}_conv',
        use_bias=stage == 0, kernel_init=_INIT,
      )(x)  # fmt: skip
      if stage:
        x = layers.batch_norm(train, self.bn_axis, self.dtype, f'stage{stage + 1}_bn')(x)
      x = nn.leaky_relu(x, _SLOPE)
    logits = layers.conv(1, 4, 1, 1, self.dtype, 'logits_conv', use_bias=True, kernel_init=_INIT)(x)
    return logits.astype(jnp.float32)[..., 0]


class ConvDiscriminator(nn.Module):
  """DCGAN's discriminator: 4x4 convolutions of stride 2, BN but in the first, leaky ReLU of 0.2.

  Each stage doubles the channels; a 4x4 convolution without padding makes the logit of a last map
  of 4x4. Of larger maps the logits of all places are averaged.

  Attributes:
    width: channels of the first stage.
    stages: how often the sides are halved.
    bn_axis: mapped axis whose devices share batch statistics in training.
    dtype: compute type.
  """

  width: int = 64
  stages: int = 4
  bn_axis: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b, H, W, C] -> logits float32 [b]; larger for images that look real.

    Raises:
      ValueError: the last map is smaller than 4x4.
    """
    smallest = 4 * 2**self.stages
    if min(x.shape[1:3]) < smallest:
      raise ValueError(
        f'a discriminator of {self.stages} stages needs images of at least {smallest} pixels, not '
        f'{x.shape[1]}x{x.shape[2]}: give it fewer.'
      )
    for stage in range(self.stages):
      first = stage == 0
      x = layers.conv(
        self.width * 2**stage, 4, 2, 1, self.dtype, f'stage{stage + 1}_conv', use_bias=first,
        kernel_init=_INIT,
      )(x)  # fmt: skip
      if not first:
        x = layers.batch_norm(train, self.bn_axis, self.dtype, f'stage{stage + 1}_bn')(x)
      x = nn.leaky_relu(x, _SLOPE)
    logits = layers.conv(1, 4, 1, 0, self.dtype, 'logits_conv', use_bias=True, kernel_init=_INIT)(x)
    return logits.astype(jnp.float32).mean((1, 2, 3))
