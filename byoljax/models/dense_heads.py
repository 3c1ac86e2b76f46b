"""From an encoder's inner maps to one vector of numbers at every pixel: segmentation, depth.

A head reads a tuple of maps, the shallowest first, each [b,h,w,C], or the tokens of a vision
transformer, [b,1 + n,C], whose patches become a map. What it makes at a place of the map is
interpolated (bilinear) to the image's own pixels.

    linear   batch normalization without scale and shift, a 1x1 convolution: linear in the features,
             as MAE's and DINOv2's probes of tokens
    fcn      two 3x3 convolutions of 256 channels with dilation 6, BN and ReLU; a 1x1 convolution
             (MoCo, arXiv 1911.05722; BYOL, arXiv 2006.07733)
    skips    a 1x1 convolution of every map, normalized as in 'linear', each sum of scores
             interpolated to the next finer map and added (Long et al., arXiv 1411.4038): linear
             in the features
    up       the decoder of depth: a 1x1 convolution to half the channels, fast up-projection
             blocks, a 3x3 convolution (Laina et al., arXiv 1606.00373; BYOL)

Where sizes do not divide, as at the border of odd images, maps are interpolated to fit. Different
from the papers: Long et al. initialize learned interpolation with the bilinear one that stays here;
Laina et al. have dropout, and a ReLU at the end, behind which a negative depth gets no gradient.
"""

from collections.abc import Sequence
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import layers
from byoljax.models.decoders import depth_to_space
from byoljax.models.heads import FeatureNorm
from byoljax.models.initializers import he_normal_fan_in, normal

HEADS = ('linear', 'fcn', 'skips', 'up')
# Laina et al.'s channels of the up-projection blocks.
UP_CHANNELS = (512, 256, 128, 64)


class DenseHead(nn.Module):
  """Maps -> numbers at every pixel; see the module.

  Attributes:
    kind: one of `HEADS`.
    channels: of the output.
    width: of the hidden layers of 'fcn'.
    up_channels: of each block of 'up', which doubles the sides of the map; () for none.
    start: the output before training: the bias of the last layer.
    bn_axis: mapped axis whose devices share batch statistics in training.
    dtype: compute type; the output is float32.
  """

  kind: str
  channels: int
  width: int = 256
  up_channels: tuple[int, ...] = UP_CHANNELS
  start: float = 0.0
  bn_axis: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, maps: Sequence[jax.Array], *, train: bool, image: jax.Array | None = None
  ) -> jax.Array:
    """Maps -> float32 [b,H,W,channels].

    Args:
      maps: see the module.
      train: whether batch normalization uses the batch.
      image: [b,H,W,...], of which the shape matters. None: the output has the size of the finest
        map, and patches are as many down as across.

    Raises:
      ValueError: tokens that are no map, or more blocks than lead to the size of the image, where
        the map has places enough to tell.
    """
    size = None if image is None else (image.shape[1], image.shape[2])
    found = [gridded_tokens(x, size).astype(self.dtype) for x in maps]
    if self.kind == 'up' and size is not None:
      self._check_blocks(found[-1].shape[1:3], size)
    makers = {'linear': self._linear, 'fcn': self._fcn, 'skips': self._skips, 'up': self._up}
    made = makers[self.kind](found, train).astype(jnp.float32)
    return made if size is None else resized(made, size)

  def _linear(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
    size = maps[0].shape[1:3]
    x = jnp.concatenate([resized(each.astype(jnp.float32), size) for each in maps], axis=-1)
    return self._scores(FeatureNorm(self.bn_axis, name='norm')(x, train=train), 'score')

  def _fcn(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
    x = maps[-1]
    for number in (1, 2):
      x = _conv(self.width, 3, f'conv{number}', self.dtype, dilation=6)(x)
      x = nn.relu(layers.batch_norm(train, self.bn_axis, self.dtype, f'bn{number}')(x))
    return self._scores(x, 'score')

  def _skips(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
    total = None
    for number in reversed(range(len(maps))):
      x = FeatureNorm(self.bn_axis, name=f'norm{number + 1}')(maps[number], train=train)
      own = self._scores(x, f'score{number + 1}', start=total is None)
      total = own if total is None else own + resized(total, own.shape[1:3])
    assert total is not None, 'there is at least one map'
    return total

  def _up(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
    x = maps[-1]
    if self.up_channels:
      x = _conv(max(1, x.shape[-1] // 2), 1, 'reduce_conv', self.dtype)(x)
      x = nn.relu(layers.batch_norm(train, self.bn_axis, self.dtype, 'reduce_bn')(x))
    for number, channels in enumerate(self.up_channels, start=1):
      block = UpProjection(channels, self.bn_axis, self.dtype, name=f'up{number}')
      x = block(x, train=train)
    return self._scores(x, 'score', kernel=3)

  def _check_blocks(self, given: tuple[int, ...], image: tuple[int, ...]) -> None:
    blocks = len(self.up_channels)
    made = tuple(side << blocks for side in given)
    # A map reaches beyond the image by less than its stride, so its places but one are inside.
    if any((side - 1) << blocks >= extent for side, extent in zip(given, image, strict=True)):
      raise ValueError(
        f'up_channels has {blocks} blocks, which make {made} pixels of a map of {tuple(given)}: '
        f'more than the image has, {tuple(image)}. Name fewer, as the recipe depth:small does.'
      )

  def _scores(self, x: jax.Array, name: str, *, kernel: int = 1, start: bool = True) -> jax.Array:
    """The last layer, float32 as the classifiers of whole images."""
    return nn.Conv(
      self.channels,
      (kernel, kernel),
      kernel_init=normal(0.01),
      bias_init=nn.initializers.constant(self.start if start else 0.0),
      name=name,
    )(x.astype(jnp.float32))


class UpProjection(nn.Module):
  """Twice the sides: relu(BN(conv3x3(relu(BN(u1)))) + BN(u2)), u1 and u2 unpooled 5x5 convolutions.

  Fast up-projection (Laina et al., arXiv 1606.00373, section 3.2 and figure 3): an unpooled map has
  zeros in three of four places, so a 5x5 convolution of it is four smaller ones of the map itself,
  3x3, 3x2, 2x3 and 2x2, whose results alternate.
  """

  channels: int
  bn_axis: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,h,w,C] -> [b,2 h,2 w,channels]."""
    norm = functools.partial(layers.batch_norm, train, self.bn_axis, self.dtype)
    up = functools.partial(UpConv, self.channels, self.dtype)
    y = nn.relu(norm('bn1')(up(name='up1')(x)))
    y = norm('bn2')(_conv(self.channels, 3, 'conv2', self.dtype)(y))
    return nn.relu(y + norm('shortcut_bn')(up(name='shortcut_up')(x)))


class UpConv(nn.Module):
  """A 5x5 convolution of the map with zeros between its places, without computing the zeros."""

  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b,h,w,C] -> [b,2 h,2 w,channels]; place (i, j) is at (2 i, 2 j) of the unpooled map."""
    shape = (5, 5, x.shape[-1], self.channels)
    # A quarter of the 25 taps meets something.
    init = nn.initializers.variance_scaling(8.0, 'fan_in', 'truncated_normal')
    kernel = self.param('kernel', init, shape, jnp.float32).astype(self.dtype)
    parts = [
      jax.lax.conv_general_dilated(
        x,
        kernel[row::2, column::2],
        (1, 1),
        # Taps 0, 2, 4 see the places before, at and after; taps 1, 3 those at and after.
        ((1 - row, 1), (1 - column, 1)),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
      for row in (0, 1)
      for column in (0, 1)
    ]
    return depth_to_space(jnp.concatenate(parts, axis=-1), 2)


def gridded_tokens(x: jax.Array, image_size: tuple[int, int] | None = None) -> jax.Array:
  """Tokens [b,1 + n,C], the class token first, as the map [b,h,w,C] of their patches.

  Args:
    x: tokens; a map stays as it is.
    image_size: (H, W) of the image, of which h : w is; None: h = w.

  Raises:
    ValueError: tokens that are no such map.
  """
  if x.ndim == 4:
    return x
  count = x.shape[1] - 1
  height, width = image_size or (1, 1)
  down = round((count * height / width) ** 0.5)
  if x.ndim != 3 or not down or count % down:
    raise ValueError(f'a dense head reads maps [b,h,w,C] or tokens [b,1 + n,C], got {x.shape}.')
  return x[:, 1:].reshape(x.shape[0], down, count // down, x.shape[-1])


def resized(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
  """A map [b,h,w,C] at another size (H, W): bilinear, half-pixel centers, nothing averaged."""
  if x.shape[1:3] == tuple(size):
    return x
  return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), 'linear', antialias=False)


def _conv(features: int, kernel: int, name: str, dtype: Any, *, dilation: int = 1) -> nn.Conv:
  padding = dilation * (kernel // 2)
  return layers.conv(
    features, kernel, 1, padding, dtype, name, dilation=dilation, kernel_init=he_normal_fan_in
  )
