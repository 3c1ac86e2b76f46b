"""Image formats against independent decoders, and files that are no image."""

import zlib

import numpy as np
from PIL import Image
import pytest

from byoljax.data.sources import (
  folder,
  image_file,
  image_header,
)
from tests.data.sources.example_images import encoded, exif, random_pixels, smooth


def _lossless_cases():
  """name -> (file, the pixels it must give, who decodes it)."""
  rgb = random_pixels()
  gray = rgb[..., 0]
  gray_rgb = np.repeat(gray[..., None], 3, 2)
  alpha = random_pixels(seed=1)[..., 0]
  alpha[0] = (0, 255, 0, 255, 0, 255, 0, 255, 0, 255)
  # The arithmetic of compositing on white, by hand.
  share = alpha[..., None] / 255.0
  on_white = np.round(rgb * share + 255 * (1 - share)).astype(int)
  on_white_gray = np.round(gray_rgb * share + 255 * (1 - share)).astype(int)
  palette = Image.frombytes('P', (10, 12), gray.tobytes())
  colors = random_pixels(256, 1, seed=2)[:, 0]
  palette.putpalette(colors.tobytes())
  see_through = palette.copy()
  hole = int(gray[3, 3])
  with_hole = colors[gray].copy()
  with_hole[gray == hole] = 255
  deep = (gray.astype(np.uint16) << 8) + 200
  first, second = Image.fromarray(rgb), Image.fromarray(255 - rgb)
  frames = [palette, palette.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
  png, pillow = image_header.PNG, image_header.PILLOW
  return {
    'png rgb': (encoded(rgb, 'PNG'), rgb, png),
    'png gray': (encoded(gray, 'PNG'), gray_rgb, png),
    'png rgba': (encoded(np.dstack([rgb, alpha]), 'PNG'), on_white, pillow),
    'png gray alpha': (
      encoded(Image.merge('LA', [Image.fromarray(gray), Image.fromarray(alpha)]), 'PNG'),
      on_white_gray,
      pillow,
    ),
    'png palette': (encoded(palette, 'PNG'), colors[gray], pillow),
    'png palette with a hole': (
      encoded(see_through, 'PNG', transparency=hole),
      with_hole,
      pillow,
    ),
    'png 16 bit': (encoded(Image.fromarray(deep), 'PNG'), gray_rgb, pillow),
    'png 1 bit': (encoded(Image.fromarray(gray > 99), 'PNG'), (gray_rgb > 99) * 255, pillow),
    'bmp': (encoded(rgb, 'BMP'), rgb, pillow),
    'gif animated': (
      encoded(frames[0], 'GIF', save_all=True, append_images=frames[1:]),
      colors[gray],
      pillow,
    ),
    'webp': (encoded(rgb, 'WEBP', lossless=True), rgb, pillow),
    'webp animated': (
      encoded(first, 'WEBP', lossless=True, save_all=True, append_images=[second]),
      rgb,
      pillow,
    ),
    'one row': (encoded(rgb[:1], 'PNG'), rgb[:1], png),
    'one column': (encoded(rgb[:, :1], 'PNG'), rgb[:, :1], png),
  }


@pytest.mark.parametrize('name', list(_lossless_cases()))
def test_lossless_formats(name):
  data, due, kind = _lossless_cases()[name]
  assert image_file.inspect(data) == (kind, *due.shape[:2])
  found = image_file.decode(data)
  assert found.dtype == np.uint8 and found.flags['C_CONTIGUOUS']
  # Compositing rounds in steps of its own.
  np.testing.assert_allclose(found.astype(int), due, atol=1 if 'a' in name.split()[-1] else 0)


def test_sixteen_bit_color_keeps_the_high_byte():
  """A 16-bit RGB PNG, written by hand: Pillow writes none."""
  import struct
  import zlib

  deep = np.random.default_rng(0).integers(0, 65536, (5, 4, 3)).astype('>u2')

  def chunk(name, body):
    return struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body))

  rows = b''.join(b'\0' + row.tobytes() for row in deep)
  data = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 4, 5, 16, 2, 0, 0, 0))
  data += chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
  assert image_file.inspect(data) == (image_header.PILLOW, 5, 4)
  np.testing.assert_array_equal(image_file.decode(data), deep >> 8)


@pytest.mark.parametrize(
  ('name', 'options'), [('baseline', {}), ('progressive', {'progressive': True}), ('gray', {})]
)
def test_plain_jpeg_is_tensorflows(name, options):
  due = smooth()
  if name == 'gray':
    due = np.repeat(due[..., :1], 3, 2)
  data = encoded(due[..., 0] if name == 'gray' else due, 'JPEG', quality=95, **options)
  assert image_file.inspect(data) == (image_header.JPEG, 40, 56)
  np.testing.assert_allclose(image_file.decode(data).astype(int), due, atol=8)


def test_cmyk_jpeg():
  due = smooth()
  data = encoded(Image.fromarray(due).convert('CMYK'), 'JPEG', quality=98)
  assert image_file.inspect(data) == (image_header.PILLOW, 40, 56)
  np.testing.assert_allclose(image_file.decode(data).astype(int), due, atol=12)


class TestTiff:
  """Eight and sixteen bits, one page; whatever is ambiguous is refused in a sentence."""

  def test_eight_and_sixteen_bits(self):
    pixels = random_pixels()
    for compression in (None, 'tiff_lzw'):
      data = encoded(pixels, 'TIFF', compression=compression)
      assert image_file.inspect(data) == (image_header.PILLOW, *pixels.shape[:2])
      np.testing.assert_array_equal(image_file.decode(data), pixels)
    deep = pixels[..., 0].astype(np.uint16) * 257
    data = encoded(deep, 'TIFF')
    np.testing.assert_array_equal(image_file.decode(data), np.repeat(pixels[..., :1], 3, 2))
    np.testing.assert_array_equal(image_file.decode_numbers(data)[..., 0], deep)

  def test_a_fourth_band_is_not_transparency(self):
    pixels = np.dstack([random_pixels(), random_pixels(seed=1)[..., 0]])
    data = encoded(Image.fromarray(pixels, 'RGBX'), 'TIFF')
    np.testing.assert_array_equal(image_file.decode(data), pixels[..., :3])

  @pytest.mark.parametrize('kind', [np.float32, np.int32])
  def test_numbers_without_a_range(self, kind):
    with pytest.raises(image_file.UnreadableImageError, match='32 bits, and which of them'):
      image_file.decode(encoded(random_pixels()[..., 0].astype(kind), 'TIFF'))

  def test_pages(self):
    pages = [Image.fromarray(random_pixels(seed=seed)) for seed in range(3)]
    data = encoded(pages[0], 'TIFF', save_all=True, append_images=pages[1:])
    for read in (image_file.inspect, image_file.decode, image_file.decode_numbers):
      with pytest.raises(image_file.UnreadableImageError, match='a TIFF of 3 pages: write'):
        read(data)

  def test_a_dark_folder_is_pointed_out(self, tmp_path):
    for number in range(3):
      Image.fromarray(np.full((4, 4), 250 + number, np.uint16)).save(tmp_path / f'{number}.tif')
    (note,) = folder.from_folder(tmp_path, 'pretrain').notes
    assert 'use 0.0038 of their range (3 looked at)' in note and '--data.range=0,252' in note
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / '1.tif')
    assert folder.from_folder(tmp_path, 'pretrain').notes == ()


@pytest.mark.parametrize(('kind', 'off'), [('JPEG2000', 0), ('PPM', 0), ('AVIF', 12)])
def test_other_formats(kind, off):
  options = {'irreversible': False} if kind == 'JPEG2000' else {}
  data = encoded(smooth(), kind, **options)
  assert image_file.inspect(data) == (image_header.PILLOW, 40, 56)
  np.testing.assert_allclose(image_file.decode(data).astype(int), smooth(), atol=off)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation(orientation):
  stored = random_pixels()
  turned = {
    1: stored,
    2: np.fliplr(stored),
    3: np.rot90(stored, 2),
    4: np.flipud(stored),
    5: stored.transpose(1, 0, 2),
    6: np.rot90(stored, -1),
    7: np.rot90(stored, 2).transpose(1, 0, 2),
    8: np.rot90(stored, 1),
  }[orientation]
  png = encoded(stored, 'PNG', exif=exif(orientation))
  np.testing.assert_array_equal(image_file.decode(png), turned)
  assert image_file.inspect(png)[1:] == turned.shape[:2]
  tiff = encoded(stored, 'TIFF', tiffinfo={274: orientation})
  np.testing.assert_array_equal(image_file.decode(tiff), turned)
  assert image_file.inspect(tiff)[1:] == turned.shape[:2]
  jpeg = encoded(stored, 'JPEG', exif=exif(orientation), quality=90)
  kind, height, width = image_file.inspect(jpeg)
  assert kind == (image_header.JPEG if orientation == 1 else image_header.PILLOW)
  assert image_file.decode(jpeg).shape[:2] == (height, width) == turned.shape[:2]


def test_masks_of_few_bits_keep_their_numbers():
  """Pillow spreads them over the levels of 8 or 16 bits."""
  for most, header in ((20, b'P5\n4 1\n20\n'), (255, b'P5\n4 1\n255\n')):
    found = image_file.decode_numbers(header + bytes([0, 1, 2, 20]))
    assert found.ravel().tolist() == [0, 1, 2, 20], most
  deep = image_file.decode_numbers(b'P5\n2 1\n300\n' + np.array([7, 300], '>u2').tobytes())
  assert deep.ravel().tolist() == [7, 300]

  def chunk(kind, data):
    whole = kind + data
    return len(data).to_bytes(4, 'big') + whole + zlib.crc32(whole).to_bytes(4, 'big')

  for bits, row in ((1, 0b01010000), (2, 0b00011011), (4, 0x2F)):
    size = (2).to_bytes(4, 'big') + (1).to_bytes(4, 'big') + bytes([bits, 0, 0, 0, 0])
    parts = (b'IHDR', size), (b'IDAT', zlib.compress(bytes([0, row]))), (b'IEND', b'')
    data = b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*part) for part in parts)
    expected = [row >> (8 - bits), (row >> (8 - 2 * bits)) % 2**bits]
    assert image_file.decode_numbers(data).ravel().tolist() == expected, bits


@pytest.mark.parametrize('orientation', range(1, 9))
def test_boxes_follow_the_rotation(orientation):
  pixels = np.zeros((4, 8, 1))
  pixels[1:2, 4:7] = 1
  turned = image_file.upright(pixels, orientation)
  box = image_file.upright_boxes(np.array([[1 / 4, 4 / 8, 2 / 4, 7 / 8]]), orientation)
  top, left, bottom, right = (box[0] * [*turned.shape[:2], *turned.shape[:2]]).astype(int)
  assert turned.sum() == turned[top:bottom, left:right].sum() == (bottom - top) * (right - left)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_an_orientation_in_xmp_turns_nothing(kind):
  """Nor would TensorFlow, which decodes such a file: every path sees the same picture."""
  from PIL import PngImagePlugin

  xmp = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
  text = PngImagePlugin.PngInfo()
  text.add_itxt('XML:com.adobe.xmp', xmp)
  how = {'pnginfo': text} if kind == 'PNG' else {'xmp': xmp.encode()}
  data = encoded(random_pixels(), kind, **how)
  with image_file.opened(data) as image:
    assert image.getexif().get(274) == 6, 'Pillow would turn it'
  assert image_file.inspect(data)[0] != image_header.PILLOW
  assert image_file.inspect(data)[1:] == image_file.decode(data).shape[:2]
  assert image_file.decode(data).shape == random_pixels().shape


def test_bytes_that_are_no_image():
  jpeg = encoded(smooth(), 'JPEG')
  png = encoded(random_pixels(), 'PNG')
  for data in (b'', b'hello, world', b'\xff\xd8\xff', jpeg[:100], b'\x89PNG\r\n\x1a\n'):
    with pytest.raises(image_file.UnreadableImageError):
      image_file.inspect(data)
  for data in (b'', b'hello', jpeg[: len(jpeg) // 2], png[: len(png) // 2]):
    with pytest.raises(image_file.UnreadableImageError):
      image_file.decode(data)
  # A JPEG without an end is not left to TensorFlow, whose partial decoder might not notice.
  assert image_file.inspect(jpeg[:-20])[0] == image_header.PILLOW


def _png_header(width, height):
  """A PNG that is nothing but a claim about its size."""
  import struct
  import zlib

  def chunk(name, body):
    return struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body))

  return (
    b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b'')
  )  # fmt: skip


def test_decompression_bombs_are_refused_by_their_header():
  jpeg = bytearray(encoded(smooth(), 'JPEG'))
  frame = jpeg.index(b'\xff\xc0')
  jpeg[frame + 5 : frame + 9] = b'\xff\xff\xff\xff'  # 65535 x 65535
  gif = bytearray(encoded(random_pixels(), 'GIF'))
  gif[6:10] = b'\xff\xff\xff\xff'
  for data in (_png_header(60000, 60000), _png_header(2**31 - 1, 1), bytes(jpeg), bytes(gif)):
    with pytest.raises(image_file.UnreadableImageError, match='pixels'):
      image_file.inspect(data)
    with pytest.raises(image_file.UnreadableImageError):
      image_file.decode(data)
  assert image_file.inspect(_png_header(13000, 13000)) == (image_header.PNG, 13000, 13000)


def test_the_suffix_does_not_matter(tmp_path):
  for name, kind in (('a.jpg', 'PNG'), ('b.png', 'JPEG'), ('c.gif', 'WEBP'), ('d.webp', 'BMP')):
    (tmp_path / name).write_bytes(encoded(smooth(), kind))
  found = folder.from_folder(tmp_path, 'train')
  for data in found.read(np.arange(4))[0]:
    np.testing.assert_allclose(image_file.decode(data).astype(int), smooth(), atol=30)
