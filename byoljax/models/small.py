"""Encoders for small machines: a residual network for CPUs, and the raw-pixel baseline."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import layers, resnet

# channels of the four stages, before `width`
CHANNELS = (32, 64, 128, 256)


class SmallResNet(nn.Module):
  """A four-stage residual network for images of 32 to 96 px on a CPU: 1.2 M parameters at width 1.

  The resolution is halved in the stem already and again in every later stage, because convolutions
  over large maps with few channels are what a CPU does worst. `width` multiplies every channel
  count.
  """

  width: int = 1
  padding: str = 'torch'
  zero_init_residual: bool = False
  dtype: jnp.dtype = jnp.float32
  bn_axis: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images float32 [b,H,W,3] -> embedding float32 [b,256 * width]."""
    x = layers.conv(CHANNELS[0] * self.width, 3, 2, self.padding, self.dtype, 'stem_conv')(x)
    x = nn.relu(layers.batch_norm(train, self.bn_axis, self.dtype, 'stem_bn')(x))
    self.sow('intermediates', 'stem', x)
    for stage, channels in enumerate(CHANNELS, start=1):
      x = resnet.ResidualBlock(
        channels=channels * self.width,
        stride=1 if stage == 1 else 2,
        bottleneck=False,
        padding=self.padding,
        zero_init_residual=self.zero_init_residual,
        dtype=self.dtype,
        bn_axis=self.bn_axis,
        name=f'stage{stage}_block0',
      )(x, train=train)
      self.sow('intermediates', f'stage{stage}', x)
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


class Pixels(nn.Module):
  """The raw-pixel baseline: the image itself as its embedding. No parameters."""

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images float32 [b,H,W,C] -> embedding float32 [b,H * W * C]."""
    del train
    return x.reshape(x.shape[0], -1).astype(jnp.float32)
