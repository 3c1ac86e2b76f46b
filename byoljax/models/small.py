"""Encoders for small machines: a residual network for CPUs, and the raw-pixel baseline."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import layers, resnet


class SmallResNet(nn.Module):
  """A stem and one residual block per stage, each halving the map, for images of about 32 px.

  Made for CPU cores: 0.2 M parameters and 6.3 MFLOP a forward pass at 32 px and width 1. Channels
  grow late, because the weight gradients of convolutions with many channels on large maps are what
  XLA does worst on a CPU. The shortcuts average 2x2 pixels before their 1x1 convolution instead of
  skipping three of four (ResNet-D, He et al., arXiv 1812.01187).
  """

  channels: tuple[int, ...] = (16, 32, 128)  # stem and stages
  width: float = 1
  padding: str = 'torch'
  zero_init_residual: bool = False
  remat: bool = False
  dtype: jnp.dtype = jnp.float32
  bn_axis: str | None = None
  bn_groups: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images float32 [b,H,W,3] -> embedding float32 [b,channels[-1] * width]."""
    stem = layers.widened(self.channels[0], self.width)
    x = layers.conv(stem, 3, 2, self.padding, self.dtype, 'stem_conv')(x)
    norm = layers.batch_norm(train, self.bn_axis, self.dtype, 'stem_bn', groups=self.bn_groups)
    x = nn.relu(norm(x))
    self.sow('intermediates', 'stem', x)
    for stage in range(1, len(self.channels)):
      x = layers.recomputed(small_block(self, stage), self.remat)(x, train=train)
      self.sow('intermediates', f'stage{stage}', x)
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


def small_block(net: SmallResNet, stage: int) -> resnet.ResidualBlock:
  """The block of a stage, from 1, with its name."""
  return resnet.ResidualBlock(
    channels=layers.widened(net.channels[stage], net.width),
    stride=2,
    bottleneck=False,
    pooled_shortcut=True,
    padding=net.padding,
    zero_init_residual=net.zero_init_residual,
    dtype=net.dtype,
    bn_axis=net.bn_axis,
    bn_groups=net.bn_groups,
    name=f'stage{stage}_block0',
  )


class Pixels(nn.Module):
  """The raw-pixel baseline: the image itself as its embedding. No parameters."""

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images float32 [b,H,W,C] -> embedding float32 [b,H * W * C]."""
    del train
    return x.reshape(x.shape[0], -1).astype(jnp.float32)
