"""Data sources: arrays, folders, TFDS files, image formats, and what is said about bad ones."""

import io
import os
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from byoljax.data.augment import views
from byoljax.data.batches import order, pipeline
from byoljax.data.fields import Field
from byoljax.data.sources import (
  arrays,
  datasets,
  folder,
  image_file,
  memory,
  npz_file,
  records,
  source,
  tfds_files,
  tfds_source,
)
from tests.paths import ROOT

_ROOT = str(ROOT)


@pytest.fixture(autouse=True, scope='module')
def _own_cache(tmp_path_factory):
  patch = pytest.MonkeyPatch()
  patch.setenv('BYOLJAX_DATA', str(tmp_path_factory.mktemp('cache')))
  yield
  patch.undo()


def _pixels(height=12, width=10, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _smooth(height=40, width=56):
  """Slow gradients, which JPEG keeps to within a few levels."""
  y, x = np.mgrid[:height, :width]
  return np.stack([y * 5, x * 4, 255 - y * 2 - x * 2], 2).clip(0, 255).astype(np.uint8)


def _encoded(image, kind, **options):
  if not isinstance(image, Image.Image):
    image = Image.fromarray(image)
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def _exif(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  return exif.tobytes()


# --- Source -------------------------------------------------------------------------------------


def test_subset_renumbers_and_keeps_labels():
  images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 5, 3), np.uint8)
  whole = arrays.from_arrays(images, np.arange(10) % 3)
  part = whole.subset(np.array([7, 2, 9]))
  x, y = part.read(np.array([2, 0]))
  assert part.size == 3 and part.num_classes == 3 and part.image_shape == (4, 5)
  np.testing.assert_array_equal(x[:, 0, 0, 0], [9, 7])
  np.testing.assert_array_equal(y, [0, 1])
  np.testing.assert_array_equal(part.labels, [1, 2, 0])
  np.testing.assert_array_equal(part.subset(np.array([1])).labels, [2])
  assert part.fingerprint != whole.fingerprint
  assert part.fingerprint != whole.subset(np.array([2, 7, 9])).fingerprint


@pytest.mark.parametrize(
  ('indices', 'message'),
  [([10], 'index 10 .* 0 to 9'), ([-1], 'index -1'), ([[1]], 'one row'), ([0.5], 'whole numbers')],
)
def test_indices_out_of_range(indices, message):
  whole = arrays.from_arrays(np.zeros((10, 4, 4, 3), np.uint8))
  with pytest.raises(ValueError, match=message):
    whole.read(np.array(indices))


def test_unreadable_log_lists_each_name_once_over_several_runs(tmp_path):
  log = source.UnreadableLog(tmp_path / 'run')
  assert not os.path.exists(tmp_path / 'run')
  log.add('a.jpg', 'broken\nin two lines')
  log.add('a.jpg', 'again')
  again = source.UnreadableLog(tmp_path / 'run' / 'unreadable.txt')
  again.add('a.jpg', 'broken')
  again.add('b.jpg', 'empty')
  assert (tmp_path / 'run' / 'unreadable.txt').read_text() == (
    'a.jpg\tbroken in two lines\nb.jpg\tempty\n'
  )
  assert len(log) == 1 and len(again) == 2


# --- arrays -------------------------------------------------------------------------------------


def test_npz_splits_labels_and_gray(tmp_path):
  x = _pixels(9, 6)
  x_train, x_test = np.stack([x, x + 1])[..., 0], np.stack([x])[..., :1]
  file = tmp_path / 'set.npz'
  np.savez(file, x_train=x_train, y_train=[0, 1], x_test=x_test, y_test=[[4]])
  train, test = arrays.from_npz(file, 'train'), arrays.from_npz(file, 'test')
  images, labels = train.read(np.array([1, 0, 1]))
  assert images.shape == (3, 9, 6, 3) and images.dtype == np.uint8 and labels.dtype == np.int32
  np.testing.assert_array_equal(images[0], np.repeat(x_train[1][..., None], 3, 2))
  np.testing.assert_array_equal(labels, [1, 0, 1])
  np.testing.assert_array_equal(test.read(np.array([0]))[0][0], np.repeat(x_test[0], 3, 2))
  # The classes of both splits count.
  assert train.num_classes == test.num_classes == 5
  np.testing.assert_array_equal(test.labels, [4])
  unlabelled = tmp_path / 'unlabelled.npz'
  np.savez_compressed(unlabelled, x_train=x_train, x_unlabelled=np.stack([x] * 3))
  both = arrays.from_npz(unlabelled, 'pretrain')
  assert both.size == 5 and both.num_classes == 0 and both.labels is None
  images, labels = both.read(np.array([4, 0]))
  np.testing.assert_array_equal(images[0, ..., 1], x_train[1])
  np.testing.assert_array_equal(images[1], x)
  np.testing.assert_array_equal(labels, [-1, -1])


def test_labels_that_are_no_numbers_of_classes_are_questioned(tmp_path):
  """Every class up to the largest has its place in classifiers: 63,000 of them are not meant."""
  x = np.zeros((40, 2, 2, 3), np.uint8)
  labels = np.arange(40) % 4 * 21_000
  np.savez(tmp_path / 'set.npz', x_train=x, y_train=labels)
  for make in (
    lambda: arrays.from_npz(tmp_path / 'set.npz', 'train'),
    lambda: arrays.from_arrays(x, labels),
  ):
    with pytest.raises(ValueError, match='go up to 63,000, but only 4 different ones .*np.unique'):
      make()
  assert arrays.from_arrays(x, labels, num_classes=63_001).num_classes == 63_001
  # A hundred classes of ImageNet under their own numbers are nothing odd.
  assert arrays.from_arrays(x.repeat(3, 0), np.arange(120) % 100 * 10).num_classes == 991


def test_an_npz_of_other_names_is_listed(tmp_path):
  np.savez(tmp_path / 'set.npz', images=np.zeros((2, 4, 4, 3), np.uint8), target=np.zeros(2))
  with pytest.raises(
    source.NoSplitError, match="no 'x_train'.*holds images, target, and the names"
  ):
    arrays.from_npz(tmp_path / 'set.npz', 'train')


def test_npz_is_mapped_where_it_is_stored(tmp_path):
  x = np.random.default_rng(0).integers(0, 256, (400, 32, 32, 3), np.uint8)
  for name, save in (('stored', np.savez), ('small', np.savez_compressed)):
    save(tmp_path / f'{name}.npz', x_train=x, y_train=np.arange(400) % 7)
  stored = arrays.from_npz(tmp_path / 'stored.npz', 'train')
  packed = arrays.from_npz(tmp_path / 'small.npz', 'train')
  rows = np.array([399, 0, 17])
  for found in (stored, packed):
    np.testing.assert_array_equal(found.read(rows)[0], x[rows])
  assert stored.fingerprint == packed.fingerprint
  members, _ = npz_file.read(str(tmp_path / 'stored.npz'), ['x_train'])
  assert isinstance(members['x_train'], np.memmap)


def test_edited_masks_are_other_data_where_they_are_read(tmp_path):
  x, mask = np.zeros((4, 8, 8, 3), np.uint8), np.zeros((4, 8, 8), np.uint8)
  read = (Field('mask', 'mask'),)

  def marks(fields):
    np.savez(tmp_path / 'a.npz', x_train=x, mask_train=mask)
    beside = dict.fromkeys(fields, mask[..., None])
    held = arrays.from_arrays(x, fields=beside)
    return held.fingerprint, arrays.from_npz(tmp_path / 'a.npz', 'train', fields).fingerprint

  before, alone = marks(read), marks(())
  mask[0, 3, 3] = 1
  assert all(a != b for a, b in zip(before, marks(read), strict=True))
  assert alone == marks(())


@pytest.mark.parametrize(
  ('content', 'split', 'message'),
  [
    ({'x': np.zeros((2, 4, 4, 3), np.uint8)}, 'train', "has no 'x_train'"),
    ({'x_train': np.zeros((2, 4, 4, 3), np.uint8)}, 'test', "has no 'x_test'"),
    ({'x_train': np.zeros((2, 4, 4, 3), np.int32)}, 'train', 'type int32'),
    ({'x_train': np.zeros((2, 4), np.uint8)}, 'train', r'shape \[2, 4\]'),
    ({'x_train': np.zeros((2, 3, 4, 4), np.uint8)}, 'train', r'transpose with \(0, 2, 3, 1\)'),
    ({'x_train': np.zeros((0, 4, 4, 3), np.uint8)}, 'train', 'is empty'),
    (
      {'x_train': np.zeros((2, 4, 4), np.uint8), 'y_train': np.zeros(3, int)},
      'train',
      '3 labels for 2 images',
    ),
    (
      {'x_train': np.zeros((2, 4, 4), np.uint8), 'y_train': np.zeros(2)},
      'train',
      'whole numbers',
    ),
    (
      {'x_train': np.zeros((2, 4, 4), np.uint8), 'y_train': np.array([0, -2])},
      'train',
      'holds -2',
    ),
    (
      {'x_train': np.zeros((2, 4, 4), np.uint8), 'y_train': np.array([0, 2**40])},
      'train',
      'y_train holds 1099511627776, .* at most 1,000,000',
    ),
    (
      {
        'x_train': np.zeros((2, 4, 4), np.uint8),
        'y_train': np.array([0, 1]),
        'y_test': np.array([10**9]),
      },
      'train',
      'y_test holds 1000000000',
    ),
    (
      {
        'x_train': np.zeros((2, 4, 4), np.uint8),
        'y_train': np.array([0, 3]),
        'class_names': np.array(['a', 'b']),
      },
      'train',
      'names 2 classes but its labels need 4',
    ),
    (
      {'x_train': np.zeros((2, 4, 4), np.uint8), 'x_unlabelled': np.zeros((2, 5, 4), np.uint8)},
      'pretrain',
      'one size',
    ),
    ({'x_train': np.array([{}], object)}, 'train', 'plain arrays'),
  ],
)
def test_npz_errors(tmp_path, content, split, message):
  file = tmp_path / 'set.npz'
  np.savez(file, **content)
  with pytest.raises(ValueError, match=message):
    arrays.from_npz(file, split)


def test_a_label_without_a_class():
  with pytest.raises(ValueError, match='label 7, but its classes are 0 to 2'):
    arrays.from_arrays(np.zeros((2, 4, 4), np.uint8), np.array([0, 7]), num_classes=3)


def test_npz_that_is_none(tmp_path):
  (tmp_path / 'text.npz').write_text('hello')
  with pytest.raises(ValueError, match='cannot be read as an .npz'):
    arrays.from_npz(tmp_path / 'text.npz', 'train')
  with pytest.raises(ValueError, match='there is no file'):
    arrays.from_npz(tmp_path / 'missing.npz', 'train')


def test_arrays_never_need_tensorflow(tmp_path):
  """Training, evaluation and the built-in set in a process where TensorFlow cannot be imported."""
  np.savez(tmp_path / 'set.npz', x_train=_many(8), y_train=np.arange(8) % 2, x_test=_many(3))
  code = f"""
import sys
for name in ('tensorflow', 'tensorflow_datasets'):
  sys.modules[name] = None
import numpy as np
from byoljax.data.sources import datasets, shapes
from byoljax.data.batches import pipeline
from byoljax.data.batches.order import Order
from byoljax.data.augment import views
train = datasets.load('npz', 'train', data_dir={str(tmp_path / 'set.npz')!r})
test = datasets.load('npz', 'test', data_dir={str(tmp_path / 'set.npz')!r})
specs = [views.ViewSpec(size=8)] * 2
for batch in pipeline.train_batches(
  train, specs, order=Order(8, 4, 0), seed=0, start_step=1, stop_step=3
):
  print(sorted(batch), batch['index'].shape)
print([b['valid'].tolist() for b in pipeline.eval_batches(test, image_size=8, batch_size=2)])
shapes.SPLITS['test'] = shapes.NUM_TEST = 5
print(datasets.load('shapes', 'test', data_dir={str(tmp_path)!r}).encoded)
try:
  datasets.load('cifar10', 'train', data_dir={str(tmp_path)!r})
except ValueError as error:
  print(error)
"""
  found = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=_ROOT, check=False
  )
  assert found.returncode == 0, found.stderr
  lines = found.stdout.splitlines()
  assert lines[0] == lines[1] == "['epoch', 'image', 'index', 'label'] (4,)"
  assert lines[2] == '[[True, True], [True, False]]'
  assert lines[3] == 'False'
  assert 'TensorFlow is needed' in lines[4]
  assert found.stderr == ''


def _many(count, side=12):
  return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


# --- image files --------------------------------------------------------------------------------


def _lossless_cases():
  """name -> (file, the pixels it must give, who decodes it)."""
  rgb = _pixels()
  gray = rgb[..., 0]
  gray_rgb = np.repeat(gray[..., None], 3, 2)
  alpha = _pixels(seed=1)[..., 0]
  alpha[0] = (0, 255, 0, 255, 0, 255, 0, 255, 0, 255)
  # The arithmetic of compositing on white, by hand.
  share = alpha[..., None] / 255.0
  on_white = np.round(rgb * share + 255 * (1 - share)).astype(int)
  on_white_gray = np.round(gray_rgb * share + 255 * (1 - share)).astype(int)
  palette = Image.frombytes('P', (10, 12), gray.tobytes())
  colors = _pixels(256, 1, seed=2)[:, 0]
  palette.putpalette(colors.tobytes())
  see_through = palette.copy()
  hole = int(gray[3, 3])
  with_hole = colors[gray].copy()
  with_hole[gray == hole] = 255
  deep = (gray.astype(np.uint16) << 8) + 200
  first, second = Image.fromarray(rgb), Image.fromarray(255 - rgb)
  frames = [palette, palette.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
  png, pillow = image_file.PNG, image_file.PILLOW
  return {
    'png rgb': (_encoded(rgb, 'PNG'), rgb, png),
    'png gray': (_encoded(gray, 'PNG'), gray_rgb, png),
    'png rgba': (_encoded(np.dstack([rgb, alpha]), 'PNG'), on_white, pillow),
    'png gray alpha': (
      _encoded(Image.merge('LA', [Image.fromarray(gray), Image.fromarray(alpha)]), 'PNG'),
      on_white_gray,
      pillow,
    ),
    'png palette': (_encoded(palette, 'PNG'), colors[gray], pillow),
    'png palette with a hole': (
      _encoded(see_through, 'PNG', transparency=hole),
      with_hole,
      pillow,
    ),
    'png 16 bit': (_encoded(Image.fromarray(deep), 'PNG'), gray_rgb, pillow),
    'png 1 bit': (_encoded(Image.fromarray(gray > 99), 'PNG'), (gray_rgb > 99) * 255, pillow),
    'bmp': (_encoded(rgb, 'BMP'), rgb, pillow),
    'gif animated': (
      _encoded(frames[0], 'GIF', save_all=True, append_images=frames[1:]),
      colors[gray],
      pillow,
    ),
    'webp': (_encoded(rgb, 'WEBP', lossless=True), rgb, pillow),
    'webp animated': (
      _encoded(first, 'WEBP', lossless=True, save_all=True, append_images=[second]),
      rgb,
      pillow,
    ),
    'one row': (_encoded(rgb[:1], 'PNG'), rgb[:1], png),
    'one column': (_encoded(rgb[:, :1], 'PNG'), rgb[:, :1], png),
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
  assert image_file.inspect(data) == (image_file.PILLOW, 5, 4)
  np.testing.assert_array_equal(image_file.decode(data), deep >> 8)


@pytest.mark.parametrize(
  ('name', 'options'), [('baseline', {}), ('progressive', {'progressive': True}), ('gray', {})]
)
def test_plain_jpeg_is_tensorflows(name, options):
  due = _smooth()
  if name == 'gray':
    due = np.repeat(due[..., :1], 3, 2)
  data = _encoded(due[..., 0] if name == 'gray' else due, 'JPEG', quality=95, **options)
  assert image_file.inspect(data) == (image_file.JPEG, 40, 56)
  np.testing.assert_allclose(image_file.decode(data).astype(int), due, atol=8)


def test_cmyk_jpeg():
  due = _smooth()
  data = _encoded(Image.fromarray(due).convert('CMYK'), 'JPEG', quality=98)
  assert image_file.inspect(data) == (image_file.PILLOW, 40, 56)
  np.testing.assert_allclose(image_file.decode(data).astype(int), due, atol=12)


class TestTiff:
  """Eight and sixteen bits, one page; whatever is ambiguous is refused in a sentence."""

  def test_eight_and_sixteen_bits(self):
    pixels = _pixels()
    for compression in (None, 'tiff_lzw'):
      data = _encoded(pixels, 'TIFF', compression=compression)
      assert image_file.inspect(data) == (image_file.PILLOW, *pixels.shape[:2])
      np.testing.assert_array_equal(image_file.decode(data), pixels)
    deep = pixels[..., 0].astype(np.uint16) * 257
    data = _encoded(deep, 'TIFF')
    np.testing.assert_array_equal(image_file.decode(data), np.repeat(pixels[..., :1], 3, 2))
    np.testing.assert_array_equal(image_file.decode_numbers(data)[..., 0], deep)

  def test_a_fourth_band_is_not_transparency(self):
    pixels = np.dstack([_pixels(), _pixels(seed=1)[..., 0]])
    data = _encoded(Image.fromarray(pixels, 'RGBX'), 'TIFF')
    np.testing.assert_array_equal(image_file.decode(data), pixels[..., :3])

  @pytest.mark.parametrize('kind', [np.float32, np.int32])
  def test_numbers_without_a_range(self, kind):
    with pytest.raises(image_file.UnreadableImageError, match='32 bits, and which of them'):
      image_file.decode(_encoded(_pixels()[..., 0].astype(kind), 'TIFF'))

  def test_pages(self):
    pages = [Image.fromarray(_pixels(seed=seed)) for seed in range(3)]
    data = _encoded(pages[0], 'TIFF', save_all=True, append_images=pages[1:])
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
  data = _encoded(_smooth(), kind, **options)
  assert image_file.inspect(data) == (image_file.PILLOW, 40, 56)
  np.testing.assert_allclose(image_file.decode(data).astype(int), _smooth(), atol=off)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation(orientation):
  stored = _pixels()
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
  png = _encoded(stored, 'PNG', exif=_exif(orientation))
  np.testing.assert_array_equal(image_file.decode(png), turned)
  assert image_file.inspect(png)[1:] == turned.shape[:2]
  tiff = _encoded(stored, 'TIFF', tiffinfo={274: orientation})
  np.testing.assert_array_equal(image_file.decode(tiff), turned)
  assert image_file.inspect(tiff)[1:] == turned.shape[:2]
  jpeg = _encoded(stored, 'JPEG', exif=_exif(orientation), quality=90)
  kind, height, width = image_file.inspect(jpeg)
  assert kind == (image_file.JPEG if orientation == 1 else image_file.PILLOW)
  assert image_file.decode(jpeg).shape[:2] == (height, width) == turned.shape[:2]


def test_bytes_that_are_no_image():
  jpeg = _encoded(_smooth(), 'JPEG')
  png = _encoded(_pixels(), 'PNG')
  for data in (b'', b'hello, world', b'\xff\xd8\xff', jpeg[:100], b'\x89PNG\r\n\x1a\n'):
    with pytest.raises(image_file.UnreadableImageError):
      image_file.inspect(data)
  for data in (b'', b'hello', jpeg[: len(jpeg) // 2], png[: len(png) // 2]):
    with pytest.raises(image_file.UnreadableImageError):
      image_file.decode(data)
  # A JPEG without an end is not left to TensorFlow, whose partial decoder might not notice.
  assert image_file.inspect(jpeg[:-20])[0] == image_file.PILLOW


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
  jpeg = bytearray(_encoded(_smooth(), 'JPEG'))
  frame = jpeg.index(b'\xff\xc0')
  jpeg[frame + 5 : frame + 9] = b'\xff\xff\xff\xff'  # 65535 x 65535
  gif = bytearray(_encoded(_pixels(), 'GIF'))
  gif[6:10] = b'\xff\xff\xff\xff'
  for data in (_png_header(60000, 60000), _png_header(2**31 - 1, 1), bytes(jpeg), bytes(gif)):
    with pytest.raises(image_file.UnreadableImageError, match='pixels'):
      image_file.inspect(data)
    with pytest.raises(image_file.UnreadableImageError):
      image_file.decode(data)
  assert image_file.inspect(_png_header(13000, 13000)) == (image_file.PNG, 13000, 13000)


def test_the_suffix_does_not_matter(tmp_path):
  for name, kind in (('a.jpg', 'PNG'), ('b.png', 'JPEG'), ('c.gif', 'WEBP'), ('d.webp', 'BMP')):
    (tmp_path / name).write_bytes(_encoded(_smooth(), kind))
  found = folder.from_folder(tmp_path, 'train')
  for data in found.read(np.arange(4))[0]:
    np.testing.assert_allclose(image_file.decode(data).astype(int), _smooth(), atol=30)


# --- folders ------------------------------------------------------------------------------------


def _write(root, *names):
  for i, name in enumerate(names):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in folder.SUFFIXES:
      Image.fromarray(_pixels(8, 8, seed=i)).save(path)
    else:
      path.write_text('text')


def test_folder_with_classes(tmp_path):
  _write(tmp_path, 'cat/b.png', 'cat/deep/er/a.PNG', 'ant/1.jpg', 'ant/2.gif', 'notes.txt')
  _write(tmp_path, 'ant/.hidden.png', '.thumbs/x.png', 'empty/readme.md')
  found = folder.from_folder(tmp_path, 'train')
  assert found.class_names == ('ant', 'cat') and found.num_classes == 2
  np.testing.assert_array_equal(found.labels, [0, 0, 1, 1])
  assert [os.path.relpath(found.locate(i), tmp_path) for i in range(found.size)] == [
    'ant/1.jpg',
    'ant/2.gif',
    'cat/b.png',
    'cat/deep/er/a.PNG',
  ]
  data, labels = found.read(np.array([3, 1]))
  assert data[0] == (tmp_path / 'cat/deep/er/a.PNG').read_bytes()
  np.testing.assert_array_equal(labels, [1, 0])
  assert found.fingerprint == folder.from_folder(tmp_path, 'train').fingerprint
  _write(tmp_path, 'cat/c.png')
  assert found.fingerprint != folder.from_folder(tmp_path, 'train').fingerprint


@pytest.mark.parametrize(
  'names',
  [('a.png', 'b.jpg'), ('one/a.png', 'one/b.png'), ('a.png', 'b.png', 'x/b.png', 'y/c.png')],
)
def test_folder_without_labels(tmp_path, names):
  _write(tmp_path, *names)
  found = folder.from_folder(tmp_path, 'pretrain')
  assert found.size == len(names) and found.num_classes == 0 and found.labels is None
  np.testing.assert_array_equal(found.read(np.arange(2))[1], [-1, -1])
  with pytest.raises(ValueError, match='no test images'):
    folder.from_folder(tmp_path, 'test')


def test_a_stray_image_has_no_label_and_the_others_keep_theirs(tmp_path):
  _write(tmp_path, 'train/a/1.png', 'train/b/2.png', 'train/3.png', 'val/5.png')
  _write(tmp_path, 'val/a/4.png', 'val/a/5.png')
  found = folder.from_folder(tmp_path, 'pretrain')
  assert found.class_names == ('a', 'b') and sorted(found.labels) == [-1, 0, 1]
  assert found.notes[-1].startswith(f'1 of 3 images in {tmp_path}/train lie in no class folder')
  for split, size in (('train', 2), ('test', 2), ('pretrain', 3)):
    opened = datasets.load('folder', split, data_dir=tmp_path)
    assert opened.size == size and opened.num_classes == 2, split
  (tmp_path / 'val/a/4.png').unlink()
  assert folder.from_folder(tmp_path, 'test').num_classes == 0
  # Where most images lie outside, the others are in no classes.
  _write(tmp_path, 'train/6.png')
  found = folder.from_folder(tmp_path, 'train')
  assert found.num_classes == 0 and '2 of 4 images' in found.notes[-1]


@pytest.mark.parametrize('name', ['unlabelled', 'Unlabeled'])
def test_unlabelled_images_beside_labelled_ones(tmp_path, name):
  _write(tmp_path / 'a', 'cat/1.png', 'dog/2.png', f'{name}/deep/3.png', f'{name}/4.png')
  _write(tmp_path / 'b', 'train/cat/1.png', 'train/dog/2.png', f'{name}/x/3.png', f'{name}/y/4.png')
  _write(
    tmp_path / 'c', f'train/{name}/3.png', 'train/cat/1.png', 'train/dog/2.png', 'val/cat/1.png'
  )
  for root, others in (('a', 2), ('b', 2), ('c', 1)):
    found = datasets.load('folder', 'pretrain', data_dir=tmp_path / root)
    assert found.labels.tolist() == [-1] * others + [0, 1] and found.class_names == ('cat', 'dog')
    assert found.locate(others - 1).endswith('4.png' if root == 'b' else '3.png'), root
    assert found.locate(others).endswith('cat/1.png')
    train = datasets.load('folder', 'train', data_dir=tmp_path / root)
    assert train.labels.tolist() == [0, 1]
  assert datasets.load('folder', 'test', data_dir=tmp_path / 'c').size == 1
  # Nothing else: an unlabelled set as any other.
  _write(tmp_path / 'd', f'{name}/1.png', f'{name}/2.png')
  assert datasets.load('folder', 'pretrain', data_dir=tmp_path / 'd').size == 2


def test_fields_of_unlabelled_images(tmp_path):
  _write(tmp_path, *(f'{place}/{kind}/{n}.png' for place in ('train', 'unlabelled')
                     for kind in ('images', 'depth') for n in range(2)))  # fmt: skip
  depth = (Field('depth', 'image'),)
  found = folder.from_folder(tmp_path, 'pretrain', fields=depth)
  (read,) = found.read(np.arange(4), ('depth',))
  expected = [tmp_path / place / 'depth' / f'{n}.png' for place in ('unlabelled', 'train')
              for n in range(2)]  # fmt: skip
  assert list(read) == [path.read_bytes() for path in expected]


def test_unlabelled_images_elsewhere(tmp_path):
  _write(tmp_path / 'a', 'cat/1.png', 'dog/2.png')
  _write(tmp_path / 'more', 'x/3.png', 'y/4.png', 'unlabelled/5.png')
  found = datasets.load('folder', 'pretrain', data_dir=tmp_path / 'a')
  both = datasets.with_unlabelled(found, tmp_path / 'more')
  assert both.labels.tolist() == [-1, -1, -1, 0, 1] and both.class_names == ('cat', 'dog')
  x = np.stack([_pixels(8, 8)] * 3)
  np.savez(tmp_path / 'few.npz', x_train=x, y_train=[0, -1, 1])
  np.savez(tmp_path / 'more.npz', x_train=x[:2], y_train=[0, 1], x_unlabelled=x[:1])
  few = datasets.load('npz', 'pretrain', data_dir=tmp_path / 'few.npz')
  both = datasets.with_unlabelled(few, tmp_path / 'more.npz')
  assert both.read(np.arange(6))[1].tolist() == both.labels.tolist() == [-1] * 3 + [0, -1, 1]
  assert datasets.load('npz', 'train', data_dir=tmp_path / 'few.npz').labels.tolist() == [0, 1]
  for path, message in (('few.npz', 'cannot be joined'), ('none', 'neither a folder')):
    with pytest.raises(ValueError, match=message):
      datasets.with_unlabelled(found, tmp_path / path)


def test_folder_with_splits(tmp_path):
  _write(tmp_path, 'train/ant/1.png', 'train/cat/1.png', 'train/cat/2.png', 'meta/logo.png')
  _write(tmp_path, 'test/1.png', 'val/cat/9.png', 'val/cat/8.png')
  train, test = (folder.from_folder(tmp_path, split) for split in ('train', 'test'))
  np.testing.assert_array_equal(train.labels, [0, 1, 1])
  # test/ has no labels, so val/ is the test set; its classes are numbered as in train/.
  assert test.locate(0) == str(tmp_path / 'val/cat/8.png')
  np.testing.assert_array_equal(test.labels, [1, 1])
  assert test.class_names == train.class_names
  assert folder.from_folder(tmp_path, 'pretrain').size == 3
  _write(tmp_path, 'val/dog/1.png')
  with pytest.raises(ValueError, match="class 'dog', which the train folder has not"):
    folder.from_folder(tmp_path, 'test')


def test_a_class_may_be_called_train(tmp_path):
  _write(tmp_path, 'train/1.png', 'plane/1.png')
  assert folder.from_folder(tmp_path, 'train').class_names == ('plane', 'train')


def test_splits_inside_of_the_classes(tmp_path):
  _write(tmp_path, 'ant/train/1.png', 'ant/Val/2.png', 'cat/Train/deep/1.png', 'cat/val/3.png')
  _write(tmp_path, 'cat/train/9.png')
  train, test = (folder.from_folder(tmp_path, split) for split in ('train', 'test'))
  np.testing.assert_array_equal(train.labels, [0, 1, 1])
  np.testing.assert_array_equal(test.labels, [0, 1])
  assert test.class_names == train.class_names == ('ant', 'cat')
  assert folder.from_folder(tmp_path, 'pretrain').size == 3
  _write(tmp_path, 'dog/1.png')
  with pytest.raises(ValueError, match='such as ant, .* but dog/1.png lies in neither. Arrange'):
    folder.from_folder(tmp_path, 'train')


def test_capital_letters_in_the_names_of_splits(tmp_path):
  _write(tmp_path, 'Train/ant/1.png', 'Train/cat/1.png', 'VAL/cat/1.png')
  assert folder.from_folder(tmp_path, 'pretrain').size == 2
  assert folder.from_folder(tmp_path, 'test').locate(0) == str(tmp_path / 'VAL/cat/1.png')


@pytest.mark.parametrize(
  'inside', ['train/{}/{}.png val/{}/{}.png', '{}/train/{}.png {}/test/{}.png']
)
def test_a_folder_around_the_splits_does_not_count(tmp_path, inside):
  """As an archive unpacks; folders beside it, or images, make it a class or the like."""
  for kind in ('ant', 'cat'):
    _write(tmp_path, *(f'images/all/{path}'.format(kind, 1) for path in inside.split()))
  train, test = (folder.from_folder(tmp_path, split) for split in ('train', 'test'))
  assert train.size == test.size == 2 and train.class_names == test.class_names == ('ant', 'cat')
  _write(tmp_path, 'images/1.png')
  assert folder.from_folder(tmp_path, 'train').labels is None


@pytest.mark.parametrize(
  ('paths', 'message'),
  [
    ('train_set/ant/1.png test-set/cat/1.png', 'train_set and test-set seem to be'),
    ('train2017/1.png val2017/1.png', 'train2017 and val2017 seem to be'),
    ('ant_train/1.png ant_test/2.png cat_train/1.png', 'ant_train and ant_test seem to be'),
    ('ant/my_train/1.png cat/my_val/1.png', 'my_train and my_val seem to be'),
    ('ant/train/1.png cat/val/1.png', 'train and val seem to be'),
    ('val/ant/1.png test/ant/1.png', 'nothing but test images, in test, val: put training'),
  ],
)
def test_splits_that_are_said_otherwise_are_refused(tmp_path, paths, message):
  _write(tmp_path, *paths.split())
  with pytest.raises(ValueError, match=message):
    folder.from_folder(tmp_path, 'train')


def test_classes_may_have_such_words_in_their_names(tmp_path):
  _write(tmp_path, 'bullet_train/1.png', 'test_tube/1.png', 'valley/1.png')
  assert folder.from_folder(tmp_path, 'train').num_classes == 3


def test_what_is_not_read_is_counted_by_kind(tmp_path):
  _write(tmp_path, 'a/1.png', 'b/2.jpg', 'a/x.xcf', 'a/y.XCF', 'b/z.txt', 'README')
  (note,) = folder.from_folder(tmp_path, 'train').notes
  assert note.startswith(f'2 .xcf, 1 .txt and 1 nameless files in {tmp_path} are not read')
  _write(tmp_path, *(f'c/{n}.{kind}' for kind in 'fghij' for n in range(3)))
  assert '2 .xcf' not in folder.from_folder(tmp_path, 'train').notes[0]
  assert ' and 4 other files' in folder.from_folder(tmp_path, 'train').notes[0]


def test_what_runs_have_written_is_no_image(tmp_path):
  """Wherever it lies: `views.png` would be trained on at the next start."""
  _write(tmp_path, 'a/1.png', 'runs/byol/views.png', 'runs/byol/report/filters.png')
  assert folder.from_folder(tmp_path, 'pretrain').size == 3
  for name in ('config.json', 'lock'):
    (tmp_path / 'runs/byol' / name).touch()
  found = folder.from_folder(tmp_path, 'pretrain')
  assert found.size == 1 and '1 directories of runs' in found.notes[0]
  assert folder.from_folder(tmp_path / 'runs/byol', 'pretrain').size == 2, 'it was asked for'


def test_folder_links(tmp_path):
  _write(tmp_path / 'elsewhere', 'x.png')
  _write(tmp_path / 'root', 'a/1.png', 'b/1.png')
  (tmp_path / 'root/a/up').symlink_to(tmp_path / 'root')
  (tmp_path / 'root/a/self').symlink_to(tmp_path / 'root/a/self')
  (tmp_path / 'root/b/more').symlink_to(tmp_path / 'elsewhere')
  (tmp_path / 'root/b/gone.png').symlink_to(tmp_path / 'nowhere.png')
  found = folder.from_folder(tmp_path / 'root', 'train')
  names = [os.path.relpath(found.locate(i), tmp_path / 'root') for i in range(found.size)]
  assert names == ['a/1.png', 'b/1.png', 'b/gone.png', 'b/more/x.png']
  assert found.read(np.array([2]))[0][0] == b''


def test_names_that_are_no_text_or_very_long(tmp_path):
  odd, long = os.fsencode(tmp_path) + b'/\xff\xfe\x80.png', 'x' * 251 + '.png'
  deep = tmp_path
  for _ in range(12):
    deep /= 'y' * 100
  deep.mkdir(parents=True)
  data = _encoded(_pixels(), 'PNG')
  try:
    for path in (odd, tmp_path / long, deep / 'line\nbreak\t.png'):
      with open(path, 'wb') as file:
        file.write(data)
  except OSError:
    pytest.skip('this file system takes no such names')
  log = source.UnreadableLog(tmp_path / 'run')
  found = folder.from_folder(tmp_path, 'train', unreadable=log)
  assert found.size == 3 and len(found.fingerprint) == 12
  for read in found.read(np.arange(3))[0]:
    np.testing.assert_array_equal(image_file.decode(read), _pixels())
  for row in range(3):
    log.add(found.locate(row), 'broken')
  again = source.UnreadableLog(tmp_path / 'run')
  again.add(found.locate(2), 'broken')
  assert len((tmp_path / 'run' / 'unreadable.txt').read_bytes().splitlines()) >= 3


def test_files_that_vanish_or_change_while_a_run_reads_them(tmp_path):
  _write(tmp_path, 'a.png', 'b.png', 'c.png')
  found = folder.from_folder(tmp_path, 'train')
  (tmp_path / 'a.png').unlink()
  (tmp_path / 'b.png').write_bytes(b'')
  Image.fromarray(_pixels(30, 5)).save(tmp_path / 'c.png')  # Another picture, another size.
  gone, empty, other = found.read(np.arange(3))[0]
  assert gone == empty == b''
  assert image_file.inspect(other)[1:] == (30, 5)
  (tmp_path / 'c.png').unlink()
  (tmp_path / 'c.png').mkdir()
  assert found.read(np.array([2]))[0][0] == b''


def test_folder_errors(tmp_path):
  (tmp_path / 'empty').mkdir()
  _write(tmp_path / 'texts', 'a.txt', 'b/c.md')
  _write(tmp_path / 'split', 'train/1.png')
  for path, split, message in (
    ('missing', 'train', 'does not exist'),
    ('texts/a.txt', 'train', 'is a file'),
    ('empty', 'train', 'no image in it: it is empty'),
    ('texts', 'train', 'no image in it: it holds 1 .md and 1 .txt files'),
    ('split', 'test', 'no test images'),
  ):
    with pytest.raises(ValueError, match=message):
      folder.from_folder(tmp_path / path, split)


# --- TFDS ---------------------------------------------------------------------------------------


def _prepare(root, file_format, name='tiny', count=7, labelled=True):
  """A small TFDS set, written by TFDS itself."""
  from byoljax.data.sources import tensorflow_import

  tfds = tensorflow_import.tensorflow_datasets()
  features = {'image': tfds.features.Image(shape=(None, None, 3), encoding_format='png')}
  if labelled:
    features['label'] = tfds.features.ClassLabel(names=['x', 'y', 'z'])

  def examples(first, number):
    for i in range(first, first + number):
      row = {'image': _pixels(8 + i, 9, seed=i), 'label': i % 3}
      yield i, {key: row[key] for key in features}

  tfds.dataset_builders.store_as_tfds_dataset(
    name=name,
    version='1.2.3',
    features=tfds.features.FeaturesDict(features),
    split_datasets={'train': examples(0, count), 'validation': examples(100, 2)},
    data_dir=str(root),
    file_format=file_format,
    disable_shuffling=True,
    download_config=tfds.download.DownloadConfig(num_shards=2),
  )


@pytest.fixture(scope='module')
def tfds_root(tmp_path_factory):
  root = tmp_path_factory.mktemp('tfds')
  _prepare(root, 'tfrecord')
  _prepare(root, 'tfrecord', name='plain', labelled=False)
  return root


def test_tfds_features_are_fields(tmp_path):
  """Encoded maps, tensors, numbers and boxes, as they were stored; damaged ones are replaced."""
  from byoljax.data.sources import tensorflow_import

  features = tensorflow_import.tensorflow_datasets().features
  boxes = {'bbox': features.BBoxFeature(), 'label': features.ClassLabel(num_classes=9)}

  def examples():
    for i in range(5):
      yield (
        i,
        {
          'image': _pixels(8, 9, seed=i),
          'segmentation': np.full((8, 9, 1), i, np.uint8),
          'depth_map': np.full((8, 9), i / 2 if i != 3 else np.nan, np.float16),
          'objects': [{'bbox': features.BBox(0.0, 0.25, 0.5, 1.0), 'label': 4}] * (i % 3),
          'angle': i - 2,
        },
      )

  tensorflow_import.tensorflow_datasets().dataset_builders.store_as_tfds_dataset(
    name='scenes',
    version='1.0.0',
    features=features.FeaturesDict(
      {
        'image': features.Image(shape=(8, 9, 3), encoding_format='png'),
        'segmentation': features.Image(shape=(8, 9, 1), encoding_format='png'),
        'depth_map': features.Tensor(shape=(8, 9), dtype=np.float16),
        'objects': features.Sequence(boxes),
        'angle': features.Scalar(np.int64),
      }
    ),
    split_datasets={'train': examples()},
    data_dir=str(tmp_path),
    disable_shuffling=True,
  )
  wanted = [
    Field('segmentation', 'mask'),
    Field('depth_map', 'map', resample='nearest'),
    Field('objects', 'boxes', 2),
    Field('angle', 'label'),
  ]
  found = tfds_source.from_tfds('scenes', 'train', data_dir=tmp_path, fields=wanted)
  assert [(f.name, f.channels, f.dtype) for f in found.fields] == [
    ('image', 3, 'uint8'), ('segmentation', 1, 'uint8'), ('depth_map', 1, 'float32'),
    ('objects', 2, 'float32'), ('angle', 0, 'int32'),
  ]  # fmt: skip
  names = [field.name for field in wanted]
  for source_ in (found, memory.keep(found).opened()):
    (batch,) = pipeline.eval_batches(source_, image_size=8, batch_size=5, fields=names)
    assert batch['angle'].tolist() == [-2, -1, 0, 1, 2]
    assert (batch['segmentation'] == np.arange(5)[:, None, None, None]).all()
    due = np.array([0, 0.5, 1, np.nan, 2], np.float32)
    np.testing.assert_array_equal(batch['depth_map'][:, 2, 3, 0], due)
    assert (batch['objects'][..., 4] >= 0).sum(1).tolist() == [0, 1, 2, 0, 1]
    # The crop has 7 x 7 pixels from (1, 1) on; float32 rounds to 6e-8.
    moved = [0, 1.25 / 7, 3 / 7, 1, 4]
    np.testing.assert_allclose(batch['objects'][1, 0], moved, rtol=1e-6)
  (batch,) = pipeline.train_batches(
    found, [views.ViewSpec(size=8)], order=order.Order(5, 5, 0), seed=0, start_step=0, stop_step=1,
    fields=names,
  )  # fmt: skip
  assert (batch['segmentation'][0][:, 0, 0, 0] == batch['index']).all()
  for wrong, message in (
    (Field('depth', 'map'), "no feature 'depth'.*did you mean 'depth_map'"),
    (Field('depth_map', 'mask'), 'masks must be whole numbers'),
    (Field('objects', 'map'), 'cannot be of kind map'),
    (Field('objects', 'boxes'), 'at most'),
  ):
    with pytest.raises(ValueError, match=message):
      tfds_source.from_tfds('scenes', 'train', data_dir=tmp_path, fields=[wrong])


@pytest.fixture(scope='module')
def array_record_root(tmp_path_factory):
  pytest.importorskip('array_record', reason='array_record is not installed')
  root = tmp_path_factory.mktemp('array_record')
  _prepare(root, 'array_record')
  return root


@pytest.mark.parametrize('kind', ['tfrecord', 'array_record'])
def test_tfds_gives_what_was_stored(kind, request):
  root = request.getfixturevalue('tfds_root' if kind == 'tfrecord' else 'array_record_root')
  found = tfds_source.from_tfds('tiny', 'train', data_dir=root)
  assert (found.size, found.num_classes, found.class_names) == (7, 3, ('x', 'y', 'z'))
  assert found.encoded and found.image_shape is None
  rows = np.array([6, 0, 3, 0])
  data, labels = found.read(rows)
  np.testing.assert_array_equal(labels, rows % 3)
  for row, file in zip(rows, data, strict=True):
    np.testing.assert_array_equal(image_file.decode(file), _pixels(8 + row, 9, seed=row))
  np.testing.assert_array_equal(found.labels, np.arange(7) % 3)
  # Again, from the cache.
  again = tfds_source.from_tfds('tiny', 'train', data_dir=root)
  np.testing.assert_array_equal(again.labels, np.arange(7) % 3)
  assert again.fingerprint == found.fingerprint


def test_tfds_slices_sums_and_names(tfds_root, monkeypatch):
  part = tfds_source.from_tfds('tiny:1.2.3', 'train[2:5]+validation', data_dir=tfds_root)
  np.testing.assert_array_equal(part.read(np.arange(5))[1], [2, 0, 1, 100 % 3, 101 % 3])
  directory = os.path.join(tfds_root, 'tiny', '1.2.3')
  assert tfds_source.from_tfds(directory, 'train').size == 7
  monkeypatch.setenv('TFDS_DATA_DIR', str(tfds_root))
  plain = tfds_source.from_tfds('plain', 'train')
  assert plain.num_classes == 0 and plain.labels is None
  np.testing.assert_array_equal(plain.read(np.array([1]))[1], [-1])
  for split, size in (('pretrain', 7), ('train', 7), ('test', 2)):
    assert datasets.load('tfds:tiny', split).size == size


def test_tfds_with_several_labels_per_image(tmp_path):
  """As VOC has them: all classes, and those that are not difficult; also through the pipeline."""
  from byoljax.data.sources import tensorflow_import

  tfds = tensorflow_import.tensorflow_datasets()
  classes = tfds.features.ClassLabel(names=['cat', 'dog', 'tree'])
  rows = [([0, 2], [2]), ([1], [1]), ([], []), ([0, 1, 2], [0, 1, 2])]
  tfds.dataset_builders.store_as_tfds_dataset(
    name='pictures',
    version='1.0.0',
    features=tfds.features.FeaturesDict(
      {
        'image': tfds.features.Image(shape=(None, None, 3), encoding_format='png'),
        'labels': tfds.features.Sequence(classes),
        'labels_no_difficult': tfds.features.Sequence(classes),
      }
    ),
    split_datasets={
      'train': [
        (i, {'image': _pixels(8, 8, i), 'labels': shown, 'labels_no_difficult': counting})
        for i, (shown, counting) in enumerate(rows)
      ]
    },
    data_dir=str(tmp_path),
    disable_shuffling=True,
  )
  found = tfds_source.from_tfds('pictures', 'train', data_dir=tmp_path)
  due = np.array([[-1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]])
  assert found.multi_label and found.num_classes == 3 and found.label_shape == (3,)
  assert found.class_names == ('cat', 'dog', 'tree')
  np.testing.assert_array_equal(found.labels, due)
  np.testing.assert_array_equal(found.subset(np.array([2, 0])).labels, due[[2, 0]])
  batches = list(pipeline.eval_batches(found, image_size=8, batch_size=3))
  assert batches[1]['valid'].tolist() == [True, False, False]
  np.testing.assert_array_equal(
    np.concatenate([batch['label'][batch['valid']] for batch in batches]), due
  )


def test_tfds_errors(tfds_root):
  for name, split, options, message in (
    ('cifar10', 'train', {}, r'cifar10 is not prepared in .*download_and_prepare\(\)'),
    ('cifar1', 'train', {}, "did you mean 'cifar10'"),
    ('tinyy', 'train', {}, "did you mean 'tiny'"),
    ('tiny:9.9.9', 'train', {}, 'tiny:9.9.9 is not prepared'),
    ('tiny', 'trian', {}, "it has train, validation; did you mean 'train'"),
    ('tiny', 'train', {'image_key': 'picture'}, "its images are 'image'"),
    (os.path.join(tfds_root, 'nowhere'), 'train', {}, 'not a prepared TFDS version directory'),
  ):
    with pytest.raises(ValueError, match=message):
      tfds_source.from_tfds(name, split, data_dir=tfds_root, **options)


def test_tfds_configurations(tmp_path):
  for config in ('small', 'large'):
    folder_of = tmp_path / 'zoo' / config / '2.0.0'
    folder_of.mkdir(parents=True)
    (folder_of / 'dataset_info.json').write_text('{}')
  for version in ('2.0.0', '10.0.0'):
    folder_of = tmp_path / 'solo' / version
    folder_of.mkdir(parents=True)
    (folder_of / 'dataset_info.json').write_text('{}')
  find = tfds_files.version_directory
  assert find('zoo/small', str(tmp_path)) == str(tmp_path / 'zoo/small/2.0.0')
  assert find('solo', str(tmp_path)) == str(tmp_path / 'solo/10.0.0')
  with pytest.raises(ValueError, match='name one of zoo/large, zoo/small'):
    find('zoo', str(tmp_path))


def test_tfrecord_index(tmp_path, monkeypatch):
  from byoljax.data.sources import tensorflow_import

  tf = tensorflow_import.tensorflow()
  content = [b'', b'a', b'bb' * 5000, b'ccc']
  file = str(tmp_path / 'x.tfrecord')
  with tf.io.TFRecordWriter(file) as writer:
    for record in content:
      writer.write(record)
  counts, read = records.tfrecord_reader([file, file])
  assert counts == [4, 4]
  assert [read(1, i) for i in (3, 2, 1, 0)] == content[::-1]
  # The second time the file is not walked.
  monkeypatch.setattr(records, '_walk_lengths', None)
  assert records.tfrecord_reader([file])[0] == [4]
  monkeypatch.undo()
  # A file that another thread pushes out of the cache stays open while it is read.
  monkeypatch.setattr(records, '_open_file', lambda path, process: records._File(path))
  assert [read(0, i) for i in range(4)] == content
  monkeypatch.undo()
  # A cache that cannot be written is done without.
  (tmp_path / 'blocked').write_text('')
  monkeypatch.setenv('BYOLJAX_DATA', str(tmp_path / 'blocked'))
  assert records.tfrecord_reader([file])[0] == [4]
  with open(file, 'r+b') as raw:
    raw.truncate(os.path.getsize(file) - 3)
  with pytest.raises(ValueError, match='not a whole TFRecord file'):
    records.tfrecord_reader([file])
  with pytest.raises(ValueError, match='is missing'):
    records.tfrecord_reader([file + '.gone'])


# --- names --------------------------------------------------------------------------------------


def test_load_errors(tmp_path):
  for name, split, message in (
    ('cifra10', 'train', "did you mean 'cifar10'"),
    ('tfds:', 'train', 'unknown data set'),
    ('npz', 'trian', "did you mean 'train'"),
    ('npz', 'train', 'needs config.data.dir: the path of the .npz'),
    ('folder', 'train', 'the path of the folder of images'),
  ):
    with pytest.raises(ValueError, match=message):
      datasets.load(name, split)
  with pytest.raises(ValueError, match='does not exist'):
    datasets.load('folder', 'train', data_dir=tmp_path / 'missing')


@pytest.mark.slow
def test_importing_tensorflow_is_silent():
  environment = {k: v for k, v in os.environ.items() if k != 'TF_CPP_MIN_LOG_LEVEL'}
  code = (
    'import jax; from byoljax.data.sources import tensorflow_import as t; tf = t.tensorflow(); '
    't.tensorflow_datasets(); print(tf.config.get_visible_devices("GPU"))'
  )
  found = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    cwd=_ROOT,
    env=environment,
    check=False,
  )
  assert (found.returncode, found.stdout, found.stderr) == (0, '[]\n', '')


def test_real_cifar10():
  directory = os.path.join(tfds_files.default_dir(), 'cifar10')
  if not os.path.isdir(directory):
    pytest.skip(f'cifar10 is not prepared in {directory} (set TFDS_DATA_DIR)')
  train = datasets.load('cifar10', 'train')
  assert (train.size, train.num_classes, train.image_shape) == (50000, 10, (32, 32))
  np.testing.assert_array_equal(np.bincount(train.labels), [5000] * 10)
  data, labels = train.read(np.arange(64))
  np.testing.assert_array_equal(labels, train.labels[:64])
  assert all(image_file.inspect(file)[1:] == (32, 32) for file in data)


def _spoilt(root, tmp_path, change):
  """A copy of the small TFDS set whose first shard was changed, and that shard."""
  shutil.copytree(root, tmp_path / 'sets')
  (shard,) = (tmp_path / 'sets' / 'tiny' / '1.2.3').glob('tiny-train*-00000-of-*')
  raw = bytearray(shard.read_bytes())
  change(raw)
  shard.write_bytes(raw)
  return tmp_path / 'sets', shard


def _garbage(raw):
  raw[12:40] = b'\xff' * 28  # After the first record's length and its checksum.


def _wrong_label(raw):
  place = raw.index(b'label') + len(b'label') + 6  # Past the lengths around an Int64List.
  assert raw[place] == 0
  raw[place] = 9


def test_tfds_records_that_cannot_be_read_are_empty_images(tfds_root, tmp_path):
  """Damaged before, or gone and cut short while a run reads them."""
  root, shard = _spoilt(tfds_root, tmp_path, _garbage)
  found = tfds_source.from_tfds('tiny', 'train', data_dir=root)
  images, labels = found.read(np.arange(7))
  assert images[0] == b'' and all(images[1:])
  np.testing.assert_array_equal(labels, [-1, 1, 2, 0, 1, 2, 0])
  np.testing.assert_array_equal(found.labels, labels)
  counts, _ = records.tfrecord_reader([str(shard)])
  # The labels of damaged records are not kept for later.
  shutil.rmtree(root)
  shutil.copytree(tfds_root, root)
  records._open_file.cache_clear()
  again = tfds_source.from_tfds('tiny', 'train', data_dir=root)
  np.testing.assert_array_equal(again.labels, np.arange(7) % 3)
  os.truncate(shard, 20)
  held = records._open_file.cache_info().currsize
  records._open_file.cache_clear()
  assert held
  assert [image == b'' for image in again.read(np.arange(7))[0]] == [
    row < counts[0] for row in range(7)
  ]
  shard.unlink()
  records._open_file.cache_clear()
  assert again.read(np.array([0, 6]))[0][0] == b''


def test_tfds_labels_out_of_range(tfds_root, tmp_path):
  root, _ = _spoilt(tfds_root, tmp_path, _wrong_label)
  found = tfds_source.from_tfds('tiny', 'train', data_dir=root)
  with pytest.raises(ValueError, match='holds the label 9, but its classes are 0 to 2'):
    found.read(np.arange(7))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda raw: raw.__setitem__(0, 255), 'not a whole TFRecord file'),
    (lambda raw: raw.clear(), 'holds 0 records where'),
    (None, 'is missing: prepare the data set again'),
  ],
)
def test_tfds_files_that_are_damaged_or_missing(tfds_root, tmp_path, change, message):
  root, shard = _spoilt(tfds_root, tmp_path, change or (lambda raw: None))
  if change is None:
    shard.unlink()
  with pytest.raises(ValueError, match=message):
    tfds_source.from_tfds('tiny', 'train', data_dir=root)


def test_some_classes_alone():
  images, labels = np.zeros((6, 8, 8, 3), np.uint8), np.array([0, 2, 1, 2, 0, 2], np.int32)
  images[:] += np.arange(6, dtype=np.uint8)[:, None, None, None]
  whole = arrays.from_arrays(images, labels, name='few', class_names=None, num_classes=4)
  assert whole.of_classes(()) is whole
  part = whole.of_classes((2, 0))
  assert part.size == 5 and part.num_classes == 4 and part.fingerprint != whole.fingerprint
  np.testing.assert_array_equal(part.labels, [0, 2, 2, 0, 2])
  np.testing.assert_array_equal(part.read(np.arange(5))[0][:, 0, 0, 0], [0, 1, 3, 4, 5])
  with pytest.raises(ValueError, match='no image of few is of class 3; classes are 0 to 3'):
    whole.of_classes((1, 3))
  unlabelled = arrays.from_arrays(images, None, name='few', class_names=None, num_classes=0)
  with pytest.raises(ValueError, match='no label, or several'):
    unlabelled.of_classes((1,))
