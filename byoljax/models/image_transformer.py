"""Image GPT's encoders: a transformer over the pixels of an image, as colors of a palette.

Chen et al. 2020, *Generative pretraining from pixels*. Every pixel is the nearest of K colors, a
token; the tokens row by row are a sequence (`models.token_transformer`), causal ('image_gpt_*') or
seen in both directions ('image_bert_*'). The embedding is the mean over all places of the stream
after the block in the middle, where the authors found the best features.

A series of numbers, T steps of C channels, comes as a gray image whose first T C pixels are its
numbers (`data.sources.series`): these alone are the sequence then, and a color is a value.

The palette is part of the running statistics ('palette', normalized colors float32 [K,3]), so that
a network is one thing with it: methods put the k-means of their data there. Before, it is random.
"""

from collections.abc import Sequence
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from byoljax import streams
from byoljax.models.token_transformer import Size, TokenTransformer

COLORS = 3

# Those of the paper: S, M, L. 'micro' is for CPU cores and images of about 16 px.
IMAGE_TRANSFORMERS = {
  'micro': (Size(64, 4, 4), 32, 16),
  'small': (Size(512, 24, 8), 512, 32),
  'medium': (Size(1024, 36, 8), 512, 32),
  'large': (Size(1536, 48, 16), 512, 32),
}
"""Size, colors of the palette, pixels on each side."""


def names(kind: str) -> list[str]:
  """'image_gpt_micro' and so on, of a kind: 'gpt' or 'bert'."""
  return [f'image_{kind}_{size}' for size in IMAGE_TRANSFORMERS]


def nearest(palette: jax.Array, images: jax.Array) -> jax.Array:
  """The number of each pixel's nearest color, int32 [b,H,W]; the first of equally near ones.

  Args:
    palette: [K,C].
    images: [b,H,W,C], in the same units.
  """
  products = jnp.einsum('bhwc,kc->bhwk', images, palette, precision='highest')
  half_norms = 0.5 * jnp.sum(palette**2, axis=-1)
  return jnp.argmax(products - half_norms[None, None, None], axis=-1).astype(jnp.int32)


class ImageTransformer(nn.Module):
  """See the module. Maps by tap: 'block1' ..., and 'features', after the last LayerNorm.

  Attributes:
    size: dimensions.
    palette: K, colors.
    grid: pixels on each side.
    causal: whether a pixel sees those before it alone, or all.
    series: steps and channels of series; () for images.
    remat: compute the activations in blocks again for the gradient.
    dtype: compute type; features are float32.
  """

  size: Size
  palette: int
  grid: int
  causal: bool = True
  series: tuple[int, ...] = ()
  remat: bool = False
  dtype: jnp.dtype = jnp.float32

  @property
  def places(self) -> tuple[int, int]:
    """How the tokens are arranged: pixels, or steps and channels."""
    return (self.series[0], self.series[1]) if self.series else (self.grid, self.grid)

  def check_size(self, images: jax.Array) -> None:
    """Raises ValueError for images [b,H,W,C] of another size."""
    side = images.shape[1:3]
    if side != (self.grid, self.grid):
      raise ValueError(
        f'this transformer has positions for {self.grid} x {self.grid} pixels, but images have '
        f'{side[0]} x {side[1]}: set encoder.grid to their size before training.'
      )

  def arranged(self, pixels: jax.Array) -> jax.Array:
    """Something for each pixel, [b,S,S,...], as the sequence's, [b,*places,...]."""
    if not self.series:
      return pixels
    flat = pixels.reshape(len(pixels), -1, *pixels.shape[3:])
    return flat[:, : math.prod(self.series)].reshape(len(pixels), *self.series, *pixels.shape[3:])

  def as_image(self, tokens: jax.Array) -> jax.Array:
    """The inverse, [b,n,...] -> [b,S,S,...]; 0 where a series leaves room."""
    spare = self.grid**2 - tokens.shape[1]
    widths = ((0, 0), (0, spare), *((0, 0),) * (tokens.ndim - 2))
    return jnp.pad(tokens, widths).reshape(len(tokens), self.grid, self.grid, *tokens.shape[2:])

  @property
  def model(self) -> TokenTransformer:
    """The transformer, whose parameters are under 'transformer'."""
    return TokenTransformer(
      self.size,
      self.palette,
      math.prod(self.places),
      self.causal,
      remat=self.remat,
      dtype=self.dtype,
      name='transformer' if self.scope is not None else None,
    )

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool,
    tokens: jax.Array | None = None,
    hidden: jax.Array | None = None,
  ) -> jax.Array:
    """Images float32 [b,S,S,C] -> embedding float32 [b,D].

    Args:
      x: images, normalized.
      train: nothing here depends on it.
      tokens: int [b,*places] in place of the images' nearest colors.
      hidden: bool [b,*places], True where a pixel is not shown; not of a causal one.

    Raises:
      ValueError: images of another size.
    """
    del train
    self.check_size(x)
    palette: Any = self.variable('batch_stats', 'palette', self._random_palette, x.shape[-1])
    if tokens is None:
      tokens = self.arranged(nearest(palette.value, x))
    flat = None if hidden is None else hidden.reshape(len(x), -1)
    made = self.model(tokens.reshape(len(x), -1), hidden=flat)
    maps = [y.reshape(len(x), *self.places, -1) for y in (*made.blocks, made.features)]
    for number, y in enumerate(maps[:-1], start=1):
      self.sow('intermediates', f'block{number}', y)
    self.sow('intermediates', 'features', maps[-1])
    return maps[(self.size.depth + 1) // 2 - 1].mean((1, 2))

  def _random_palette(self, channels: int) -> jax.Array:
    rng = np.random.default_rng((0, streams.RANDOM_PALETTE))
    return jnp.asarray(rng.normal(size=(self.palette, channels)), jnp.float32)


def make(
  name: str,
  *,
  width: int = 1,
  palette: int = 0,
  grid: int = 0,
  series: Sequence[int] = (),
  remat: bool = False,
  dtype: Any = jnp.float32,
) -> ImageTransformer:
  """The named network; `width` multiplies the tokens' width and the heads, 0 is its own value.

  Raises:
    ValueError: series of more numbers than the images have pixels.
  """
  _, kind, which = name.split('_')
  size, own_palette, own_grid = IMAGE_TRANSFORMERS[which]
  size = size._replace(dim=size.dim * width, heads=size.heads * width)
  causal, grid = kind == 'gpt', grid or own_grid
  if series and math.prod(series) > grid**2:
    raise ValueError(
      f'encoder series {tuple(series)} are {math.prod(series)} numbers, but images of {grid} x '
      f'{grid} pixels hold {grid**2}: set grid to the side of the images that hold them.'
    )
  return ImageTransformer(size, palette or own_palette, grid, causal, tuple(series), remat, dtype)
