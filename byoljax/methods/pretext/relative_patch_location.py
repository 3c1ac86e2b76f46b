"""Relative patch location: on which side of this tile was that one? (arXiv 1505.05192).

Doersch, Gupta and Efros 2015, "context prediction". Two neighboring tiles of an image are encoded,
and a classifier says in which of eight directions the second one lies: label 0 to 7, in rows from
the top left, the middle left out. As in Kolesnikov et al. 2019 (arXiv 1901.09005) an image gives
all eight: its nine tiles are encoded once, and each outer one is paired with the center. With four
tiles, for small images, every direction has one pair, too; of the two pairs that lie side by side
(or one above the other) one is drawn.

What keeps the network from placing tiles without looking at them is in
`byoljax.data.augment.tiles`: gap and jitter, gray, projection or dropping of channels, loss of
resolution, standardization of every tile.

Different from the first paper: pairs share the center, and a grid has one place in an image, where
theirs samples many; projection and dropping are drawn for an image, not for a tile; a channel that
is dropped becomes the mean of the one that is kept, with their little noise; batch normalization
in the head has scale and shift. Batch statistics span the tiles of an image, as in both papers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byoljax import streams
from byoljax.data.augment import tiles as tiles_lib
from byoljax.devices import collectives
from byoljax.method import Batch, MakeEncoder, Method, Setting
from byoljax.methods.checks import check_widths, only_view
from byoljax.methods.pretext import classification
from byoljax.models import tile_heads
from byoljax.models.net import Inputs, stack
from byoljax.suggest import from_fields

DIRECTIONS = 8


def pairs(grid: int) -> np.ndarray:
  """The pairs of tiles of each direction: int32 [8, n, 2], (tile, the tile that it is seen from).

  Tiles are numbered in rows. With 3x3 the second tile is the center and n is 1; with 2x2 it is any
  and n is 2, diagonal pairs twice.

  Examples:
    >>> pairs(3)[:, 0].tolist()
    [[0, 4], [1, 4], [2, 4], [3, 4], [5, 4], [6, 4], [7, 4], [8, 4]]
    >>> pairs(2)[4].tolist()  # the tile to the right
    [[1, 0], [3, 2]]
  """
  offsets = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
  anchors = [(1, 1)] if grid == 3 else [(y, x) for y in range(grid) for x in range(grid)]
  table = []
  for down, across in offsets:
    found = [
      ((y + down) * grid + x + across, y * grid + x)
      for y, x in anchors
      if 0 <= y + down < grid and 0 <= x + across < grid
    ]
    table.append(found if grid == 3 or len(found) == 2 else found * 2)
  return np.array(table, np.int32)


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  tiles: Mapping[str, Any],
  hidden: Sequence[int] = (4096,),
  dropout: float = 0.5,
) -> Method:
  """Builds relative patch location from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    tiles: fields of `data.augment.tiles.TileSpec`.
    hidden: widths of the layers between two tiles' embeddings and the eight directions.
    dropout: share of the last hidden layer that is left out, in [0, 1).

  Raises:
    ValueError: a field of the tiles that is unknown or out of range, or another argument that is.
  """
  spec = from_fields(tiles_lib.TileSpec, 'field of tiles', tiles)
  check_widths(hidden=hidden)
  if not 0.0 <= dropout < 1.0 or (dropout and not hidden):
    raise ValueError(f'dropout={dropout} must be at least 0 and below 1, and needs hidden layers.')
  table = pairs(spec.grid)

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    del step
    view = only_view(batch)
    rows = len(view)
    positions = collectives.positions(rows, setting.axis)
    seen = tiles_lib.make_tiles(view, key, positions, spec, setting.mean, setting.std)
    key = jax.random.fold_in(key, streams.TILE_PAIRS)

    def draw(position: jax.Array) -> tuple[jax.Array, jax.Array]:
      pair, units = jax.random.split(jax.random.fold_in(key, position))
      chosen = jax.random.randint(pair, (DIRECTIONS,), 0, table.shape[1])
      kept = jax.random.bernoulli(units, 1.0 - dropout, (DIRECTIONS, *hidden[-1:]))
      return jnp.asarray(table)[jnp.arange(DIRECTIONS), chosen], kept / (1.0 - dropout)

    order, kept = jax.vmap(draw, out_axes=1)(positions)
    return batch | {
      'views': (seen.reshape(-1, *seen.shape[2:]),),
      'order': order.reshape(-1, 2),
      'kept': kept.reshape(DIRECTIONS * rows, -1),
      'pretext_label': jnp.repeat(jnp.arange(DIRECTIONS, dtype=jnp.int32), rows),
    }

  def inputs(batch: Batch) -> Inputs:
    return {'head': {name: batch[name] for name in ('order', *(['kept'] if dropout else []))}}

  head = tile_heads.OrderedTiles(
    spec.count, 2, DIRECTIONS, tuple(hidden), bn_axis=setting.axis, dtype=jnp.dtype(setting.dtype)
  )
  net = stack((('encoder', 'embedding', make_encoder(setting.axis)), ('head', 'logits', head)))
  return classification.from_labels(net, transform, inputs=inputs, parts=True)
