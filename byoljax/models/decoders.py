"""From an encoder's feature map back to an image.

A stage doubles the sides of the map: a 3x3 convolution to four times the channels, which become 2x2
pixels (sub-pixel convolution, Shi et al., arXiv 1609.05158), BN and ReLU. It stands in for the
strided transposed convolutions of the papers: on a CPU their gradients take 2.7 times as long with
equal channels (434 and 161 ms for 64 images of 32 pixels), and every pixel is made by as many taps
as its neighbors, so there are no patterns of uneven overlap.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import layers
from byoljax.models.initializers import he_normal_fan_in, normal
from byoljax.models.net import unknown_name
from byoljax.models.taps import maps_of, probed_side

MOST_CHANNELS = 512
# Large enough for every encoder's kernels; nothing of that size is computed.
_PROBED = (256, 512)


class FeatureMap(NamedTuple):
  """A map in an encoder.

  Attributes:
    tap: its name.
    stride: pixels of the image from one place of the map to the next, a power of two.
    channels: of the map.
  """

  tap: str
  stride: int
  channels: int


def feature_map(encoder: nn.Module, channels: int, tap: str = '') -> FeatureMap:
  """The map that a decoder is put on; found without computing anything.

  Args:
    encoder: any that hands out maps [b, h, w, C].
    channels: of the images.
    tap: the map's name; '' for the last one.

  Raises:
    ValueError: no such map, none at all, or one whose stride is not a power of two.
  """
  small, large = (maps_of(encoder, channels, side) for side in _PROBED)
  maps = [name for name, shape in small.items() if len(shape) == 4]
  if not maps:
    raise ValueError(
      f'{type(encoder).__name__} has no feature map that an image could be made of again: take a '
      'convolutional encoder; a module of your own needs self.sow("intermediates", "map", x).'
    )
  name = tap or maps[-1]
  if name not in maps:
    raise ValueError(unknown_name('map', name, maps))
  sides = [probed_side(encoder, side) for side in _PROBED]
  if sides[0] == sides[1]:  # It takes images of one size.
    stride = sides[0] / small[name][1]
  else:
    stride = (sides[1] - sides[0]) / max(1, large[name][1] - small[name][1])
  if stride not in (1, 2, 4, 8, 16, 32, 64):
    raise ValueError(
      f"map '{name}' has a stride of {stride:g} pixels, and a decoder doubles sides: take one "
      f'whose stride is a power of two.'
    )
  return FeatureMap(name, int(stride), small[name][-1])


class ConvDecoder(nn.Module):
  """A map -> an image of `stride` times its sides.

  The last stage has `width` channels, each before it twice as many as the one behind it, at most
  512; then a 3x3 convolution with bias makes the image's channels. A map of stride 1 gets one stage
  that keeps its size.

  Attributes:
    stride: pixels of the image to one place of the map, a power of two.
    width: channels of the last stage.
    channels: of the image.
    channelwise: whether it begins with `Channelwise`.
    bn_axis: mapped axis whose devices share batch statistics in training.
    dtype: compute type.
  """

  stride: int
  width: int = 16
  channels: int = 3
  channelwise: bool = False
  bn_axis: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b, h, w, C] -> float32 [b, stride * h, stride * w, channels]."""
    x = x.astype(self.dtype)
    if self.channelwise:
      x = Channelwise(self.dtype, name='channelwise')(x)
    doublings = round(math.log2(self.stride))
    for stage in range(max(1, doublings)):
      features = min(self.width * 2 ** (max(1, doublings) - 1 - stage), MOST_CHANNELS)
      grown = 2 if doublings else 1
      made = features * grown * grown
      x = _conv(made, 3, f'stage{stage + 1}_conv', self.dtype, use_bias=False)(x)
      x = depth_to_space(x, grown)
      x = layers.batch_norm(train, self.bn_axis, self.dtype, f'stage{stage + 1}_bn')(x)
      x = nn.relu(x)
    return _conv(self.channels, 3, 'image_conv', self.dtype)(x).astype(jnp.float32)


class Channelwise(nn.Module):
  """A fully connected layer between all places of each channel, ReLU, and a 1x1 convolution.

  What the corners know reaches the middle (Pathak et al., arXiv 1604.07379, section 3.1) at
  channels * places^2 parameters, not channels^2 * places^2. Maps must always have the same sides.
  """

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b, h, w, C] -> the same shape."""
    height, width, channels = x.shape[1:]
    places = height * width
    # He et al.'s variance: sums go over the places of one channel.
    init = normal(math.sqrt(2.0 / places))
    kernel = self.param('places', init, (places, channels, places), jnp.float32)
    flat = x.reshape(x.shape[0], places, channels)
    flat = jnp.einsum('bpc,pcq->bqc', flat, kernel.astype(self.dtype))
    return _conv(channels, 1, 'mix_conv', self.dtype)(nn.relu(flat).reshape(x.shape))


def _conv(features: int, kernel: int, name: str, dtype: Any, *, use_bias: bool = True) -> nn.Conv:
  return layers.conv(
    features, kernel, 1, 'torch', dtype, name, use_bias=use_bias, kernel_init=he_normal_fan_in
  )


def depth_to_space(x: jax.Array, factor: int) -> jax.Array:
  """[b, h, w, factor^2 * C] -> [b, factor * h, factor * w, C]: each place becomes a square.

  Channel (i * factor + j) * C + c of a place is channel c of row i, column j of its square.
  """
  b, h, w, channels = x.shape
  c = channels // factor**2
  x = x.reshape(b, h, w, factor, factor, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, factor * h, factor * w, c)


def fitted(output: jax.Array, image: jax.Array) -> jax.Array:
  """A decoder's output at the image's size: as it is, or resized where sides do not divide evenly.

  Bilinear. So it is with AlexNet, whose kernels leave out a border.
  """
  if output.shape[1:3] == image.shape[1:3]:
    return output
  return jax.image.resize(output, (*output.shape[:1], *image.shape[1:3], output.shape[3]), 'linear')
