"""What one augmented view is: its settings, and the table of random numbers that it consumes.

Every random decision about a view reads its own column of the [b, NUM_DRAWS] uniforms made by
`draws.uniforms`. A column is never reused or renumbered: new decisions take new columns at the end,
so recorded runs keep their pictures.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from byoljax.suggest import unknown

# Columns of the draws. The first five are the geometry, which crop.py reads; the rest is for the
# photometric operations.
AREA = 0
RATIO = 1
OFFSET_Y = 2
OFFSET_X = 3
FLIP = 4
JITTER = 5
BRIGHTNESS = 6
CONTRAST = 7
SATURATION = 8
HUE = 9
# The jitter applies its four operations in ascending order of these four numbers.
ORDER_BRIGHTNESS = 10
ORDER_CONTRAST = 11
ORDER_SATURATION = 12
ORDER_HUE = 13
GRAY = 14
BLUR = 15
SIGMA = 16
SOLARIZE = 17
NUM_DRAWS = 18

_MIN_SIZE = 8
_PROBABILITIES = ('flip_prob', 'jitter_prob', 'gray_prob', 'blur_prob', 'solarize_prob')
_LIMITS = {'brightness': 1.0, 'contrast': 1.0, 'saturation': 1.0, 'hue': 0.5}


@dataclasses.dataclass(frozen=True)
class ViewSpec:
  """Settings of one view; the defaults are BYOL's first view (arXiv 2006.07733, table 6) at 32 px.

  Attributes:
    size: side of the square output in pixels, at least 8.
    crop_scale: (low, high) share of the image's area that a crop covers, in (0, 1].
    crop_ratio: (low, high) width over height of a crop, drawn uniformly in its logarithm.
    flip_prob: probability of mirroring left to right.
    jitter_prob: probability of the color jitter as a whole.
    brightness: b in [0, 1]: adds U(-b, b).
    contrast: c in [0, 1]: scales the distance to the channel mean by U(1 - c, 1 + c).
    saturation: s in [0, 1]: scales the HSV saturation by U(1 - s, 1 + s).
    hue: h in [0, 0.5]: turns the HSV hue by U(-h, h) of the circle.
    gray_prob: probability of dropping the color.
    blur_prob: probability of the Gaussian blur.
    blur_sigma: (low, high) standard deviation of the blur in pixels, drawn uniformly.
    solarize_prob: probability of inverting the pixels at or above the threshold.
    solarize_threshold: in [0, 1].

  Raises:
    ValueError: a field is out of its range.
  """

  size: int = 32
  crop_scale: tuple[float, float] = (0.08, 1.0)
  crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
  flip_prob: float = 0.5
  jitter_prob: float = 0.8
  brightness: float = 0.4
  contrast: float = 0.4
  saturation: float = 0.2
  hue: float = 0.1
  gray_prob: float = 0.2
  blur_prob: float = 1.0
  blur_sigma: tuple[float, float] = (0.1, 2.0)
  solarize_prob: float = 0.0
  solarize_threshold: float = 0.5

  def __post_init__(self):
    for name in ('crop_scale', 'crop_ratio', 'blur_sigma'):
      object.__setattr__(self, name, _pair(name, getattr(self, name)))
    if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < _MIN_SIZE:
      raise ValueError(
        f'size is {self.size!r}, but a view needs a whole number of at least {_MIN_SIZE} pixels.'
      )
    if self.crop_scale[1] > 1:
      raise ValueError(
        f'crop_scale is {self.crop_scale}, but a crop covers at most 1.0 of the image.'
      )
    for name in (*_PROBABILITIES, 'solarize_threshold'):
      _check_range(name, getattr(self, name), 1.0)
    for name, limit in _LIMITS.items():
      _check_range(name, getattr(self, name), limit)

  @classmethod
  def from_mapping(cls, fields: Mapping[str, Any]) -> 'ViewSpec':
    """Builds a spec from a config's fields.

    Args:
      fields: any subset of the attributes; lists are accepted for pairs.

    Raises:
      ValueError: a name is unknown (the closest valid one is given) or a value is out of range.
    """
    valid = tuple(field.name for field in dataclasses.fields(cls))
    for name in fields:
      if name not in valid:
        raise ValueError(unknown('view field', name, valid))
    return cls(**{str(name): value for name, value in fields.items()})


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _pair(name: str, value: Any) -> tuple[float, float]:
  pair = tuple(value) if isinstance(value, (tuple, list)) else ()
  if len(pair) != 2 or not all(map(_is_number, pair)) or not 0 < pair[0] <= pair[1] < float('inf'):
    raise ValueError(f'{name} is {value!r}, but it must be (low, high) with 0 < low <= high.')
  return float(pair[0]), float(pair[1])


def _check_range(name: str, value: Any, limit: float) -> None:
  if not _is_number(value) or not 0 <= value <= limit:
    raise ValueError(f'{name} is {value!r}, but it must be a number in [0, {limit:g}].')
