"""Photographs with boxes as COCO lays them out.

`annotations/instances_<name>.json`, and the images in a folder of that name, or where the file
names lead from the folder, `images/`, or beside the JSON. The file whose name has 'train' in it is
trained on, that with 'val' or 'test' tested on; of `_annotations.coco.json` files the folder
counts. Classes are in the order of their numbers.
"""

from collections.abc import Mapping, Sequence
import glob
import json
import os
from typing import Any

import numpy as np

from byoljax.data.sources import annotated, source

_TESTS = ('val', 'test')


def from_coco(
  path: str | os.PathLike,
  split: str,
  *,
  unreadable: source.UnreadableLog | None = None,
  range_: str = '',
) -> source.Source:
  """A split of a folder in COCO's layout; arguments and errors as of `voc_boxes.from_voc`."""
  root = annotated.folder(path)
  home = glob.escape(root)
  files = sorted({*glob.glob(os.path.join(home, 'annotations', '*.json')),
                  *glob.glob(os.path.join(home, '*', '_annotations.coco.json'))})  # fmt: skip
  files = [file for file in files if 'captions' not in file and 'keypoints' not in file]
  if not files:
    raise ValueError(
      f'{root} has no annotations/instances_train.json, nor train/_annotations.coco.json.'
    )
  is_test = split == 'test'
  own = [file for file in files
         if any(word in _split_name(file) for word in _TESTS) == is_test]  # fmt: skip
  best = 'val' if is_test else 'train'
  if not own:
    kind = source.NoSplitError if is_test else ValueError
    raise kind(f'{root} has no {split} annotations: there are {", ".join(files)}.')
  photos, classes = _photos(root, min(own, key=lambda file: best not in _split_name(file)))
  return annotated.as_source(
    f'{os.path.basename(root)}:{split}', photos, classes, unreadable, range_
  )


def _split_name(file: str) -> str:
  """What tells a file's split: its name, or that of its folder."""
  name = os.path.basename(file)
  return os.path.basename(os.path.dirname(file)) if name.startswith('_') else name


def _photos(root: str, file: str) -> tuple[list[annotated.Photo], tuple[str, ...]]:
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
    home = _home(root, file, next(iter(images.values()))['file_name'] if images else '')
    photos = [_photo(home, images[i], entries[i], names, file) for i in sorted(images)]
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
    what = f'lacks {error}' if isinstance(error, KeyError) else str(error)
    raise ValueError(f'{file} cannot be read as COCO annotations: {what}.') from error
  return photos, tuple(names[number] for number in sorted(names))


def _photo(
  home: str, image: Mapping[str, Any], entries: Sequence[Mapping[str, Any]],
  names: Mapping[Any, str], file: str,
) -> annotated.Photo:  # fmt: skip
  sides = np.array([entry['bbox'] for entry in entries], np.float64).reshape(-1, 4)
  there = np.all(sides[:, 2:] > 0, axis=1)  # COCO has a few of no extent.
  entries = [entry for entry, use in zip(entries, there, strict=True) if use]
  x, y, width, height = sides[there].T
  boxes = np.stack([y, x, y + height, x + width], 1)
  kinds = np.array([annotated.CROWD if entry.get('iscrowd') else 0 for entry in entries], np.int32)
  own = [entry.get('area', w * h) for entry, w, h in zip(entries, width, height, strict=True)]
  size = int(image['height']), int(image['width'])
  classes = tuple(names[entry['category_id']] for entry in entries)
  photo = annotated.Photo(os.path.join(home, str(image['file_name'])), boxes, classes, kinds,
                          np.array(own, np.float64), size)  # fmt: skip
  return annotated.checked(photo, f'{file}, image {image["file_name"]}')


def _home(root: str, file: str, example: str) -> str:
  """The folder that the file names of a JSON lead from."""
  name = os.path.splitext(os.path.basename(file))[0].partition('_')[2]
  places = [os.path.join(root, name), os.path.join(root, 'images', name), os.path.dirname(file),
            os.path.join(root, 'images'), root]  # fmt: skip
  for place in places:
    if os.path.isfile(os.path.join(place, example)):
      return place
  raise ValueError(f"its first image '{example}' is in none of {', '.join(places)}")
