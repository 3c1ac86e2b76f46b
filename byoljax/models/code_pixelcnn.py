"""A Gated PixelCNN over the codes of an image, as a network from the image on.

VQ-VAE's prior (van den Oord et al. 2017, arXiv 1711.00937, section 3.4) is the Gated PixelCNN of
arXiv 1606.05328 (`models.pixelcnn`) on a grid of K-way tokens: each is a learned vector, and has no
colors that would come one after the other. A class h adds V h before the gates of every layer, in
both stacks (equation 4 there), the same at all places.

Different from the paper: V h is added to the vertical stack, too; what is read out passes a ReLU, a
1x1 convolution and a ReLU, as of PixelCNN, before the head. Samples cost a pass over the whole grid
for each code: layers of a few codes are not worth being kept.
"""

from typing import Any

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from byoljax.models import initializers
from byoljax.models.frozen_codec import OnCodes
from byoljax.models.pixelcnn import CausalConv, GatedBlock, Size
from byoljax.ops import sampling as drawing
from byoljax.ops.sampling import Sampling


class TokenPixelCNN(nn.Module):
  """Features of every token of a grid from those before it.

  Attributes:
    size: gated.
    vocabulary: K, tokens.
    classes: that condition all tokens; 0: none.
    dtype: compute type; streams and features are float32.
  """

  size: Size
  vocabulary: int
  classes: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, tokens: jax.Array, condition: jax.Array | None = None
  ) -> tuple[jax.Array, list[jax.Array]]:
    """Tokens int [b, h, w] -> features float32 [b, h, w, D], and the streams after each block.

    Args:
      tokens: in [0, K).
      condition: int [b] in [0, classes); not without classes.
    """
    width = self.size.channels
    init = initializers.normal(1.0)
    table = self.param('token_table', init, (self.vocabulary, width), jnp.float32)
    x = table[tokens.astype(jnp.int32)]
    given = None
    if condition is not None:
      given = jax.nn.one_hot(condition, self.classes, dtype=jnp.float32)
    shared = {'colors': 1, 'dtype': self.dtype}
    first = GatedBlock(width, self.size.first, first=True, **shared, name='layer0')
    stream, made = first((x, x), given), []
    for number in range(1, self.size.depth + 1):
      block = GatedBlock(width, self.size.kernel, **shared, name=f'layer{number}')
      stream = block(stream, given)
      made.append(stream[1])
    y = CausalConv(width, **shared, name='out')(nn.relu(stream[1]))
    return nn.relu(y).astype(jnp.float32), made


class CodePixelCNN(OnCodes):
  """See the module. Maps by tap: 'block1' ..., and 'sequence', [b, n, D].

  `size` is a `pixelcnn.Size`.
  """

  @property
  def before(self) -> int:
    """Places in front of the codes' in 'sequence': a class takes none."""
    return 0

  @property
  def model(self) -> TokenPixelCNN:
    """The PixelCNN, whose parameters are under 'pixelcnn'."""
    return TokenPixelCNN(
      self.size,
      self.vocabulary,
      self.classes + 1 if self.classes else 0,
      self.dtype,
      name='pixelcnn' if self.scope is not None else None,
    )

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool,
    tokens: jax.Array | None = None,
    condition: jax.Array | None = None,
  ) -> jax.Array:
    """Images float32 [b, S, S, C] -> embedding float32 [b, D]; as `CodeTransformer`."""
    del train
    square = self.codes(x, tokens).reshape(len(x), self.grid, self.grid)
    features, blocks = self.model(square, self.known(x, condition) if self.classes else None)
    for number, y in enumerate(blocks, start=1):
      self.sow('intermediates', f'block{number}', y)
    self.sow('intermediates', 'sequence', features.reshape(len(x), self.grid**2, -1))
    return blocks[(self.size.depth + 1) // 2 - 1].mean((1, 2))

  @nn.nowrap
  def generate(
    self,
    params: Any,
    head: nn.Module,
    head_params: Any,
    key: jax.Array,
    sampling: Sampling,
    *,
    condition: jax.Array | None = None,
    prefix: jax.Array | None = None,
  ) -> jax.Array:
    """Draws codes, int32 [sampling.count, n]; arguments as of `CodeTransformer.generate`."""
    params = jax.tree.map(jnp.asarray, params['pixelcnn'])  # Tables are indexed.
    count, length = sampling.count, self.grid**2
    keys, given = drawing.keys(key, count), 0 if prefix is None else prefix.shape[1]
    start = jnp.zeros((count, length), jnp.int32)
    if prefix is not None:
      start = start.at[:, :given].set(prefix)

    def one(place: jax.Array, codes: jax.Array) -> jax.Array:
      square = codes.reshape(count, self.grid, self.grid)
      made: Any = self.model.apply({'params': params}, square, condition)
      features = made[0].reshape(count, length, -1)
      feature = lax.dynamic_index_in_dim(features, place, axis=1, keepdims=False)
      logits: Any = head.apply({'params': head_params}, feature, train=False)
      drawn = drawing.draw(keys, place, logits, sampling)
      return lax.dynamic_update_slice(codes, drawn[:, None], (0, place))

    return lax.fori_loop(given, length, one, start)
