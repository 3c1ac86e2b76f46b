"""Decoders of masked image modeling: from an encoder's tokens to what every patch is.

MAE's (He et al. 2021, arXiv 2111.06377): a linear layer to the decoder's width, a learned mask
token wherever a patch was left out of the encoder, fixed 2-D sine-cosine positions, transformer
blocks, LayerNorm, a linear layer to the pixels of a patch. SimMIM's (Xie et al. 2021, arXiv
2111.09886), `depth` 0: that last layer alone, on an encoder that saw all patches, masked or not.
Both name pixels; BEiT's (Bao et al. 2021, arXiv 2106.08254) names codes.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import initializers, layers
from byoljax.models.positions import sincos_positions
from byoljax.models.token_transformer import TokenHead
from byoljax.models.vit_block import Block, layer_norm, linear
from byoljax.ops import masking


class MaskedDecoder(nn.Module):
  """Pixels of all patches from the tokens of some of them.

  Attributes:
    patch: edge of a patch in pixels.
    channels: of an image.
    dim: width.
    depth: blocks; 0: the last layer alone, on the encoder's tokens.
    heads: attention heads of a block; they divide `dim`.
    grid: positions span this many patches on each side, as the encoder's.
    inserts: whether masked patches come without tokens, so that the decoder has to put some there.
    remat: see `layers.recomputed`.
    dtype: compute type; the residual stream and LayerNorm are float32.
    attention: as of the vision transformers.
  """

  patch: int
  channels: int = 3
  dim: int = 512
  depth: int = 8
  heads: int = 16
  grid: int = 14
  inserts: bool = True
  remat: bool = False
  dtype: jnp.dtype = jnp.float32
  attention: str = 'xla'

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, masked: jax.Array | None = None) -> jax.Array:
    """Tokens float32 [b,1 + k,D], the class token first, -> pixels float32 [b,n,patch^2 * C].

    Args:
      x: the encoder's tokens after its last LayerNorm: of the visible patches in ascending order
        (`inserts`) or of all; or its last map [b,h,w,D], of which a place stands for a patch.
      train: nothing here depends on it.
      masked: bool [b,h,w], True for patches without a token; n = h w. None: a square image of which
        nothing is masked.

    Raises:
      ValueError: the tokens are not those of so many patches.
    """
    del train
    if x.ndim == 4:
      masked = jnp.zeros(x.shape[:3], bool) if masked is None else masked
      x = jnp.concatenate([x.mean((1, 2))[:, None], x.reshape(len(x), -1, x.shape[-1])], axis=1)
    side = math.isqrt(x.shape[1] - 1)
    height, width = (side, side) if masked is None else masked.shape[1:]
    if not self.inserts and x.shape[1] != 1 + height * width:
      raise ValueError(
        f'an image of {height} x {width} patches of {self.patch} pixels has {height * width} '
        f'places, but the encoder puts out {x.shape[1] - 1}: mask patches as large as its stride.'
      )
    if self.depth:
      x = linear(self.dim, self.dtype, 'embed')(x).astype(jnp.float32)
      if self.inserts:
        filler = self.param('mask', initializers.normal(0.02), (self.dim,), jnp.float32)
        if masked is not None:
          flat = masked.reshape(len(x), -1)
          x = jnp.concatenate([x[:, :1], masking.put_back(x[:, 1:], flat, filler)], axis=1)
      here = sincos_positions(height, width, self.dim, self.grid, xy=True)
      x = x + jnp.pad(here, ((1, 0), (0, 0)))[None]
      for i in range(1, self.depth + 1):
        block = Block(self.heads, self.dtype, attention=self.attention, name=f'block{i}')
        x = layers.recomputed(block, self.remat)(x)
      x = layer_norm('norm')(x)
    pixels = linear(self.patch**2 * self.channels, self.dtype, 'pixels')(x[:, 1:])
    return pixels.astype(jnp.float32)


class CodePredictor(nn.Module):
  """BEiT's head: logits of every patch's code, a linear layer that starts at zero.

  Its further parameter 'mask' [D] is what the encoder reads in the place of a hidden patch; it has
  to be handed to it.

  Attributes:
    codes: K.
    dtype: compute type.
  """

  codes: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Tokens float32 [b,1 + n,D], the class token first, -> logits float32 [b,n,K]."""
    self.param('mask', initializers.normal(0.02), x.shape[-1:], jnp.float32)
    return TokenHead(self.codes, self.dtype, name='head')(x[:, 1:], train=train)
