"""The head of tasks about tiles: what several tiles of an image are to each other.

Tiles go through the encoder one by one (it is one network, not nine: Noroozi and Favaro's "context
free network" and Doersch et al.'s two columns share their weights), and what the encoder makes of
some of them, side by side in a given order, goes through a perceptron. So a tile is encoded once,
however many orders it is part of.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import heads


class OrderedTiles(nn.Module):
  """A classifier of `places` tiles of an image, in an order.

  Attributes:
    tiles: of an image.
    places: how many of them it sees at once.
    classes: size of the output.
    hidden: widths of the layers (linear, BN, ReLU) in between; () is a linear classifier.
    bn_axis: see `heads.MLPHead`.
    dtype: compute type.
  """

  tiles: int
  places: int
  classes: int
  hidden: tuple[int, ...] = ()
  bn_axis: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool,
    order: jax.Array | None = None,
    kept: jax.Array | None = None,
  ) -> jax.Array:
    """[tiles * b, D] -> float32 [orders * b, classes].

    Args:
      x: of the tiles, all first ones, then all second ones and so on.
      train: see `heads.MLPHead`.
      order: int32 [orders * b, places], which tile lies at each place, as the tiles first for all
        images. None: x are whole images, [b, D], and each lies at all places: for evaluations of
        the layers.
      kept: float32 [orders * b, hidden[-1]], dropout of the last hidden layer: 0, or one over the
        probability of not being 0; None: no dropout.
    """
    if order is None:
      together = jnp.tile(x, (1, self.places))
    else:
      tiles = x.reshape(self.tiles, -1, x.shape[-1])
      image = jnp.arange(len(order)) % tiles.shape[1]
      together = tiles[order, image[:, None]].reshape(len(order), -1)
    if self.hidden:
      together = heads.MLPHead(
        self.hidden, trunk=True, bn_axis=self.bn_axis, dtype=self.dtype, name='hidden'
      )(together, train=train)
    if kept is not None:
      together = together * kept
    last = heads.MLPHead((self.classes,), last_bias=True, dtype=self.dtype, name='classes')
    return last(together, train=train)
