"""Prepared TFDS sets of images: features, splits, records, and what is damaged."""

import os
import shutil

import numpy as np
import pytest

from byoljax.data.augment import views
from byoljax.data.batches import order, pipeline
from byoljax.data.fields import Field
from byoljax.data.sources import (
  datasets,
  image_file,
  memory,
  records,
  tfds_files,
  tfds_source,
)
from tests.data.sources.example_images import random_pixels

pytestmark = pytest.mark.usefixtures('own_cache')


def _prepare(root, file_format, name='tiny', count=7, labelled=True):
  """A small TFDS set, written by TFDS itself."""
  from byoljax.data.sources import tensorflow_import

  tfds = tensorflow_import.tensorflow_datasets()
  features = {'image': tfds.features.Image(shape=(None, None, 3), encoding_format='png')}
  if labelled:
    features['label'] = tfds.features.ClassLabel(names=['x', 'y', 'z'])

  def examples(first, number):
    for i in range(first, first + number):
      row = {'image': random_pixels(8 + i, 9, seed=i), 'label': i % 3}
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
          'image': random_pixels(8, 9, seed=i),
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
    (Field('objects', 'boxes', 1), 'has 2 boxes in objects, more than the 1 .*objects:boxes:2'),
  ):
    with pytest.raises(ValueError, match=message):
      made = tfds_source.from_tfds('scenes', 'train', data_dir=tmp_path, fields=[wrong])
      made.read(np.arange(5), (wrong.name,))


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
    np.testing.assert_array_equal(image_file.decode(file), random_pixels(8 + row, 9, seed=row))
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
        (i, {'image': random_pixels(8, 8, i), 'labels': shown, 'labels_no_difficult': counting})
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


def test_labels_of_two_features_are_kept_apart(tmp_path):
  (tmp_path / 'dataset_info.json').write_text('{}')
  for key, own in (('label', [7, 9]), ('coarse_label', [1, 2]), ('label', [7, 9])):

    def fetch(rows, names, own=own):
      assert names == ('image', 'label')
      return np.full(len(rows), b'image', object), np.array(own, np.int32)[rows]

    found = tfds_source._all_labels((f'{tmp_path}:train', key), str(tmp_path), (2,), fetch)
    assert found.tolist() == own


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
