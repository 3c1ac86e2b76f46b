"""Folders of images, however they are arranged."""

import os

import numpy as np
from PIL import Image
import pytest

from byoljax.data.fields import Field
from byoljax.data.sources import (
  datasets,
  field_file,
  folder,
  image_file,
  source,
)
from tests.data.sources.example_images import encoded, random_pixels


def _write(root, *names):
  for i, name in enumerate(names):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in folder.SUFFIXES:
      Image.fromarray(random_pixels(8, 8, seed=i)).save(path)
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


def test_fields_that_are_not_asked_for_are_no_images(tmp_path):
  _write(
    tmp_path / 'a',
    'unlabelled/3.png',
    *(
      f'{split}/{kind}/{name}/1.png'
      for split in ('train', 'val')
      for kind in ('images', 'depth')
      for name in ('cat', 'dog')
    ),
  )
  found = datasets.load('folder', 'pretrain', data_dir=tmp_path / 'a')
  assert found.labels.tolist() == [-1, 0, 1] and found.class_names == ('cat', 'dog')
  assert any('beside it, depth has a file for each' in note for note in found.notes)
  for split in ('train', 'test'):  # As evaluations of a run with fields open them.
    found = datasets.load('folder', split, data_dir=tmp_path / 'a')
    assert (found.size, found.class_names) == (2, ('cat', 'dog'))
  _write(
    tmp_path / 'b', *(f'{kind}/clip/{n}.png' for kind in ('images', 'moving') for n in range(3))
  )
  assert datasets.load('frames', 'train', data_dir=tmp_path / 'b').size == 2


def test_a_class_may_be_called_images(tmp_path):
  """Where files of classes have equal names, and where images without labels lie beside."""
  classes = 'images/1.png', 'images/2.png', 'images/3.png', 'drawings/1.png', 'drawings/2.png'
  _write(tmp_path / 'a', *classes)
  _write(tmp_path / 'b', *classes, *(f'unlabelled/{number}.png' for number in range(4)))
  for folder_, every in (('a', 5), ('b', 9)):
    found = datasets.load('folder', 'pretrain', data_dir=tmp_path / folder_)
    assert (found.size, found.class_names) == (every, ('drawings', 'images'))


def test_test_images_need_no_folder_for_images(tmp_path):
  _write(
    tmp_path,
    *(f'train/{kind}/{name}/1.png' for kind in ('images', 'depth') for name in ('cat', 'dog')),
    'val/cat/2.png',
  )
  found = datasets.load('folder', 'test', data_dir=tmp_path)
  assert (found.size, found.class_names) == (1, ('cat', 'dog'))


def test_unlabelled_images_elsewhere(tmp_path):
  _write(tmp_path / 'a', 'cat/1.png', 'dog/2.png')
  _write(tmp_path / 'more', 'x/3.png', 'y/4.png', 'unlabelled/5.png')
  found = datasets.load('folder', 'pretrain', data_dir=tmp_path / 'a')
  both = datasets.with_unlabelled(found, tmp_path / 'more')
  assert both.labels.tolist() == [-1, -1, -1, 0, 1] and both.class_names == ('cat', 'dog')
  x = np.stack([random_pixels(8, 8)] * 3)
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
  data = encoded(random_pixels(), 'PNG')
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
    np.testing.assert_array_equal(image_file.decode(read), random_pixels())
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
  Image.fromarray(random_pixels(30, 5)).save(tmp_path / 'c.png')  # Another picture, another size.
  gone, empty, other = found.read(np.arange(3))[0]
  assert gone == empty == b''
  assert image_file.inspect(other)[1:] == (30, 5)
  (tmp_path / 'c.png').unlink()
  (tmp_path / 'c.png').mkdir()
  assert found.read(np.array([2]))[0][0] == b''


def test_numbers_of_a_mask_in_a_file_are_never_cut_off(tmp_path):
  for part in ('images', 'mask'):
    (tmp_path / part).mkdir()
  for name, number in (('a', 2**31 - 1), ('b', 2**31)):
    Image.new('RGB', (3, 2)).save(tmp_path / 'images' / f'{name}.png')
    np.save(tmp_path / 'mask' / f'{name}.npy', np.full((2, 3), number))
  found = folder.from_folder(tmp_path, 'train', fields=(Field('mask', 'mask'),))
  first, second = found.read(np.arange(2), ('mask',))[0]
  field = found.field('mask')
  assert field_file.decode(field, first, (2, 3)).max() == 2**31 - 1
  with pytest.raises(field_file.UnreadableImageError, match='mask has the number 2147483648'):
    field_file.decode(field, second, (2, 3))


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
