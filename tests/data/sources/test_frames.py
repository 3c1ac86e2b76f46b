"""Folders of clips: which frames are pairs, in which order, with which masks and labels."""

import numpy as np
from PIL import Image
import pytest

from byoljax.data.fields import Field
from byoljax.data.sources import datasets, frames, image_file

SECOND = Field('second', 'image')


def write(root, *names):
  """Frames whose gray value is the number in their name."""
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), int(path.stem.split('_')[-1]), np.uint8)).save(path)


def pairs(found):
  """(first, second) gray values of every example."""
  rows = np.arange(found.size)
  values = [
    [int(image_file.decode(data)[0, 0, 0]) for data in column]
    for column in found.read(rows, ('image', 'second'))
  ]
  return list(zip(*values, strict=True))


def test_pairs_are_in_the_order_of_the_numbers_and_stay_within_a_clip(tmp_path):
  write(tmp_path, 'a/9.png', 'a/10.png', 'a/11.png', 'b/f_001.png', 'b/f_003.png', 'c/77.png')
  found = frames.from_frames(tmp_path, 'train', fields=[SECOND])
  assert pairs(found) == [(9, 10), (10, 11), (1, 3)]
  assert [field.name for field in found.fields] == ['image', 'second']
  assert found.field('second').kind == 'image' and found.field('second').channels == 3
  assert found.num_classes == 0 and found.labels is None, 'clips are no classes'
  assert found.read(np.array([0]))[1] == [-1]
  assert found.locate(2).endswith('f_001.png')
  further = frames.from_frames(tmp_path, 'train', gap=2)
  assert pairs(further) == [(9, 11)] and further.fingerprint != found.fingerprint
  assert pairs(found.subset(np.array([2, 0]))) == [(1, 3), (9, 10)]


def test_classes_are_folders_of_clips_and_splits_have_clips_of_their_own(tmp_path):
  write(tmp_path, *(f'train/{c}/{c}1/{i}.png' for c in ('run', 'walk') for i in (1, 2)))
  write(tmp_path, *(f'test/walk/walk9/{i}.png' for i in (5, 6, 7)))
  train, test = (datasets.load('frames', s, data_dir=tmp_path) for s in ('train', 'test'))
  assert train.class_names == test.class_names == ('run', 'walk')
  np.testing.assert_array_equal(train.labels, [0, 1])
  np.testing.assert_array_equal(test.labels, [1, 1])
  assert pairs(test) == [(5, 6), (6, 7)]


def test_masks_beside_the_frames_are_those_of_the_first_one(tmp_path):
  write(tmp_path, *(f'images/a/{i}.png' for i in (1, 2, 3)))
  for i in (1, 2, 3):
    path = tmp_path / 'moving' / 'a' / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6), i % 2, np.uint8)).save(path)
  fields = [Field('moving', 'mask'), SECOND]
  found = datasets.load('frames', 'pretrain', data_dir=tmp_path, fields=fields)
  assert pairs(found) == [(1, 2), (2, 3)]
  (masks,) = found.read(np.arange(2), ('moving',))
  assert [int(image_file.decode_numbers(mask).max()) for mask in masks] == [1, 0]


def test_names_of_which_one_begins_another_are_in_order(tmp_path):
  (tmp_path / 'a').mkdir()
  for name in ('frame', 'frame1', 'frame10', 'frame2'):
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / 'a' / f'{name}.png')
  source = frames.from_frames(tmp_path, 'train')
  names = [source.locate(row).rpartition('/')[2] for row in range(source.size)]
  assert names == ['frame.png', 'frame1.png', 'frame2.png']


def test_what_is_no_folder_of_clips_is_refused(tmp_path):
  write(tmp_path, 'a/1.png', 'b/2.png')
  with pytest.raises(ValueError, match='no clip of 2 frames.*clip/00001.png'):
    frames.from_frames(tmp_path, 'train')
  with pytest.raises(ValueError, match='frame_gap=0 must be at least 1'):
    frames.from_frames(tmp_path, 'train', gap=0)
  with pytest.raises(ValueError, match="'second' of frames is an image, not a mask"):
    frames.from_frames(tmp_path, 'train', fields=[Field('second', 'mask')])
  with pytest.raises(ValueError, match='config.data.dir: the path of the folder'):
    datasets.load('frames', 'train')
