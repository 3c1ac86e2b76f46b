"""Draws one picture of the data set `shapes`: outlines, textures, clutter, light. NumPy only.

Outlines are signed distances, sampled at 2x2 points per pixel and softened over one sub-pixel.
Colors are float32 [3, n, n] in [0, 1] with n = 64 sub-pixels, channels first because NumPy is
several times faster along a long last axis.
"""

import functools

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

_SUPERSAMPLE = 2
_N = SIZE * _SUPERSAMPLE
_TURN = np.float32(2 * np.pi)
_Array = np.ndarray

# Centers of the sub-pixels, in pixels from the middle of the image; y points down.
_AXIS = ((np.arange(_N) + 0.5) / _SUPERSAMPLE - SIZE / 2).astype(np.float32)
_X, _Y = np.meshgrid(_AXIS, _AXIS)


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


def _coverage(distance: _Array, scale: float = 1.0) -> _Array:
  """Part of each sub-pixel inside the outline, [0, 1]; one unit of distance is `scale` pixels."""
  return np.clip(np.float32(0.5) - distance * np.float32(scale * _SUPERSAMPLE), 0, 1)


def _texture(rng: np.random.Generator) -> _Array:
  """A random pattern in [0, 1], [n, n]: plain, gradient, stripes, checks, dots or soft noise."""
  kind, angle, wavelength, phase, phase2, duty = rng.random(6, np.float32)
  u = _X * np.cos(angle * _TURN) + _Y * np.sin(angle * _TURN)
  if kind < 0.2:
    return np.full_like(u, 0.5)
  if kind < 0.4:
    return np.clip(u / SIZE + np.float32(0.5), 0, 1)
  if kind < 0.8:
    frequency = _TURN / (4 + 5 * wavelength)
    wave = np.sin(u * frequency + phase * _TURN)
    v = _Y * np.cos(angle * _TURN) - _X * np.sin(angle * _TURN)
    if kind < 0.6:
      wave += duty - np.float32(0.5)
    elif kind < 0.7:
      wave *= np.sin(v * frequency + phase2 * _TURN)
    else:
      wave += np.sin(v * frequency + phase2 * _TURN) - np.float32(0.6)
    return np.clip(wave * 3 + np.float32(0.5), 0, 1)
  coarse = rng.random((9, 9), np.float32)
  position = (np.arange(_N, dtype=np.float32) + np.float32(0.5)) * np.float32(8 / _N)
  low = position.astype(np.int64)
  weight = position - low.astype(np.float32)
  weight *= weight * (3 - 2 * weight)
  rows = coarse[low] + (coarse[low + 1] - coarse[low]) * weight[:, None]
  return rows[:, low] + (rows[:, low + 1] - rows[:, low]) * weight


def _color(rng: np.random.Generator, lightness: float) -> _Array:
  """A random hue and saturation around a gray of `lightness`; float32 [3, 1, 1]."""
  hue, saturation = rng.random(2)
  wheel = np.cos(2 * np.pi * (hue + np.array([0, 1 / 3, 2 / 3])))
  color = np.clip(lightness + COLOR * saturation * wheel, 0, 1)
  return color.astype(np.float32)[:, None, None]


def _surface(rng: np.random.Generator, lightness: float) -> _Array:
  """A textured area around one color; float32 [3, n, n]."""
  color = _color(rng, lightness)
  step = rng.uniform(-TEXTURE, TEXTURE, 3).astype(np.float32)
  return color + (_texture(rng) - np.float32(0.5)) * step[:, None, None]


def _span(start: float, end: float, margin: float) -> slice:
  """The sub-pixels between two positions, and `margin` pixels more on either side."""
  low, high = min(start, end) - margin, max(start, end) + margin
  return slice(*np.searchsorted(_AXIS, (low, high)))


def _clutter(rng: np.random.Generator, image: _Array, count: int, lightness: float) -> None:
  """Draws strokes and dots, all much smaller than an object, in place."""
  for _ in range(count):
    x0, y0 = rng.uniform(-SIZE / 2, SIZE / 2, 2)
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, 9) * rng.integers(2)
    radius, dx, dy = rng.uniform(0.5, 1.5), np.cos(angle), np.sin(angle)
    color = _color(rng, lightness + rng.uniform(-0.35, 0.35))
    # Only the stroke's surroundings are computed.
    columns = _span(x0, x0 + length * dx, radius + 1)
    rows = _span(y0, y0 + length * dy, radius + 1)
    x = _X[rows, columns] - np.float32(x0)
    y = _Y[rows, columns] - np.float32(y0)
    dx, dy = np.float32(dx), np.float32(dy)
    along = np.clip(x * dx + y * dy, 0, np.float32(length))
    part = image[:, rows, columns]
    part += _coverage(_disc(x - along * dx, y - along * dy, radius)) * (color - part)


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
  image = _surface(rng, background)
  _clutter(rng, image, int(rng.integers(2, 6)), background)

  radius = rng.uniform(*RADIUS)
  x0, y0 = rng.uniform(-1, 1, 2) * (SIZE / 2 - 0.5 - radius)
  angle, mirror = rng.uniform(-ANGLE, ANGLE), 1 if rng.integers(2) else -1
  c, s = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)
  x, y = _X - np.float32(x0), _Y - np.float32(y0)
  distance = OUTLINES[name]((c * x + s * y) * np.float32(mirror), c * y - s * x)
  image += _coverage(distance, radius) * (_surface(rng, background + contrast) - image)

  _clutter(rng, image, int(rng.integers(0, 2)), background)
  light = (rng.uniform(-LIGHT, LIGHT, 2) / (SIZE / 2)).astype(np.float32)
  image += _X * light[0] + _Y * light[1]
  image = image[:, ::2] + image[:, 1::2]
  image = (image[:, :, ::2] + image[:, :, 1::2]) * np.float32(0.25)
  image += rng.standard_normal(image.shape, np.float32) * np.float32(NOISE)
  return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0).copy()
