"""Arrays and .npz files: splits, labels, what is refused, no need of TensorFlow."""

import subprocess
import sys

import numpy as np
import pytest

from byoljax.data.fields import Field
from byoljax.data.sources import (
  arrays,
  npz_file,
  source,
)
from tests.data.sources.example_images import many, random_pixels
from tests.paths import ROOT


def test_npz_splits_labels_and_gray(tmp_path):
  x = random_pixels(9, 6)
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
    ({'x_train': np.zeros((0, 4, 4, 3), np.uint8)}, 'train', 'no image'),
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
    (
      {
        'x_train': np.zeros((2, 4, 4), np.uint8),
        'y_train': np.zeros((2, 5), int),
        'class_names': np.array(list('abcdef')),
      },
      'train',
      'labels of 5 classes, but .* class_names have 6',
    ),
    (
      {
        'x_train': np.zeros((2, 4, 4), np.uint8),
        'y_train': np.array([0, 1]),
        'x_test': np.zeros((2, 4, 4), np.uint8),
        'y_test': np.array(['a', 'b']),
      },
      'train',
      'y_test .*whole numbers',
    ),
    (
      {'x_train': np.full((2, 4, 4, 3), 7.0)},
      'train',
      '--data.range=BLACK,WHITE says which are black and white$',
    ),
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


def test_numbers_of_masks_stay_as_they_are(tmp_path):
  """Masks of 64 bits are read as 32, and those of two members in one type."""
  images, file = np.zeros((2, 4, 4, 3), np.uint8), tmp_path / 'set.npz'
  mask = (Field('mask', 'mask'),)
  for value in (2**31, -(2**31) - 1):
    np.savez(file, x_train=images, mask_train=np.full((2, 4, 4), value))
    with pytest.raises(ValueError, match=f'mask_train has the number {value}, but'):
      arrays.from_npz(file, 'train', mask)
  np.savez(file, x_train=images, mask_train=np.full((2, 4, 4), 2**31 - 1))
  (read,) = arrays.from_npz(file, 'train', mask).read(np.arange(2), ('mask',))
  assert read.dtype == np.int32 and read.min() == 2**31 - 1
  np.savez(file, x_train=images, mask_train=np.zeros((2, 4, 4), np.uint8),
           x_unlabelled=images, mask_unlabelled=np.full((2, 4, 4), 300))  # fmt: skip
  with pytest.raises(ValueError, match='mask_train has type uint8, but int32 is what'):
    arrays.from_npz(file, 'pretrain', mask)


def test_npz_that_is_none(tmp_path):
  (tmp_path / 'text.npz').write_text('hello')
  with pytest.raises(ValueError, match='cannot be read as an .npz'):
    arrays.from_npz(tmp_path / 'text.npz', 'train')
  with pytest.raises(ValueError, match='there is no file'):
    arrays.from_npz(tmp_path / 'missing.npz', 'train')


def test_arrays_never_need_tensorflow(tmp_path):
  """Training, evaluation and the built-in set in a process where TensorFlow cannot be imported."""
  np.savez(tmp_path / 'set.npz', x_train=many(8), y_train=np.arange(8) % 2, x_test=many(3))
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
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=False
  )
  assert found.returncode == 0, found.stderr
  lines = found.stdout.splitlines()
  assert lines[0] == lines[1] == "['epoch', 'image', 'index', 'label'] (4,)"
  assert lines[2] == '[[True, True], [True, False]]'
  assert lines[3] == 'False'
  assert 'TensorFlow is needed' in lines[4]
  assert found.stderr == ''
