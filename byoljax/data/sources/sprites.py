"""`sprites`: shapes that move or stand still before still and moving backgrounds, drawn by NumPy.

An example is two frames of a scene of one to three objects, the outlines of `shapes` with textures
of their own, and the truth about the first frame: what moves, which object a pixel belongs to, of
which class, how far away, in which box. Whether an object moves is a matter of its outline
(`MOVERS`), so that a single frame says what will move to whoever recognizes it. In half of the
scenes the camera turns: the background and whatever stands still are displaced together.

Every example is a function of (seed, split, index) and of nothing else. Nothing is downloaded, and
TensorFlow is not needed.
"""

from collections.abc import Sequence
import os
from typing import NamedTuple

import numpy as np

from byoljax.data.fields import Field, find
from byoljax.data.sources import built_in, drawing

VERSION = '1.0.0'
SEED = 0
SIZE = drawing.SIZE
NUM_TRAIN = 8000
NUM_TEST = 2000
SPLITS = {'train': NUM_TRAIN, 'test': NUM_TEST}
CLASS_NAMES = tuple(drawing.OUTLINES)
# The outlines that move; the others stand still.
MOVERS = ('circle', 'star', 'crescent', 'heart', 'arrow')
MAX_OBJECTS = 3
FIELDS = (
  Field('second', 'image', 3, dtype='uint8'),
  Field('moving', 'mask', 1, dtype='uint8'),
  Field('object', 'mask', 1, dtype='uint8'),
  Field('category', 'mask', 1, dtype='uint8'),
  Field('depth', 'map', 1, dtype='float32'),
  Field('boxes', 'boxes', MAX_OBJECTS, dtype='float32'),
  Field('pan', 'label', 2, dtype='float32'),
)

# Lengths in pixels, depths in (0, 1].
NEAREST = (0.35, 0.5)
FARTHEST = 0.7
BEHIND = (1.0, 0.85)  # The background's depth, at the top and at the bottom.
SCALE = 3.0  # Radius of an object times its depth.
EXTENT = 1.3  # How far an outline reaches across or down, in radii, at any angle.
CONTRAST = 0.56, 0.4  # Between object and background: what it is at depth 0, and its slope.
MIDDLE = (0.42, 0.58)  # Lightness of the background.
SPEED = (2.0, 4.0)  # Of what moves, from frame to frame, before a background at rest.
PAN = (1.0, 2.5)  # Of the background, where the camera turns.
SPACING = 0.75  # Least distance of two objects, as a share of the sum of their radii.

_STREAMS = {'train': 33, 'test': 34}
_LABEL_STREAM = 16
_TRIES = 12
_MARGIN = int(np.ceil(PAN[1]))
_AROUND = drawing.grid(_MARGIN)
_PALETTE = np.array([[0, 0, 0], [230, 80, 60], [70, 160, 230], [240, 200, 60]], np.uint8)
_Array = np.ndarray


class _Sprite(NamedTuple):
  """An object: where it is in both frames (x, y), and what it looks like."""

  category: int
  depth: float
  radius: float
  first: _Array
  step: _Array


def draw(seed: int, split: str, index: int) -> dict[str, _Array]:
  """Draws one example; the same arguments always give the same one.

  Args:
    seed: the world's seed, >= 0; `SEED` for the published set.
    split: 'train' or 'test'; they share no random numbers.
    index: the example's position, >= 0; it may exceed the split's size.

  Returns:
    'image' uint8 [32, 32, 3], the first frame; 'label' int32 [], the class of the nearest object;
    'second' uint8 [32, 32, 3]; of the first frame 'moving' uint8 [32, 32, 1], 1 where something
    moves by itself, 'object', k where the k-th object of 'boxes' is, from 1, 0 elsewhere,
    'category', its class + 1, and 'depth' float32 [32, 32, 1]; 'boxes' float32 [3, 5] around what
    is seen of each, nearest first; 'pan' float32 [2], (y, x) in pixels: how the background is
    displaced in the second frame.

  Raises:
    ValueError: for an unknown split or a negative index.
  """
  built_in.check('sprites', SPLITS, split, index)
  stream = _STREAMS[split]
  label = built_in.balanced_label(seed, stream + _LABEL_STREAM, index, len(CLASS_NAMES))
  rng = built_in.generator(seed, stream, index)
  pan = _displacement(rng, PAN) if rng.integers(2) else np.zeros(2)
  sprites = _placed(rng, label, pan)
  frames, cover = _frames(rng, sprites, pan)
  truth = _truth(sprites, cover)
  light = drawing.light(rng)
  first, second = (drawing.photographed(rng, frame + light) for frame in frames)
  made = {'image': first, 'label': np.int32(label), 'second': second, **truth}
  return made | {'pan': pan[::-1].astype(np.float32)}


def _displacement(rng: np.random.Generator, length: tuple[float, float]) -> _Array:
  """(x, y) in whole sub-pixels, so that what is displaced keeps its pattern."""
  angle, extent = rng.uniform(0, 2 * np.pi), rng.uniform(*length)
  way = extent * np.array([np.cos(angle), np.sin(angle)])
  return np.round(way * drawing.SUPERSAMPLE) / drawing.SUPERSAMPLE


def _placed(rng: np.random.Generator, label: int, pan: _Array) -> list[_Sprite]:
  """The objects, nearest first, within the frame and apart from each other at both times."""
  count = int(rng.integers(1, MAX_OBJECTS + 1))
  depths = [rng.uniform(*NEAREST)]
  depths += sorted(rng.uniform(depths[0] + 0.05, FARTHEST, count - 1))
  sprites: list[_Sprite] = []
  for number, depth in enumerate(depths):
    category = label if number == 0 else int(rng.integers(len(CLASS_NAMES)))
    radius = SCALE / depth
    room = SIZE / 2 - 0.5 - EXTENT * radius
    moves = CLASS_NAMES[category] in MOVERS
    for _ in range(_TRIES):  # What finds no place is left out; the first one always does.
      step = pan + (_displacement(rng, SPEED) if moves else 0.0)
      first = rng.uniform(-room - np.minimum(step, 0), room - np.maximum(step, 0))
      made = _Sprite(category, depth, radius, first, step)
      if all(_apart(made, other) for other in sprites):
        sprites.append(made)
        break
  return sprites


def _apart(one: _Sprite, other: _Sprite) -> bool:
  before, after = one.first - other.first, one.first + one.step - other.first - other.step
  least = SPACING * (one.radius + other.radius)
  return min(np.hypot(*before), np.hypot(*after)) >= least


def _frames(
  rng: np.random.Generator, sprites: Sequence[_Sprite], pan: _Array
) -> tuple[list[_Array], _Array]:
  """Both frames, float32 [3, n, n]; the part of each pixel where an object is seen, [k, S, S]."""
  lightness = rng.uniform(*MIDDLE)
  behind = drawing.surface(rng, lightness, _AROUND.x, _AROUND.y)
  drawing.clutter(rng, behind, int(rng.integers(3, 8)), lightness, _AROUND)
  frames = []
  for moved in (np.zeros(2), pan):
    x, y = (int(c) for c in np.round((_MARGIN - moved) * drawing.SUPERSAMPLE))
    n = len(drawing.FRAME.axis)
    frames.append(behind[:, y : y + n, x : x + n].copy())
  seen = np.zeros((len(sprites), *drawing.FRAME.x.shape), np.float32)
  for number, sprite in reversed(list(enumerate(sprites))):
    contrast = CONTRAST[0] - CONTRAST[1] * sprite.depth
    own = lightness + contrast * (1 if rng.integers(2) else -1)
    columns, rows, inside, color = _portrait(rng, sprite, own)
    for frame, moved in zip(frames, (np.zeros(2), sprite.step), strict=True):
      x, y = (int(c) for c in np.round(moved * drawing.SUPERSAMPLE))
      part = frame[:, rows.start + y : rows.stop + y, columns.start + x : columns.stop + x]
      part += inside * (color - part)
    seen[:, rows, columns] *= 1 - inside
    seen[number, rows, columns] = inside
  return frames, drawing.averaged(seen)


def _portrait(
  rng: np.random.Generator, sprite: _Sprite, lightness: float
) -> tuple[slice, slice, _Array, _Array]:
  """Where an object is in the first frame (columns, rows), its coverage there, and its color."""
  axis, reach = drawing.FRAME.axis, sprite.radius * EXTENT + 0.5
  columns, rows = (drawing.span(axis, c, c, reach) for c in sprite.first)
  columns, rows = (_within(s, c) for s, c in zip((columns, rows), sprite.step, strict=True))
  x, y = np.meshgrid(
    axis[columns] - np.float32(sprite.first[0]), axis[rows] - np.float32(sprite.first[1])
  )
  angle = rng.uniform(-drawing.ANGLE, drawing.ANGLE)
  mirror = 1 if rng.integers(2) else -1
  name = CLASS_NAMES[sprite.category]
  inside = drawing.outlined(name, x, y, sprite.radius, angle, mirror)
  return columns, rows, inside, drawing.surface(rng, lightness, x, y)


def _within(part: slice, step: float) -> slice:
  """The sub-pixels that are within the frame before and after a step."""
  moved, count = round(step * drawing.SUPERSAMPLE), len(drawing.FRAME.axis)
  return slice(max(part.start, -moved), min(part.stop, count - moved))


def _truth(sprites: Sequence[_Sprite], cover: _Array) -> dict[str, _Array]:
  """The fields about the first frame."""
  parts = np.concatenate([1 - cover.sum(0, keepdims=True), cover])
  identity = parts.argmax(0)
  category = np.array([0, *(sprite.category + 1 for sprite in sprites)], np.uint8)
  moves = np.array([False, *(CLASS_NAMES[sprite.category] in MOVERS for sprite in sprites)])
  behind = np.linspace(*BEHIND, SIZE, dtype=np.float32)[:, None]
  depth = np.where(
    identity > 0, np.array([1, *(s.depth for s in sprites)], np.float32)[identity], behind
  )
  boxes = np.zeros((MAX_OBJECTS, 5), np.float32)
  boxes[:, 4] = -1
  for number, sprite in enumerate(sprites):
    rows, columns = np.nonzero(identity == number + 1)
    if len(rows):
      edges = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
      boxes[number] = (*(edge / SIZE for edge in edges), sprite.category)
  return {
    'moving': moves[identity].astype(np.uint8)[..., None],
    'object': identity.astype(np.uint8)[..., None],
    'category': category[identity][..., None],
    'depth': depth.astype(np.float32)[..., None],
    'boxes': boxes,
  }


def arrays(
  split: str, names: Sequence[str] = ('image', 'label'), data_dir: str | None = None
) -> dict[str, _Array]:
  """A whole split in memory.

  Args:
    split: 'train' or 'test'.
    names: of what is wanted, keys of what `draw` returns.
    data_dir: cache directory, `built_in.default_data_dir()` when None. Drawn once, in half a
      minute, and kept there; where it cannot be written the scenes are drawn anew.

  Returns:
    By name, arrays of N examples, [N, ...].

  Raises:
    ValueError: for an unknown split or name.
  """
  built_in.check('sprites', SPLITS, split)
  directory = os.path.join(built_in.directory_of(data_dir), 'sprites_arrays')
  count = SPLITS[split]
  shapes = {name: () if name == 'label' else field_of(name).shape(SIZE, SIZE) for name in names}

  def drawn() -> dict[str, _Array]:
    examples = [draw(SEED, split, i) for i in range(count)]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}

  wanted = {name: (count, *shape) for name, shape in shapes.items()}
  return built_in.cached(os.path.join(directory, f'{VERSION}-{split}.npz'), wanted, drawn)


def contact_sheet(columns: int = 16, seed: int = SEED) -> _Array:
  """The first training examples, a column each; uint8 [H, W, 3].

  From above: first frame, second frame, their absolute difference, what moves, which object, depth.
  """
  step = SIZE + 2
  sheet = np.full((6 * step + 2, columns * step + 2, 3), 255, np.uint8)
  for column in range(columns):
    found = draw(seed, 'train', column)
    image, second = found['image'], found['second']
    gray = (found['moving'] * 255, (found['depth'] * 255).astype(np.uint8))
    moving, depth = (np.broadcast_to(values, image.shape) for values in gray)
    objects = _PALETTE[found['object'][..., 0]]
    difference = np.abs(second.astype(np.int16) - image).astype(np.uint8)
    for row, shown in enumerate((image, second, difference, moving, objects, depth)):
      top, left = 2 + row * step, 2 + column * step
      sheet[top : top + SIZE, left : left + SIZE] = shown
  return sheet


def field_of(name: str) -> Field:
  """The field of this name.

  Raises:
    ValueError: there is none.
  """
  return find((Field('image', 'image', 3, dtype='uint8'), *FIELDS), name, 'sprites')
