"""PASCAL VOC's lists of images for each class."""

import numpy as np
import pytest

from byoljax.data.sources import datasets, source, voc_labels


def write(root, lists):
  home = root / 'VOC2007'
  (home / 'ImageSets/Main').mkdir(parents=True)
  (home / 'JPEGImages').mkdir()
  for name, text in lists.items():
    (home / 'ImageSets/Main' / f'{name}.txt').write_text(text)
  return home


LISTS = {
  'cat_trainval': '000005  1\n000007 -1\n000009  0\n',
  'aeroplane_trainval': '000005 -1\n000007  1\n000009 -1\n',
  'cat_test': '000001 -1\n',
  'aeroplane_test': '000001  1\n',
  'cat_train': '000005  1\n',
  'trainval': '000005\n000007\n',
}


def test_an_image_has_a_number_for_each_class(tmp_path):
  home = write(tmp_path, LISTS)
  (home / 'JPEGImages/000007.jpg').write_bytes(b'picture')
  found = datasets.load('voc_labels', 'train', data_dir=home)
  assert found.class_names == ('aeroplane', 'cat') and found.multi_label and found.num_classes == 2
  # Difficult objects alone do not count.
  assert found.labels.tolist() == [[0, 1], [1, 0], [0, -1]]
  files, labels = found.read(np.array([1, 2]))
  assert files.tolist() == [b'picture', b''] and labels.tolist() == [[1, 0], [0, -1]]
  assert found.locate(2) == str(home / 'JPEGImages/000009.jpg')
  test = voc_labels.from_voc(home, 'test')
  assert test.labels.tolist() == [[1, 0]] and test.name == 'VOC2007:test'
  assert datasets.facts('voc_labels').metric == 'map11'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'cat_trainval': '000005 1\n'}, 'other images than'),
    ({'cat_trainval': '000005 2\n'}, "line 1: '000005 2' is not an image and 1, -1 or 0"),
    ({'cat_trainval': '\n'}, 'names no image'),
  ],
)
def test_lists_that_are_none(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    voc_labels.from_voc(write(tmp_path, LISTS | changes), 'train')


def test_what_is_not_there(tmp_path):
  with pytest.raises(ValueError, match='must be the folder with JPEGImages and ImageSets'):
    voc_labels.from_voc(tmp_path, 'train')
  with pytest.raises(source.NoSplitError, match='no list of a class for test'):
    voc_labels.from_voc(write(tmp_path, {'cat_trainval': '1 1\n'}), 'test')
