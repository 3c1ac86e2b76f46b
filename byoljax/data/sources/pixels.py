"""Image files as what a source hands out: 8 bits as they are seen, or numbers in [0, 1].

A source's field 'image' says which (`image_field` looks at some of its files):

    uint8     [H, W, 3]   as `image_file` shows a file; TensorFlow decodes most of them
    float32   [H, W, C]   (x - black) / (white - black), clipped to [0, 1]: nothing is rounded

Which numbers are black and white is the field's `range`:

    '', 'file'   what the type or the header of each file says, see `numbers_file`
    'stretch'    the smallest and the largest number of each image
    'lo,hi'      these two, for all of them

'' is for images that turn out to have 8 bits, or more; the others want numbers of any file.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from byoljax.data.fields import IMAGE, Field
from byoljax.data.sources import image_file, image_header, numbers_file
from byoljax.data.sources.image_file import MissingReaderError, UnreadableImageError
from byoljax.data.sources.numbers_file import Numbers

FILE, STRETCH = 'file', 'stretch'
# Files that are opened at start-up, and the share of their range below which that is worth a word.
_LOOKED_AT, _DARK = 8, 0.1
# What may have more than 8 bits or other bands; nothing else is opened at start-up.
_DEEP = ('.tif', '.tiff', '.png', '.pgm', '.jp2', '.j2k', '.npy', '.dcm')


def check_range(text: str) -> str:
  """A range as it is kept: '', 'file', 'stretch' or 'lo,hi'.

  Raises:
    ValueError: something else.
  """
  if text in ('', FILE, STRETCH):
    return text
  try:
    low, high = (float(part) for part in text.strip('()[] ').split(','))
  except ValueError:
    low = high = float('nan')
  if not low < high or not np.isfinite(high - low):
    raise ValueError(
      f"data.range='{text}' is none of '{FILE}', '{STRETCH}' and two numbers, the black and the "
      "white one, such as '0,4095'."
    )
  return f'{low:g},{high:g}' if float(f'{low:g}') == low and float(f'{high:g}') == high else text


def ends_of(text: str) -> tuple[float, float] | None:
  """The two numbers of 'lo,hi'; None for the other ranges."""
  if text in ('', FILE, STRETCH):
    return None
  low, high = (float(part) for part in text.strip('()[] ').split(','))
  return low, high


def to_unit(found: Numbers, range_: str) -> np.ndarray:
  """Numbers as float32 [H, W, C] in [0, 1].

  Args:
    found: see `Numbers`.
    range_: see the module.

  Raises:
    UnreadableImageError: numbers that are not finite, or black and white are not known.
  """
  array = found.array
  ends = ends_of(range_)
  low, high = (float(array.min()), float(array.max()))
  if not np.isfinite(low) or not np.isfinite(high):
    raise UnreadableImageError('it holds numbers that are not finite')
  if range_ == STRETCH:
    ends = low, (high if high > low else low + 1)
  elif ends is None:
    black, white = found.black, found.white
    inside = array.dtype.kind != 'f' or found.white != 1.0 or (low >= 0 and high <= 1)
    if black is None or white is None or not inside:
      raise UnreadableImageError(
        f'its numbers ({array.dtype}) go from {low:g} to {high:g}, and which of them are black and '
        f'white is not known: name these two with --data.range={_ends(low, high)}, or take those '
        f'of every image with --data.range={STRETCH}'
      )
    ends = black, white
  scaled = (array.astype(np.float64) - ends[0]) / (ends[1] - ends[0])
  return np.clip(scaled, 0.0, 1.0).astype(np.float32)


def check_array(images: np.ndarray, range_: str) -> None:
  """Whether arrays can be images with this range.

  Raises:
    ValueError: why not; the beginning of the sentence, naming the array, is the caller's.
  """
  check_range(range_)
  kind, size = images.dtype.kind, images.dtype.itemsize
  if kind not in 'uif':
    raise ValueError(f'type {images.dtype}, but images are numbers')
  if not images.size or (kind == 'u' and size <= 2):
    return
  low, high = float(images.min()), float(images.max())
  if not np.isfinite(low) or not np.isfinite(high):
    raise ValueError('numbers that are not finite')
  if range_ not in ('', FILE) or (kind == 'f' and low >= 0 and high <= 1):
    return
  raise ValueError(
    f'type {images.dtype} and numbers from {low:g} to {high:g}, but images are uint8, uint16 or '
    f'floats in [0, 1]; for others --data.range={_ends(low, high)} says which are black and white'
  )


def _ends(low: float, high: float) -> str:
  return f'{low:g},{high:g}' if low < high else 'BLACK,WHITE'


def rows_to_unit(images: np.ndarray, range_: str) -> np.ndarray:
  """Images [n, H, W, C] or [n, H, W] of arrays that `check_array` allows, as `to_unit`."""
  if range_ == STRETCH:
    each = [to_unit(Numbers(image, None, None), range_) for image in images]
    return np.stack(each) if each else images.astype(np.float32)
  if not len(images):
    return images.astype(np.float32)
  white = 1.0 if images.dtype.kind == 'f' else float(np.iinfo(images.dtype).max)
  return to_unit(Numbers(images, 0.0, white), range_)


def inspect(data: bytes, field: Field) -> tuple[int, int, int]:
  """Who decodes a file, and how large the upright image is: `image_file.inspect` of this field.

  Raises:
    UnreadableImageError: no image, or one with other bands.
  """
  if field.dtype == IMAGE.dtype:
    kind, height, width = image_file.inspect(data)
  else:
    found = numbers_file.header(data)
    if found.bands != field.channels:
      raise UnreadableImageError(f'it has {found.bands} bands, not {field.channels}')
    kind, height, width = image_header.PILLOW, found.height, found.width
  if field.square:  # Only `decode` fills it up.
    return image_header.PILLOW, max(height, width), max(height, width)
  return kind, height, width


def decode(data: bytes, field: Field) -> np.ndarray:
  """An image file as the field says, [H, W, C].

  Raises:
    UnreadableImageError: as `inspect`, or the file is damaged, or `to_unit` cannot scale it.
  """
  if field.dtype == IMAGE.dtype:
    made = image_file.decode(data)
  else:
    made = to_unit(numbers_file.read(data), field.range)
    if made.shape[2] != field.channels:
      raise UnreadableImageError(f'it has {made.shape[2]} bands, not {field.channels}')
  return filled_up(made[None])[0] if field.square else made


def filled_up(images: np.ndarray) -> np.ndarray:
  """Images [n, H, W, C] with black below or on the right, [n, S, S, C] for S = max(H, W)."""
  height, width = images.shape[1:3]
  side = max(height, width)
  return np.pad(images, [(0, 0), (0, side - height), (0, side - width), (0, 0)])


def image_field(
  names: Sequence[str], read: Callable[[int], bytes], range_: str = '', where: str = ''
) -> tuple[Field, tuple[str, ...]]:
  """What the images of a source are, by some of them, and what a user should know of it.

  Args:
    names: of the files; those whose suffix says 8 bits are not opened.
    read: number -> bytes of the file.
    range_: see the module.
    where: the source, for messages.

  Raises:
    ValueError: a range that is none, or files whose numbers have none.
  """
  range_ = check_range(range_)
  deep = [row for row, name in enumerate(names) if name.lower().endswith(_DEEP)]
  some = deep[:: max(1, len(deep) // _LOOKED_AT)][:_LOOKED_AT]
  looked = [(row, found) for row in some if (found := _looked(names[row], read(row))) is not None]
  first = next((header for _, header in looked if not header.plain), None)
  if first is None and not range_:
    return IMAGE, ()
  bands = first.bands if first is not None else 3
  field = Field('image', 'image', bands, dtype='float32', range=range_)
  return field, _notes(looked, names, range_, where)


def _looked(name: str, data: bytes) -> numbers_file.Header | None:
  try:
    return numbers_file.header(data)
  except MissingReaderError as error:
    raise ValueError(f'{name}: {error}.') from error
  except UnreadableImageError:  # It is told of when it is needed.
    return None


def _notes(
  looked: Sequence[tuple[int, numbers_file.Header]], names: Sequence[str], range_: str, where: str
) -> tuple[str, ...]:
  """A sentence about images that use a small part of their range."""
  shares, largest = [], 0.0
  for row, header in looked:
    try:
      found = header.read()
    except MissingReaderError as error:
      raise ValueError(f'{names[row]}: {error}.') from error
    except UnreadableImageError:
      continue
    try:
      shown = to_unit(found, range_)
    except UnreadableImageError as error:
      raise ValueError(f'{names[row]}: {error}.') from error
    if not found.plain:
      shares.append(float(shown.max()))
      largest = max(largest, float(found.array.max()))
  if not shares or max(shares) >= _DARK or range_ == STRETCH:
    return ()
  return (
    f'images in {where} use {max(shares):.2g} of their range ({len(shares)} looked at): nearly one '
    f'shade. --data.range=0,{largest:g} or --data.range={STRETCH} spreads them.',
  )


def shown(images: Any) -> np.ndarray:
  """Images of any source [..., C] as a person sees them: uint8 [..., 3].

  Of other than three channels gray is repeated, and of more than three the first three are shown.
  """
  array = np.asarray(images)
  if array.dtype != np.uint8:
    array = np.round(np.clip(array, 0.0, 1.0) * 255.0).astype(np.uint8)
  if array.shape[-1] >= 3:
    return array[..., :3]
  return np.repeat(array[..., :1], 3, axis=-1)
