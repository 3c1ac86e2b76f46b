"""Photographs with boxes, whatever the layout that they are read from: `voc_boxes`, `coco_boxes`.

A source of them has the field 'boxes', fractions of height and width as in `data.fields`, with
'kinds' (see `evals.detection`: 1 difficult, 2 a crowd) and 'areas' in pixels, which follow its
rows. Where an image is turned by its EXIF block, and its annotation has the size before, the boxes
turn with it.
"""

from collections.abc import Mapping, Sequence
import functools
import os
from typing import NamedTuple

import numpy as np

from byoljax.data.fields import Field
from byoljax.data.sources import image_file, pixels, source

DIFFICULT, CROWD = 1, 2
_SLACK = 1.0  # Pixels by which a box may reach beyond its image: it is clipped.


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


def folder(path: str | os.PathLike) -> str:
  """The absolute path of a folder, `~` expanded; raises ValueError where it is none."""
  root = source.absolute(path)
  if not os.path.isdir(root):
    raise ValueError(f'{root} is no folder: config.data.dir must be one with annotations.')
  return root


def checked(photo: Photo, where: str) -> Photo:
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


def as_source(
  name: str,
  photos: Sequence[Photo],
  classes: tuple[str, ...],
  unreadable: source.UnreadableLog | None,
  range_: str,
) -> source.Source:
  """Photographs as a source with labels int32 [N, C] and the fields of the module.

  Args:
    name: of the source.
    photos: what `checked` gives.
    classes: names of all there are.
    unreadable: where files that cannot be read are noted.
    range_: which numbers are black and white, see `pixels`.

  Raises:
    ValueError: an object of another class.
  """
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
  rows = range(len(photos))
  each = source.Pieces(
    len(photos) * about(0, 'boxes').nbytes, (about(row, 'boxes').tobytes() for row in rows)
  )
  return source.Source(
    name=name,
    size=len(photos),
    num_classes=len(classes),
    class_names=classes,
    encoded=True,
    image_shape=None,
    fingerprint=source.fingerprint(classes, '\n'.join(p.file for p in photos), each),
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
