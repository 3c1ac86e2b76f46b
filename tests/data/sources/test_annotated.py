"""VOC's and COCO's annotations: what is read, where it is, and one sentence for mistakes."""

import json
import tracemalloc

import numpy as np
from PIL import Image
import pytest

from byoljax.data.fields import Field
from byoljax.data.sources import annotated, coco_boxes, datasets, image_file, voc_boxes
from byoljax.data.sources.source import NoSplitError, fingerprint
from byoljax.evals.detection import CROWD, DIFFICULT
from byoljax.protocols import detect, found_boxes


def picture(path, width=40, height=20):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)


def xml(name, objects, size='<size><width>40</width><height>20</height></size>'):
  def one(kind, box, difficult):
    sides = zip(('xmin', 'ymin', 'xmax', 'ymax'), box, strict=True)
    corners = ''.join(f'<{side}>{value}</{side}>' for side, value in sides)
    return (f'<object><name>{kind}</name><difficult>{difficult}</difficult>'
            f'<bndbox>{corners}</bndbox></object>')  # fmt: skip

  inside = ''.join(one(*each) for each in objects)
  return f'<annotation><filename>{name}.jpg</filename>{size}{inside}</annotation>'


OBJECTS = {
  'a': [('dog', (1, 1, 40, 20), 0), ('cat', (11, 6, 20, 10), 1)],
  'b': [],
  'c': [('cat', (1, 1, 10, 10), 0)],
}


def write_voc(root, objects=OBJECTS, **changes):
  (root / 'Annotations').mkdir(parents=True)
  for name, each in objects.items():
    picture(root / 'JPEGImages' / f'{name}.jpg')
    (root / 'Annotations' / f'{name}.xml').write_text(xml(name, each, **changes))
  lists = root / 'ImageSets' / 'Main'
  lists.mkdir(parents=True)
  (lists / 'train.txt').write_text('a\nb\n')
  (lists / 'val.txt').write_text('c\n')


def test_voc(tmp_path):
  write_voc(tmp_path / 'VOC2012')
  for home in (tmp_path, tmp_path / 'VOC2012'):
    train = voc_boxes.from_voc(home, 'train')
    assert train.class_names == ('cat', 'dog') and train.size == 2
  truth = detect.objects(train, [0, 1])
  # As a run read its own images, which had other numbers for black and white.
  numbers = voc_boxes.from_voc(home, 'train', range_='0,180')
  assert [size for _, size in detect.objects(numbers, [0, 1])] == [(20, 40)] * 2
  (image, _) = found_boxes.pictures(numbers, np.arange(2)).values()
  # 90 of 180, but for JPEG.
  np.testing.assert_allclose(image, 0.5, atol=0.01)
  assert found_boxes.sizes(numbers, np.arange(2)) == {0: (20, 40), 1: (20, 40)}
  (first, size), (second, _) = truth
  assert size == (20, 40)
  # From 1, the last pixel included: all of it, and 10 x 5 pixels from (10, 5) on.
  np.testing.assert_allclose(first.boxes, [[0, 0, 20, 40], [5, 10, 10, 20]], atol=1e-5)
  assert first.classes.tolist() == [1, 0] and first.kinds.tolist() == [0, DIFFICULT]
  np.testing.assert_allclose(first.sizes, [800, 50])
  assert second.boxes.shape == (0, 4), 'an image without objects'
  assert train.labels is not None and train.labels.tolist() == [[-1, 1], [0, 0]]
  test = datasets.load('voc_boxes', 'test', data_dir=tmp_path, fields=(Field('boxes', 'boxes'),))
  assert test.size == 1 and detect.class_names(train, test) == ('cat', 'dog')
  assert test.fingerprint != train.fingerprint


def test_the_fingerprint_takes_the_boxes_image_by_image():
  """All are filled up to the most that an image has: 0.1 MB for each here, 2 MB in all."""
  box = np.array([[0.0, 0.0, 1.0, 1.0]])

  def photo(number, count):
    boxes = np.repeat(box, count, axis=0)
    return annotated.Photo(
      f'{number}.jpg', boxes, ('cat',) * count, np.zeros(count, int), np.ones(count), (1, 1)
    )

  def made(photos):
    return annotated.as_source('few', photos, ('cat',), None, '').fingerprint

  whole = np.array([[[0, 0, 1, 1, 0], [0, 0, 1, 1, 0]], [[0, 0, 1, 1, 0], [0, 0, 0, 0, -1]]], 'f4')
  due = fingerprint(('cat',), '0.jpg\n1.jpg', whole.tobytes())
  assert made([photo(0, 2), photo(1, 1)]) == due
  photos = [photo(number, 1) for number in range(20)] + [photo(20, 5000)]
  tracemalloc.start()
  try:
    made(photos)
    assert tracemalloc.get_traced_memory()[1] < 1e6
  finally:
    tracemalloc.stop()


@pytest.mark.parametrize('orientation', [1, 5, 6, 7, 8])
@pytest.mark.parametrize('stated', ['stored', 'upright'])
def test_boxes_are_where_the_upright_image_shows_them(orientation, stated, tmp_path):
  """Annotations are of the image as a camera stored it, or as it is seen: their size tells."""
  pixels = np.zeros((20, 40, 3), np.uint8)
  pixels[2:10, 24:32] = 255
  seen = pixels if stated == 'stored' else image_file.upright(pixels, orientation)
  (rows, columns), (height, width) = np.nonzero(seen[:, :, 0]), seen.shape[:2]
  box = (columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1)
  root, exif = tmp_path / 'VOC2012', Image.Exif()
  size = f'<size><width>{width}</width><height>{height}</height></size>'
  write_voc(root, {name: [('dog', box, 0)] for name in 'abc'}, size=size)
  exif[274] = orientation
  Image.fromarray(pixels).save(root / 'JPEGImages/a.jpg', exif=exif, quality=95)
  data, boxes = voc_boxes.from_voc(root, 'train').fetch(np.arange(1), ('image', 'boxes'))
  image = image_file.decode(data[0])
  sides = boxes[0][0, :4] * [*image.shape[:2], *image.shape[:2]]
  top, left, bottom, right = np.round(sides).astype(int)
  inside = np.zeros(image.shape[:2], bool)
  inside[top:bottom, left:right] = True
  np.testing.assert_array_equal(image.mean(-1) > 128, inside)


def test_voc_2007_is_tested_on_its_test_list(tmp_path):
  write_voc(tmp_path)
  lists = tmp_path / 'ImageSets' / 'Main'
  (lists / 'trainval.txt').write_text('a\nc\n')
  (lists / 'test.txt').write_text('b\n')
  assert voc_boxes.from_voc(tmp_path, 'train').size == 2
  assert voc_boxes.from_voc(tmp_path, 'test').locate(0).endswith('b.jpg')
  for file in lists.iterdir():
    file.unlink()
  assert voc_boxes.from_voc(tmp_path, 'train').size == 3
  with pytest.raises(NoSplitError, match='no test images'):
    voc_boxes.from_voc(tmp_path, 'test')


@pytest.mark.parametrize(
  ('objects', 'changes', 'message'),
  [
    ({'a': [('dog', (1, 1, 60, 20), 0)]}, {}, r'box from \(0, 0\) to \(60, 20\).* 40 x 20 pixels'),
    ({'a': [('dog', (9, 1, 5, 20), 0)]}, {}, r'a\.xml has a box from'),
    ({'a': [('dog', (1, 'x', 5, 20), 0)]}, {}, r"'x', which is no number, in <bndbox><ymin>"),
    ({'a': [('', (1, 1, 5, 20), 0)]}, {}, 'an object without a name'),
    ({'a': []}, {'size': ''}, 'has nothing in <size><height>'),
    ({'a': [('dog', (1, 1, 5, 5), 0)], 'c': [('cow', (1, 1, 5, 5), 0)]}, {},
     "the class 'cow', which no training image has: classes are dog"),
    ({'a': [('<x', (1, 1, 5, 5), 0)]}, {}, r'a\.xml is no XML'),
  ],
)  # fmt: skip
def test_voc_that_makes_no_sense_is_one_sentence(tmp_path, objects, changes, message):
  write_voc(tmp_path, {'b': [], 'c': []} | objects, **changes)
  with pytest.raises(ValueError, match=message):
    voc_boxes.from_voc(tmp_path, 'test')


def test_entities_and_other_layouts_are_refused(tmp_path):
  with pytest.raises(ValueError, match='no folder Annotations'):
    voc_boxes.from_voc(tmp_path, 'train')
  with pytest.raises(ValueError, match='has no annotations/instances_train.json'):
    coco_boxes.from_coco(tmp_path, 'train')
  write_voc(tmp_path)
  bomb = '<!DOCTYPE a [<!ENTITY b "c">]><annotation/>'
  (tmp_path / 'Annotations' / 'a.xml').write_text(bomb)
  with pytest.raises(ValueError, match='defines XML entities'):
    voc_boxes.from_voc(tmp_path, 'train')


COCO = {
  'images': [{'id': 9, 'file_name': 'y.jpg', 'height': 20, 'width': 40},
             {'id': 4, 'file_name': 'x.jpg', 'height': 20, 'width': 40}],
  'categories': [{'id': 7, 'name': 'cat'}, {'id': 2, 'name': 'dog'}],
  'annotations': [
    {'image_id': 9, 'category_id': 7, 'bbox': [10, 5, 20, 10], 'iscrowd': 1, 'area': 120.5},
    {'image_id': 9, 'category_id': 2, 'bbox': [0, 0, 40.4, 20], 'iscrowd': 0},
    {'image_id': 9, 'category_id': 2, 'bbox': [3, 3, 0, 2], 'iscrowd': 0, 'area': 0},
  ],
}  # fmt: skip


def write_coco(root, content, part='train2017'):
  (root / 'annotations').mkdir(parents=True, exist_ok=True)
  (root / 'annotations' / f'instances_{part}.json').write_text(json.dumps(content))
  for image in content.get('images', []):
    picture(root / part / image['file_name'])


def test_brackets_in_the_name_of_a_folder_are_no_pattern(tmp_path):
  write_voc(tmp_path / 'photos [1]' / 'VOC2012')
  write_coco(tmp_path / 'photos [2]', COCO)
  assert voc_boxes.from_voc(tmp_path / 'photos [1]', 'test').size == 1
  assert coco_boxes.from_coco(tmp_path / 'photos [2]', 'train').size == 2


def test_coco(tmp_path):
  write_coco(tmp_path, COCO)
  write_coco(tmp_path, COCO | {'annotations': []}, 'val2017')
  train, test = (coco_boxes.from_coco(tmp_path, split) for split in ('train', 'test'))
  assert train.class_names == ('dog', 'cat') and train.size == test.size == 2
  assert train.locate(1).endswith('train2017/y.jpg') and 'val2017' in test.locate(0)
  (nothing, _), (truth, size) = detect.objects(train, [0, 1])
  assert not len(nothing.boxes) and size == (20, 40)
  np.testing.assert_allclose(truth.boxes, [[5, 10, 15, 30], [0, 0, 20, 40]], atol=1e-5)
  assert truth.classes.tolist() == [1, 0] and truth.kinds.tolist() == [CROWD, 0]
  np.testing.assert_allclose(truth.sizes, [120.5, 40.4 * 20])


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'images': []}, 'is of image 9, which is not listed'),
    ({'categories': []}, 'has category 7, which is not listed'),
    ({'annotations': [{'image_id': 9, 'category_id': 7, 'bbox': [30, 0, 20, 10]}]},
     r'image y\.jpg has a box from \(30, 0\) to \(50, 10\)'),
    ({'annotations': [{'image_id': 9, 'category_id': 7}]}, "lacks 'bbox'"),
  ],
)  # fmt: skip
def test_coco_that_makes_no_sense_is_one_sentence(tmp_path, changes, message):
  write_coco(tmp_path, COCO | changes)
  with pytest.raises(ValueError, match=message):
    coco_boxes.from_coco(tmp_path, 'train')
