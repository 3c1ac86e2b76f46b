"""Photographs with boxes, as PASCAL VOC and COCO lay them out: image files, and files about them.

VOC: a folder with `Annotations/*.xml` and `JPEGImages/`, and perhaps `ImageSets/Main/` with
`train.txt`, `trainval.txt`, `val.txt` and `test.txt`. Where there is a `test.txt` with annotations,
it is tested on and `trainval.txt` trained on, as in 2007; else `val.txt` and `train.txt`; without
lists all images are training images.

COCO: `annotations/instances_<name>.json`, and the images in a folder of that name, or where the
file names lead from the folder, `images/`, or beside the JSON. The file whose name has 'train' in
it is trained on, that with 'val' or 'test' tested on; of `_annotations.coco.json` files the folder
counts.

Both give the field 'boxes', fractions of height and width as in `data.fields`, with 'kinds' (see
`evals.detection`: 1 difficult, 2 a crowd) and 'areas' in pixels, which follow its rows. VOC counts
pixels from 1 and includes the last one: its box (1, 1, 500, 375) is the whole image of 500 x 375.
Classes are those of all annotations, VOC's by name, COCO's in the order of their numbers. Where an
image is turned by its EXIF block, and its annotation has the size before, the boxes turn with it.
"""

from collections.abc import Mapping, Sequence
import functools
import glob
import json
import os
from typing import Any, NamedTuple
import xml.etree.ElementTree as ElementTree

import numpy as np

from byoljax.data.fields import Field
from byoljax.data.sources import image_file, pixels, source

DIFFICULT, CROWD = 1, 2
_SLACK = 1.0  # Pixels by which a box may reach beyond its image: it is clipped.
_TESTS = ('val', 'test')


class Photo(NamedTuple):
  """An image file and what is in it.

  Attributes:
    file: its path.
    boxes: float [n, 4], (y_min, x_min, y_max, x_max) in pixels.
    classes: names [n].
    kinds: int [n].
    areas: float [n], in pixels.
    size: (H, W).
  """

  file: str
  boxes: np.ndarray
  classes: tuple[str, ...]
  kinds: np.ndarray
  areas: np.ndarray
  size: tuple[int, int]


def from_voc(
  path: str | os.PathLike,
  split: str,
  *,
  unreadable: source.UnreadableLog | None = None,
  range_: str = '',
) -> source.Source:
  """A split of a folder in VOC's layout.

  Args:
    path: the folder, `~` is expanded; of a `VOCdevkit` with one year in it that year is taken.
    split: 'pretrain', 'train' or 'test'; the first two are the same images.
    unreadable: where files that cannot be read are noted.
    range_: which numbers are black and white, see `pixels`.

  Raises:
    ValueError: another layout, no such split, or an annotation that makes no sense.
  """
  root = _folder(path)
  if not os.path.isdir(os.path.join(root, 'Annotations')):
    inner = sorted(glob.glob(os.path.join(root, 'VOC*', 'Annotations')))
    if len(inner) != 1:
      what = f'{len(inner)} years: name one of them' if inner else 'no folder Annotations'
      raise ValueError(f'{root} has {what}; VOC annotations lie in VOC2007/Annotations, say.')
    root = os.path.dirname(inner[0])
  names = {part: _voc_names(root, part) for part in ('train', 'test')}
  photos = {part: [_voc_photo(root, name) for name in own] for part, own in names.items()}
  classes = tuple(sorted({name for photo in photos['train'] for name in photo.classes}))
  wanted = 'test' if split == 'test' else 'train'
  if not photos[wanted]:
    raise source.NoSplitError(f'{root} has no test images: ImageSets/Main lists none.')
  return _make(f'{os.path.basename(root)}:{split}', photos[wanted], classes, unreadable, range_)


def _folder(path: str | os.PathLike) -> str:
  root = os.path.abspath(os.path.expanduser(os.fspath(path)))
  if not os.path.isdir(root):
    raise ValueError(f'{root} is no folder: config.data.dir must be one with annotations.')
  return root


def _voc_names(root: str, split: str) -> list[str]:
  lists = os.path.join(root, 'ImageSets', 'Main')
  have = {name for name in ('train', 'trainval', 'val', 'test')
          if os.path.exists(os.path.join(lists, f'{name}.txt'))}  # fmt: skip
  annotated = {os.path.splitext(os.path.basename(file))[0]
               for file in glob.glob(os.path.join(root, 'Annotations', '*.xml'))}  # fmt: skip
  if not annotated:
    raise ValueError(f'{os.path.join(root, "Annotations")} holds no .xml file.')
  own = {name: _listed(os.path.join(lists, f'{name}.txt')) for name in have}
  tested = [name for name in own.get('test', []) if name in annotated]
  if split == 'test':
    return tested or own.get('val', [])
  if tested:
    return own.get('trainval') or own.get('train') or sorted(annotated - set(tested))
  return own.get('train') or own.get('trainval') or sorted(annotated - set(own.get('val', [])))


def _listed(file: str) -> list[str]:
  with open(file, encoding='utf-8') as opened:
    return [line.split()[0] for line in opened if line.strip()]


def _voc_photo(root: str, name: str) -> Photo:
  """What one XML file says.

  Raises:
    ValueError: it is not there or damaged, lacks something, or has a box that is none.
  """
  file = os.path.join(root, 'Annotations', f'{name}.xml')
  text = source.bytes_of(file)
  if not text:
    raise ValueError(f'{file} is not there or empty, but ImageSets/Main lists it.')
  if b'<!DOCTYPE' in text or b'<!ENTITY' in text:
    raise ValueError(f'{file} defines XML entities, which annotations never do: it is not read.')
  try:
    tree = ElementTree.fromstring(text)
  except ElementTree.ParseError as error:
    raise ValueError(f'{file} is no XML: {error}.') from error
  size = _number(tree, 'size/height', file), _number(tree, 'size/width', file)
  boxes, classes, kinds = [], [], []
  for entry in tree.findall('object'):
    sides = [_number(entry, f'bndbox/{side}', file) for side in ('ymin', 'xmin', 'ymax', 'xmax')]
    boxes.append([sides[0] - 1, sides[1] - 1, sides[2], sides[3]])
    classes.append((entry.findtext('name') or '').strip())
    kinds.append(DIFFICULT if (entry.findtext('difficult') or '0').strip() == '1' else 0)
  image = os.path.join(root, 'JPEGImages', (tree.findtext('filename') or '').strip())
  if not os.path.isfile(image):
    image = os.path.join(root, 'JPEGImages', f'{name}.jpg')
  made = np.array(boxes, np.float64).reshape(-1, 4)
  return _checked(Photo(image, made, tuple(classes), np.array(kinds, np.int32),
                        np.prod(made[:, 2:] - made[:, :2], axis=1),
                        (int(size[0]), int(size[1]))), file)  # fmt: skip


def _number(tree: Any, name: str, file: str) -> float:
  text = (tree.findtext(name) or '').strip()
  try:
    return float(text)
  except ValueError:
    said = f'{text!r}, which is no number,' if text else 'nothing'
    raise ValueError(f'{file} has {said} in <{name.replace("/", "><")}>.') from None


def from_coco(
  path: str | os.PathLike,
  split: str,
  *,
  unreadable: source.UnreadableLog | None = None,
  range_: str = '',
) -> source.Source:
  """A split of a folder in COCO's layout; arguments and errors as of `from_voc`."""
  root = _folder(path)
  files = sorted({*glob.glob(os.path.join(root, 'annotations', '*.json')),
                  *glob.glob(os.path.join(root, '*', '_annotations.coco.json'))})  # fmt: skip
  files = [file for file in files if 'captions' not in file and 'keypoints' not in file]
  if not files:
    raise ValueError(
      f'{root} has no annotations/instances_train.json, nor train/_annotations.coco.json.'
    )
  tests = [file for file in files if any(word in _split_name(file) for word in _TESTS)]
  trains = [file for file in files if file not in tests]
  chosen = sorted(tests, key=lambda file: 'val' not in _split_name(file)) if split == 'test' else (
    sorted(trains, key=lambda file: 'train' not in _split_name(file))
  )  # fmt: skip
  if not chosen:
    kind = source.NoSplitError if split == 'test' else ValueError
    raise kind(f'{root} has no {split} annotations: there are {", ".join(files)}.')
  photos, classes = _coco_photos(root, chosen[0])
  return _make(f'{os.path.basename(root)}:{split}', photos, classes, unreadable, range_)


def _split_name(file: str) -> str:
  """What tells a file's split: its name, or that of its folder."""
  name = os.path.basename(file)
  return os.path.basename(os.path.dirname(file)) if name.startswith('_') else name


def _coco_photos(root: str, file: str) -> tuple[list[Photo], tuple[str, ...]]:
  try:
    with open(file, encoding='utf-8') as opened:
      found = json.load(opened)
    images = {image['id']: image for image in found['images']}
    names = {one['id']: str(one['name']) for one in found['categories']}
    entries: dict[Any, list[Mapping[str, Any]]] = {number: [] for number in images}
    for entry in found['annotations']:
      if entry['image_id'] not in entries:
        raise ValueError(f'an annotation is of image {entry["image_id"]}, which is not listed')
      if entry['category_id'] not in names:
        raise ValueError(f'an annotation has category {entry["category_id"]}, which is not listed')
      entries[entry['image_id']].append(entry)
    home = _coco_home(root, file, next(iter(images.values()))['file_name'] if images else '')
    photos = [_coco_photo(home, images[i], entries[i], names, file) for i in sorted(images)]
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
    what = f'lacks {error}' if isinstance(error, KeyError) else str(error)
    raise ValueError(f'{file} cannot be read as COCO annotations: {what}.') from error
  return photos, tuple(names[number] for number in sorted(names))


def _coco_photo(
  home: str, image: Mapping[str, Any], entries: Sequence[Mapping[str, Any]],
  names: Mapping[Any, str], file: str,
) -> Photo:  # fmt: skip
  sides = np.array([entry['bbox'] for entry in entries], np.float64).reshape(-1, 4)
  there = np.all(sides[:, 2:] > 0, axis=1)  # COCO has a few of no extent.
  entries = [entry for entry, use in zip(entries, there, strict=True) if use]
  x, y, width, height = sides[there].T
  boxes = np.stack([y, x, y + height, x + width], 1)
  kinds = np.array([CROWD if entry.get('iscrowd') else 0 for entry in entries], np.int32)
  own = [entry.get('area', w * h) for entry, w, h in zip(entries, width, height, strict=True)]
  size = int(image['height']), int(image['width'])
  classes = tuple(names[entry['category_id']] for entry in entries)
  photo = Photo(os.path.join(home, str(image['file_name'])), boxes, classes, kinds,
                np.array(own, np.float64), size)  # fmt: skip
  return _checked(photo, f'{file}, image {image["file_name"]}')


def _coco_home(root: str, file: str, example: str) -> str:
  """The folder that the file names of a JSON lead from."""
  name = os.path.splitext(os.path.basename(file))[0].partition('_')[2]
  places = [os.path.join(root, name), os.path.join(root, 'images', name), os.path.dirname(file),
            os.path.join(root, 'images'), root]  # fmt: skip
  for place in places:
    if os.path.isfile(os.path.join(place, example)):
      return place
  raise ValueError(f"its first image '{example}' is in none of {', '.join(places)}")


def _checked(photo: Photo, where: str) -> Photo:
  """The photo with boxes clipped to it.

  Raises:
    ValueError: no size, a class without a name, or a box that is none or outside of the image.
  """
  height, width = photo.size
  if height < 1 or width < 1:
    raise ValueError(f'{where} has an image of {width} x {height} pixels.')
  if '' in photo.classes:
    raise ValueError(f'{where} has an object without a name.')
  limit = np.array([height, width, height, width], np.float64)
  boxes = photo.boxes
  right = (boxes >= -_SLACK).all(1) & (boxes <= limit + _SLACK).all(1)
  right &= (boxes[:, 2:] > boxes[:, :2]).all(1)
  clipped = np.clip(boxes, 0, limit)
  right &= (clipped[:, 2:] > clipped[:, :2]).all(1)
  if not right.all():
    top, left, bottom, side = boxes[~right][0]
    raise ValueError(
      f'{where} has a box from ({left:g}, {top:g}) to ({side:g}, {bottom:g}), which is empty or '
      f'outside its image of {width} x {height} pixels.'
    )
  return photo._replace(boxes=clipped)


def _make(
  name: str,
  photos: Sequence[Photo],
  classes: tuple[str, ...],
  unreadable: source.UnreadableLog | None,
  range_: str,
) -> source.Source:
  number = {text: place for place, text in enumerate(classes)}
  for photo in photos:
    for text in photo.classes:
      if text not in number:
        raise ValueError(
          f"{photo.file} has an object of the class '{text}', which no training image has: classes "
          f'are {", ".join(classes)}.'
        )
  most = max(1, *(len(photo.boxes) for photo in photos))
  empty = {'boxes': (np.float32, (most, 5)), 'kinds': (np.int32, (most,)),
           'areas': (np.float32, (most,))}  # fmt: skip

  def about(row: int, field: str) -> np.ndarray:
    photo, (dtype, shape) = photos[row], empty[field]
    made = np.zeros(shape, dtype)
    count = len(photo.boxes)
    if field != 'boxes':
      made[:count] = getattr(photo, field)
      return made
    made[count:, 4] = -1
    made[:count, :4] = photo.boxes / np.array([*photo.size, *photo.size])
    made[:count, 4] = [number[text] for text in photo.classes]
    return made

  @functools.cache
  def turn(row: int) -> int:
    return _turn(photos[row])

  def upright(row: int) -> np.ndarray:
    made, count = about(row, 'boxes'), len(photos[row].boxes)
    made[:count, :4] = image_file.upright_boxes(made[:count, :4], turn(row) if count else 1)
    return made

  @functools.cache
  def labels() -> np.ndarray:
    return _labels(photos, number)

  def values(rows: np.ndarray, field: str) -> np.ndarray:
    if field == 'label':
      return labels()[rows]
    read = np.empty(len(rows), object)
    for place, row in enumerate(map(int, rows)):
      if field == 'image':
        read[place] = source.bytes_of(photos[row].file)
      else:
        read[place] = upright(row) if field == 'boxes' else about(row, field)
    return read

  image, notes = pixels.image_field(
    [photo.file for photo in photos], lambda row: source.bytes_of(photos[row].file), range_, name
  )
  fields = (
    image,
    Field('boxes', 'boxes', most, dtype='float32', names=classes),
    Field('kinds', 'label', most, dtype='int32'),
    Field('areas', 'label', most, dtype='float32'),
  )
  every = b''.join(about(row, 'boxes').tobytes() for row in range(len(photos)))
  return source.Source(
    name=name,
    size=len(photos),
    num_classes=len(classes),
    class_names=classes,
    encoded=True,
    image_shape=None,
    fingerprint=source.fingerprint(classes, '\n'.join(p.file for p in photos), every),
    fetch=lambda rows, names: tuple(values(rows, field) for field in names),
    fetch_labels=labels,
    locate=lambda row: photos[row].file,
    unreadable=source.UnreadableLog() if unreadable is None else unreadable,
    multi_label=True,
    fields=fields,
    notes=notes,
  )


def _turn(photo: Photo) -> int:
  """The EXIF orientation by which boxes have to follow their image; 1 where they fit it upright.

  Annotations are of the image as a camera stored it where their size is, and the upright one's is
  not: one of the two is high and the other wide.
  """
  try:
    data = source.bytes_of(photo.file)
    height, width = image_file.inspect(data)[1:]
    with image_file.opened(data) as opened:
      turn = image_file.orientation(opened)
  except Exception:  # Whatever is wrong with it: an image that cannot be read is not used.
    return 1
  stored = (photo.size[0] - photo.size[1]) * (height - width) < 0
  return turn if turn >= 5 and stored else 1


def _labels(photos: Sequence[Photo], number: Mapping[str, int]) -> np.ndarray:
  """Which classes are in each image, int32 [N, C]; -1 where nothing but difficult ones are."""
  labels = np.zeros((len(photos), len(number)), np.int32)
  for row, photo in enumerate(photos):
    for text, kind in zip(photo.classes, photo.kinds, strict=True):
      own = labels[row, number[text]]
      labels[row, number[text]] = 1 if kind != DIFFICULT else (own or -1)
  return labels
