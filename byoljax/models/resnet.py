"""ResNet-18 to -200, any width: the v1.5 form (a bottleneck's stride sits on its 3x3 convolution).

He et al., arXiv 1512.03385. Same network, initialization and parameter count as torchvision's,
without the fully connected layer. Differences from the ResNets of BYOL's code (Haiku): that one
pads 'same' (`padding='same'` here), projects the shortcut in all four stages even where the shape
already fits (only in ResNet-18 and -34 does it matter; `first_projection` here), initializes with
truncated normals of sigma 1/sqrt(fan_in), and zeroes the last scale of a block in bottlenecks only
(`zero_init_residual` here zeroes it in both kinds of block, as torchvision does). DeepMind's
published numbers were obtained with that scale at one.

Two variants, from SimCLR v2 (arXiv 2006.10029), off by default: `resnet_d` has three 3x3
convolutions in the stem and strided shortcuts that average the pixels they would skip (ResNet-D,
He et al., arXiv 1812.01187); `selective_kernel` has both and puts a `SelectiveKernel` in place of
every block's 3x3 convolution with the stride. Without its classifier ResNet-50 then has 35.2
million parameters. Differences from SimCLR's code: it also averages 2x2 pixels in the shortcuts
without a stride (those of stage 1) and pads averaged maps of odd size with zeros, both as here with
`padding='fixed'`; and it knows selective kernels in bottlenecks only; in basic blocks they replace
the first convolution here.

`output_stride` 16 or 8 keeps the map of the last stage, or the last two, at that many pixels from
place to place, for dense outputs: strides become 1, and 3x3 convolutions dilated, all those of a
stage alike, by 2 and then 4 (MoCo's and BYOL's FCN, arXiv 1911.05722 and 2006.07733; DeepLab, arXiv
1606.00915). torchvision leaves the first of each such stage one dilation behind. Parameters are the
same, so that weights trained without it fit.
"""

import functools

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


# Channels between the two layers that weigh the paths of a selective kernel: SimCLR v2's values.
SK_RATIO = 0.0625
SK_MINIMUM = 32


class SelectiveKernel(nn.Module):
  """Two 3x3 convolutions, weighed channel by channel by what the whole map looks like.

  u_i = relu(BN(conv3x3_i(x))); s = mean over space of u_1 + u_2; the result is sum_i a_i u_i with
  a = softmax over i of W_i relu(BN(V s)), V s having max(channels / 16, 32) channels (Li et al.,
  arXiv 1903.06586, equations 1 to 6, as changed in SimCLR v2: both kernels are 3x3, so they are one
  convolution).
  """

  channels: int
  stride: int
  padding: str = 'torch'
  dtype: jnp.dtype = jnp.float32
  bn_axis: str | None = None
  bn_groups: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,H,W,C] -> [b,H/stride,W/stride,channels] in the compute dtype."""
    conv = functools.partial(layers.conv, padding=self.padding, dtype=self.dtype)
    norm = functools.partial(
      layers.batch_norm, train, self.bn_axis, self.dtype, groups=self.bn_groups
    )
    x = conv(2 * self.channels, 3, self.stride, name='conv')(x)
    x = nn.relu(norm('bn')(x))
    paths = x.reshape(*x.shape[:-1], 2, self.channels)
    seen = jnp.mean(paths.sum(-2), axis=(1, 2), keepdims=True, dtype=jnp.float32)
    middle = max(int(SK_RATIO * self.channels), SK_MINIMUM)
    seen = conv(middle, 1, 1, name='reduce_conv')(seen)
    seen = nn.relu(norm('reduce_bn')(seen))
    logits = conv(2 * self.channels, 1, 1, name='weigh_conv')(seen).astype(jnp.float32)
    weights = nn.softmax(logits.reshape(*logits.shape[:-1], 2, self.channels), axis=-2)
    return (paths * weights.astype(self.dtype)).sum(-2)


class ResidualBlock(nn.Module):
  """relu(x + f(x)) with f = conv-BN-relu ... conv-BN; x goes through 1x1 conv-BN to fit f(x).

  `channels` is the width of the 3x3 convolutions, whose taps are `dilation` pixels apart; a
  bottleneck gives out 4 * channels. With `projection`, x goes through the 1x1 convolution even
  where it fits. With `pooled_shortcut`, a strided shortcut averages the pixels it would skip
  (ResNet-D). With `selective_kernel`, the 3x3 convolution with the stride is a `SelectiveKernel`.
  """

  channels: int
  stride: int
  bottleneck: bool
  projection: bool = False
  pooled_shortcut: bool = False
  selective_kernel: bool = False
  padding: str = 'torch'
  zero_init_residual: bool = False
  dtype: jnp.dtype = jnp.float32
  bn_axis: str | None = None
  bn_groups: int = 0
  dilation: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,H,W,C] -> [b,H/stride,W/stride,channels or 4 * channels] in the compute dtype."""
    norm = functools.partial(
      layers.batch_norm, train, self.bn_axis, self.dtype, groups=self.bn_groups
    )
    selective = (2 if self.bottleneck else 1) if self.selective_kernel else 0
    if self.bottleneck:
      plan = ((1, 1, self.channels), (3, self.stride, self.channels), (1, 1, 4 * self.channels))
    else:
      plan = ((3, self.stride, self.channels), (3, 1, self.channels))
    y = x
    for i, (kernel, stride, features) in enumerate(plan, start=1):
      if i == selective:
        y = self._selective_kernel(features)(y, train=train)
        continue
      last = i == len(plan)
      zero = last and self.zero_init_residual
      scale_init = nn.initializers.zeros if zero else nn.initializers.ones
      dilation = self.dilation if kernel > 1 else 1
      # Without a stride all kinds of padding are the same.
      padding = self.padding if dilation == 1 else dilation
      y = layers.conv(features, kernel, stride, padding, self.dtype, f'conv{i}', dilation=dilation)(
        y
      )
      y = norm(f'bn{i}', scale_init=scale_init)(y)
      if not last:
        y = nn.relu(y)
    if self.projection or x.shape[-1] != y.shape[-1] or self.stride != 1:
      stride = self.stride
      if self.pooled_shortcut and (stride > 1 or self.padding == 'fixed'):
        zeros = stride > 1 and self.padding == 'fixed'
        strides, stride = (stride, stride), 1
        x = nn.avg_pool(x, (2, 2), strides, padding='SAME', count_include_pad=zeros)
      x = layers.conv(y.shape[-1], 1, stride, self.padding, self.dtype, 'shortcut_conv')(x)
      x = norm('shortcut_bn')(x)
    return nn.relu(x + y)

  def _selective_kernel(self, features: int) -> SelectiveKernel:
    return SelectiveKernel(
      features,
      self.stride,
      self.padding,
      self.dtype,
      self.bn_axis,
      self.bn_groups,
      name='selective_kernel',
    )


class ResNet(nn.Module):
  """Stem, four stages of residual blocks (stride 1, 2, 2, 2), mean over space.

  `stem` 'imagenet': 7x7 stride 2, BN, relu, 3x3 max-pool stride 2; 'cifar': 3x3 stride 1 padded by
  1, BN, relu, no pool. With `resnet_d` or `selective_kernel`, three 3x3 convolutions with BN and
  relu (the first with stride 2, the first two with half the channels) stand in for the 7x7; the
  CIFAR stem stays. `width` multiplies every channel count. `first_projection` gives stage 1 a
  projected shortcut even where none is needed. `output_stride`, in pixels, see the module. `remat`
  keeps no activations inside of blocks. Feature maps 'stem' and 'stage1' ... 'stage4' can be read
  out through `byoljax.models.net.stack(..., taps=...)`.
  """

  blocks: tuple[int, ...]
  bottleneck: bool
  width: float = 1
  stem: str = 'imagenet'
  padding: str = 'torch'
  zero_init_residual: bool = False
  selective_kernel: bool = False
  resnet_d: bool = False
  first_projection: bool = False
  remat: bool = False
  dtype: jnp.dtype = jnp.float32
  bn_axis: str | None = None
  bn_groups: int = 0
  output_stride: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images float32 [b,H,W,3] -> embedding float32 [b,D], D = 512 or 2048 times width."""
    as_d = self.resnet_d or self.selective_kernel
    channels = layers.widened(64, self.width)
    kernel, stride = (7, 2) if self.stem == 'imagenet' else (3, 1)
    plan = [('stem', kernel, stride, channels)]
    if as_d and self.stem == 'imagenet':
      plan = [('stem1', 3, 2, channels // 2), ('stem2', 3, 1, channels // 2)]
      plan.append(('stem', 3, 1, channels))
    for name, kernel, stride, features in plan:
      x = layers.conv(features, kernel, stride, self.padding, self.dtype, f'{name}_conv')(x)
      norm = layers.batch_norm(train, self.bn_axis, self.dtype, f'{name}_bn', groups=self.bn_groups)
      x = nn.relu(norm(x))
    if self.stem == 'imagenet':
      x = nn.max_pool(x, (3, 3), (2, 2), padding=layers.pool_padding_of(3, self.padding))
    self.sow('intermediates', 'stem', x)
    for stage, depth in enumerate(self.blocks, start=1):
      for block in range(depth):
        residual = residual_block(self, stage, block)
        x = layers.recomputed(residual, self.remat)(x, train=train)
      self.sow('intermediates', f'stage{stage}', x)
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


def residual_block(net: ResNet, stage: int, block: int) -> ResidualBlock:
  """A block of a ResNet by its numbers, stages from 1 and blocks from 0, with its name."""
  reached, dilation, stride = 4 if net.stem == 'imagenet' else 1, 1, 1
  for _ in range(1, stage):
    stride = 2
    if net.output_stride and reached * stride > net.output_stride:
      stride, dilation = 1, dilation * 2
    reached *= stride
  return ResidualBlock(
    channels=layers.widened(64, net.width) * 2 ** (stage - 1),
    stride=stride if block == 0 else 1,
    dilation=dilation,
    bottleneck=net.bottleneck,
    projection=net.first_projection and stage == 1 and block == 0,
    pooled_shortcut=net.resnet_d or net.selective_kernel,
    selective_kernel=net.selective_kernel,
    padding=net.padding,
    zero_init_residual=net.zero_init_residual,
    dtype=net.dtype,
    bn_axis=net.bn_axis,
    bn_groups=net.bn_groups,
    name=f'stage{stage}_block{block}',
  )
