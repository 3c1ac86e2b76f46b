"""Photographs with boxes as PASCAL VOC lays them out.

A folder with `Annotations/*.xml` and `JPEGImages/`, and perhaps `ImageSets/Main/` with `train.txt`,
`trainval.txt`, `val.txt` and `test.txt`. Where there is a `test.txt` with annotations, it is tested
on and `trainval.txt` trained on, as in 2007; else `val.txt` and `train.txt`; without lists all
images are training images.

VOC counts pixels from 1 and includes the last one: its box (1, 1, 500, 375) is the whole image of
500 x 375. Classes are those of the training images' annotations, in the order of their names.
"""

import glob
import os
from typing import Any
import xml.etree.ElementTree as ElementTree

import numpy as np

from byoljax.data.sources import annotated, source


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
  root = annotated.folder(path)
  if not os.path.isdir(os.path.join(root, 'Annotations')):
    inner = sorted(glob.glob(os.path.join(glob.escape(root), 'VOC*', 'Annotations')))
    if len(inner) != 1:
      what = f'{len(inner)} years: name one of them' if inner else 'no folder Annotations'
      raise ValueError(f'{root} has {what}; VOC annotations lie in VOC2007/Annotations, say.')
    root = os.path.dirname(inner[0])
  photos = [_photo(root, name) for name in _names(root, 'train')]
  classes = tuple(sorted({name for photo in photos for name in photo.classes}))
  if split == 'test':
    photos = [_photo(root, name) for name in _names(root, 'test')]
  if not photos:
    kind = source.NoSplitError if split == 'test' else ValueError
    raise kind(f'{root} has no {split} images: ImageSets/Main lists none.')
  return annotated.as_source(
    f'{os.path.basename(root)}:{split}', photos, classes, unreadable, range_
  )


def _names(root: str, split: str) -> list[str]:
  lists = os.path.join(root, 'ImageSets', 'Main')
  files = glob.glob(os.path.join(glob.escape(root), 'Annotations', '*.xml'))
  every = {os.path.splitext(os.path.basename(file))[0] for file in files}
  if not every:
    raise ValueError(f'{os.path.join(root, "Annotations")} holds no .xml file.')
  own = {name: _listed(os.path.join(lists, f'{name}.txt'))
         for name in ('train', 'trainval', 'val', 'test')}  # fmt: skip
  tested = [name for name in own['test'] if name in every]
  if split == 'test':
    return tested or own['val']
  if tested:
    return own['trainval'] or own['train'] or sorted(every - set(tested))
  return own['train'] or own['trainval'] or sorted(every - set(own['val']))


def _listed(file: str) -> list[str]:
  if not os.path.exists(file):
    return []
  with open(file, encoding='utf-8') as opened:
    return [line.split()[0] for line in opened if line.strip()]


def _photo(root: str, name: str) -> annotated.Photo:
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
    kinds.append(annotated.DIFFICULT if (entry.findtext('difficult') or '0').strip() == '1' else 0)
  image = os.path.join(root, 'JPEGImages', (tree.findtext('filename') or '').strip())
  if not os.path.isfile(image):
    image = os.path.join(root, 'JPEGImages', f'{name}.jpg')
  made = np.array(boxes, np.float64).reshape(-1, 4)
  photo = annotated.Photo(image, made, tuple(classes), np.array(kinds, np.int32),
                          np.prod(made[:, 2:] - made[:, :2], axis=1),
                          (int(size[0]), int(size[1])))  # fmt: skip
  return annotated.checked(photo, file)


def _number(tree: Any, name: str, file: str) -> float:
  text = (tree.findtext(name) or '').strip()
  try:
    return float(text)
  except ValueError:
    said = f'{text!r}, which is no number,' if text else 'nothing'
    raise ValueError(f'{file} has {said} in <{name.replace("/", "><")}>.') from None
