"""Wide residual networks for images of about 32 pixels: WRN-depth-factor.

Zagoruyko, Komodakis, arXiv 1605.07146: blocks of BN, ReLU, convolution, twice, added to their input
(pre-activation, He et al., arXiv 1603.05027); where channels change, the shortcut is a 1x1
convolution of the activated input. Kernels begin with variance 2 / fan_in. GEOM's anomaly detection
trains WRN-10-4 (arXiv 1805.10917), FixMatch and its kin WRN-28-2 (arXiv 2001.07685).

Differences: the papers' codes pad strided convolutions in one way (PyTorch) or another (TensorFlow,
Keras): option `padding`. FixMatch's network has leaky ReLUs with slope 0.1 and batch normalization
with momentum 0.999; here both are the paper's. There is no dropout.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import layers
from byoljax.models.initializers import he_normal_fan_in


class Size(NamedTuple):
  """Dimensions of a wide ResNet.

  Attributes:
    depth: convolutions on the longest path and the classifier, 6 n + 4 with n blocks a stage.
    factor: stages have 16, 32 and 64 times as many channels.
  """

  depth: int
  factor: int


WIDE_RESNETS = {
  'wrn_10_4': Size(10, 4),
  'wrn_16_8': Size(16, 8),
  'wrn_28_2': Size(28, 2),
  'wrn_28_10': Size(28, 10),
  'wrn_40_2': Size(40, 2),
}


class PreActivationBlock(nn.Module):
  """x + conv(relu(BN(conv(relu(BN(x))))))."""

  channels: int
  stride: int
  padding: str = 'torch'
  dtype: jnp.dtype = jnp.float32
  bn_axis: str | None = None
  bn_groups: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,H,W,C] -> [b,H/stride,W/stride,channels] in the compute dtype."""
    conv = functools.partial(
      layers.conv, padding=self.padding, dtype=self.dtype, kernel_init=he_normal_fan_in
    )
    norm = functools.partial(
      layers.batch_norm, train, self.bn_axis, self.dtype, groups=self.bn_groups
    )
    active = nn.relu(norm('bn1')(x))
    y = conv(self.channels, 3, self.stride, name='conv1')(active)
    y = nn.relu(norm('bn2')(y))
    y = conv(self.channels, 3, 1, name='conv2')(y)
    if self.stride != 1 or x.shape[-1] != self.channels:
      x = conv(self.channels, 1, self.stride, name='shortcut_conv')(active)
    return x + y


class WideResNet(nn.Module):
  """3x3 convolution, three stages of blocks (stride 1, 2, 2), BN, ReLU, mean over space.

  `width` multiplies every channel count, the first convolution's, too. 'stem', the output of every
  block, 'stage1_1', 'stage1_2', ..., and of every stage's last, 'stage1' ... 'stage3', can be read
  out through `byoljax.models.net.stack(..., taps=...)`; they are sums, before normalization.
  """

  size: Size
  width: float = 1
  padding: str = 'torch'
  remat: bool = False
  dtype: jnp.dtype = jnp.float32
  bn_axis: str | None = None
  bn_groups: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images float32 [b,H,W,C] -> embedding float32 [b,64 * factor * width]."""
    depth = (self.size.depth - 4) // 6
    stem = layers.conv(
      layers.widened(16, self.width),
      3,
      1,
      self.padding,
      self.dtype,
      'stem_conv',
      kernel_init=he_normal_fan_in,
    )
    x = stem(x)
    self.sow('intermediates', 'stem', x)
    for stage in (1, 2, 3):
      for number in range(depth):
        block = PreActivationBlock(
          channels=layers.widened(16 * 2 ** (stage - 1) * self.size.factor, self.width),
          stride=2 if stage > 1 and number == 0 else 1,
          padding=self.padding,
          dtype=self.dtype,
          bn_axis=self.bn_axis,
          bn_groups=self.bn_groups,
          name=f'stage{stage}_block{number}',
        )
        x = layers.recomputed(block, self.remat)(x, train=train)
        last = number == depth - 1
        self.sow('intermediates', f'stage{stage}' if last else f'stage{stage}_{number + 1}', x)
    norm = layers.batch_norm(train, self.bn_axis, self.dtype, 'bn', groups=self.bn_groups)
    return jnp.mean(nn.relu(norm(x)).astype(jnp.float32), axis=(1, 2))
