"""Jigsaw puzzles: in which order were the tiles put? (Noroozi and Favaro 2016, arXiv 1603.09246).

The tiles of an image are put together by one of the permutations of a fixed set, and a classifier
that sees what the encoder makes of each, in that order, says by which: label i is row i of
`ops.permutations.spread_permutations`, whose entry k is the tile that lies at place k. As in
Kolesnikov et al. 2019 (arXiv 1901.09005) and Goyal et al. 2019 (arXiv 1905.01235) tiles are encoded
once, and several permutations of them are classified in a step.

What keeps the network from solving it without looking at objects is in
`byoljax.data.augment.tiles`: gap and jitter, gray, projection or shifting of channels,
standardization of every tile.

Different from the paper: the set is built from a seed, not read from the authors' file; the share
of gray images and the projection are those of their released code. Batch statistics span the
tiles of an image; the paper's network has none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.data.augment import tiles as tiles_lib
from byoljax.devices import collectives
from byoljax.method import Batch, MakeEncoder, Method, Setting
from byoljax.methods.checks import check_widths, only_view
from byoljax.methods.pretext import classification
from byoljax.models import heads, tile_heads
from byoljax.models.net import Inputs, stack
from byoljax.ops import permutations as permutations_lib
from byoljax.suggest import from_fields


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  tiles: Mapping[str, Any],
  permutations: int = 100,
  rule: str = 'mean',
  permutation_seed: int = 0,
  puzzles: int = 8,
  tile_features: Sequence[int] = (1000,),
  hidden: Sequence[int] = (),
) -> Method:
  """Builds jigsaw puzzles from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    tiles: fields of `data.augment.tiles.TileSpec`.
    permutations: size of the set: at most 24 of four tiles, 362880 of nine.
    rule: see `ops.permutations.spread_permutations`.
    permutation_seed: of the set; not the run's seed, so that runs share the task.
    puzzles: permutations of each image in a step, drawn with replacement.
    tile_features: widths of the layers (linear, BN, ReLU) on each tile's embedding.
    hidden: widths of the layers between all tiles together and the permutations.

  Raises:
    ValueError: a field of the tiles that is unknown or out of range, or another argument that is.
  """
  spec = from_fields(tiles_lib.TileSpec, 'field of tiles', tiles)
  table = permutations_lib.spread_permutations(spec.count, permutations, rule, permutation_seed)
  if puzzles < 1:
    raise ValueError(f'puzzles={puzzles} must be at least 1.')
  check_widths(tile_features=tile_features, hidden=hidden)

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    del step
    view = only_view(batch)
    positions = collectives.positions(len(view), setting.axis)
    seen = tiles_lib.make_tiles(view, key, positions, spec, setting.mean, setting.std)
    key = jax.random.fold_in(key, streams.PUZZLES)

    def draw(position: jax.Array) -> jax.Array:
      return jax.random.randint(jax.random.fold_in(key, position), (puzzles,), 0, permutations)

    labels = jax.vmap(draw, out_axes=1)(positions)
    seen, order = puzzle(seen, jnp.asarray(table)[labels])
    made = {'views': (seen.reshape(-1, *seen.shape[2:]),), 'order': order.reshape(-1, spec.count)}
    return batch | made | {'pretext_label': labels.reshape(-1)}

  def inputs(batch: Batch) -> Inputs:
    return {'head': {'order': batch['order']}}

  dtype, axis = jnp.dtype(setting.dtype), setting.axis
  parts = [('encoder', 'embedding', make_encoder(axis))]
  if tile_features:
    of_tile = heads.MLPHead(tuple(tile_features), trunk=True, bn_axis=axis, dtype=dtype)
    parts.append(('projector', 'projection', of_tile))
  head = tile_heads.OrderedTiles(spec.count, spec.count, permutations, tuple(hidden), axis, dtype)
  net = stack((*parts, ('head', 'logits', head)))
  return classification.from_labels(net, transform, inputs=inputs, parts=True)


def puzzle(tiles: jax.Array, wanted: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Tiles in the first order that is wanted of each image, and from there the way to all of them.

  Args:
    tiles: [n, b, ...], in rows.
    wanted: int32 [puzzles, b, n], the tile at each place.

  Returns:
    The tiles of the first puzzle [n, b, ...], which is what previews show, and for every puzzle
    which of them is at each place, int32 [puzzles, b, n]: for the first one 0, ..., n - 1.
  """
  first = wanted[0]
  rows = jnp.arange(first.shape[0])[:, None]
  place_of = jnp.argsort(first, axis=-1)
  return tiles[first.T, rows.T], place_of[rows, wanted]
