"""PASCAL VOC's classification task as its development kit has it: lists of images for each class.

    VOC2007/JPEGImages/000005.jpg
    VOC2007/ImageSets/Main/chair_trainval.txt      000005  1
                           chair_test.txt          ...

Everingham et al. 2010 (doi 10.1007/s11263-009-0275-4). A line is an image and 1 where the class is
there, -1 where not, 0 where only difficult objects of it are, which do not count. An image has
several labels. Pretraining and training take `trainval`, tests `test`.
"""

import glob
import os

import numpy as np

from byoljax.data.sources import listed, source

_PARTS = {'pretrain': 'trainval', 'train': 'trainval', 'test': 'test'}
# A line's number -> what labels say: present, absent, does not count.
_MEANING = {1: 1, -1: 0, 0: -1}


def from_voc(
  path: str | os.PathLike,
  split: str,
  *,
  unreadable: source.UnreadableLog | None = None,
  range_: str = '',
) -> source.Source:
  """A split of VOC's classification task; labels int32 [N, C], classes in the order of their names.

  Args:
    path: the folder with `JPEGImages` and `ImageSets`, such as VOCdevkit/VOC2007; `~` is expanded.
    split: 'pretrain', 'train' or 'test'; the first two are the same images.
    unreadable: where files that cannot be read are noted.
    range_: which numbers are black and white, see `pixels`.

  Raises:
    ValueError: no such folder or lists, lists of different images, or a line that is none.
  """
  root = source.absolute(path)
  main, part = os.path.join(root, 'ImageSets', 'Main'), _PARTS[split]
  if not os.path.isdir(main):
    raise ValueError(
      f'{main} is not there: data.dir must be the folder with JPEGImages and ImageSets, such as '
      'VOCdevkit/VOC2007.'
    )
  files = sorted(glob.glob(os.path.join(glob.escape(main), f'*_{part}.txt')))
  if not files:
    kind = source.NoSplitError if split == 'test' else ValueError
    raise kind(f'{main} has no list of a class for {part}, such as chair_{part}.txt.')
  found = [_read(file) for file in files]
  names = list(found[0])
  for file, each in zip(files, found, strict=True):
    if list(each) != names:
      raise ValueError(f'{file} names other images than {files[0]}, or in another order.')
  labels = np.array([[_MEANING[each[name]] for each in found] for name in names], np.int32)
  return listed.from_files(
    [os.path.join(root, 'JPEGImages', f'{name}.jpg') for name in names],
    labels,
    name=f'{os.path.basename(root)}:{part}',
    class_names=tuple(os.path.basename(file)[: -len(f'_{part}.txt')] for file in files),
    unreadable=unreadable,
    range_=range_,
  )


def _read(file: str) -> dict[str, int]:
  """{image: number} of a list of one class."""
  found = {}
  with open(file, encoding='utf-8') as opened:
    for number, line in enumerate(opened, 1):
      words = line.split()
      if not words:
        continue
      if len(words) != 2 or words[1] not in ('1', '-1', '0'):
        raise ValueError(
          f"{file}, line {number}: '{line.strip()}' is not an image and 1, -1 or 0, as in "
          "'000005 -1'."
        )
      found[words[0]] = int(words[1])
  if not found:
    raise ValueError(f'{file} names no image.')
  return found
