"""The dilated VGG-style network of colorization (Zhang et al. 2016, arXiv 1603.08511, table 4).

Seven blocks of two or three 3x3 convolutions with biases and ReLU, batch normalization behind the
last of each. The first three blocks end with a stride of 2 instead of a pool; the fifth and the
sixth are dilated, so that the map stays at an eighth of the image's side. The eighth block doubles
it, by a transposed 4x4 convolution, and has no normalization. A 1x1 convolution to 313 colors
follows, which is the method's: with it there are 32.2 million parameters for one channel.

Different from the authors' code: the input is what `encoder.input` says, 'lightness' in [-1, 1],
where theirs subtracts 50.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import biased, layers
from byoljax.models.initializers import he_normal_fan_in, he_normal_transposed

# Channels, number of convolutions, stride of the last one and dilation of each block.
BLOCKS = (
  (64, 2, 2, 1),
  (128, 2, 2, 1),
  (256, 3, 2, 1),
  (512, 3, 1, 1),
  (512, 3, 1, 2),
  (512, 3, 1, 2),
  (512, 3, 1, 1),
  (256, 3, 1, 1),
)


class DilatedVGG(nn.Module):
  """Twenty-two convolutions; the embedding is the mean over space of the last one.

  `width` multiplies every channel count. Behind ReLU and, where there is one, batch normalization,
  'conv1_1' ... 'conv8_3' can be read out through `byoljax.models.net.stack(..., taps=...)`.
  """

  width: float = 1
  remat: bool = False
  dtype: jnp.dtype = jnp.float32
  bn_axis: str | None = None
  bn_groups: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images float32 [b,H,W,C] -> embedding float32 [b,256 * width]."""
    for number in range(1, len(BLOCKS) + 1):
      block = _Block(
        number, self.width, self.dtype, self.bn_axis, self.bn_groups, name=f'block{number}'
      )
      maps = layers.recomputed(block, self.remat)(x, train=train)
      for place, value in enumerate(maps, start=1):
        self.sow('intermediates', f'conv{number}_{place}', value)
      x = maps[-1]
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


class _Block(nn.Module):
  """One of `BLOCKS`; the last one begins with a transposed convolution."""

  number: int
  width: float
  dtype: jnp.dtype
  bn_axis: str | None
  bn_groups: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
    """[b,H,W,C] -> what every convolution gives, [b,h,w,features], in the compute dtype."""
    channels, convs, last_stride, dilation = BLOCKS[self.number - 1]
    features, last, maps = layers.widened(channels, self.width), self.number == len(BLOCKS), []
    for place in range(1, convs + 1):
      if last and place == 1:
        conv = biased.ConvTranspose(
          features,
          (4, 4),
          (2, 2),
          dtype=self.dtype,
          param_dtype=jnp.float32,
          kernel_init=he_normal_transposed,
          name='conv1',
        )
      else:
        conv = layers.conv(
          features,
          3,
          last_stride if place == convs else 1,
          dilation,
          self.dtype,
          f'conv{place}',
          use_bias=True,
          dilation=dilation,
          kernel_init=he_normal_fan_in,
        )
      x = nn.relu(conv(x))
      if place == convs and not last:
        x = layers.batch_norm(train, self.bn_axis, self.dtype, 'bn', groups=self.bn_groups)(x)
      maps.append(x)
    return maps
