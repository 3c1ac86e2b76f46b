"""What one augmented view is: its settings, and the table of random numbers that it consumes.

Every random decision about a view reads its own column of the [b, num_draws] uniforms made by
`draws.uniforms`. A column is never reused or renumbered: new decisions take new columns at the end,
so recorded runs keep their pictures.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import jax

from byoljax.data.augment import operators
from byoljax.suggest import check_name, from_fields

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
VFLIP = 18
TURN = 19
CUTOUT = 20
CUTOUT_AREA = 21
CUTOUT_Y = 22
CUTOUT_X = 23
ROTATE = 24
SHIFT_Y = 25
SHIFT_X = 26
NUM_DRAWS = 27
# RandAugment's operations: which, whether and how strong, for one after the other. The first column
# leaves room for more of the above.
RANDAUGMENT = 64
DRAWS_PER_OPERATION = 3
# The noise of elastic distortions: two grids of `elastic_nodes` squared, down and to the right.
ELASTIC = 128

_MIN_SIZE = 8
_MOST_OPERATIONS = 16
PROBABILITIES = (
  'flip_prob', 'jitter_prob', 'gray_prob', 'blur_prob', 'solarize_prob', 'vflip_prob', 'turn_prob',
  'cutout_prob', 'randaugment_prob',
)  # fmt: skip
# (operators, resize) -> the kernel of `resize.resample`.
_KERNELS = {
  ('byol', 'bicubic'): 'tf2_bicubic',
  ('simclr_v2', 'bicubic'): 'tf1_bicubic',
  ('torchvision', 'bicubic'): 'pil_bicubic',
  ('torchvision', 'bilinear'): 'pil_bilinear',
}
_LIMITS = {
  'brightness': 1.0, 'contrast': 1.0, 'saturation': 1.0, 'hue': 0.5, 'rotate_degrees': 180.0,
  'shift': 0.5, 'elastic': 0.2,
}  # fmt: skip
_SMOOTH = (0.02, 1.0)


@dataclasses.dataclass(frozen=True)
class ViewSpec:
  """Settings of one view; the defaults are BYOL's first view (arXiv 2006.07733, table 6) at 32 px.

  Attributes:
    size: side of the square output in pixels, at least 8.
    operators: whose implementation of resizing, jitter, gray and blur: a key of
      `operators.FAMILIES`.
    resize: 'bicubic', or, of torchvision, 'bilinear'.
    crop_scale: (low, high) share of the image's area that a crop covers, in (0, 1].
    crop_ratio: (low, high) width over height of a crop, drawn uniformly in its logarithm.
    zoom: (low, high) pixels of the view to one of the image, drawn uniformly: crops are squares at
      a scale that does not depend on the image's size, in place of `crop_scale` and `crop_ratio`.
      They stay in the image: at least its shorter side fills the view. None: they are shares.
    flip_prob: probability of mirroring left to right.
    jitter_prob: probability of the color jitter as a whole.
    brightness: b in [0, 1]: adds U(-b, b) or, but for byol, multiplies by U(1 - b, 1 + b).
    contrast: c in [0, 1]: scales the distance to the channel's mean (of torchvision to the mean
      gray) by U(1 - c, 1 + c).
    saturation: s in [0, 1]: scales the HSV saturation (of torchvision the distance to gray) by
      U(1 - s, 1 + s).
    hue: h in [0, 0.5]: turns the HSV hue by U(-h, h) of the circle.
    gray_prob: probability of dropping the color.
    blur_prob: probability of the Gaussian blur.
    blur_sigma: (low, high) standard deviation of the blur in pixels, drawn uniformly.
    solarize_prob: probability of inverting the pixels at or above the threshold.
    solarize_threshold: in [0, 1].
    vflip_prob: probability of turning upside down.
    turn_prob: probability of a turn by 90, 180 or 270 degrees, equally often.
    rotate_degrees: d in [0, 180]: turns by U(-d, d) degrees.
    shift: in [0, 0.5]: largest shift, up or down and left or right, as a share of the side.
    elastic: in [0, 0.2]: standard deviation of an elastic displacement, as a share of the side.
    elastic_smooth: in [0.02, 1]: width (sigma) of the Gaussian that smooths it, as such a share.
    randaugment_ops: operations of RandAugment, see `randaugment`; 0 for none.
    randaugment_prob: probability of each of them.
    cutout_prob: probability of a square that is replaced by the mean.
    cutout_scale: (low, high) share of the view's area that the square covers, in (0, 1].
    own: import path of a function of the user's, see `own_view`; '' for none.
    geometry_of: number, from 0, of the view whose crop and flip this one shares, at its own size;
      None: a geometry of its own.
    field: the image field that is shown; another than 'image' for a second frame, say.

  Raises:
    ValueError: a field is out of its range.
  """

  size: int = 32
  operators: str = 'byol'
  resize: str = 'bicubic'
  crop_scale: tuple[float, float] = (0.08, 1.0)
  crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
  zoom: tuple[float, float] | None = None
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
  vflip_prob: float = 0.0
  turn_prob: float = 0.0
  rotate_degrees: float = 0.0
  shift: float = 0.0
  elastic: float = 0.0
  elastic_smooth: float = 0.1
  randaugment_ops: int = 0
  randaugment_prob: float = 0.5
  cutout_prob: float = 0.0
  cutout_scale: tuple[float, float] = (0.02, 0.2)
  own: str = ''
  geometry_of: int | None = None
  field: str = 'image'

  def __post_init__(self):
    check_name('operators', self.operators, operators.FAMILIES)
    kernels = [kernel for family, kernel in _KERNELS if family == self.operators]
    if self.resize not in kernels:
      raise ValueError(
        f'resize is {self.resize!r}, but {self.operators} resizes by {" or ".join(kernels)}.'
      )
    zoomed = () if self.zoom is None else ('zoom',)
    for name in ('crop_scale', 'crop_ratio', 'blur_sigma', 'cutout_scale', *zoomed):
      object.__setattr__(self, name, _pair(name, getattr(self, name)))
    if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < _MIN_SIZE:
      raise ValueError(
        f'size is {self.size!r}, but a view needs a whole number of at least {_MIN_SIZE} pixels.'
      )
    if self.crop_scale[1] > 1:
      raise ValueError(
        f'crop_scale is {self.crop_scale}, but a crop covers at most 1.0 of the image.'
      )
    if self.cutout_scale[1] > 1:
      raise ValueError(f'cutout_scale is {self.cutout_scale}, but a view has an area of 1.0.')
    for name in (*PROBABILITIES, 'solarize_threshold'):
      _check_range(name, getattr(self, name), 1.0)
    for name, limit in _LIMITS.items():
      _check_range(name, getattr(self, name), limit)
    smooth = self.elastic_smooth
    if not _is_number(smooth) or not _SMOOTH[0] <= smooth <= _SMOOTH[1]:
      raise ValueError(
        f'elastic_smooth is {smooth!r}, but it must be a number in [{_SMOOTH[0]}, {_SMOOTH[1]}].'
      )
    count = self.randaugment_ops
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _MOST_OPERATIONS:
      raise ValueError(
        f'randaugment_ops is {count!r}, but it must be a whole number in [0, {_MOST_OPERATIONS}].'
      )

  @property
  def reorients(self) -> bool:
    """Whether any image is turned, moved, or upside down, after its crop."""
    chances = (self.vflip_prob, self.turn_prob, self.rotate_degrees, self.shift, self.elastic)
    return max(chances) > 0 or self.randaugment_ops > 0

  @property
  def num_draws(self) -> int:
    """How many uniform numbers an image of this view needs, one for each column."""
    if self.elastic > 0:
      return ELASTIC + 2 * self.elastic_nodes**2
    if not self.randaugment_ops:
      return NUM_DRAWS
    return RANDAUGMENT + DRAWS_PER_OPERATION * self.randaugment_ops

  @property
  def elastic_nodes(self) -> int:
    """Nodes of the noise on a side: two in a width, and three widths beyond the view."""
    return math.ceil(2 / self.elastic_smooth) + 13

  @property
  def kernel(self) -> str:
    """Of the resampling, a key of `resize._KERNELS`."""
    return _KERNELS[self.operators, self.resize]

  @property
  def blur_reach(self) -> int:
    """Pixels to either side that a blurred pixel depends on; 0: it would be the same."""
    return operators.blur_reach(self.operators, self.size, self.blur_sigma[1])

  @property
  def blurs(self) -> bool:
    """Whether any image is blurred."""
    return self.blur_prob > 0 and self.blur_reach > 0

  def blur_matrix(self, draw: jax.Array) -> jax.Array:
    """Of the column SIGMA, [b] -> [b, size, size]; see `operators.blur_matrix`."""
    low, high = self.blur_sigma
    return operators.blur_matrix(self.operators, low + draw * (high - low), self.size, high)


def specs_of(settings: Mapping[str, Mapping[str, Any]]) -> tuple[ViewSpec, ...]:
  """One spec per view of a configuration, in the order of `names_of`.

  A view may stand for several alike, `{'size': 96, ..., 'repeat': 6}`, and share the geometry of
  another by its name, `{'geometry_of': 'view1'}`; of a repeated one, that of the first. Where its
  size is 0, it is the fraction `size_share` of the first view's.

  Raises:
    ValueError: which setting of which view, and why.
  """
  first: dict[str, int] = {}
  specs: list[Mapping[str, Any]] = []
  for name in names_of(settings):
    fields = dict(settings[name])
    repeat = fields.pop('repeat', 1)
    if not isinstance(repeat, int) or repeat < 1:
      raise ValueError(f'{name}.repeat={repeat} must be a whole number of at least 1.')
    share = fields.pop('size_share', 0.0)
    if fields.get('size') == 0 and share > 0 and specs:
      fields['size'] = int(specs[0]['size'] * share)
    first[name] = len(specs)
    specs += [fields] * repeat
  made = []
  for fields in specs:
    other = fields.get('geometry_of')
    if isinstance(other, str):
      if other not in first:
        raise ValueError(f'geometry_of is {other!r}, but the views are {", ".join(first)}.')
      fields = {**fields, 'geometry_of': first[other]}
    made.append(from_fields(ViewSpec, 'view field', fields))
  check(made)
  return tuple(made)


def names_of(settings: Mapping[str, Any]) -> list[str]:
  """The names of configured views in their order: view2 before view10."""
  return sorted(settings, key=lambda name: (len(name), name))


def geometry_of(specs: Sequence[ViewSpec], number: int) -> int:
  """The number of the view whose draws and settings make the crop and flip of view `number`."""
  other = specs[number].geometry_of
  return number if other is None else other


def check(specs: Sequence[ViewSpec]) -> None:
  """Refuses views that cannot be made together.

  Raises:
    ValueError: there is none, or a geometry is shared with a view that has none of its own.
  """
  if not specs:
    raise ValueError('there is no view: give at least one ViewSpec.')
  for number, spec in enumerate(specs):
    other = spec.geometry_of
    if other is None:
      continue
    if not 0 <= other < len(specs) or specs[other].geometry_of is not None:
      raise ValueError(
        f'view {number} has geometry_of {other}, but it must be the number, in [0, {len(specs)}), '
        'of a view that has a geometry of its own.'
      )


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
