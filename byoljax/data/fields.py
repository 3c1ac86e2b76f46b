"""What an example consists of: named fields, each of a kind that says how it follows a view's crop.

    kind     of one example                      in a view of S x S pixels
    image    uint8, or float32 in [0, 1] [H, W, C]   the view's kernel; float32 [S, S, C] in [0, 1]
    map      numbers per pixel [H, W, C]         bilinear; float32 [S, S, C]
    mask     whole numbers per pixel [H, W, C]   nearest neighbor; [S, S, C], values as they are
    boxes    float32 [n, 5]                      moved, clipped, dropped; float32 [n, 5]
    label    numbers [] or [C]                   as it is

Every source has 'image' and 'label'; further fields are named when it is opened. All pixels of an
example have one size, that of its image. A row of boxes is (y_min, x_min, y_max, x_max, class): the
corners as fractions of height and width, in [0, 1], as in TensorFlow Datasets, so that resizing
leaves them alone; class -1 is no box. A box of which nothing is in a view becomes such a row, in
its place.

Where numbers are missing, interpolation spreads them over a row and a column: mark them with a
mask, or set resample='nearest', rather than have NaN in a map.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from byoljax.suggest import did_you_mean
from byoljax.wording import counted

# Kind -> how its pixels are resampled unless the field says otherwise.
RESAMPLING = {'image': 'bicubic', 'map': 'bilinear', 'mask': 'nearest', 'boxes': '', 'label': ''}
KERNELS = ('bicubic', 'bilinear', 'nearest')
PIXELS = ('image', 'map', 'mask')
# What batches name themselves.
_RESERVED = ('label', 'index', 'epoch', 'views', 'window', 'drawn', 'valid')


@dataclasses.dataclass(frozen=True)
class Field:
  """A field of every example.

  Attributes:
    name: in batches; it also says where a source finds the field (see there).
    kind: 'image', 'map', 'mask', 'boxes' or 'label'.
    channels: of an image, map or mask: channels C; of boxes: rows n; of a label: its length, 0 for
      a single number. 0 when a source is opened means as many as the data have.
    resample: 'bicubic', 'bilinear' or 'nearest', by default that of the kind. An image
      follows the view's own.
    dtype: of the numbers in the source: uint8, uint16, int32 or float32; filled in by the source.
    names: of the classes of boxes, where the source knows them.
    range: of an image of float32: which numbers are black and white, see `data.sources.pixels`.
    square: of an image: whether files are filled up to squares, see `data.sources.squared`.

  Raises:
    ValueError: an unknown kind or resampling, or a name that batches use for something else.
  """

  name: str
  kind: str
  channels: int = 0
  resample: str = ''
  dtype: str = ''
  names: tuple[str, ...] = ()
  range: str = ''
  square: bool = False

  def __post_init__(self):
    """Checks the kind and fills in its resampling."""
    if self.kind not in RESAMPLING:
      raise ValueError(
        f'field {self.name!r} has kind {self.kind!r}, but a kind is one of {", ".join(RESAMPLING)}.'
      )
    if self.name in _RESERVED or not self.name.isidentifier():
      raise ValueError(
        f'a field cannot be named {self.name!r}: it needs an identifier other than '
        f'{", ".join(_RESERVED)}.'
      )
    default = RESAMPLING[self.kind]
    chosen = self.resample or default
    valid = KERNELS if self.kind in ('map', 'mask') else (default,)
    if self.kind == 'mask':
      valid = ('nearest',)
    if chosen not in valid:
      raise ValueError(
        f'field {self.name!r}, {self.kind}, cannot be resampled {chosen!r}: use '
        f'{" or ".join(map(repr, valid))}.'
      )
    object.__setattr__(self, 'resample', chosen)

  @property
  def has_pixels(self) -> bool:
    """Whether it has a value at every pixel."""
    return self.kind in PIXELS

  def shape(self, height: int, width: int) -> tuple[int, ...]:
    """The shape of one example's value where the image has this size."""
    if self.has_pixels:
      return (height, width, self.channels)
    if self.kind == 'boxes':
      return (self.channels, 5)
    return (self.channels,) if self.channels else ()

  def dtype_in_view(self) -> str:
    """The type of the numbers in a finished view."""
    interpolated = self.has_pixels and self.resample != 'nearest'
    return 'float32' if interpolated else self.dtype


IMAGE = Field('image', 'image', 3, dtype='uint8')


def parsed(texts: Sequence[str]) -> tuple[Field, ...]:
  """The fields that a configuration names: 'depth:map', 'moving:mask', 'boxes:boxes:20'.

  Args:
    texts: name, kind and, if need be, channels or rows, with colons between them.

  Raises:
    ValueError: something else, or a name given twice.
  """
  made = []
  for text in texts:
    name, *rest = str(text).split(':')
    if len(rest) not in (1, 2) or not all(part.isdigit() for part in rest[1:]):
      raise ValueError(
        f"field {text!r} must be name:kind, such as 'depth:map', or name:kind:channels, as in "
        f"'boxes:boxes:20'; kinds are {', '.join(RESAMPLING)}."
      )
    if name in [field.name for field in made]:
      raise ValueError(f'field {name!r} is given twice.')
    made.append(Field(name, rest[0], channels=int(rest[1]) if rest[1:] else 0))
  return tuple(made)


def find(fields: Sequence[Field], name: str, where: str) -> Field:
  """The field of this name.

  Raises:
    ValueError: there is none; the closest is named.
  """
  known = {field.name: field for field in fields}
  if name not in known:
    hint = did_you_mean(name, known)
    raise ValueError(f'{where} has no field {name!r}: it has {", ".join(known)}{hint}')
  return known[name]


def dtype_of(kind: str, dtype: np.dtype) -> str:
  """The type in which a source hands out numbers of `dtype`.

  Raises:
    ValueError: a type that the kind cannot have.
  """
  if kind == 'boxes' or np.issubdtype(dtype, np.floating):
    if kind in ('image', 'mask'):
      raise ValueError(f'type {dtype}, but {_ALLOWED[kind]}')
    return 'float32'
  if dtype in (np.uint8, np.bool_) and kind != 'label':
    return 'uint8'
  if kind == 'image' or not np.issubdtype(dtype, np.integer):
    raise ValueError(f'type {dtype}, but {_ALLOWED.get(kind, "numbers are needed")}')
  return 'uint16' if dtype == np.uint16 and kind != 'label' else 'int32'


_ALLOWED = {
  'image': 'images must be uint8 (0 to 255); other numbers per pixel are a map',
  'mask': 'masks must be whole numbers',
}


def cast(array: np.ndarray, dtype: str) -> np.ndarray:
  """The array in the type in which a source hands it out, see `dtype_of`.

  Raises:
    ValueError: a whole number that this type cannot hold, which would become another one.
  """
  if array.size and dtype != 'float32' and not np.can_cast(array.dtype, dtype):
    held = np.iinfo(dtype)
    for number in (int(array.min()), int(array.max())):
      if not held.min <= number <= held.max:
        raise ValueError(
          f'the number {number}, but whole numbers are stored as {dtype}, {held.min} to {held.max}'
        )
  return array.astype(dtype, copy=False)


def checked(field: Field, array: np.ndarray, size: tuple[int, int] | None = None) -> Field:
  """The field with channels and type as an array of examples has them.

  Args:
    field: as it was asked for.
    array: [N, H, W, C] or [N, H, W] for pixels, [N, n, 5] for boxes, [N] or [N, C] for labels.
    size: (H, W) of the image, if pixels must have it.

  Raises:
    ValueError: what the array is, and what it should be; the beginning of the sentence, naming the
      array, is the caller's.
  """
  dtype = dtype_of(field.kind, array.dtype)
  if field.dtype not in ('', dtype):
    raise ValueError(f'type {array.dtype}, but {field.dtype} is what the others have')
  cast(array, dtype)
  shape = list(array.shape)
  if field.has_pixels:
    if array.ndim not in (3, 4) or not array.size:
      raise ValueError(f'shape {shape}, but a {field.kind} must be [N, H, W, C] or [N, H, W]')
    if size is not None and tuple(array.shape[1:3]) != size:
      raise ValueError(
        f'{array.shape[1]} x {array.shape[2]} pixels, but the images have {size[0]} x {size[1]}'
      )
    channels = array.shape[3] if array.ndim == 4 else 1
  elif field.kind == 'boxes':
    if array.ndim != 3 or array.shape[2] != 5:
      raise ValueError(f'shape {shape}, but boxes must be [N, n, 5]')
    channels = array.shape[1]
  else:
    if array.ndim not in (1, 2):
      raise ValueError(f'shape {shape}, but a label must be [N] or [N, C]')
    channels = array.shape[1] if array.ndim == 2 else 0
  if field.channels not in (0, channels):
    raise ValueError(f'{counted(channels, "channel")}, but {field.channels} were asked for')
  return dataclasses.replace(field, channels=channels, dtype=dtype)
