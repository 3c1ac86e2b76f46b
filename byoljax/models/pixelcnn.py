"""Causal convolutions over pixels: PixelCNN and Gated PixelCNN, as encoders.

van den Oord, Kalchbrenner, Kavukcuoglu 2016 (arXiv 1601.06759): a 7x7 convolution with mask A, then
residual blocks of a 3x3 one with mask B between two 1x1. Rows below and pixels to the right are not
seen, and of the pixel itself only the colors before the own one: features are split into as many
parts as there are colors, and a part sees the parts before it (A), and itself, too (B). Stacking
such masks leaves a blind spot above to the right. van den Oord et al. 2016b (arXiv 1606.05328)
remove it with a vertical stack, which sees whole rows above, beside a horizontal one, and gate
features by tanh(a) sigmoid(b).

What is read out is causal, too: the map 'features', the last one, says of a place's color what goes
before it in the order of rows, columns and colors, and `PixelHead` makes logits of it. The
embedding is the mean over all places of the map in the middle, which has less to say about the next
value.

Different from the papers: kernels start as normals whose sigma counts the entries that are not
masked; features that the colors do not divide are split as evenly as may be; in the gated form the
skip connections to the output are those of the residual stream.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from byoljax.models import biased, initializers, layers

COLORS = 3


class Size(NamedTuple):
  """Dimensions of a PixelCNN.

  Attributes:
    channels: of the residual stream.
    depth: residual blocks after the first convolution.
    gated: whether there are two stacks with gates.
    first: edge of the first kernel.
    kernel: edge of the others.
  """

  channels: int
  depth: int
  gated: bool = False
  first: int = 7
  kernel: int = 3


# The papers' on CIFAR-10: 15 blocks of 128 units; the gated one doubles them in its gates. Those
# called 'micro' are for CPU cores and images of about 16 px.
PIXELCNNS = {
  'pixelcnn': Size(256, 15),
  'gated_pixelcnn': Size(128, 15, gated=True),
  'pixelcnn_micro': Size(48, 4, first=5),
  'gated_pixelcnn_micro': Size(30, 4, gated=True, first=5),
}


def color_of(features: int, colors: int, parts: int = 1) -> np.ndarray:
  """Which color each feature belongs to, int [features], ascending within each of the parts."""
  own = features // parts
  return np.tile(np.arange(own) * colors // own, parts)


class CausalConv(nn.Module):
  """A convolution that sees rows above, and of its own row what is left of a place.

  Attributes:
    features: of the result.
    kernel: edge, odd.
    seen: of the place itself: 'before', parts of earlier colors (mask A); 'own', those of its own
      color, too (mask B); 'all', whole rows up to its own, to the right as well.
    colors: parts that features are split into.
    rows: rows that are seen, the own one among them; 0: (kernel + 1) / 2.
    parts: of the result, each of which is split into colors: 2 for gates.
    zero: whether the kernel starts at zero.
    dtype: compute type.
  """

  features: int
  kernel: int = 1
  seen: str = 'own'
  colors: int = COLORS
  rows: int = 0
  parts: int = 1
  zero: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b,H,W,C] -> [b,H,W,features]; outside of the image is zero."""
    half = self.kernel // 2
    rows = self.rows or half + 1
    mask = self._mask(rows, x.shape[-1])
    init = nn.initializers.zeros_init()
    if not self.zero:
      init = initializers.normal(1.0 / math.sqrt(mask.sum() / self.features))
    shape = (rows, self.kernel, x.shape[-1], self.features)
    kernel = self.param('kernel', init, shape, jnp.float32) * mask
    bias = self.param('bias', nn.initializers.zeros_init(), (self.features,), jnp.float32)
    y = layers.convolve(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      (1, 1),
      ((rows - 1, 0), (half, half)),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return biased.add_bias(y, bias)

  def _mask(self, rows: int, inputs: int) -> np.ndarray:
    mask = np.ones((rows, self.kernel, inputs, self.features), np.float32)
    if self.seen == 'all':
      return mask
    half = self.kernel // 2
    mask[-1, half + 1 :] = 0.0
    given = color_of(inputs, self.colors)[:, None]
    asked = color_of(self.features, self.colors, self.parts)[None]
    mask[-1, half] = asked > given if self.seen == 'before' else asked >= given
    return mask


class PixelCNN(nn.Module):
  """The trunk; see the module. Maps by tap: 'block1' ..., and 'features', the last one.

  Attributes:
    size: see `Size`; `width` is a factor on its channels.
    colors: C, of the images; 0 for as many as they have.
    dtype: compute type; the residual stream is float32.
  """

  size: Size
  width: float = 1
  colors: int = 0
  remat: bool = False
  dtype: jnp.dtype = jnp.float32

  @property
  def reach(self) -> int:
    """Pixels from a place to the farthest that its features depend on, along rows or columns."""
    return self.size.first // 2 + self.size.depth * (self.size.kernel // 2) + self.size.gated

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images float32 [b,H,W,C] -> embedding float32 [b,channels].

    Raises:
      ValueError: images of other colors.
    """
    del train
    colors = x.shape[-1]
    if self.colors not in (0, colors):
      raise ValueError(f'this PixelCNN is for {self.colors} colors, images have {colors}.')
    size = self.size._replace(channels=layers.widened(self.size.channels, self.width))
    shared = {'colors': colors, 'dtype': self.dtype}
    stream: Any
    if size.gated:
      stream = GatedBlock(size.channels, size.first, first=True, **shared, name='layer0')((x, x))
    else:
      first = CausalConv(size.channels, size.first, 'before', **shared, name='layer0')
      stream = (first(x).astype(jnp.float32),)
    middle = stream[-1]
    for number in range(1, size.depth + 1):
      kind = GatedBlock if size.gated else ResidualBlock
      block = kind(size.channels, size.kernel, **shared, name=f'layer{number}')
      stream = layers.recomputed(block, self.remat)(stream)
      self.sow('intermediates', f'block{number}', stream[-1])
      if number == (size.depth + 1) // 2:
        middle = stream[-1]
    self.sow('intermediates', 'features', stream[-1])
    return middle.mean((1, 2))


class ResidualBlock(nn.Module):
  """1x1 to half the channels, k x k, 1x1 back, mask B, each after a ReLU; added to the stream."""

  channels: int
  kernel: int
  colors: int = COLORS
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, stream: tuple[jax.Array]) -> tuple[jax.Array]:
    """([b,H,W,C] float32,) -> the same."""
    shared = {'colors': self.colors, 'dtype': self.dtype}
    (x,) = stream
    y = CausalConv(self.channels // 2, **shared, name='conv1')(nn.relu(x))
    y = CausalConv(self.channels // 2, self.kernel, **shared, name='conv2')(nn.relu(y))
    y = CausalConv(self.channels, **shared, name='conv3')(nn.relu(y))
    return (x + y.astype(jnp.float32),)


class GatedBlock(nn.Module):
  """One layer of both stacks, arXiv 1606.05328, figure 2; the first has no residual and mask A.

  With a condition h, V h is added before the gates of both (equation 4).
  """

  channels: int
  kernel: int
  first: bool = False
  colors: int = COLORS
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, stream: tuple[jax.Array, jax.Array], condition: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """(vertical, horizontal), [b,H,W,C] -> the same, float32 [b,H,W,channels].

    `condition`: h, float32 [b,D].
    """
    shared = {'colors': self.colors, 'dtype': self.dtype}
    vertical, horizontal = stream
    doubled = 2 * self.channels
    down = CausalConv(doubled, self.kernel, 'all', **shared, name='vertical')(vertical)
    # What the rows above a place say; its own row is the horizontal stack's.
    above = jnp.pad(down, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
    across = CausalConv(
      doubled, self.kernel, 'before' if self.first else 'own', rows=1, parts=2, **shared,
      name='horizontal',
    )(horizontal)  # fmt: skip
    across = across + CausalConv(doubled, seen='all', **shared, name='between')(above)
    if condition is not None:
      down = down + self._given(condition, 'given_vertical')
      across = across + self._given(condition, 'given_horizontal')
    y = CausalConv(self.channels, **shared, name='out')(_gated(across)).astype(jnp.float32)
    return _gated(down).astype(jnp.float32), y if self.first else horizontal + y

  def _given(self, condition: jax.Array, name: str) -> jax.Array:
    init = initializers.normal(0.02)
    dense = nn.Dense(2 * self.channels, False, self.dtype, kernel_init=init, name=name)
    return dense(condition)[:, None, None]


def _gated(x: jax.Array) -> jax.Array:
  """tanh(a) sigmoid(b) of the halves a, b."""
  a, b = jnp.split(x, 2, axis=-1)
  return jnp.tanh(a) * lax.logistic(b)


class PixelHead(nn.Module):
  """Logits of every color's value from causal features: ReLU and 1x1 convolution, twice (mask B).

  The last kernel starts at zero: every value is as probable as any other at first.

  Attributes:
    levels: K, values of a color.
    hidden: channels between.
    colors: C.
    dtype: compute type; logits are float32.
  """

  levels: int
  hidden: int
  colors: int = COLORS
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Features float32 [b,H,W,D] -> logits float32 [b,H,W,C,K]."""
    del train
    shared = {'colors': self.colors, 'dtype': self.dtype}
    x = CausalConv(self.hidden, **shared, name='conv')(nn.relu(x))
    x = CausalConv(self.levels * self.colors, zero=True, **shared, name='logits')(nn.relu(x))
    return x.reshape(*x.shape[:3], self.colors, self.levels).astype(jnp.float32)
