"""VOC's and Cityscapes' folders as they are unpacked."""

import numpy as np
from PIL import Image
import pytest

from byoljax.data.batches import whole
from byoljax.data.fields import Field
from byoljax.data.sources import datasets, layouts

MASK = (Field('mask', 'mask'),)


def image(path, values, palette=False):
  path.parent.mkdir(parents=True, exist_ok=True)
  made = Image.fromarray(np.asarray(values, np.uint8))
  if palette:
    made = made.convert('P')
    made.putdata(np.asarray(values, np.uint8).ravel().tolist())
  made.save(path)


def masks(source):
  (group,) = whole.groups(source, multiple=1)
  batches = whole.whole_batches(source, [group], batch_size=1, fields=('mask',))
  return {int(b['index'][0]): b['mask'][0, ..., 0].tolist() for b in batches}


@pytest.fixture
def voc(tmp_path):
  root = tmp_path / 'VOCdevkit' / 'VOC2012'
  lists = root / 'ImageSets' / 'Segmentation'
  lists.mkdir(parents=True)
  (lists / 'train.txt').write_text('a\nb\n')
  (lists / 'val.txt').write_text('c\n\n')
  for number, name in enumerate('abc'):
    image(root / 'JPEGImages' / f'{name}.jpg', np.zeros((2, 3, 3)))
    image(root / 'SegmentationClass' / f'{name}.png', [[number, 20, 255]] * 2, palette=True)
  return root


def test_voc_is_read_by_its_lists_with_palettes_as_numbers(voc):
  for where in (voc, voc.parent):
    train = datasets.load('voc_segmentation', 'train', data_dir=where, fields=MASK)
    test = datasets.load('voc_segmentation', 'test', data_dir=where, fields=MASK)
    assert masks(train) == {0: [[0, 20, 255]] * 2, 1: [[1, 20, 255]] * 2}
    assert masks(test) == {0: [[2, 20, 255]] * 2} and test.locate(0).endswith('c.jpg')
  assert len(datasets.facts('voc_segmentation').mask_classes) == 21
  (voc / 'ImageSets' / 'Segmentation' / 'trainaug.txt').write_text('/JPEGImages/c.jpg /x/c.png\n')
  image(voc / 'SegmentationClassAug' / 'c.png', [[7, 7, 7]] * 2)
  augmented = datasets.load('voc_segmentation', 'train', data_dir=voc, fields=MASK)
  assert masks(augmented) == {0: [[7, 7, 7]] * 2}
  # As a run read its own images, which had other numbers for black and white.
  numbers = datasets.load('voc_segmentation', 'train', data_dir=voc, range_='0,510')
  (batch,) = whole.whole_batches(numbers, whole.groups(numbers, multiple=1), batch_size=1)
  assert batch['image'].dtype == np.float32 and batch['image'].max() <= 0.5


def test_cityscapes_numbers_become_the_classes_of_the_benchmark(tmp_path):
  for split, city in (('train', 'aachen'), ('val', 'ulm')):
    image(tmp_path / 'leftImg8bit' / split / city / 'x_leftImg8bit.png', np.zeros((1, 4, 3)))
    image(tmp_path / 'gtFine' / split / city / 'x_gtFine_labelIds.png', [[7, 33, 0, 24]])
  train = datasets.load('cityscapes', 'train', data_dir=tmp_path, fields=MASK)
  assert masks(train) == {0: [[0, 18, 255, 11]]}
  classes = datasets.facts('cityscapes').mask_classes
  assert len(classes) == 19 and (classes[0], classes[18], classes[11]) == (
    'road', 'bicycle', 'person'
  )  # fmt: skip
  image(tmp_path / 'gtFine' / 'val' / 'ulm' / 'x_gtFine_labelTrainIds.png', [[0, 18, 255, 11]])
  assert masks(datasets.load('cityscapes', 'test', data_dir=tmp_path, fields=MASK)) == {
    0: [[0, 18, 255, 11]]
  }


def test_what_is_not_there_is_told(voc, tmp_path):
  with pytest.raises(ValueError, match='train.txt is not there: .* the folder VOC2012'):
    layouts.from_layout('voc_segmentation', tmp_path, 'train')
  with pytest.raises(ValueError, match='must be the folder of Cityscapes'):
    layouts.from_layout('cityscapes', tmp_path, 'train')
  with pytest.raises(ValueError, match="has no field 'depth': only 'mask:mask'"):
    layouts.from_layout('voc_segmentation', voc, 'train', fields=(Field('depth', 'map'),))
  with pytest.raises(ValueError, match="'cityscapes' needs config.data.dir: the path"):
    datasets.load('cityscapes', 'train')
  (voc / 'SegmentationClass' / 'b.png').unlink()
  with pytest.raises(ValueError, match='b.png is not there, the mask of an image'):
    layouts.from_layout('voc_segmentation', voc, 'train', fields=MASK)
  assert layouts.from_layout('voc_segmentation', voc, 'pretrain').size == 2
