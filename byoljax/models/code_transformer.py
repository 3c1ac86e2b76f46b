"""A transformer over the codes of an image, as a network from the image on.

A frozen codec turns the image into codes (`models.frozen_codec`), which in raster order are a
sequence for a causal transformer (`models.token_transformer`). The embedding is the mean over all
places of the stream after the block in the middle.
"""

from typing import Any

import flax.linen as nn
import jax

from byoljax.models.frozen_codec import OnCodes
from byoljax.models.token_transformer import TokenTransformer, generate
from byoljax.ops.sampling import Sampling


class CodeTransformer(OnCodes):
  """See the module. Maps by tap: 'block1' ..., and 'sequence' with the conditions before the codes.

  The number of a class, if there are any, stands before the codes. `size` is a
  `token_transformer.Size`.
  """

  @property
  def before(self) -> int:
    """Places in front of the codes' in 'sequence'."""
    return 1 if self.classes else 0

  @property
  def model(self) -> TokenTransformer:
    """The transformer, whose parameters are under 'transformer'."""
    return TokenTransformer(
      self.size,
      self.vocabulary,
      self.grid**2,
      conditions=self.before,
      condition_vocabulary=self.classes + 1 if self.classes else 0,
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
    condition: jax.Array | None = None,
  ) -> jax.Array:
    """Images float32 [b, S, S, C] -> embedding float32 [b, D].

    Args:
      x: images, normalized as the codec's.
      train: nothing here depends on it.
      tokens: int [b, n] in place of the images' codes.
      condition: int [b], classes; None: unknown.

    Raises:
      ValueError: images of another size.
    """
    del train
    tokens = self.codes(x, tokens)
    given = self.known(x, condition)[:, None] if self.classes else None
    made = self.model(tokens, condition=given)
    blocks = [
      y[:, -(self.grid**2) :].reshape(len(x), self.grid, self.grid, -1) for y in made.blocks
    ]
    for number, y in enumerate(blocks, start=1):
      self.sow('intermediates', f'block{number}', y)
    self.sow('intermediates', 'sequence', made.features)
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
    cached: bool = True,
  ) -> jax.Array:
    """Draws codes, int32 [sampling.count, n]; see `token_transformer.generate`.

    Args:
      params: of this network.
      head: on 'sequence'.
      head_params: its parameters.
      key: each sequence has draws of its own.
      sampling: how many, and how.
      condition: int [count], classes; not without any.
      prefix: int [count, p], the first p codes.
      cached: whether keys and values are kept.
    """
    given = None if condition is None else condition[:, None]
    return generate(
      self.model, params['transformer'], head, head_params, key, sampling, condition=given,
      prefix=prefix, cached=cached,
    )  # fmt: skip
