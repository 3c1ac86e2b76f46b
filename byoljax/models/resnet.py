"""ResNet-18 to -200, any width: the v1.5 form (a bottleneck's stride sits on its 3x3 convolution).

He et al., arXiv 1512.03385. Same network, initialisation and parameter count as torchvision's,
without the fully connected layer. Differences from the ResNets of BYOL's code (Haiku): that one
pads 'same' (`padding='same'` here), projects the shortcut in all four stages even where the shape
already fits (only in ResNet-18 and -34 does it matter), initialises with truncated normals of sigma
1/sqrt(fan_in), and zeroes the last scale of a block in bottlenecks only (`zero_init_residual` here
zeroes it in both kinds of block, as torchvision does). DeepMind's published numbers were obtained
with that scale at one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import layers

# name -> (bottleneck blocks?, blocks in each of the four stages)
RESNETS = {
  'resnet18': (False, (2, 2, 2, 2)),
  'resnet34': (False, (3, 4, 6, 3)),
  'resnet50': (True, (3, 4, 6, 3)),
  'resnet101': (True, (3, 4, 23, 3)),
  'resnet152': (True, (3, 8, 36, 3)),
  'resnet200': (True, (3, 24, 36, 3)),
}


class ResidualBlock(nn.Module):
  """relu(x + f(x)) with f = conv-BN-relu ... conv-BN; x goes through 1x1 conv-BN to fit f(x).

  `channels` is the width of the 3x3 convolutions; a bottleneck gives out 4 * channels. With
  `pooled_shortcut`, a strided shortcut averages the pixels it skips (ResNet-D); the ResNets here
  do not.
  """

  channels: int
  stride: int
  bottleneck: bool
  pooled_shortcut: bool = False
  padding: str = 'torch'
  zero_init_residual: bool = False
  dtype: jnp.dtype = jnp.float32
  bn_axis: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,H,W,C] -> [b,H/stride,W/stride,channels or 4 * channels] in the compute dtype."""
    if self.bottleneck:
      plan = ((1, 1, self.channels), (3, self.stride, self.channels), (1, 1, 4 * self.channels))
    else:
      plan = ((3, self.stride, self.channels), (3, 1, self.channels))
    y = x
    for i, (kernel, stride, features) in enumerate(plan, start=1):
      last = i == len(plan)
      zero = last and self.zero_init_residual
      scale_init = nn.initializers.zeros if zero else nn.initializers.ones
      y = layers.conv(features, kernel, stride, self.padding, self.dtype, f'conv{i}')(y)
      y = layers.batch_norm(train, self.bn_axis, self.dtype, f'bn{i}', scale_init)(y)
      if not last:
        y = nn.relu(y)
    if x.shape[-1] != y.shape[-1] or self.stride != 1:
      stride = self.stride
      if self.pooled_shortcut and stride > 1:
        window, stride = (stride, stride), 1
        x = nn.avg_pool(x, window, window, padding='SAME', count_include_pad=False)
      x = layers.conv(y.shape[-1], 1, stride, self.padding, self.dtype, 'shortcut_conv')(x)
      x = layers.batch_norm(train, self.bn_axis, self.dtype, 'shortcut_bn')(x)
    return nn.relu(x + y)


class ResNet(nn.Module):
  """Stem, four stages of residual blocks (stride 1, 2, 2, 2), mean over space.

  `stem` 'imagenet': 7x7 stride 2, BN, relu, 3x3 max-pool stride 2; 'cifar': 3x3 stride 1 padded by
  1, BN, relu, no pool. `width` multiplies every channel count. Feature maps 'stem' and 'stage1' ...
  'stage4' can be read out through `byoljax.models.net.stack(..., taps=...)`.
  """

  blocks: tuple[int, ...]
  bottleneck: bool
  width: int = 1
  stem: str = 'imagenet'
  padding: str = 'torch'
  zero_init_residual: bool = False
  dtype: jnp.dtype = jnp.float32
  bn_axis: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images float32 [b,H,W,3] -> embedding float32 [b,D], D = 512 or 2048 times width."""
    kernel, stride = (7, 2) if self.stem == 'imagenet' else (3, 1)
    x = layers.conv(64 * self.width, kernel, stride, self.padding, self.dtype, 'stem_conv')(x)
    x = nn.relu(layers.batch_norm(train, self.bn_axis, self.dtype, 'stem_bn')(x))
    if self.stem == 'imagenet':
      x = nn.max_pool(x, (3, 3), (2, 2), padding=layers.padding_of(3, self.padding))
    self.sow('intermediates', 'stem', x)
    for stage, depth in enumerate(self.blocks, start=1):
      for block in range(depth):
        x = ResidualBlock(
          channels=64 * self.width * 2 ** (stage - 1),
          stride=2 if stage > 1 and block == 0 else 1,
          bottleneck=self.bottleneck,
          padding=self.padding,
          zero_init_residual=self.zero_init_residual,
          dtype=self.dtype,
          bn_axis=self.bn_axis,
          name=f'stage{stage}_block{block}',
        )(x, train=train)
      self.sow('intermediates', f'stage{stage}', x)
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))
