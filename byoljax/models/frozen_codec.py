"""Networks over the codes of a frozen codec, from the image on: what they have in common.

Codec and codebook are part of the running statistics ('codec'): nothing trains them, and a stored
network is one thing with them.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models.net import Net, Part, stack

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


class OnCodes(nn.Module):
  """A network over the codes of an image; what kinds have is their `__call__` and `generate`.

  Attributes:
    codec: with an output 'codes'.
    size: dimensions.
    vocabulary: K, codes.
    grid: codes on each side of an image.
    classes: that condition the codes; 0: none. A further one is unknown.
    dtype: compute type; features are float32.
  """

  codec: FrozenNet
  size: Any
  vocabulary: int
  grid: int
  classes: int = 0
  dtype: Any = jnp.float32

  def codes(self, x: jax.Array, tokens: jax.Array | None) -> jax.Array:
    """Codes int [b, n] of images, or those that are given in their place.

    Raises:
      ValueError: of another number.
    """
    frozen: Any = self.variable('batch_stats', CODEC, self._random_codec, x)
    if tokens is None:
      tokens = codes_of(self.codec.net, frozen.value, x)
    if tokens.shape[1] != self.grid**2:
      side = math.isqrt(tokens.shape[1])
      fits = side**2 == tokens.shape[1]
      fix = f'set method.grid={side}' if fits else 'square images are needed'
      raise ValueError(
        f'this network has places for {self.grid} x {self.grid} codes, but an image of '
        f'{x.shape[1]} x {x.shape[2]} pixels has {tokens.shape[1]}: {fix}.'
      )
    return tokens

  def known(self, x: jax.Array, condition: jax.Array | None) -> jax.Array:
    """Classes int [b]; those that are not known, or not given, as the further one."""
    if condition is None:
      return jnp.full(len(x), self.classes)
    return jnp.where(condition < 0, self.classes, condition)

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
