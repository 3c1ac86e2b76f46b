"""Images of more bits and bands: exact from the file to the batch, and the same everywhere."""

import io
import struct
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from byoljax.data.augment import views
from byoljax.data.batches import order, pipeline
from byoljax.data.fields import IMAGE, Field
from byoljax.data.sources import (
  arrays,
  datasets,
  folder,
  given,
  image_file,
  image_header,
  numbers_file,
  objects,
  pixels,
)
from byoljax.data.sources.image_file import UnreadableImageError
from byoljax.encoders.encoder import Preprocessing, random_encoder

DEEP = np.random.default_rng(0).integers(0, 65536, (6, 5, 3)).astype(np.uint16)
SHORT = {1: 'B', 2: 'H'}


def _tiff(array, photometric=1, extra=(), order='<', planar=1):
  """An uncompressed TIFF of one page, by hand."""
  height, width, bands = array.shape
  kind = {'u': 1, 'i': 2, 'f': 3}[array.dtype.kind]
  body = np.moveaxis(array, -1, 0) if planar == 2 else array
  body = np.ascontiguousarray(body).astype(array.dtype.newbyteorder(order)).tobytes()
  tags = {256: [width], 257: [height], 258: [array.dtype.itemsize * 8] * bands, 259: [1],
          262: [photometric], 273: [0], 277: [bands], 278: [height], 279: [len(body)],
          284: [planar], 339: [kind] * bands}  # fmt: skip
  tags |= {338: list(extra)} if extra else {}
  start = 8 + 2 + 12 * len(tags) + 4
  blob, entries = b'', b''
  place = start + sum(2 * len(v) for v in tags.values() if len(v) > 2)
  tags[273] = [place]
  for tag, values in sorted(tags.items()):
    raw = struct.pack(f'{order}{len(values)}H', *values)
    if len(raw) > 4:
      blob, raw = blob + raw, struct.pack(f'{order}I', start + len(blob))
    entries += struct.pack(f'{order}HHI', tag, 3, len(values)) + raw.ljust(4, b'\0')
  head = (b'II' if order == '<' else b'MM') + struct.pack(f'{order}HI', 42, 8)
  return head + struct.pack(f'{order}H', len(tags)) + entries + bytes(4) + blob + body


def _png(array):
  """A PNG of 16 bits, by hand: gray, with alpha, RGB or RGBA."""
  height, width, bands = array.shape
  color = {1: 0, 2: 4, 3: 2, 4: 6}[bands]

  def chunk(name, body):
    return struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body))

  rows = b''.join(b'\0' + row.tobytes() for row in array.astype('>u2'))
  head = struct.pack('>IIBBBBB', width, height, 16, color, 0, 0, 0)
  made = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head)
  return made + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


def _npy(array):
  file = io.BytesIO()
  np.save(file, array)
  return file.getvalue()


def _saved(array, kind):
  file = io.BytesIO()
  Image.fromarray(array).save(file, kind)
  return file.getvalue()


class TestEveryBit:
  """What is read is what was written."""

  @pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'JPEG2000', 'PPM'])
  def test_gray_of_16_bits(self, kind):
    found = numbers_file.read(_saved(DEEP[..., 0], kind))
    np.testing.assert_array_equal(found.array, np.repeat(DEEP[..., :1], 3, 2))
    assert (found.black, found.white, found.plain) == (0, 65535, False)

  @pytest.mark.parametrize('write', [_png, _tiff, _npy])
  def test_colors_of_16_bits(self, write):
    found = numbers_file.read(write(DEEP))
    np.testing.assert_array_equal(found.array, DEEP)
    assert numbers_file.header(write(DEEP))[:3] == (6, 5, 3)

  def test_bands(self):
    bands = np.concatenate([DEEP, DEEP[..., :2]], -1)
    for options in ({}, {'planar': 2}, {'order': '>'}):
      data = _tiff(bands, extra=(0, 0, 0, 0), **options)
      np.testing.assert_array_equal(numbers_file.read(data).array, bands)
    # Eight bits, too: a band is no transparency, whatever its place.
    near = (bands[..., :4] >> 8).astype(np.uint8)
    np.testing.assert_array_equal(numbers_file.read(_tiff(near, 2, (0,))).array, near)

  @pytest.mark.parametrize('write', [lambda x: _tiff(x, 2, (2,)), _png])
  def test_transparency_where_the_file_says_so(self, write):
    solid = np.full((6, 5, 1), 65535, np.uint16)
    for alpha, due in ((solid, DEEP), (0 * solid, 0 * DEEP + 65535)):
      data = write(np.concatenate([DEEP, alpha], -1))
      np.testing.assert_array_equal(numbers_file.read(data).array, due)

  def test_colors_that_are_stored_times_the_transparency(self):
    third = np.full((6, 5, 1), 21845, np.uint16)  # Of 65,535.
    dim = (DEEP // 3).astype(np.uint16)
    found = numbers_file.read(_tiff(np.concatenate([dim, third], -1), 2, (1,)))
    np.testing.assert_array_equal(found.array, dim + 43690)
    found = numbers_file.read(_tiff(np.concatenate([DEEP, third], -1), 2, (1,)))
    np.testing.assert_array_equal(found.array, np.minimum(DEEP.astype(int) + 43690, 65535))
    found = numbers_file.read(_tiff(np.concatenate([DEEP, third], -1), 2, (2,)))
    np.testing.assert_allclose(found.array, DEEP / 3 + 43690, atol=0.5)

  def test_white_is_zero(self):
    found = numbers_file.read(_tiff(DEEP[..., :1], photometric=0))
    np.testing.assert_array_equal(found.array[..., 0], 65535 - DEEP[..., 0])
    solid = np.full((6, 5, 1), 65535, np.uint16)
    for alpha, due in ((solid, 65535 - DEEP[..., :1]), (0 * solid, solid)):
      data = _tiff(np.concatenate([DEEP[..., :1], alpha], -1), photometric=0, extra=(2,))
      np.testing.assert_array_equal(numbers_file.read(data).array, np.repeat(due, 3, 2))

  @pytest.mark.parametrize('kind', ['int16', 'int32', 'uint32', 'float32'])
  def test_numbers_without_a_range_need_one(self, kind):
    array = (DEEP[..., :1].astype(np.int64) % 4000 - 1000 * (kind[0] != 'u')).astype(kind)
    found = numbers_file.read(_tiff(array))
    np.testing.assert_array_equal(found.array[..., :1], array)
    with pytest.raises(UnreadableImageError, match=r'which of them are black.*--data.range=-?\d'):
      pixels.to_unit(found, '')
    scaled = pixels.to_unit(found, '-1000,3000')
    due = np.clip((array.astype(float) + 1000) / 4000, 0, 1)
    np.testing.assert_allclose(scaled[..., :1], due, atol=1e-7)  # half a unit of float32
    stretched = pixels.to_unit(found, 'stretch')
    assert (stretched.min(), stretched.max()) == (0, 1)

  def test_what_is_refused(self):
    pages = [Image.fromarray(DEEP[..., c]) for c in range(3)]
    file = io.BytesIO()
    pages[0].save(file, 'TIFF', save_all=True, append_images=pages[1:])
    for data, message in (
      (file.getvalue(), 'a TIFF of 3 pages'),
      (_tiff(DEEP)[:7], 'header of the TIFF is damaged'),
      (_npy(np.zeros((2, 3, 4, 5))), r'float64 \[2, 3, 4, 5\]: an image is'),
      (_npy(np.zeros((3, 40, 50))), 'channels first'),
      (_npy(np.zeros((2, 2)))[:90], 'a damaged .npy file'),
      (b'nothing', 'not an image'),
    ):
      with pytest.raises(UnreadableImageError, match=message):
        numbers_file.read(data)
    with pytest.raises(UnreadableImageError, match='not finite'):
      pixels.to_unit(numbers_file.read(_npy(np.full((4, 4), np.nan))), '0,1')

  def test_libraries_that_are_not_there_are_named(self, monkeypatch, tmp_path):
    for name in ('tifffile', 'pydicom', 'pillow_heif'):
      monkeypatch.setitem(sys.modules, name, None)
    squeezed = bytearray(_tiff(np.concatenate([DEEP, DEEP], -1)))
    squeezed[squeezed.index(struct.pack('<HHI', 259, 3, 1)) + 8] = 5  # LZW, it says
    dicom = bytes(128) + b'DICM' + bytes(40)
    image_file._heif.cache_clear()
    for data, name in ((bytes(squeezed), 'tiff'), (dicom, 'dicom')):
      with pytest.raises(UnreadableImageError, match=rf"pip install 'byoljax\[{name}\]'"):
        numbers_file.read(data)
    with pytest.raises(UnreadableImageError, match=r"pip install 'byoljax\[heic\]'"):
      image_file.inspect(b'\0\0\0\x18ftypheic' + bytes(40))
    (tmp_path / 'one.dcm').write_bytes(dicom)
    with pytest.raises(ValueError, match=r'one.dcm: a DICOM file is read by pydicom'):
      folder.from_folder(tmp_path, 'pretrain')


@pytest.mark.parametrize('inverted', [False, True])
def test_dicom(inverted):
  pydicom = pytest.importorskip('pydicom')
  made = pydicom.Dataset()
  made.file_meta = pydicom.dataset.FileMetaDataset()
  made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
  made.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
  made.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
  made.Rows, made.Columns, made.SamplesPerPixel = 6, 5, 1
  made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
  made.PhotometricInterpretation = 'MONOCHROME1' if inverted else 'MONOCHROME2'
  made.RescaleSlope, made.RescaleIntercept = 2, -1000
  made.WindowCenter, made.WindowWidth = 100, 400
  raw = DEEP[..., 0] % 4096
  made.PixelData = raw.tobytes()
  file = io.BytesIO()
  pydicom.dcmwrite(file, made, enforce_file_format=True)
  found = numbers_file.read(file.getvalue())
  np.testing.assert_array_equal(found.array[..., 0], raw * 2.0 - 1000)
  due = np.clip((raw * 2.0 - 1000 + 100) / 400, 0, 1)
  shown = pixels.to_unit(found, '')[..., 0]
  np.testing.assert_allclose(shown, 1 - due if inverted else due, atol=1e-6)


def test_heic():
  heif = pytest.importorskip('pillow_heif')
  image_file._heif.cache_clear()
  heif.register_heif_opener()
  data = _saved(np.full((40, 56, 3), 120, np.uint8), 'HEIF')
  assert image_file.inspect(data) == (image_header.PILLOW, 40, 56)
  assert abs(image_file.decode(data).astype(int) - 120).max() <= 6


def _write(home, images):
  for number, image in enumerate(images):
    (home / f'{number:02d}.tif').write_bytes(_tiff(image, 1, (0,) * (image.shape[2] - 1)))


class TestFolder:
  """A folder of such images is a source of numbers, all the way."""

  def test_field_and_values(self, tmp_path):
    images = np.random.default_rng(1).integers(0, 65536, (4, 16, 16, 5)).astype(np.uint16)
    _write(tmp_path, images)
    (tmp_path / '02.tif').write_bytes(_tiff(images[2, ..., :4], extra=(0, 0, 0)))
    source = folder.from_folder(tmp_path, 'pretrain')
    image = source.field('image')
    assert (image.channels, image.dtype, source.notes) == (5, 'float32', ())
    (batch,) = pipeline.eval_batches(source, image_size=16, batch_size=4)
    assert list(batch['valid']) == [True, True, False, True]
    # An image of the right size is not resampled: TensorFlow's kernel adds zeros.
    np.testing.assert_allclose(batch['image'][[0, 1, 3]], images[[0, 1, 3]] / 65535.0, atol=1e-6)
    assert list(source.unreadable.names.values()) == ['it has 4 bands, not 5']

  def test_files_and_arrays_give_the_same_views(self, tmp_path):
    images = np.random.default_rng(2).integers(0, 4096, (6, 24, 20, 3)).astype(np.uint16)
    _write(tmp_path, images)
    np.savez(tmp_path / 'set.npz', x_train=images)
    specs = [views.ViewSpec(size=8)]
    which = order.Order(6, batch_size=6, seed=0)
    made = []
    for name, where in (('folder', tmp_path), ('npz', tmp_path / 'set.npz')):
      source = datasets.load(name, 'pretrain', data_dir=where, range_='0,4095')
      batches = pipeline.train_batches(
        source, specs, order=which, seed=0, start_step=0, stop_step=1
      )
      batch = next(iter(batches))
      made.append(batch)
      batches.close()
    from byoljax.data.augment import device

    augment = jax.jit(device.make_augment(specs, seed=0, mean=(0.5,), std=(0.5,)))
    found = [np.asarray(augment(batch)['views'][0]) for batch in made]
    # Two resamplings, of TensorFlow and of XLA, in float32; in 8 bits they would be 1/255 apart.
    np.testing.assert_allclose(found[0], found[1], atol=2e-5)
    assert len(np.unique(made[0]['views'][0])) > 600

  def test_further_images_of_a_folder_have_their_own_bits(self, tmp_path):
    """As numbers, by the range, from the file into the views, beside images of 8 bits."""
    (tmp_path / 'images').mkdir()
    (tmp_path / 'second').mkdir()
    for i in range(3):
      flat = np.full((12, 12), 1000 * (i + 1), np.uint16)
      Image.fromarray((flat >> 8).astype(np.uint8)).save(tmp_path / 'images' / f'{i}.png')
      Image.fromarray(flat).save(tmp_path / 'second' / f'{i}.png')
    further = Field('second', 'image')
    source = folder.from_folder(tmp_path, 'pretrain', fields=[further])
    assert source.field('image') == IMAGE
    assert source.field('second') == Field('second', 'image', 3, dtype='float32')
    batches = pipeline.train_batches(
      source,
      [views.ViewSpec(size=8), views.ViewSpec(size=8, field='second', geometry_of=0)],
      order=order.Order(3, batch_size=3, seed=0), seed=0, start_step=0, stop_step=1,
      fields=('second',),
    )  # fmt: skip
    batch = next(iter(batches))
    batches.close()
    wanted = np.broadcast_to(
      1000 * (np.asarray(batch['index']) + 1)[:, None, None, None] / 65535.0, (3, 8, 8, 3)
    )
    for found in (batch['views'][1], batch['second'][1]):
      np.testing.assert_allclose(found, wanted, atol=1e-6)  # in 8 bits: by up to 1/255
    ranged = folder.from_folder(tmp_path, 'pretrain', fields=[further], range_='0,4095')
    assert ranged.field('second').range == '0,4095'
    with pytest.raises(ValueError, match='3 channels, but 1 were asked for'):
      folder.from_folder(tmp_path, 'pretrain', fields=[Field('second', 'image', 1)])

  def test_eight_bits_stay_eight(self, tmp_path):
    Image.fromarray((DEEP >> 8).astype(np.uint8)).save(tmp_path / 'a.png')
    assert folder.from_folder(tmp_path, 'pretrain').field('image') == IMAGE
    forced = folder.from_folder(tmp_path, 'pretrain', range_='file').field('image')
    assert (forced.dtype, forced.range, forced.channels) == ('float32', 'file', 3)

  def test_arrays_are_images_where_nothing_else_is(self, tmp_path):
    np.save(tmp_path / 'a.npy', np.linspace(0, 1, 48).reshape(4, 4, 3))
    assert folder.from_folder(tmp_path, 'pretrain').field('image').dtype == 'float32'
    Image.fromarray((DEEP >> 8).astype(np.uint8)).save(tmp_path / 'a.png')
    found = folder.from_folder(tmp_path, 'pretrain')
    assert found.size == 1 and '1 .npy file in' in found.notes[0]

  def test_ranges_that_do_not_do(self, tmp_path):
    np.save(tmp_path / 'a.npy', np.arange(16.0).reshape(4, 4))
    with pytest.raises(ValueError, match=r'a.npy: its numbers \(float64\) go from 0 to 15'):
      folder.from_folder(tmp_path, 'pretrain')
    for text in ('wide', '3,1', '1', '0,inf'):
      with pytest.raises(ValueError, match=rf"data.range='{text}' is none of 'file', 'stretch'"):
        folder.from_folder(tmp_path, 'pretrain', range_=text)


class TestFromPython:
  """Arrays and encoders take the same numbers."""

  def test_arrays(self):
    assert objects.as_source(DEEP[None]).field('image').dtype == 'float32'
    (read,) = objects.as_source(DEEP[None]).read(np.array([0]), ('image',))
    np.testing.assert_allclose(read[0], DEEP / 65535.0, atol=1e-7)
    floats = DEEP[None] / 65535.0
    (read,) = objects.as_source(floats).read(np.array([0]), ('image',))
    np.testing.assert_array_equal(read, floats.astype(np.float32))
    ragged = objects.as_source([floats[0], floats[0, :4]])
    (batch,) = pipeline.eval_batches(ragged, image_size=4, batch_size=2)
    assert batch['image'].dtype == np.float32 and batch['valid'].all()

  @pytest.mark.parametrize('many', [np.asarray, list, lambda x: [*x, x[0, :4]]])
  def test_a_range_holds_for_what_is_given(self, many):
    deep = (np.arange(2 * 8 * 8 * 2).reshape(2, 8, 8, 2) * 16 - 100).astype(np.int32)
    wanted = np.clip(deep / 2000, 0, 1).astype(np.float32)
    kept = given.give(many(deep), range_='0,2000')
    for source in (
      objects.as_source(many(deep), range_='0,2000'),
      datasets.load(kept.name, 'pretrain', range_='0,2000'),
    ):
      (batch,) = pipeline.eval_batches(source.subset([0, 1]), image_size=8, batch_size=2)
      np.testing.assert_allclose(batch['image'], wanted, atol=1e-6)  # float32 rounds by 6e-8.
    (batch,) = pipeline.eval_batches(
      datasets.load(kept.name, 'pretrain', range_='-100,4080').subset([0, 1]),
      image_size=8,
      batch_size=2,
    )
    assert batch['image'].min() == 0 and batch['image'].max() < 1
    with pytest.raises(ValueError, match='int32 and numbers from -100'):
      datasets.load(kept.name, 'pretrain')

  def test_npz_of_floats_and_integers(self):
    with pytest.raises(ValueError, match='int16 and numbers from -5 to -5.*--data.range=BLACK,'):
      arrays.from_arrays(np.full((2, 4, 4, 3), -5, np.int16))
    made = arrays.from_arrays(np.full((2, 4, 4, 3), -5, np.int16), range_='-10,10')
    (read,) = made.read(np.array([1]), ('image',))
    assert read.dtype == np.float32 and np.all(read == 0.25)

  def test_an_encoder_takes_the_numbers_of_its_files(self):
    images = DEEP[None, :5, :, :] % 4096
    plain, deep = (
      random_encoder({'name': 'pixels'}, Preprocessing((0.5,) * 3, (0.5,) * 3, 5, range_), 0)
      for range_ in ('', '0,4095')
    )
    with pytest.raises(ValueError, match='type uint16'):
      plain(images)
    due = plain((images / 4095.0).astype(np.float32))
    np.testing.assert_allclose(deep(images), due, atol=1e-6)
    np.testing.assert_allclose(deep(jnp.asarray(images.astype(np.int32))), due, atol=1e-6)


def test_what_people_see():
  assert pixels.shown(np.full((2, 4, 4, 5), 0.5, np.float32)).shape == (2, 4, 4, 3)
  assert np.all(pixels.shown(np.full((4, 4, 1), 0.5, np.float32)) == 128)
