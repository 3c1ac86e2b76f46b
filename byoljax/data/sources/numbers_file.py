"""Image files as numbers: every bit and band of a file, and which numbers are black and white.

`image_file` shows a file as a viewer would, in 8 bits and three colors. Here nothing is lost: PNG,
TIFF, JPEG 2000 and PGM of 16 bits, TIFF of 32 bits or of any number of bands, `.npy` arrays [H, W]
or [H, W, C], DICOM. Everything else is what `image_file` makes of it.

- black and white: 0 and the largest number of the type, 0 and 1 of floating-point numbers; of DICOM
  the window that the file names, after its rescaling, else what its bits can hold. Of integers that
  may be negative, or have 32 bits, nobody knows;
- inverted files (TIFF's WhiteIsZero, DICOM's MONOCHROME1) are turned around;
- bands: gray is repeated to three; transparency, shown on white, only where the file says so (PNG's
  types with alpha, TIFF's ExtraSamples), whatever the number of bands;
- one file is one image: TIFF of several pages and DICOM of several frames are refused.

TIFF of several bands that is compressed needs tifffile, DICOM pydicom: extras, imported when such a
file is met.
"""

from collections.abc import Callable
import importlib
import io
from typing import Any, NamedTuple

import numpy as np
from PIL import TiffImagePlugin

from byoljax.data.sources import image_file
from byoljax.data.sources.image_file import MissingReaderError, UnreadableImageError

NPY_MAGIC = b'\x93NUMPY'
_PNG, _DICOM = b'\x89PNG\r\n\x1a\n', b'DICM'
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_MOST_BANDS = 256
# TIFF's tags.
_BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA, _FORMAT = 258, 262, 277, 338, 339
_MULTIPLIED = 1  # In ExtraSamples: transparency, by which the colors are multiplied.
_ALPHA = (_MULTIPLIED, 2)


class Numbers(NamedTuple):
  """An image as its file has it.

  Attributes:
    array: the upright image [H, W, C], of integers or floating-point numbers.
    black: the number that is black; None where that is not known.
    white: the number that is white; None where that is not known.
    plain: whether `image_file` shows all there is: 8 bits, gray or RGB.
  """

  array: np.ndarray
  black: float | None
  white: float | None
  plain: bool = False


class Header(NamedTuple):
  """What is known before the pixels are read: size and bands, and who reads them."""

  height: int
  width: int
  bands: int
  read: Callable[[], Numbers]
  plain: bool = False


def header(data: bytes) -> Header:
  """Of a file; its pixels are read by `Header.read`, which raises UnreadableImageError, too.

  Raises:
    UnreadableImageError: no image, several, or one that needs a library that is not there.
  """
  found = None
  if data[: len(NPY_MAGIC)] == NPY_MAGIC:
    found = _npy(data)
  elif data[128:132] == _DICOM:
    found = _dicom(data)
  elif data[:4] in _TIFF:
    found = _tiff(data)
  elif data[:8] == _PNG and len(data) > 25 and data[24] == 16:
    found = _deep_png(data)
  elif data[:2] in (b'P5', b'P2') or data[4:8] == b'jP  ' or data[:4] == b'\xff\x4f\xff\x51':
    found = _deep_pillow(data)
  if found is not None:
    image_file.check_size(found.height, found.width)
    return found
  _, height, width = image_file.inspect(data)
  return Header(height, width, 3, lambda: Numbers(image_file.decode(data), 0, 255, True), True)


def read(data: bytes) -> Numbers:
  """The image of a file.

  Raises:
    UnreadableImageError: as `header`, or the file is damaged.
  """
  return header(data).read()


def _checked(make: Callable[[], Numbers]) -> Callable[[], Numbers]:
  """The same with whatever a damaged file leads a library to as an UnreadableImageError."""

  def made() -> Numbers:
    try:
      return make()
    except UnreadableImageError:
      raise
    except Exception as error:
      raise UnreadableImageError(' '.join(str(error).split()) or type(error).__name__) from error

  return made


def _npy(data: bytes) -> Header:
  try:
    array = np.load(io.BytesIO(data), allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise UnreadableImageError(f'a damaged .npy file: {error}') from error
  array = array[..., None] if array.ndim == 2 else array
  if array.ndim != 3 or array.dtype.kind not in 'buif' or not array.size:
    raise UnreadableImageError(
      f'an array {array.dtype} {list(array.shape)}: an image is numbers [H, W] or [H, W, C]'
    )
  if array.shape[0] <= 4 < array.shape[2] and array.shape[1] > 16:
    raise UnreadableImageError(
      f'an array {list(array.shape)}, channels first: transpose it with (1, 2, 0)'
    )
  _check_bands(array.shape[2])
  return Header(*_sizes(array), lambda: with_range(array))


def _sizes(array: np.ndarray) -> tuple[int, int, int]:
  height, width, bands = array.shape
  return height, width, 3 if bands == 1 else bands


def _check_bands(bands: int) -> None:
  if bands > _MOST_BANDS:
    raise UnreadableImageError(f'an image of {bands} bands: at most {_MOST_BANDS} are read')


def with_range(array: np.ndarray) -> Numbers:
  """Numbers [H, W, C] with black and white by their type, gray repeated to three."""
  if array.dtype == np.bool_:
    array = array.astype(np.uint8) * np.uint8(255)
  if array.shape[-1] == 1:
    array = np.repeat(array, 3, axis=-1)
  kind, size = array.dtype.kind, array.dtype.itemsize
  if kind == 'f':
    return Numbers(array, 0.0, 1.0)
  if kind == 'u' and size <= 2:
    return Numbers(array, 0.0, float(np.iinfo(array.dtype).max), size == 1 and array.shape[-1] == 3)
  return Numbers(array, None, None)


def _on_white(found: Numbers, *, multiplied: bool = False) -> Numbers:
  """The colors of an image whose last band is its transparency, shown on white.

  Args:
    found: colors and transparency.
    multiplied: whether the colors are stored times it, as TIFF's "associated alpha" are.
  """
  array, _, white, _ = found
  assert white is not None, 'integers without a sign have a white'
  share = array[..., -1:].astype(np.float64) / white
  colors = array[..., :-1] * (1 if multiplied else share) + white * (1 - share)
  colors = np.minimum(colors, white)  # Where a multiplied color is more than its transparency.
  colors = colors if array.dtype.kind == 'f' else np.rint(colors)
  return with_range(colors.astype(array.dtype))


def _deep_png(data: bytes) -> Header | None:
  """A PNG of 16 bits for each color; of gray, Pillow's own reader is exact."""
  _, height, width = image_file.inspect(data)
  color = data[25]
  if color == 0 and data.find(b'tRNS', 33, max(33, data.find(b'IDAT', 33))) < 0:
    return _deep_pillow(data)

  def decode() -> Numbers:
    from byoljax.data.sources import tensorflow_import

    tf = tensorflow_import.tensorflow()
    array = tf.io.decode_png(data, dtype=tf.uint16).numpy()
    with image_file.opened(data) as image:
      array = image_file.upright(array, image_file.orientation(image))
    found = with_range(array)
    return _on_white(found._replace(array=array)) if array.shape[2] in (2, 4) else found

  # A transparent color is looked for in 8 bits by Pillow; it is rare in 16.
  return Header(height, width, 3, _checked(decode))


def _deep_pillow(data: bytes) -> Header | None:
  """Gray of 16 bits as Pillow reads it; None where it has 8."""
  _, height, width = image_file.inspect(data)
  with image_file.opened(data) as image:
    if image.mode != 'I' and not image.mode.startswith('I;16'):
      return None

  def decode() -> Numbers:
    with image_file.opened(data) as image:
      turned = image_file.orientation(image)
      array = np.asarray(image)
    return with_range(image_file.upright(array.astype(np.uint16)[..., None], turned))

  return Header(height, width, 3, _checked(decode))


def _tiff(data: bytes) -> Header | None:
  """A TIFF; None where it has 8 bits or fewer and no band beside its colors and transparency."""
  tags, pages = _tiff_tags(data)
  if pages > 1:
    raise UnreadableImageError(image_file.of_pages(pages))
  samples = int(tags.get(_SAMPLES, 1))
  bits, kinds = (tuple(np.ravel(tags.get(tag, 1))) for tag in (_BITS, _FORMAT))
  extra = tuple(int(x) for x in np.ravel(tags.get(_EXTRA, ())))
  photometric = int(tags.get(_PHOTOMETRIC, 1))
  is_alpha = len(extra) == 1 and extra[0] in _ALPHA
  colors = samples - is_alpha
  known = {3: (1,), 5: (4,), 6: (3,), 8: (3,)}.get(photometric, (1, 3))
  if max(bits) <= 8 and set(kinds) == {1} and colors in known:
    return None
  _check_bands(samples)
  height, width = (int(tags.get(tag, 0)) for tag in (257, 256))
  turned = int(tags.get(274, 1))
  if turned >= 5:
    height, width = width, height

  def decode() -> Numbers:
    array = _tiff_by_pillow(data, kinds) if samples == 1 else _tiff_as_it_lies(data, tags, turned)
    if array is None:
      array = _tiff_by_tifffile(data, samples, max(bits), turned)
    white = with_range(array).white
    if photometric == 0 and white is not None:
      inverted = np.arange(samples) < colors
      array = np.where(inverted, white - array, array).astype(array.dtype)
    found = with_range(array)
    if not is_alpha:
      return found
    return _on_white(found._replace(array=array), multiplied=extra[0] == _MULTIPLIED)

  return Header(height, width, 3 if colors in (1, 3) else colors, _checked(decode))


def _tiff_tags(data: bytes) -> tuple[Any, int]:
  """The tags of the first page, and how many pages there are."""
  file = io.BytesIO(data)
  try:
    start = file.read(16 if data[2:3] == b'+' or data[3:4] == b'+' else 8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(start)
    pages, seen, after = 0, set[int](), tags.next
    while after and after not in seen:
      seen.add(after)
      file.seek(after)
      page = TiffImagePlugin.ImageFileDirectory_v2(start)
      page.load(file)
      tags, pages, after = (page if not pages else tags), pages + 1, page.next
    return tags, pages
  except Exception as error:
    raise UnreadableImageError('the header of the TIFF is damaged') from error


def _tiff_by_pillow(data: bytes, kinds: tuple[int, ...]) -> np.ndarray | None:
  """One band of numbers [H, W, 1], turned upright by Pillow; None where it cannot read them."""
  try:
    with image_file.opened(data) as image:
      array, mode = np.asarray(image)[..., None], image.mode
  except (OSError, SyntaxError):
    return None
  if mode == 'I' and kinds[0] == 1:
    return array.view(np.uint32)
  return array if mode in ('I', 'F') or mode.startswith('I;16') else None


def _tiff_as_it_lies(data: bytes, tags: Any, turned: int) -> np.ndarray | None:
  """Bands [H, W, C] of equal types that are not compressed, upright; None for any other."""
  kind = {1: 'u', 2: 'i', 3: 'f'}.get(int(np.ravel(tags.get(_FORMAT, 1))[0]))
  bits = {int(x) for x in np.ravel(tags[_BITS])}
  plain = int(tags.get(259, 1)) == 1 and 273 in tags and len(bits) == 1 and not min(bits) % 8
  if not plain or kind is None:
    return None
  spans = zip(np.ravel(tags[273]), np.ravel(tags[279]), strict=True)
  raw = b''.join(data[int(start) : int(start) + int(size)] for start, size in spans)
  array = np.frombuffer(raw, f'{"<" if data[:2] == b"II" else ">"}{kind}{min(bits) // 8}')
  sizes = int(tags[257]), int(tags[256]), int(tags[_SAMPLES])
  if int(tags.get(284, 1)) == 2:
    array = np.moveaxis(array.reshape(sizes[2], *sizes[:2]), 0, -1)
  array = array.reshape(sizes)
  return image_file.upright(array.astype(array.dtype.newbyteorder('=')), turned)


def _tiff_by_tifffile(data: bytes, samples: int, bits: int, turned: int) -> np.ndarray:
  """Bands [H, W, C], upright."""
  tifffile = _extra('tifffile', f'a TIFF of {samples} bands of {bits} bits', 'tiff')
  with tifffile.TiffFile(io.BytesIO(data)) as opened:
    page = opened.pages[0]
    array, axes = page.asarray(), page.axes
  if axes == 'YX':
    array, axes = array[..., None], 'YXS'
  if axes == 'SYX':
    array, axes = np.moveaxis(array, 0, -1), 'YXS'
  if axes != 'YXS':
    raise UnreadableImageError(f'a TIFF with the axes {axes}: an image has height, width and bands')
  return image_file.upright(array, turned)


def _dicom(data: bytes) -> Header:
  pydicom = _extra('pydicom', 'a DICOM file', 'dicom')
  try:
    found = pydicom.dcmread(io.BytesIO(data))
    frames = int(found.get('NumberOfFrames', 1) or 1)
    height, width, samples = int(found.Rows), int(found.Columns), int(found.SamplesPerPixel)
  except Exception as error:  # As of Pillow's readers.
    raise UnreadableImageError(f'a DICOM file without an image ({error})') from error
  if frames > 1:
    raise UnreadableImageError(f'a DICOM file of {frames} frames: write each as a file of its own')

  def decode() -> Numbers:
    array = np.asarray(found.pixel_array)
    if samples > 1:
      if str(found.PhotometricInterpretation).startswith('YBR'):
        array = pydicom.pixels.convert_color_space(array, found.PhotometricInterpretation, 'RGB')
      return with_range(array)
    slope, shift = (float(found.get(f'Rescale{name}', default) or 0)
                    for name, default in (('Slope', 1), ('Intercept', 0)))  # fmt: skip
    array = (array * slope + shift).astype(np.float32)
    stored, signed = int(found.BitsStored), bool(found.PixelRepresentation)
    low = -(2 ** (stored - 1)) if signed else 0
    ends = [low * slope + shift, (low + 2**stored - 1) * slope + shift]
    if found.get('WindowCenter') is not None and found.get('WindowWidth') is not None:
      center, wide = (float(np.ravel(found[f'Window{name}'].value)[0])
                      for name in ('Center', 'Width'))  # fmt: skip
      ends = [center - wide / 2, center + wide / 2]
    if str(found.PhotometricInterpretation) == 'MONOCHROME1':
      ends = ends[::-1]
    return Numbers(np.repeat(array[..., None], 3, axis=-1), ends[0], ends[1])

  return Header(height, width, 3, _checked(decode))


def _extra(module: str, what: str, extra: str) -> Any:
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise MissingReaderError(
      f"{what} is read by {module}: pip install 'byoljax[{extra}]'"
    ) from error
