"""Networks of VQ-VAE: an image to a small map of features, and such a map to an image.

Van den Oord et al., "Neural discrete representation learning" (arXiv 1711.00937, section 4.1):
4x4 convolutions of stride 2, a 3x3 convolution and residual blocks of ReLU, 3x3 convolution, ReLU,
1x1 convolution; the decoder the other way round. No normalization. Widths of 'codec' are those of
Sonnet's example, of 'codec_wide' the paper's 256.

Different from the paper: the decoder makes sides larger by sub-pixel convolutions, as all of ours
do (`models.decoders` says why), and the encoder ends with ReLU.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import layers
from byoljax.models.decoders import depth_to_space
from byoljax.models.initializers import he_normal_fan_in


class CodecSize(NamedTuple):
  """How large a network is.

  Attributes:
    width: channels of the map.
    inner: channels inside of the residual blocks.
    blocks: residual blocks.
  """

  width: int
  inner: int
  blocks: int


CODECS = {
  'codec_small': CodecSize(32, 16, 1),
  'codec': CodecSize(128, 32, 2),
  'codec_wide': CodecSize(256, 256, 2),
}
STRIDE = 4


class CodecEncoder(nn.Module):
  """Image -> a map of 1 / stride of its sides; the embedding is the map's mean.

  The map can be read out as 'map'.

  Attributes:
    size: see `CodecSize`.
    stride: pixels from one place of the map to the next, a power of two.
    width: factor on all channels.
    remat: see `layers.recomputed`.
    dtype: compute type.
  """

  size: CodecSize
  stride: int = STRIDE
  width: float = 1
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images [b, H, W, C] -> float32 [b, width].

    Raises:
      ValueError: images smaller than the stride.
    """
    del train
    images = x
    channels = layers.widened(self.size.width, self.width)
    halvings = round(math.log2(self.stride))
    x = x.astype(self.dtype)
    for stage in range(halvings):
      features = channels if stage or halvings == 1 else max(1, channels // 2)
      x = nn.relu(_conv(features, 4, self.dtype, f'down{stage + 1}_conv', stride=2)(x))
    layers.require_places(x, images)
    x = _conv(channels, 3, self.dtype, 'in_conv')(x)
    for block in range(self.size.blocks):
      unit = _Residual(
        layers.widened(self.size.inner, self.width), self.dtype, name=f'block{block}'
      )
      x = layers.recomputed(unit, self.remat)(x)
    x = nn.relu(x)
    self.sow('intermediates', 'map', x)
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


class CodecDecoder(nn.Module):
  """Map -> image of `stride` times its sides; attributes as for `CodecEncoder`.

  Attributes:
    channels: of the image.
  """

  size: CodecSize
  stride: int = STRIDE
  channels: int = 3
  dtype: Any = jnp.float32

  @property
  def last_layer(self) -> str:
    """The name of the layer that makes the image."""
    return f'up{round(math.log2(self.stride))}_conv' if self.stride > 1 else 'image_conv'

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b, h, w, D] -> float32 [b, stride * h, stride * w, channels]."""
    del train
    width, doublings = self.size.width, round(math.log2(self.stride))
    x = _conv(width, 3, self.dtype, 'in_conv')(x.astype(self.dtype))
    for block in range(self.size.blocks):
      x = _Residual(self.size.inner, self.dtype, name=f'block{block}')(x)
    for stage in range(doublings):
      last = stage + 1 == doublings
      features = self.channels if last else max(1, width // 2 ** (stage + 1))
      x = _conv(4 * features, 3, self.dtype, f'up{stage + 1}_conv')(nn.relu(x))
      x = depth_to_space(x, 2)
    if not doublings:
      x = _conv(self.channels, 3, self.dtype, 'image_conv')(nn.relu(x))
    return x.astype(jnp.float32)


class _Residual(nn.Module):
  """x + conv1x1(relu(conv3x3(relu(x))))."""

  inner: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = _conv(self.inner, 3, self.dtype, 'conv1')(nn.relu(x))
    return x + _conv(x.shape[-1], 1, self.dtype, 'conv2')(nn.relu(y))


def _conv(features: int, kernel: int, dtype: Any, name: str, stride: int = 1) -> nn.Conv:
  padding = 1 if kernel == 4 else 'torch'
  return layers.conv(
    features, kernel, stride, padding, dtype, name, use_bias=True, kernel_init=he_normal_fan_in
  )
