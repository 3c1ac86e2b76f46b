"""A folder of images, however it is arranged, as a source of encoded files.

Split: a sub-folder `train` (or `training`) makes the folder a tree of splits when one of `test`,
`val`, `valid`, `validation` lies beside it, or no image lies outside of it (else it is a class like
its neighbors: there are such trains). Then it holds the training images, and the first of those
four that has labels, else the first that has images, the test images. Where every class has such
folders itself, `cat/train` and `cat/val`, these are the splits; where only some have, it is an
error, and so it is where all folders say splits in another way, `train_set` and `test_set`. A
folder around all of it does not count. Without `train`, every image belongs to the training split
and there is no test split. Capital letters in the names of splits do not matter.

Labels: the folders directly below the split's root are the classes when at least two hold images
and more images lie in them, at any depth, than outside; those outside then have no label, and a
note counts them. Else no image has a label. Classes are numbered in the sorted order of their
names, by the training split's names.

Without labels: a folder `unlabelled` or `unlabeled`, beside `train` or beside the classes, is none
of them. Its images, however they lie in it, come before the others in pretraining and are nowhere
else.

Files count as images by their suffix, `.npy` arrays where there are no others; the source's notes
say how many others there are. Directories of runs, which have pictures of ours, and names that
begin with a dot are left out; links are followed, each real directory once, so loops end. The order
is that of the sorted relative paths: a function of the names alone. At start-up a few files that
may have more than 8 bits are opened (`pixels`), never all: millions would take minutes. A file that
turns out to be unreadable is replaced by the next one (see pipeline.py).

Further fields lie in folders of their own names beside the images, which are then in a folder
`images`: `train/images/cat/1.jpg` and `train/depth/cat/1.png`. A file belongs to the image with the
same path but for the suffix; `.npy` files are allowed, too. Where every file in `images` has one in
another folder, only those in `images` are images, even if no field is asked for.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import os

import numpy as np

from byoljax.data.fields import Field
from byoljax.data.sources import field_file, pixels, source, split_folders, walk
from byoljax.data.sources.image_file import SUFFIXES, UnreadableImageError
from byoljax.data.sources.joined import join
from byoljax.wording import counted

_FIELD_SUFFIXES = (*SUFFIXES, field_file.NPY)
_IMAGES = 'images'


def top_folder(file: str) -> str:
  """The folder directly below the split's root that an image lies in, '' for the root itself."""
  return file.split('/', 1)[0] if '/' in file else ''


def from_folder(
  path: str | os.PathLike,
  split: str,
  *,
  unreadable: source.UnreadableLog | None = None,
  fields: Sequence[Field] = (),
  class_of: Callable[[str], str] = top_folder,
  range_: str = '',
) -> source.Source:
  """The images of a folder.

  Args:
    path: the folder; `~` is expanded.
    split: 'pretrain', 'train' or 'test'; the first two are the same images, but for those of a
      folder `unlabelled`.
    unreadable: where files that cannot be read are noted.
    fields: further fields, each a folder of its name.
    class_of: path below the split's root, with '/' -> name of the class; '' where there is none.
    range_: which numbers are black and white, see `pixels`.

  Raises:
    ValueError: no such folder, no image in it, no test split, a class that only the test split
      has, or an image without one of the fields.
  """
  if split not in source.SPLITS:
    raise ValueError(f"a folder has no split {split!r}: use 'pretrain', 'train' or 'test'.")
  root = source.absolute(path)
  if not os.path.isdir(root):
    kind = 'is a file' if os.path.exists(root) else 'does not exist'
    raise ValueError(f'{root} {kind}: config.data.dir must be a folder of images.')
  root = split_folders.unwrapped(root)
  train, tests = split_folders.splits_of(root)
  others = split_folders.unlabelled_of(root, train)
  aside = tuple(f'{os.path.relpath(path, train)}/' for path in others)
  beside = _fields_beside(train)
  if fields or beside:
    train = os.path.join(train, _IMAGES)
    others, tests = ([_images_of(path, fields) for path in paths] for paths in (others, tests))
    tests = [path for path in tests if os.path.isdir(path)]
    if not os.path.isdir(train):
      raise ValueError(
        f'{train} is not there: where fields are read ({", ".join(f.name for f in fields)}), the '
        f'images lie in a folder {_IMAGES!r} beside theirs.'
      )
  files, classes, notes = _scan(train, class_of, aside=aside)
  if beside and not fields and split == 'pretrain':
    notes += (
      f'only the images in {train} are read: beside it, {", ".join(beside)} has a file for each of '
      'them (see data.fields).',
    )
  inner = None
  if train == root and class_of is top_folder:
    inner = split_folders.inner_splits(root, files)
  if inner is not None:
    files = inner['test' if split == 'test' else 'train']
  elif split == 'test':
    if not tests:
      raise source.NoSplitError(
        f'{root} has no test images: put them into {os.path.join(root, "val")}, beside the '
        f'training images in {os.path.join(root, "train")}.'
      )
    train, files, classes, notes = _test_files(tests, classes, class_of)
  log = source.UnreadableLog() if unreadable is None else unreadable
  paths = [os.path.join(train, file) for file in files]
  image, more = pixels.image_field(paths, lambda row: source.bytes_of(paths[row]), range_, train)

  def made(place: str, files: list[str], classes: tuple[str, ...]) -> source.Source:
    further = _fields_of(place, files, fields, range_)
    return _make(place, files, classes, split, log, image, further, class_of)

  found = made(train, files, classes)
  if split == 'pretrain' and others:
    found = join([*(made(path, every_image(path), ()) for path in others), found], found.name)
  return dataclasses.replace(found, notes=(*notes, *more))


def _images_of(path: str, fields: Sequence[Field]) -> str:
  """The folder with a split's images: `images` if fields are asked for, or if it is there."""
  images = os.path.join(path, _IMAGES)
  return images if fields or os.path.isdir(images) else path


def _fields_beside(root: str) -> list[str]:
  """The folders beside `images` that have a file for every image in it."""
  images = os.path.join(root, _IMAGES)
  files = walk.walk(images).files if os.path.isdir(images) else ()
  if not files:
    return []
  stems = {os.path.splitext(file)[0] for file in files}
  none = (_IMAGES, *split_folders.UNLABELLED)
  with os.scandir(root) as entries:
    others = [e for e in entries if walk.is_folder(e) and e.name.lower() not in none]
  return sorted(each.name for each in others if _has_all(each.path, files[0], stems))


def _has_all(path: str, first: str, stems: set[str]) -> bool:
  """Whether a folder has a file for every image; it is walked only if it has one for the first."""
  stem = os.path.splitext(os.path.join(path, first))[0]
  if not any(os.path.isfile(stem + suffix) for suffix in _FIELD_SUFFIXES):
    return False
  return stems <= {os.path.splitext(file)[0] for file in walk.walk(path, _FIELD_SUFFIXES).files}


def every_image(path: str | os.PathLike) -> list[str]:
  """All image files of a folder, whatever its layout, as sorted relative paths with '/'.

  Raises:
    ValueError: there is none.
  """
  return _images_below(source.absolute(path)).files


def _test_files(
  tests: list[str], train: tuple[str, ...], class_of: Callable[[str], str]
) -> tuple[str, list[str], tuple[str, ...], tuple[str, ...]]:
  """The test folder, its files, the class names that number its labels, and notes."""
  filled = [path for path in tests if walk.walk(path).files]
  scanned = [(path, *_scan(path, class_of, train)) for path in filled or tests]
  path, files, classes, notes = next((entry for entry in scanned if entry[2]), scanned[0])
  extra = sorted(set(classes) - set(train))
  if train and extra:
    raise ValueError(
      f'{path} has the class {extra[0]!r}, which the train folder has not; its classes are '
      f'{", ".join(train[:10])}{" ..." if len(train) > 10 else ""}.'
    )
  return path, files, train if classes else (), notes


def _scan(
  root: str,
  class_of: Callable[[str], str],
  classes: tuple[str, ...] = (),
  aside: tuple[str, ...] = (),
) -> tuple[list[str], tuple[str, ...], tuple[str, ...]]:
  """Sorted image files below `root`, relative paths with '/'; the names of the classes; notes.

  One class folder is enough where `classes` are known already. Files whose path begins with one of
  `aside` do not count.
  """
  found = _images_below(root)
  files = [file for file in found.files if not file.startswith(aside)]
  notes = walk.notes(root, found.others, found.runs)
  tops = Counter(map(class_of, files))
  outside = tops.pop('', 0)
  if len(tops) < 2 and not (tops and set(tops) <= set(classes)):
    return files, (), notes
  inside = len(files) - outside
  if inside <= outside:
    few = f'{inside:,} of {len(files):,} images in {root} lie in folders: too few to be classes.'
    return files, (), (*notes, few)
  if outside:
    notes += (
      f'{outside:,} of {len(files):,} images in {root} lie in no class folder: they have no label, '
      'so they are pretrained on and not evaluated.',
    )
  return files, tuple(sorted(tops)), notes


def _images_below(root: str) -> walk.Found:
  """What lies below a folder; ValueError where no image does."""
  found = walk.walk(root)
  if not found.files:
    held = f'it holds {walk.counted(found.others)}' if found.others else 'it is empty'
    packed = set(found.others) & {'.zip', '.tar', '.parquet', '.arrow'}
    hint = f' --data.name=shards reads {min(packed)} files.' if packed else ''
    raise ValueError(
      f'{root} has no image in it: {held}; images end in {", ".join(SUFFIXES)}.{hint}'
    )
  return found


def _make(
  root: str,
  files: list[str],
  classes: tuple[str, ...],
  split: str,
  unreadable: source.UnreadableLog,
  image: Field,
  fields: Mapping[Field, list[str]],
  class_of: Callable[[str], str],
) -> source.Source:
  name = os.path.basename(root) or root
  paths = {field.name: own for field, own in fields.items()}

  @functools.cache
  def labels() -> np.ndarray | None:
    if not classes:
      return None
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number.get(class_of(file), -1) for file in files], np.int32)

  def values(rows: np.ndarray, name: str) -> np.ndarray:
    if name == 'label':
      known = labels()
      return np.full(len(rows), -1, np.int32) if known is None else known[rows]
    own = paths.get(name)
    read = np.empty(len(rows), object)
    for i, row in enumerate(rows):
      read[i] = source.bytes_of(os.path.join(root, files[row]) if own is None else own[row])
    return read

  def fetch(rows: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    return tuple(values(rows, name) for name in names)

  return source.Source(
    name=name,
    size=len(files),
    num_classes=len(classes),
    class_names=classes,
    encoded=True,
    image_shape=None,
    fingerprint=source.fingerprint('folder', split, classes, '\n'.join(files)),
    fetch=fetch,
    fetch_labels=labels,
    locate=lambda row: os.path.join(root, files[row]),
    unreadable=unreadable,
    fields=(image, *fields),
  )


def _fields_of(
  images: str, files: Sequence[str], fields: Sequence[Field], range_: str
) -> dict[Field, list[str]]:
  """The file of each image for every field, and the fields with channels, type and range."""
  found = {}
  for field in fields:
    root = os.path.join(os.path.dirname(images), field.name)
    if not os.path.isdir(root):
      raise ValueError(f'{root} is not there: the field {field.name!r} needs a folder of its own.')
    own_files = walk.walk(root, _FIELD_SUFFIXES).files
    by_stem = {os.path.splitext(file)[0]: file for file in reversed(own_files)}
    missing = [file for file in files if os.path.splitext(file)[0] not in by_stem]
    if missing:
      raise ValueError(
        f'{root} has no file for {len(missing)} of {len(files)} images; the first is {missing[0]}.'
      )
    own = [os.path.join(root, by_stem[os.path.splitext(file)[0]]) for file in files]
    like = field
    if field.kind == 'image':
      seen, _ = pixels.image_field(
        own, lambda row, own=own: source.bytes_of(own[row]), range_, root
      )
      like = dataclasses.replace(seen, name=field.name)
    try:
      like = field_file.like(like, source.bytes_of(own[0]))
    except UnreadableImageError as error:
      raise ValueError(f'{own[0]} cannot be read as a {field.kind}: {error}.') from error
    if field.channels not in (0, like.channels) and field.has_pixels:
      channels = counted(like.channels, 'channel')
      raise ValueError(f'{root}: {channels}, but {field.channels} were asked for.')
    found[like] = own
  return found
