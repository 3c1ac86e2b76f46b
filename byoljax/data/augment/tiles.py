"""Images cut into tiles, and what keeps a network from placing them without looking at them.

A task that asks where a tile belongs can be solved by traces that have nothing to do with the
picture. Each has a defense here (docs/pretext.md shows what happens without):

    lines and textures that continue across a border     gap and jitter between tiles
    brightness and contrast that change over the image   standardization of every tile
    a lens that spreads colors away from the center      what `data.augment.chromatic` does
    sharpness that changes over the image                loss of resolution

Relative patch location (Doersch et al. 2015, arXiv 1505.05192) cuts tiles of 96 pixels with gaps of
48 and a jitter of up to 7 in each direction, from a grid that lies anywhere in the image; jigsaw
(Noroozi and Favaro 2016, arXiv 1603.09246) tiles of 64 anywhere in cells of 85 of a crop of 255.
Both are a `TileSpec`: tile, gap and jitter add up to a cell.
"""

from collections.abc import Sequence
import dataclasses

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from byoljax import streams
from byoljax.data.augment import chromatic
from byoljax.suggest import check_name

STANDARDIZE = ('none', 'tile', 'channel')
_LEVEL = 1 / 255
_PROBABILITIES = ('gray_prob', 'project_prob', 'drop_prob', 'coarse_prob')


@dataclasses.dataclass(frozen=True)
class TileSpec:
  """How an image becomes tiles; the defaults are jigsaw's cells of a crop of 255 pixels.

  Attributes:
    grid: tiles on each side, 2 or 3.
    tile: side of a tile in pixels, at least 2.
    gap: least distance of neighbors in pixels, along each axis.
    jitter: further pixels of a cell: a tile lies in it at any of 0, ..., jitter, drawn for both
      axes and for every tile.
    gray_prob: share of the images that lose their color.
    project_prob: of the images that do not, the share whose green and magenta are projected out.
    drop_prob: of the rest, the share of which every tile keeps one channel alone.
    channel_shift: largest shift in pixels of a channel against the tile, along each axis; every
      channel of every tile is shifted by itself.
    coarse_prob: share of the tiles that are reduced to fewer pixels and enlarged again.
    coarse_side: fewest pixels on each side that they are reduced to.
    standardize: 'tile', to mean 0 and deviation 1 over all values of a tile; 'channel', every
      channel by itself; 'none', as images of the data set are normalized.

  Raises:
    ValueError: a field is out of its range.
  """

  grid: int = 3
  tile: int = 64
  gap: int = 0
  jitter: int = 21
  gray_prob: float = 0.0
  project_prob: float = 0.0
  drop_prob: float = 0.0
  channel_shift: int = 0
  coarse_prob: float = 0.0
  coarse_side: int = 10
  standardize: str = 'tile'

  def __post_init__(self):
    if self.grid not in (2, 3):
      raise ValueError(f'grid={self.grid}: cut images into 2x2 or 3x3 tiles.')
    for name, least in (('tile', 2), ('gap', 0), ('jitter', 0), ('channel_shift', 0)):
      value = getattr(self, name)
      if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f'{name}={value!r} of tiles must be a whole number of at least {least}.')
    for name in _PROBABILITIES:
      if not 0.0 <= getattr(self, name) <= 1.0:
        raise ValueError(f'{name}={getattr(self, name)} of tiles must lie in [0, 1].')
    check_name('standardization of tiles', self.standardize, STANDARDIZE)
    if self.coarse_prob and not 1 <= self.coarse_side <= self.tile:
      raise ValueError(
        f'coarse_side={self.coarse_side} must lie between 1 and the tile of {self.tile} pixels.'
      )
    if self.drop_prob and self.standardize == 'channel':
      raise ValueError(
        "drop_prob leaves channels empty, which standardize='channel' would fill with noise: use "
        "standardize='tile'."
      )

  @property
  def count(self) -> int:
    """Tiles of an image."""
    return self.grid**2

  @property
  def cell(self) -> int:
    """Side of a cell in pixels."""
    return self.tile + self.gap + self.jitter


def make_tiles(
  images: jax.Array,
  key: jax.Array,
  positions: jax.Array,
  spec: TileSpec,
  mean: Sequence[float],
  std: Sequence[float],
) -> jax.Array:
  """The tiles of every image, in rows from the top left: float32 [count, b, tile, tile, C].

  Args:
    images: float32 [b, S, S, C], normalized with `mean` and `std`.
    key: the same on all devices.
    positions: int32 [b], the examples' positions in the global batch; an image's tiles are a
      function of the key, its position and itself.
    spec: how.
    mean: of the data in [0, 1], per channel.
    std: of the data, per channel.

  Raises:
    ValueError: the grid is larger than the images; or chromatic defenses of images that are not
      RGB.
  """
  if images.ndim != 4 or images.shape[1] != images.shape[2]:
    raise ValueError(f'tiles are cut from square images [b, S, S, C], got {images.shape}')
  side = images.shape[1]
  if spec.grid * spec.cell > side:
    raise ValueError(
      f'{spec.grid}x{spec.grid} cells of tile + gap + jitter = {spec.cell} pixels do not fit into '
      f'views of {side}: reduce them, or make the view larger.'
    )
  shift, scale = (np.asarray(x, np.float32).reshape(1, 1, -1) for x in (mean, std))
  key = jax.random.fold_in(key, streams.TILES)
  keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(positions)

  def one(key: jax.Array, image: jax.Array) -> jax.Array:
    places, colors, coarseness = jax.random.split(key, 3)
    tiles = cut(image * scale + shift, corners(places, spec, side), spec.tile)
    tiles = chromatic.defended(
      tiles,
      colors,
      gray_prob=spec.gray_prob,
      project_prob=spec.project_prob,
      drop_prob=spec.drop_prob,
      channel_shift=spec.channel_shift,
    )
    if spec.coarse_prob:
      tiles = _some_coarser(tiles, coarseness, spec)
    if spec.standardize == 'none':
      return (tiles - shift[None]) / scale[None]
    return standardize(tiles, per_channel=spec.standardize == 'channel')

  return jnp.moveaxis(jax.vmap(one)(keys, images), 1, 0)


def corners(key: jax.Array, spec: TileSpec, side: int) -> jax.Array:
  """Top left corners (y, x) of one image's tiles, int32 [count, 2].

  The grid lies anywhere in the image, uniformly, and every tile anywhere in its cell's jitter.
  Half of the gap is on each side of a tile.

  Args:
    key: of the image.
    spec: how.
    side: of the image in pixels, at least grid * cell.
  """
  whole, own = jax.random.split(key)
  origin = jax.random.randint(whole, (2,), 0, side - spec.grid * spec.cell + 1)
  moved = jax.random.randint(own, (spec.count, 2), 0, spec.jitter + 1)
  cells = np.stack(np.divmod(np.arange(spec.count), spec.grid), axis=1) * spec.cell
  return origin[None] + cells.astype(np.int32) + spec.gap // 2 + moved


def cut(image: jax.Array, corners: jax.Array, tile: int) -> jax.Array:
  """Squares of one image: [S, S, C] and int [n, 2] corners (y, x) -> [n, tile, tile, C].

  Args:
    image: one.
    corners: inside the image, or the square is moved inside.
    tile: side in pixels.
  """
  size = (tile, tile, image.shape[-1])
  return jax.vmap(lambda corner: lax.dynamic_slice(image, (corner[0], corner[1], 0), size))(corners)


def standardize(tiles: jax.Array, *, per_channel: bool) -> jax.Array:
  """(x - mean) / max(std, 1/255) of every tile, std with the number of values as divisor.

  Args:
    tiles: float32 [..., h, w, C] in [0, 1].
    per_channel: whether each channel has a mean and a deviation of its own, or all one.
  """
  axes = (-3, -2) if per_channel else (-3, -2, -1)
  centered = tiles - jnp.mean(tiles, axis=axes, keepdims=True)
  std = jnp.sqrt(jnp.mean(centered * centered, axis=axes, keepdims=True))
  return centered / jnp.maximum(std, _LEVEL)


def coarser(tiles: jax.Array, sides: jax.Array) -> jax.Array:
  """Tiles averaged down to fewer pixels and enlarged again by linear interpolation.

  Args:
    tiles: float32 [n, s, s, C].
    sides: int32 [n], pixels on each side in between, 1 to s; s changes nothing.
  """
  matrices = jax.vmap(lambda side: _there_and_back(side, tiles.shape[1]))(sides)
  with jax.default_matmul_precision('highest'):
    return jnp.einsum('nij,njkc,nlk->nilc', matrices, tiles, matrices)


def _there_and_back(side: jax.Array, size: int) -> jax.Array:
  """Matrix [size, size] of one axis: areas averaged to `side` values, then interpolated."""
  step = size / side.astype(jnp.float32)
  place = jnp.arange(size, dtype=jnp.float32)
  # Row k of the first matrix: how much of each pixel lies in [k, k + 1) steps.
  low, high = place[:, None] * step, (place[:, None] + 1) * step
  shared = jnp.minimum(high, place[None] + 1) - jnp.maximum(low, place[None])
  down = jnp.clip(shared, 0.0, 1.0) / step
  source = jnp.clip((place + 0.5) / step - 0.5, 0.0, side - 1.0)
  up = jnp.maximum(1.0 - jnp.abs(source[:, None] - place[None]), 0.0)
  return jnp.matmul(up, down, precision=lax.Precision.HIGHEST)


def _some_coarser(tiles: jax.Array, key: jax.Array, spec: TileSpec) -> jax.Array:
  chance, size = jax.random.split(key)
  sides = jax.random.randint(size, (spec.count,), spec.coarse_side, spec.tile + 1)
  chosen = jax.random.uniform(chance, (spec.count,)) < spec.coarse_prob
  return jnp.where(chosen[:, None, None, None], coarser(tiles, sides), tiles)
