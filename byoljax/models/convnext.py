"""ConvNeXt: a convolutional encoder of the transformers' time.

Liu et al., arXiv 2201.03545: patches embedded by a strided convolution, four stages of blocks
(depthwise 7x7 convolution, LayerNorm, two linear layers with GELU, a learned scale that begins at
1e-6), between stages LayerNorm and a 2x2 convolution with stride 2; at the end the mean over space
and a LayerNorm. Same network, initialization and parameter count as timm's and torchvision's,
without the classifier. There is no batch normalization.

Difference: there is no stochastic depth, which the paper's supervised training has: every pass is a
pure function of parameters and images. LayerNorm and the residual stream are float32 under any
compute type. The paper's normal initial values are truncated at 2, that is at 100 sigma.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import biased, layers
from byoljax.models.initializers import normal

LAYER_NORM_EPSILON = 1e-6
SCALE_INIT = 1e-6
_KERNEL_INIT = normal(0.02)


class Size(NamedTuple):
  """Dimensions of a ConvNeXt.

  Attributes:
    depths: blocks in each stage.
    dims: channels of each stage.
    patch: default edge of a patch in pixels.
  """

  depths: tuple[int, ...]
  dims: tuple[int, ...]
  patch: int = 4


# 'convnext_micro' is for CPU cores and images of about 32 px: 0.3 M parameters.
CONVNEXTS = {
  'convnext_micro': Size((1, 1, 2, 1), (16, 32, 64, 128)),
  'convnext_tiny': Size((3, 3, 9, 3), (96, 192, 384, 768)),
  'convnext_small': Size((3, 3, 27, 3), (96, 192, 384, 768)),
  'convnext_base': Size((3, 3, 27, 3), (128, 256, 512, 1024)),
}


def _norm(name: str) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=jnp.float32, name=name)


class Block(nn.Module):
  """x + scale * fc2(GELU(fc1(LayerNorm(depthwise(x))))), with 4 times the channels inside."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b,H,W,C] float32 -> [b,H,W,C] float32."""
    dim = x.shape[-1]

    def linear(features: int, name: str) -> nn.Dense:
      return biased.Dense(
        features,
        dtype=self.dtype,
        param_dtype=jnp.float32,
        kernel_init=_KERNEL_INIT,
        dot_general=layers.product,
        name=name,
      )

    depthwise = layers.conv(
      dim,
      7,
      1,
      'torch',
      self.dtype,
      'depthwise',
      use_bias=True,
      groups=dim,
      kernel_init=_KERNEL_INIT,
    )
    y = _norm('norm')(depthwise(x))
    y = linear(dim, 'fc2')(nn.gelu(linear(4 * dim, 'fc1')(y), approximate=False))
    scale = self.param('scale', nn.initializers.constant(SCALE_INIT), (dim,), jnp.float32)
    return x + scale[None, None, None, :] * y.astype(jnp.float32)


class ConvNeXt(nn.Module):
  """Patches, four stages of blocks, mean over space, LayerNorm.

  `width` multiplies every channel count. 'stem', the output of every block, 'stage1_1',
  'stage1_2', ..., and of every stage's last, 'stage1' ... 'stage4', can be read out through
  `byoljax.models.net.stack(..., taps=...)`.
  """

  size: Size
  width: float = 1
  patch_size: int = 0
  remat: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images float32 [b,H,W,C] -> embedding float32 [b,dims[-1] * width].

    Args:
      x: images; pixels of a side that are no multiple of the patch, or of a stage's 2, are left
        out on the right and at the bottom, as in PyTorch.
      train: nothing here depends on it.

    Raises:
      ValueError: images smaller than 8 patches.
    """
    del train
    patch = self.patch_size or self.size.patch
    if min(x.shape[1:3]) < 8 * patch:
      raise ValueError(
        f'ConvNeXt with patches of {patch} pixels needs images of at least {8 * patch} pixels, got '
        f'{x.shape[1]} x {x.shape[2]}: set a smaller patch_size.'
      )

    def downsample(features: int, edge: int, name: str) -> nn.Conv:
      return layers.conv(
        features, edge, edge, 0, self.dtype, name, use_bias=True, kernel_init=_KERNEL_INIT
      )

    first, *_ = dims = [layers.widened(dim, self.width) for dim in self.size.dims]
    x = _norm('stem_norm')(downsample(first, patch, 'stem_conv')(x))
    self.sow('intermediates', 'stem', x)
    for stage, (depth, dim) in enumerate(zip(self.size.depths, dims, strict=True), 1):
      if stage > 1:
        x = _norm(f'stage{stage}_norm')(x)
        x = downsample(dim, 2, f'stage{stage}_conv')(x).astype(jnp.float32)
      for number in range(depth):
        block = Block(self.dtype, name=f'stage{stage}_block{number}')
        x = layers.recomputed(block, self.remat)(x)
        last = number == depth - 1
        self.sow('intermediates', f'stage{stage}' if last else f'stage{stage}_{number + 1}', x)
    return _norm('norm')(jnp.mean(x, axis=(1, 2)))
