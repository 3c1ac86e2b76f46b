"""Image files as bytes: what is inside, and the one exact decoder for all of them.

TensorFlow decodes ordinary JPEG and PNG files fast, and JPEG by parts, but not exactly everything:
it ignores EXIF orientation, converts CMYK without its profile's inversion, drops the alpha channel
and has no WebP. `inspect` looks at the header only (microseconds) and says who may decode a file
and how large the upright image is; `decode` is Pillow's, for everything. The rules:

- orientation: the EXIF tag is applied, so images are upright and H, W are the upright sizes;
- transparency (RGBA, gray + alpha, palette or PNG with a transparent color): shown on white;
- 16 bit: the high byte is kept, x // 256 (`numbers_file` keeps both); gray and palette become RGB;
  CMYK by Pillow's conversion;
- 32 bit, whole or floating: refused, since what is black and white is not known;
- GIF, WebP and other animations: the first frame; a TIFF of several pages is refused: they are as
  often bands, slices or thumbnails as pictures;
- a fourth band is transparency only where the file says so;
- a header that promises more than `MAX_PIXELS` is refused before anything is decoded: a file of a
  few kilobytes can claim gigabytes.

NumPy and Pillow only; HEIC photographs need pillow-heif, an extra, imported when one is met.
"""

import functools
import importlib
import io
from typing import Any

import numpy as np
from PIL import (
  AvifImagePlugin,
  BmpImagePlugin,
  GifImagePlugin,
  Image,
  Jpeg2KImagePlugin,
  JpegImagePlugin,
  PngImagePlugin,
  PpmImagePlugin,
  TgaImagePlugin,
  TiffImagePlugin,
  WebPImagePlugin,
)

from byoljax.data.sources import image_header

# Twice Pillow's limit for a warning, where Pillow refuses, too: 537 MB as RGB.
MAX_PIXELS = 178_956_970

# Naming the readers registers them; Pillow's other forty formats stay out of reach of odd files.
_FORMATS = tuple(
  str(reader.format)
  for reader in (
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    BmpImagePlugin.BmpImageFile,
    GifImagePlugin.GifImageFile,
    WebPImagePlugin.WebPImageFile,
    TiffImagePlugin.TiffImageFile,
    PpmImagePlugin.PpmImageFile,
    Jpeg2KImagePlugin.Jpeg2KImageFile,
    AvifImagePlugin.AvifImageFile,
    TgaImagePlugin.TgaImageFile,  # The last: it has no signature.
  )
)
SUFFIXES = (
  '.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff', '.avif',
  '.jp2', '.j2k', '.ppm', '.pgm', '.pbm', '.tga', '.heic', '.heif', '.dcm',
)  # fmt: skip
_WHITE = (255, 255, 255, 255)
_HEIF = (b'heic', b'heix', b'hevc', b'hevx', b'heim', b'heis', b'mif1', b'msf1')


class UnreadableImageError(ValueError):
  """The bytes are not an image that can be decoded; the message is the reason."""


def opened(data: bytes) -> Any:
  """An image file as Pillow opens it; nothing but its header is read yet.

  Raises:
    UnreadableImageError: nothing, or HEIC without the library that reads it.
    Exception: whatever Pillow's readers make of what is no image.
  """
  if not data:
    raise UnreadableImageError('the file is empty or cannot be opened')
  is_heif = data[4:8] == b'ftyp' and data[8:12] in _HEIF and b'avif' not in data[8:40]
  formats = (*_FORMATS, _heif()) if is_heif else _FORMATS
  return Image.open(io.BytesIO(data), formats=formats)


class MissingReaderError(UnreadableImageError):
  """An image that a library would read which is not installed."""


@functools.cache
def _heif() -> str:
  """Makes Pillow read HEIC; returns the format's name."""
  try:
    importlib.import_module('pillow_heif').register_heif_opener()
  except ImportError as error:
    raise MissingReaderError("HEIC is read by pillow-heif: pip install 'byoljax[heic]'") from error
  return 'HEIF'


def inspect(data: bytes) -> tuple[int, int, int]:
  """Reads a header: who may decode the file, and how large the upright image is.

  Args:
    data: a whole image file.

  Returns:
    (JPEG, PNG or PILLOW of `image_header`, height, width) in pixels, height and width at least 1.

  Raises:
    UnreadableImageError: empty, not an image, or a header that makes no sense.
  """
  plain = None
  if data[:3] == b'\xff\xd8\xff':
    plain = image_header.of_jpeg(data)
  elif data[:8] == b'\x89PNG\r\n\x1a\n':
    plain = image_header.of_png(data)
  if plain is not None:
    check_size(*plain[1:])
    return plain
  try:
    with opened(data) as image:
      _check_pages(image)
      width, height = image.size
      if orientation(image) >= 5:
        width, height = height, width
  except Exception as error:  # Pillow's readers raise whatever a damaged header leads them to.
    raise UnreadableImageError(_reason(error)) from error
  check_size(height, width)
  return image_header.PILLOW, height, width


def _check_pages(image: Any) -> None:
  if image.format == 'TIFF' and getattr(image, 'n_frames', 1) > 1:
    raise UnreadableImageError(of_pages(image.n_frames))


def of_pages(count: int) -> str:
  """Why a TIFF of several pages is refused."""
  return f'a TIFF of {count} pages: write every page that is an image as a file of its own'


def check_size(height: int, width: int) -> None:
  """Raises UnreadableImageError for an image without pixels, or with more than `MAX_PIXELS`."""
  if not 1 <= height * width <= MAX_PIXELS or height < 1:
    raise UnreadableImageError(f'the image has {height} x {width} pixels')


def decode(data: bytes) -> np.ndarray:
  """Decodes any image file by the rules of this module.

  Args:
    data: a whole image file.

  Returns:
    The upright image, uint8 [H, W, 3]; the size is the one that `inspect` gives.

  Raises:
    UnreadableImageError: not an image, truncated or damaged.
  """
  try:
    with opened(data) as image:
      check_size(image.height, image.width)
      turned = orientation(image)
      pixels = _to_rgb(image)
  except Exception as error:  # As above; a truncated file surfaces only here.
    raise UnreadableImageError(_reason(error)) from error
  return np.ascontiguousarray(upright(pixels, turned))


def of_pillow(image: Any) -> np.ndarray:
  """An open image of Pillow's as uint8 [H, W, 3], by the rules of this module.

  Raises:
    UnreadableImageError: it cannot be loaded.
  """
  try:
    turned = orientation(image)
    return np.ascontiguousarray(upright(_to_rgb(image), turned))
  except Exception as error:
    raise UnreadableImageError(_reason(error)) from error


def decode_numbers(data: bytes) -> np.ndarray:
  """Decodes an image file whose numbers count, not what they look like: a map or a mask.

  Args:
    data: a whole image file.

  Returns:
    The upright numbers [H, W, C]: gray of 8 or 16 bits as it is, a palette's colors as their
    numbers, bilevel as 0 and 1, everything else channel by channel.

  Raises:
    UnreadableImageError: not an image, truncated or damaged.
  """
  try:
    with opened(data) as image:
      _check_pages(image)
      check_size(image.height, image.width)
      turned, most = orientation(image), _largest(image)
      pixels = np.asarray(image)
      if most:
        pixels = np.rint(pixels * (most / (255 if image.mode == 'L' else 65535))).astype(np.uint16)
  except Exception as error:  # As above.
    raise UnreadableImageError(_reason(error)) from error
  pixels = pixels[..., None] if pixels.ndim == 2 else pixels
  return np.ascontiguousarray(upright(pixels, turned))


def _largest(image: Any) -> int:
  """The white of a gray image of 2 or 4 bits, or as a PGM says, which Pillow makes its own; or 0.

  The image is not loaded yet: Pillow forgets it then.
  """
  codec, _, _, raw = image.tile[0] if image.tile else ('', None, 0, '')
  if codec.startswith('ppm') and raw[0] == 'L':
    return int(raw[1])
  return {'L;2': 3, 'L;4': 15}.get(raw, 0) if isinstance(raw, str) else 0


def _reason(error: Exception) -> str:
  text = ' '.join(str(error).split())
  if 'cannot identify image file' in text:
    return 'not an image file'
  return text or type(error).__name__


def orientation(image: Any) -> int:
  """EXIF orientation 1..8 of an open image; 1 where Pillow turns it itself.

  What XMP says does not count, which `Image.getexif` reads, too: browsers and TensorFlow do not.
  """
  if image.format == 'TIFF':  # Pillow turns these itself.
    return 1
  exif = Image.Exif()
  try:
    exif.load(image.info.get('exif', b''))
    value = exif.get(image_header.ORIENTATION_TAG, 1)
  except Exception:  # A damaged EXIF block does not make the picture unreadable.
    return 1
  return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Any) -> np.ndarray:
  """The first frame of an open Pillow image as uint8 [H, W, 3], not yet upright."""
  _check_pages(image)
  image.load()
  if image.mode == 'F' or (image.mode == 'I' and image.format == 'TIFF'):
    raise UnreadableImageError(
      'its numbers have 32 bits, and which of them is black and which white is not known: scale it '
      'to 8 or 16 bits'
    )
  if image.mode == 'I' or image.mode.startswith('I;16'):
    gray = (np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)
  if image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in image.info:
    top = image.convert('RGBA')
    return np.asarray(Image.alpha_composite(Image.new('RGBA', top.size, _WHITE), top))[:, :, :3]
  return np.asarray(image.convert('RGB'))


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """Undoes the camera's rotation (EXIF 2.32, table 6: where row 0 and column 0 of the file lie)."""
  if orientation >= 5:
    pixels = pixels.transpose(1, 0, 2)
  if orientation in (2, 3, 6, 7):
    pixels = pixels[:, ::-1]
  if orientation in (3, 4, 7, 8):
    pixels = pixels[::-1]
  return pixels


def upright_boxes(boxes: np.ndarray, orientation: int) -> np.ndarray:
  """Boxes [n, 4] of an image as it is stored, where `upright` puts them.

  (y_min, x_min, y_max, x_max) in fractions of height and width, before and after.
  """
  low, high = boxes[:, :2], boxes[:, 2:]
  if orientation >= 5:
    low, high = low[:, ::-1], high[:, ::-1]
  flipped = np.array([orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)])
  return np.concatenate(
    [np.where(flipped, 1 - high, low), np.where(flipped, 1 - low, high)], axis=1
  )
