"""Networks of VQ-GAN: residual blocks with group normalization, and attention on the smallest map.

Esser et al., arXiv 2012.09841 (appendix A, table 7), after DDPM's U-Net: a 3x3 convolution; for
each level two blocks of (GroupNorm of 32 groups, swish, 3x3 convolution) twice with a shortcut,
and a halving by a 3x3 convolution of stride 2; on the last level, attention behind every block;
block, attention, block; GroupNorm, swish. The decoder the other way round with three blocks a
level. 'vq_gan' is that of ImageNet: 128 channels times 1, 1, 2, 2, 4, which makes 16 pixels a code.

Different from the authors' code: sides are doubled by sub-pixel convolutions, as in all of our
decoders; the halving pads on all sides; the encoder's last convolution is the quantizer's 1x1.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import biased, layers
from byoljax.models.decoders import depth_to_space
from byoljax.models.initializers import he_normal_fan_in


class VQGANSize(NamedTuple):
  """How large a network is.

  Attributes:
    width: channels of the first level.
    factors: of all levels, times the width; each level but the first halves the sides.
    blocks: residual blocks of a level of the encoder.
    groups: of the normalization; they divide all channels.
  """

  width: int
  factors: tuple[int, ...]
  blocks: int
  groups: int


VQ_GANS = {
  'vq_gan': VQGANSize(128, (1, 1, 2, 2, 4), 2, 32),
  'vq_gan_f4': VQGANSize(128, (1, 2, 4), 2, 32),
}


class VQGANEncoder(nn.Module):
  """Image -> a map of 1 / 2^(levels - 1) of its sides; the embedding is the map's mean.

  'level1' ... and the last map, 'map', can be read out.

  Attributes:
    size: see `VQGANSize`.
    width: factor on all channels.
    remat: see `layers.recomputed`.
    dtype: compute type; statistics of normalization and scores of attention are float32.
  """

  size: VQGANSize
  width: float = 1
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images [b, H, W, C] -> float32 [b, channels]."""
    del train
    size = self.size
    channels = [layers.widened(size.width * factor, self.width) for factor in size.factors]
    x = _conv(channels[0], 3, self.dtype, 'in_conv')(x.astype(self.dtype))
    for level, features in enumerate(channels, start=1):
      last = level == len(channels)
      for block in range(size.blocks):
        unit = _Block(features, size.groups, self.dtype, name=f'level{level}_block{block}')
        x = layers.recomputed(unit, self.remat)(x)
        if last:
          x = _Attention(size.groups, self.dtype, name=f'level{level}_attention{block}')(x)
      self.sow('intermediates', f'level{level}', x)
      if not last:
        x = _conv(features, 3, self.dtype, f'down{level}_conv', stride=2)(x)
    x = _Middle(size.groups, self.dtype, name='middle')(x)
    x = nn.swish(_norm(size.groups, self.dtype, 'out_norm')(x))
    self.sow('intermediates', 'map', x)
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


class VQGANDecoder(nn.Module):
  """Map -> image of `stride` times its sides, with the last levels of the size, reversed.

  Attributes:
    size: see `VQGANSize`.
    stride: a power of two, at most that of the encoder of this size.
    channels: of the image.
    dtype: as for the encoder.
  """

  size: VQGANSize
  stride: int
  channels: int = 3
  dtype: Any = jnp.float32

  @property
  def last_layer(self) -> str:
    """The name of the layer that makes the image."""
    return 'image_conv'

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b, h, w, D] -> float32 [b, stride * h, stride * w, channels].

    Raises:
      ValueError: a stride of more levels than there are.
    """
    del train
    size, doublings = self.size, self.stride.bit_length() - 1
    if doublings >= len(size.factors):
      raise ValueError(
        f'this decoder has {len(size.factors)} levels, for strides of up to '
        f'{2 ** (len(size.factors) - 1)} pixels, not {self.stride}.'
      )
    channels = [size.width * factor for factor in size.factors[: doublings + 1]]
    x = _conv(channels[-1], 3, self.dtype, 'in_conv')(x.astype(self.dtype))
    x = _Middle(size.groups, self.dtype, name='middle')(x)
    for level in range(len(channels), 0, -1):
      for block in range(size.blocks + 1):
        name = f'level{level}_block{block}'
        x = _Block(channels[level - 1], size.groups, self.dtype, name=name)(x)
        if level == len(channels):
          x = _Attention(size.groups, self.dtype, name=f'level{level}_attention{block}')(x)
      if level > 1:
        x = _conv(4 * channels[level - 1], 3, self.dtype, f'up{level}_conv')(x)
        x = depth_to_space(x, 2)
    x = nn.swish(_norm(size.groups, self.dtype, 'out_norm')(x))
    return _conv(self.channels, 3, self.dtype, 'image_conv')(x).astype(jnp.float32)


class _Middle(nn.Module):
  groups: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = _Block(x.shape[-1], self.groups, self.dtype, name='block0')(x)
    x = _Attention(self.groups, self.dtype, name='attention')(x)
    return _Block(x.shape[-1], self.groups, self.dtype, name='block1')(x)


class _Block(nn.Module):
  features: int
  groups: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = nn.swish(_norm(self.groups, self.dtype, 'norm1')(x))
    y = _conv(self.features, 3, self.dtype, 'conv1')(y)
    y = nn.swish(_norm(self.groups, self.dtype, 'norm2')(y))
    y = _conv(self.features, 3, self.dtype, 'conv2')(y)
    if x.shape[-1] != self.features:
      x = _conv(self.features, 1, self.dtype, 'shortcut_conv')(x)
    return x + y


class _Attention(nn.Module):
  """x + a linear layer of self-attention between all places, with one head."""

  groups: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    b, height, width, channels = x.shape
    y = _norm(self.groups, self.dtype, 'norm')(x).reshape(b, height * width, channels)

    def linear(name: str) -> nn.Dense:
      return biased.Dense(channels, dtype=self.dtype, kernel_init=he_normal_fan_in, name=name)

    query, key, value = (linear(name)(y) for name in ('query', 'key', 'value'))
    y = jax.nn.dot_product_attention(query[:, :, None], key[:, :, None], value[:, :, None])[:, :, 0]
    return x + linear('out')(y).reshape(x.shape)


def _norm(groups: int, dtype: Any, name: str) -> nn.GroupNorm:
  return nn.GroupNorm(groups, epsilon=1e-6, dtype=dtype, param_dtype=jnp.float32, name=name)


def _conv(features: int, kernel: int, dtype: Any, name: str, stride: int = 1) -> nn.Conv:
  return layers.conv(
    features, kernel, stride, 'torch', dtype, name, use_bias=True, kernel_init=he_normal_fan_in
  )
