"""PixelCNN++ (Salimans et al. 2017, arXiv 1701.05517): two shifted streams over three resolutions.

In place of masks inputs are shifted: one stream sees the rows above a pixel, the other also what is
left of it. Both go down to a quarter of the resolution and up again, with shortcuts between layers
of a resolution; blocks are gated residual ones of concatenated ELUs. All colors of a pixel are
predicted at once, from the pixels before it; `losses.likelihoods` has the mixtures of logistics
that tie them together.

With `weight_norm` every kernel is a direction of length 1 and a learned scale of each channel
(Salimans and Kingma 2016, arXiv 1602.07868), as in the authors' code: y = g (v / |v|) * x + b.
Their initial values, which make every channel's mean 0 and its deviation 1 over some images, are
found by `models.rescaled`.

Different from the authors' code: without `weight_norm` kernels are normals of 1 / fan-in. Either
way it is a tenth where a block writes to the stream. The embedding is the mean of the second stream
at the lowest resolution, after the way down.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from byoljax.models import initializers, layers

DROPOUT = 0.5


class Size(NamedTuple):
  """Dimensions of a PixelCNN++.

  Attributes:
    channels: of both streams.
    blocks: on each resolution of the way down; one more on that up, but on the lowest.
    stages: resolutions; sides are divided by 2^(stages - 1).
  """

  channels: int
  blocks: int
  stages: int


# The paper's, and one for CPU cores and images of about 16 px.
PIXELCNN_PPS = {'pixelcnn_pp': Size(160, 5, 3), 'pixelcnn_pp_micro': Size(24, 1, 2)}


class ShiftedConv(nn.Module):
  """A convolution that sees rows up to its own, and of these columns on both sides or to its own.

  Attributes:
    features: of the result.
    kernel: rows, columns.
    to_the_right: whether columns to the right are seen, too: those of an odd kernel.
    stride: 1, or 2 to halve both sides.
    doubles: whether it doubles them instead (transposed).
    scale: of the initial kernel.
    weight_norm: whether the kernel is a direction and a scale.
    dtype: compute type.
  """

  features: int
  kernel: tuple[int, int]
  to_the_right: bool
  stride: int = 1
  doubles: bool = False
  scale: float = 1.0
  weight_norm: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b,H,W,C] -> [b,h,w,features]."""
    rows, columns = self.kernel
    shape = (rows, columns, x.shape[-1], self.features)
    init = initializers.normal(self.scale / math.sqrt(rows * columns * x.shape[-1]))
    kernel = self.param('kernel', init, shape, jnp.float32)
    if self.weight_norm:
      # At first a kernel is as long as one that was drawn without.
      length = nn.initializers.constant(self.scale)
      scale = self.param('scale', length, (self.features,), jnp.float32)
      squares = jnp.sum(jnp.square(kernel), axis=(0, 1, 2), keepdims=True)
      kernel = kernel * lax.rsqrt(squares + 1e-12) * scale[None, None, None]
    kernel = kernel.astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros_init(), (self.features,), jnp.float32)
    x, half = x.astype(self.dtype), columns // 2
    numbers = ('NHWC', 'HWIO', 'NHWC')
    if self.doubles:
      height, width = 2 * x.shape[1], 2 * x.shape[2]
      y = lax.conv_transpose(x, kernel, (2, 2), 'VALID', dimension_numbers=numbers)
      left = half if self.to_the_right else 0
      y = y[:, :height, left : left + width]
    else:
      across = (half, half) if self.to_the_right else (columns - 1, 0)
      strides = (self.stride, self.stride)
      y = layers.convolve(x, kernel, strides, ((rows - 1, 0), across), dimension_numbers=numbers)
    return y.astype(jnp.float32) + bias[None, None, None]


class Block(nn.Module):
  """A gated residual block, with another stream or a shortcut as a further input.

  Attributes:
    channels: of the stream.
    kernel: see `ShiftedConv`.
    to_the_right: see `ShiftedConv`.
    weight_norm: see `ShiftedConv`.
    dtype: compute type.
  """

  channels: int
  kernel: tuple[int, int]
  to_the_right: bool
  weight_norm: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, given: tuple[jax.Array, jax.Array | None, jax.Array | None]) -> jax.Array:
    """(stream, further input or None, keys [b] of what is dropped or None) -> the stream."""
    x, other, keys = given
    kind: dict[str, Any] = {'weight_norm': self.weight_norm, 'dtype': self.dtype}
    shared: dict[str, Any] = kind | {'to_the_right': self.to_the_right}
    y = ShiftedConv(self.channels, self.kernel, **shared, name='conv1')(concat_elu(x))
    if other is not None:
      point = ShiftedConv(self.channels, (1, 1), False, **kind, name='other')
      y = y + point(concat_elu(other))
    y = concat_elu(y)
    if keys is not None:
      kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - DROPOUT, y.shape[1:]))(keys)
      y = jnp.where(kept, y / (1 - DROPOUT), 0.0)
    y = ShiftedConv(2 * self.channels, self.kernel, scale=0.1, **shared, name='conv2')(y)
    a, b = jnp.split(y, 2, axis=-1)
    return x + a * lax.logistic(b)


class PixelCNNpp(nn.Module):
  """The trunk; see the module. Maps by tap: 'stage1' ... on the way down, 'features', the last one.

  Attributes:
    size: see `Size`.
    width: factor on its channels.
    weight_norm: whether kernels are directions and scales.
    remat: compute the activations in blocks again for the gradient.
    dtype: compute type; both streams are float32.
  """

  size: Size
  width: float = 1
  weight_norm: bool = False
  remat: bool = False
  dtype: jnp.dtype = jnp.float32

  @property
  def _kind(self) -> dict[str, Any]:
    """What all of its convolutions have."""
    return {'weight_norm': self.weight_norm, 'dtype': self.dtype}

  @property
  def reach(self) -> int:
    """More than any image has: resolutions are aligned with its border."""
    return 1 << 20

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, keys: jax.Array | None = None) -> jax.Array:
    """Images float32 [b,H,W,C] -> embedding float32 [b,channels].

    Args:
      x: images.
      train: nothing depends on it but through `keys`.
      keys: [b], of the activations that are dropped; None: none are.

    Raises:
      ValueError: sides that cannot be halved so often.
    """
    del train
    _, blocks, stages = self.size
    if any(side % 2 ** (stages - 1) for side in x.shape[1:3]):
      raise ValueError(
        f'images of {x.shape[1]} x {x.shape[2]} pixels cannot be halved {stages - 1} times: choose '
        f'a multiple of {2 ** (stages - 1)}.'
      )
    down: list[tuple[jax.Array, jax.Array]] = [self._first(x)]
    for stage in range(stages):
      for number in range(blocks):
        down.append(self._pair(down[-1], (None, None), keys, f'down{stage}_{number}'))
      self.sow('intermediates', f'stage{stage + 1}', down[-1][1])
      if stage + 1 < stages:
        down.append(self._resized(down[-1], f'halve{stage}', stride=2))
    pair = down.pop()
    embedding = pair[1].mean((1, 2))
    for stage in reversed(range(stages)):
      for number in range(blocks + (stage + 1 < stages)):
        pair = self._pair(pair, down.pop(), keys, f'up{stage}_{number}')
      if stage:
        pair = self._resized(pair, f'double{stage}', doubles=True)
    self.sow('intermediates', 'features', pair[1])
    return embedding

  def _first(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both streams of the image, moved so that a pixel does not see itself."""
    # A channel of ones tells the border from a black pixel.
    x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
    channels, kind = layers.widened(self.size.channels, self.width), self._kind
    above = ShiftedConv(channels, (2, 3), True, **kind, name='above')(x)
    row = ShiftedConv(channels, (1, 3), True, **kind, name='row')(x)
    left = ShiftedConv(channels, (2, 1), False, **kind, name='left')(x)
    left = jnp.pad(left, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
    return _lowered(above), _lowered(row) + left

  def _pair(
    self, pair: tuple[jax.Array, jax.Array], shortcut: Any, keys: Any, name: str
  ) -> tuple[jax.Array, jax.Array]:
    channels = layers.widened(self.size.channels, self.width)

    def block(which: str, kernel: tuple[int, int], right: bool, *given: Any) -> jax.Array:
      made = Block(channels, kernel, right, **self._kind, name=f'{name}_{which}')
      own = keys
      if own is not None:
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, _number(f'{name}_{which}'))
      return layers.recomputed(made, self.remat)((*given, own))

    u = block('above', (2, 3), True, pair[0], shortcut[0])
    other = u if shortcut[1] is None else jnp.concatenate([u, shortcut[1]], axis=-1)
    return u, block('left', (2, 2), False, pair[1], other)

  def _resized(
    self, pair: tuple[jax.Array, jax.Array], name: str, **how: Any
  ) -> tuple[jax.Array, jax.Array]:
    channels = layers.widened(self.size.channels, self.width)
    how |= self._kind
    u = ShiftedConv(channels, (2, 3), True, **how, name=f'{name}_above')(pair[0])
    return u, ShiftedConv(channels, (2, 2), False, **how, name=f'{name}_left')(pair[1])


class MixtureHead(nn.Module):
  """Parameters of mixtures of logistics from causal features: ELU and a 1x1 convolution.

  In float32 whatever the trunk computes in: of the values of a color, 2 / 255 apart, bfloat16 would
  round a mean near 1 to the nearest half.

  Attributes:
    mixtures: M.
    weight_norm: see `ShiftedConv`.
  """

  mixtures: int = 10
  weight_norm: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Features float32 [b,H,W,D] -> float32 [b,H,W,M,10], see `likelihoods.Logistics`."""
    del train
    conv = ShiftedConv(10 * self.mixtures, (1, 1), False, weight_norm=self.weight_norm, name='conv')
    x = conv(nn.elu(x))
    return x.reshape(*x.shape[:3], self.mixtures, 10)


def concat_elu(x: jax.Array) -> jax.Array:
  """ELU of x and of -x, side by side: [...,C] -> [...,2 C]."""
  return nn.elu(jnp.concatenate([x, -x], axis=-1))


def _lowered(x: jax.Array) -> jax.Array:
  """Moved down by a row; the first one is zero."""
  return jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]


def _number(name: str) -> int:
  """A number of a layer's name, the same in every process."""
  return sum(ord(letter) * 131**place for place, letter in enumerate(name)) % (1 << 31)
