"""A transformer over the codes of an image, as a network from the image on.

A frozen codec turns the image into codes, which in raster order are a sequence for a causal
transformer (`models.token_transformer`). Codec and codebook are part of the running statistics
('codec'): nothing trains them, and a stored network is one thing with them. The embedding is the
mean over all places of the stream after the block in the middle.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models.net import Net, Part, stack
from byoljax.models.token_transformer import Size, TokenTransformer

CODEC, CODES = 'codec', 'codes'


@dataclasses.dataclass(frozen=True)
class FrozenNet:
  """A network that is no part of the module that holds it: linen would adopt its modules.

  Attributes:
    parts: see `models.net.Net`.
    reads: see there.
  """

  parts: tuple[Part, ...]
  reads: tuple[tuple[str, str], ...]

  @property
  def net(self) -> Net:
    """The network."""
    return stack(self.parts, reads=self.reads)


class CodeTransformer(nn.Module):
  """See the module. Maps by tap: 'block1' ..., and 'sequence' with the conditions before the codes.

  Attributes:
    codec: with an output 'codes'.
    size: dimensions.
    vocabulary: K, codes.
    grid: codes on each side of an image.
    classes: whose number stands before the codes; 0: nothing does. A further one is unknown.
    dtype: compute type; features are float32.
  """

  codec: FrozenNet
  size: Size
  vocabulary: int
  grid: int
  classes: int = 0
  dtype: Any = jnp.float32

  @property
  def model(self) -> TokenTransformer:
    """The transformer, whose parameters are under 'transformer'."""
    return TokenTransformer(
      self.size,
      self.vocabulary,
      self.grid**2,
      conditions=1 if self.classes else 0,
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
    frozen: Any = self.variable('batch_stats', CODEC, self._random_codec, x)
    if tokens is None:
      tokens = codes_of(self.codec.net, frozen.value, x)
    if tokens.shape[1] != self.grid**2:
      raise ValueError(
        f'this transformer has positions for {self.grid} x {self.grid} codes, but an image of '
        f'{x.shape[1]} x {x.shape[2]} pixels has {tokens.shape[1]}.'
      )
    given = None
    if self.classes:
      given = jnp.full(len(x), self.classes) if condition is None else condition
      given = jnp.where(given < 0, self.classes, given)[:, None]
    made = self.model(tokens, condition=given)
    blocks = [
      y[:, -(self.grid**2) :].reshape(len(x), self.grid, self.grid, -1) for y in made.blocks
    ]
    for number, y in enumerate(blocks, start=1):
      self.sow('intermediates', f'block{number}', y)
    self.sow('intermediates', 'sequence', made.features)
    return blocks[(self.size.depth + 1) // 2 - 1].mean((1, 2))

  def _random_codec(self, x: jax.Array) -> dict[str, Any]:
    params, bn = self.codec.net.init(self.make_rng('params'), x)
    return {'params': params, 'bn': bn}


def codes_of(codec: Net, frozen: Any, x: jax.Array) -> jax.Array:
  """Codes int32 [b, n] of normalized images, in evaluation mode and without a gradient.

  Args:
    codec: images to codes.
    frozen: its 'params' and 'bn'.
    x: [b, S, S, C].
  """
  made, _ = codec.apply(frozen['params'], frozen['bn'], x, train=False, upto=CODES)
  return jax.lax.stop_gradient(made[CODES]).astype(jnp.int32)
