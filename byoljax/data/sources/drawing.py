"""What the built-in sets are drawn with, outlines, textures, clutter; and `shapes`' pictures.

NumPy only.

Outlines are signed distances, sampled at 2x2 points per pixel and softened over one sub-pixel.
Colors are float32 [3, n, n] in [0, 1] with n = 64 sub-pixels, channels first because NumPy is
several times faster along a long last axis.
"""

import functools
from typing import NamedTuple

import numpy as np

SIZE = 32
# What varies within every class; lengths in pixels, colors in [0, 1], angles in radians.
RADIUS = (6.0, 9.5)
ANGLE = 0.35
CONTRAST = (0.28, 0.5)  # Between object and background, of either sign.
MIDDLE = (0.4, 0.6)  # Lightness half-way between the two.
COLOR = 0.5  # Of a fully saturated color, around its lightness.
TEXTURE = 0.1
LIGHT = 0.12  # Of a slope of brightness across the image.
NOISE = 0.02

SUPERSAMPLE = 2
_TURN = np.float32(2 * np.pi)
_Array = np.ndarray


class Grid(NamedTuple):
  """Centers of the sub-pixels of an area, in pixels from the middle of the image; y points down.

  Attributes:
    axis: float32 [n], of the columns and of the rows.
    x: float32 [n, n].
    y: float32 [n, n].
  """

  axis: _Array
  x: _Array
  y: _Array


def grid(margin: int = 0) -> Grid:
  """The sub-pixels of the image and of `margin` pixels around it."""
  count = (SIZE + 2 * margin) * SUPERSAMPLE
  axis = ((np.arange(count) + 0.5) / SUPERSAMPLE - SIZE / 2 - margin).astype(np.float32)
  return Grid(axis, *np.meshgrid(axis, axis))


FRAME = grid()


# Signed distances (negative inside) on coordinates where the shape's radius is about 1. They need
# to be exact near the outline only, which is all that anti-aliasing looks at.


def _half_planes(x: _Array, y: _Array, angles: tuple[float, ...], offset: float) -> _Array:
  """Convex polygon: the largest of the distances to its edges' lines."""
  edges = [x * np.float32(np.cos(a)) + y * np.float32(np.sin(a)) for a in angles]
  return functools.reduce(np.maximum, edges) - np.float32(offset)


def _box(x: _Array, y: _Array, half_width: float, half_height: float) -> _Array:
  return np.maximum(np.abs(x) - np.float32(half_width), np.abs(y) - np.float32(half_height))


def _disc(x: _Array, y: _Array, radius: float) -> _Array:
  return np.sqrt(x * x + y * y) - np.float32(radius)


def _circle(x: _Array, y: _Array) -> _Array:
  return _disc(x, y, 0.9)


def _square(x: _Array, y: _Array) -> _Array:
  return _box(x, y, 0.78, 0.78)


def _triangle(x: _Array, y: _Array) -> _Array:
  return _half_planes(x, y - 0.2, (np.pi / 2, np.pi * 7 / 6, -np.pi / 6), 0.62)


def _star(x: _Array, y: _Array) -> _Array:
  """Five points: folded into one half of one point, where the outline is a single line."""
  sector = _TURN / 5
  angle = np.arctan2(x, -y)
  angle = np.abs(angle - sector * np.round(angle / sector))
  radius = np.sqrt(x * x + y * y)
  tip, notch = 1.12, 0.46
  notch_along, notch_across = notch * np.cos(np.pi / 5), notch * np.sin(np.pi / 5)
  normal = np.array([notch_across, tip - notch_along]) / np.hypot(tip - notch_along, notch_across)
  along = (radius * np.cos(angle) - np.float32(tip)) * np.float32(normal[0])
  return along + radius * np.sin(angle) * np.float32(normal[1])


def _cross(x: _Array, y: _Array) -> _Array:
  return np.minimum(_box(x, y, 1.0, 0.32), _box(x, y, 0.32, 1.0))


def _ring(x: _Array, y: _Array) -> _Array:
  return np.abs(_disc(x, y, 0.75)) - np.float32(0.22)


def _crescent(x: _Array, y: _Array) -> _Array:
  return np.maximum(_disc(x, y, 1.0), -_disc(x - 0.5, y, 0.82))


def _heart(x: _Array, y: _Array) -> _Array:
  """A square standing on its corner, with half discs on its two upper edges."""
  s, side = np.float32(np.sqrt(0.5)), 0.62
  u, v = (x + y - 0.12) * s, (y - x - 0.12) * s
  lobes = np.minimum(_disc(u, v + side, side), _disc(u + side, v, side))
  return np.minimum(_box(u, v, side, side), lobes)


def _arrow(x: _Array, y: _Array) -> _Array:
  head = _half_planes(x - 1.05, y, (np.pi / 4.4, -np.pi / 4.4), 0.0)
  return np.minimum(np.maximum(0.05 - x, head), _box(x + 0.45, y, 0.6, 0.24))


def _bar(x: _Array, y: _Array) -> _Array:
  return _box(x, y, 1.12, 0.3)


# In the order of the labels.
OUTLINES = {
  'circle': _circle,
  'square': _square,
  'triangle': _triangle,
  'star': _star,
  'cross': _cross,
  'ring': _ring,
  'crescent': _crescent,
  'heart': _heart,
  'arrow': _arrow,
  'bar': _bar,
}


def coverage(distance: _Array, scale: float = 1.0) -> _Array:
  """Part of each sub-pixel inside the outline, [0, 1]; one unit of distance is `scale` pixels."""
  return np.clip(np.float32(0.5) - distance * np.float32(scale * SUPERSAMPLE), 0, 1)


def _texture(rng: np.random.Generator, x: _Array, y: _Array) -> _Array:
  """A random pattern in [0, 1]: plain, gradient, stripes, checks, dots or soft noise."""
  kind, angle, wavelength, phase, phase2, duty = rng.random(6, np.float32)
  u = x * np.cos(angle * _TURN) + y * np.sin(angle * _TURN)
  if kind < 0.2:
    return np.full_like(u, 0.5)
  if kind < 0.4:
    return np.clip(u / SIZE + np.float32(0.5), 0, 1)
  if kind < 0.8:
    frequency = _TURN / (4 + 5 * wavelength)
    wave = np.sin(u * frequency + phase * _TURN)
    v = y * np.cos(angle * _TURN) - x * np.sin(angle * _TURN)
    if kind < 0.6:
      wave += duty - np.float32(0.5)
    elif kind < 0.7:
      wave *= np.sin(v * frequency + phase2 * _TURN)
    else:
      wave += np.sin(v * frequency + phase2 * _TURN) - np.float32(0.6)
    return np.clip(wave * 3 + np.float32(0.5), 0, 1)
  coarse = rng.random((9, 9), np.float32)
  rows, row_weight = _between(y[:, 0])
  columns, weight = _between(x[0])
  rows = coarse[rows] + (coarse[rows + 1] - coarse[rows]) * row_weight[:, None]
  return rows[:, columns] + (rows[:, columns + 1] - rows[:, columns]) * weight


def _between(places: _Array) -> tuple[_Array, _Array]:
  """Of nine points across the image, the one before each place, and how near the next one is."""
  position = np.clip((places + np.float32(SIZE / 2)) * np.float32(8 / SIZE), 0, 7.9999)
  low = position.astype(np.int64)
  weight = position - low.astype(np.float32)
  return low, weight * (weight * (3 - 2 * weight))


def random_color(rng: np.random.Generator, lightness: float) -> _Array:
  """A random hue and saturation around a gray of `lightness`; float32 [3, 1, 1]."""
  hue, saturation = rng.random(2)
  wheel = np.cos(2 * np.pi * (hue + np.array([0, 1 / 3, 2 / 3])))
  color = np.clip(lightness + COLOR * saturation * wheel, 0, 1)
  return color.astype(np.float32)[:, None, None]


def surface(rng: np.random.Generator, lightness: float, x: _Array, y: _Array) -> _Array:
  """A textured area around one color; float32 [3, n, n] for coordinates [n, n] in pixels."""
  color = random_color(rng, lightness)
  step = rng.uniform(-TEXTURE, TEXTURE, 3).astype(np.float32)
  return color + (_texture(rng, x, y) - np.float32(0.5)) * step[:, None, None]


def span(axis: _Array, start: float, end: float, margin: float) -> slice:
  """The sub-pixels between two positions, and `margin` pixels more on either side."""
  low, high = min(start, end) - margin, max(start, end) + margin
  return slice(*np.searchsorted(axis, (low, high)))


def clutter(
  rng: np.random.Generator, image: _Array, count: int, lightness: float, area: Grid = FRAME
) -> None:
  """Draws strokes and dots, all much smaller than an object, in place; `area` is the image's."""
  reach = -area.axis[0] + 0.5 / SUPERSAMPLE
  for _ in range(count):
    x0, y0 = rng.uniform(-reach, reach, 2)
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, 9) * rng.integers(2)
    radius, dx, dy = rng.uniform(0.5, 1.5), np.cos(angle), np.sin(angle)
    color = random_color(rng, lightness + rng.uniform(-0.35, 0.35))
    # Only the stroke's surroundings are computed.
    columns = span(area.axis, x0, x0 + length * dx, radius + 1)
    rows = span(area.axis, y0, y0 + length * dy, radius + 1)
    x = area.x[rows, columns] - np.float32(x0)
    y = area.y[rows, columns] - np.float32(y0)
    dx, dy = np.float32(dx), np.float32(dy)
    along = np.clip(x * dx + y * dy, 0, np.float32(length))
    part = image[:, rows, columns]
    part += coverage(_disc(x - along * dx, y - along * dy, radius)) * (color - part)


def outlined(name: str, x: _Array, y: _Array, radius: float, angle: float, mirror: int) -> _Array:
  """The part of each sub-pixel that an object covers, [0, 1].

  Args:
    name: a key of `OUTLINES`.
    x: coordinates in pixels from the object's middle, [n, n].
    y: the same.
    radius: in pixels.
    angle: in radians.
    mirror: 1, or -1 for the mirrored outline.
  """
  c, s = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)
  distance = OUTLINES[name]((c * x + s * y) * np.float32(mirror), c * y - s * x)
  return coverage(distance, radius)


def picture(rng: np.random.Generator, name: str) -> _Array:
  """Draws one object of class `name` in a random scene.

  Args:
    rng: the only source of randomness.
    name: a key of `OUTLINES`.

  Returns:
    uint8 [32, 32, 3].
  """
  # The object is lighter or darker than the background, with equal chance.
  contrast = rng.uniform(*CONTRAST) * (1 if rng.integers(2) else -1)
  background = rng.uniform(*MIDDLE) - 0.5 * contrast
  image = surface(rng, background, FRAME.x, FRAME.y)
  clutter(rng, image, int(rng.integers(2, 6)), background)

  radius = rng.uniform(*RADIUS)
  x0, y0 = rng.uniform(-1, 1, 2) * (SIZE / 2 - 0.5 - radius)
  angle, mirror = rng.uniform(-ANGLE, ANGLE), 1 if rng.integers(2) else -1
  x, y = FRAME.x - np.float32(x0), FRAME.y - np.float32(y0)
  inside = outlined(name, x, y, radius, angle, mirror)
  image += inside * (surface(rng, background + contrast, FRAME.x, FRAME.y) - image)

  clutter(rng, image, int(rng.integers(0, 2)), background)
  image += light(rng)
  return photographed(rng, image)


def light(rng: np.random.Generator) -> _Array:
  """A slope of brightness across the image; float32 [n, n]."""
  slope = (rng.uniform(-LIGHT, LIGHT, 2) / (SIZE / 2)).astype(np.float32)
  return FRAME.x * slope[0] + FRAME.y * slope[1]


def averaged(values: _Array) -> _Array:
  """The mean over the sub-pixels of every pixel; [..., n, n] -> [..., n / 2, n / 2]."""
  values = values[..., ::2, :] + values[..., 1::2, :]
  return (values[..., ::2] + values[..., 1::2]) * np.float32(0.25)


def photographed(rng: np.random.Generator, image: _Array) -> _Array:
  """What a camera with some noise makes of it; float32 [3, n, n] -> uint8 [32, 32, 3]."""
  image = averaged(image)
  image += rng.standard_normal(image.shape, np.float32) * np.float32(NOISE)
  return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0).copy()
