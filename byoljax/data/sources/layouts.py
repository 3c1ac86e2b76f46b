"""Data sets of segmentation as they are unpacked: PASCAL VOC 2012 and Cityscapes. NumPy, Pillow.

    voc_segmentation   JPEGImages/<id>.jpg, SegmentationClass/<id>.png (palette; 255: no label) and
                       the lists ImageSets/Segmentation/{train,val}.txt; with SegmentationClassAug
                       and trainaug.txt, of Hariharan et al., these train
    cityscapes         leftImg8bit/{train,val}/<city>/<id>_leftImg8bit.png and
                       gtFine/{train,val}/<city>/<id>_gtFine_labelIds.png, whose 34 numbers become
                       the 19 classes of the benchmark; or <id>_gtFine_labelTrainIds.png as they are

The validation images are the test split, as in the literature. The field 'mask' is there without
being asked for by another name; images have no label of their own.
"""

from collections.abc import Callable, Sequence
import os
from typing import NamedTuple

import numpy as np

from byoljax.data.fields import Field
from byoljax.data.sources import field_file, image_file, pixels, source
from byoljax.suggest import check_name

MASK = Field('mask', 'mask', 1, dtype='uint8')
VOC_CLASSES = (
  'background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair',
  'cow', 'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa',
  'train', 'tvmonitor',
)  # fmt: skip
# Number in labelIds -> class, of those that the benchmark scores.
_CITYSCAPES_IDS = {
  7: 'road', 8: 'sidewalk', 11: 'building', 12: 'wall', 13: 'fence', 17: 'pole',
  19: 'traffic light', 20: 'traffic sign', 21: 'vegetation', 22: 'terrain', 23: 'sky',
  24: 'person', 25: 'rider', 26: 'car', 27: 'truck', 28: 'bus', 31: 'train', 32: 'motorcycle',
  33: 'bicycle',
}  # fmt: skip
CITYSCAPES_CLASSES = tuple(_CITYSCAPES_IDS.values())
_IGNORED = 255


class Pairs(NamedTuple):
  """What a layout holds.

  Attributes:
    images: files.
    masks: a file for each.
    read: a mask file's bytes -> what `Source.read` gives of it.
  """

  images: list[str]
  masks: list[str]
  read: Callable[[bytes], bytes | np.ndarray]


def from_layout(
  kind: str,
  path: str | os.PathLike,
  split: str,
  *,
  fields: Sequence[Field] = (),
  unreadable: source.UnreadableLog | None = None,
  range_: str = '',
) -> source.Source:
  """A split of a data set in its own layout.

  Args:
    kind: 'voc_segmentation' or 'cityscapes'.
    path: the folder with the folders above; `~` is expanded; also the one around 'VOC2012'.
    split: 'pretrain', 'train' or 'test'; the first two are the same images.
    fields: () or `Field('mask', 'mask')`.
    unreadable: where files that cannot be read are noted.
    range_: which numbers are black and white, see `pixels`.

  Raises:
    ValueError: no such folder or file, or another field.
  """
  root = source.absolute(path)
  for field in fields:
    if (field.name, field.kind) != (MASK.name, MASK.kind):
      raise ValueError(f"{kind} has no field {field.name!r}: only 'mask:mask'.")
  check_name('split', split, source.SPLITS)
  found = LAYOUTS[kind](root, split == 'test')
  for file in found.masks if fields else ():
    if not os.path.exists(file):
      raise ValueError(f'{file} is not there, the mask of an image of {kind}.')

  def values(rows: np.ndarray, name: str) -> np.ndarray:
    if name == 'label':
      return np.full(len(rows), -1, np.int32)
    read = np.empty(len(rows), object)
    for place, row in enumerate(rows):
      if name == 'image':
        read[place] = source.bytes_of(found.images[row])
      else:
        read[place] = found.read(source.bytes_of(found.masks[row]))
    return read

  def fetch(rows: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    return tuple(values(rows, name) for name in names)

  image, notes = pixels.image_field(
    found.images, lambda row: source.bytes_of(found.images[row]), range_, root
  )
  names = [os.path.relpath(file, root) for file in found.images]
  return source.Source(
    name=f'{kind}:{split}',
    size=len(found.images),
    num_classes=0,
    class_names=(),
    encoded=True,
    image_shape=None,
    fingerprint=source.fingerprint(kind, split, '\n'.join(names)),
    fetch=fetch,
    fetch_labels=lambda: None,
    locate=lambda row: found.images[row],
    unreadable=source.UnreadableLog() if unreadable is None else unreadable,
    fields=(image, *(MASK for _ in fields)),
    notes=notes,
  )


def _voc(root: str, test: bool) -> Pairs:
  inner = os.path.join(root, 'VOC2012')
  root = inner if os.path.isdir(inner) else root
  lists = os.path.join(root, 'ImageSets', 'Segmentation')
  augmented = os.path.join(lists, 'trainaug.txt')
  masks, names = 'SegmentationClass', 'val.txt' if test else 'train.txt'
  if not test and os.path.exists(augmented):
    masks, names = 'SegmentationClassAug', 'trainaug.txt'
  file = os.path.join(lists, names)
  try:
    with open(file, encoding='utf-8') as opened:
      found = [line.split()[0] for line in opened if line.strip()]
  except OSError as error:
    raise ValueError(
      f'{file} is not there: config.data.dir must be the folder VOC2012 of PASCAL VOC 2012, with '
      'JPEGImages, SegmentationClass and ImageSets.'
    ) from error
  # The augmented list has paths: /JPEGImages/<id>.jpg.
  names_of = [os.path.splitext(os.path.basename(name))[0] for name in found]
  return Pairs(
    [os.path.join(root, 'JPEGImages', f'{name}.jpg') for name in names_of],
    [os.path.join(root, masks, f'{name}.png') for name in names_of],
    bytes,
  )


def _cityscapes(root: str, test: bool) -> Pairs:
  part = 'val' if test else 'train'
  home = os.path.join(root, 'leftImg8bit', part)
  end = '_leftImg8bit.png'
  images = sorted(
    os.path.join(folder, file)
    for folder, _, files in os.walk(home)
    for file in files
    if file.endswith(end)
  )
  if not images:
    raise ValueError(
      f'{home} has no file that ends in {end}: config.data.dir must be the folder of Cityscapes, '
      'with leftImg8bit and gtFine.'
    )

  def masks(kind: str) -> list[str]:
    start, stop = os.path.join(root, 'leftImg8bit'), len(end)
    return [
      f'{os.path.join(root, "gtFine")}{image.removeprefix(start)[:-stop]}_gtFine_{kind}.png'
      for image in images
    ]

  ready = masks('labelTrainIds')
  if os.path.exists(ready[0]):
    return Pairs(images, ready, bytes)
  table = np.full(256, _IGNORED, np.uint8)
  table[list(_CITYSCAPES_IDS)] = np.arange(len(_CITYSCAPES_IDS))

  def read(file: bytes) -> bytes | np.ndarray:
    try:
      numbers = image_file.decode_numbers(file)
    except field_file.UnreadableImageError:
      return file  # Told of when it is decoded.
    # 'license plate' is -1, 255 in eight bits.
    return table[numbers] if numbers.dtype == np.uint8 else file

  return Pairs(images, masks('labelIds'), read)


LAYOUTS: dict[str, Callable[[str, bool], Pairs]] = {
  'voc_segmentation': _voc,
  'cityscapes': _cityscapes,
}
