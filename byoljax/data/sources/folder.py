"""A folder of images, however it is arranged, as a source of encoded files.

Split: a sub-folder `train` (or `training`) makes the folder a tree of splits when one of `test`,
`val`, `valid`, `validation` lies beside it, or no image lies outside of it (else it is a class like
its neighbors: there are such trains). Then it holds the training images, and the first of those
four that has labels, else the first that has images, the test images. Without `train`, every image
belongs to the training split and there is no test split.

Labels: the folders directly below the split's root are the classes when there are at least two that
hold images and every image lies in one of them, at any depth; else the images are unlabelled.
Classes are numbered in the sorted order of their names, by the training split's names.

Files count as images by their suffix. Names that begin with a dot are ignored; links are followed,
each real directory once, so loops end. The order is that of the sorted relative paths: a function
of the names alone. Nothing is opened at start-up: millions of files would take minutes. A file that
turns out to be unreadable is replaced by the next one (see pipeline.py).

Further fields lie in folders of their own names beside the images, which are then in a folder
`images`: `train/images/cat/1.jpg` and `train/depth/cat/1.png`. A file belongs to the image with the
same path but for the suffix; `.npy` files are allowed, too.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import os

import numpy as np

from byoljax.data.fields import IMAGE, Field
from byoljax.data.sources import field_file, source
from byoljax.data.sources.image_file import UnreadableImageError

SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.gif', '.webp')
_FIELD_SUFFIXES = (*SUFFIXES, field_file.NPY)
_IMAGES = 'images'
_TRAIN = ('train', 'training')
_TEST = ('test', 'val', 'valid', 'validation')


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
) -> source.Source:
  """The images of a folder.

  Args:
    path: the folder; `~` is expanded.
    split: 'pretrain', 'train' or 'test'; the first two are the same images.
    unreadable: where files that cannot be read are noted.
    fields: further fields, each a folder of its name.
    class_of: path below the split's root, with '/' -> name of the class; '' where there is none.

  Raises:
    ValueError: no such folder, no image in it, no test split, a class that only the test split
      has, or an image without one of the fields.
  """
  if split not in ('pretrain', 'train', 'test'):
    raise ValueError(f"a folder has no split {split!r}: use 'pretrain', 'train' or 'test'.")
  root = os.path.abspath(os.path.expanduser(os.fspath(path)))
  if not os.path.isdir(root):
    kind = 'is a file' if os.path.exists(root) else 'does not exist'
    raise ValueError(f'{root} {kind}: config.data.dir must be a folder of images.')
  train, tests = _splits_of(root)
  if fields:
    train, tests = (os.path.join(train, _IMAGES), [os.path.join(t, _IMAGES) for t in tests])
    if not os.path.isdir(train):
      raise ValueError(
        f'{train} is not there: where fields are read ({", ".join(f.name for f in fields)}), the '
        f'images lie in a folder {_IMAGES!r} beside theirs.'
      )
    tests = [path for path in tests if os.path.isdir(path)]
  files, classes = _scan(train, class_of)
  if split == 'test':
    if not tests:
      raise source.NoSplitError(
        f'{root} has no test images: put them into {os.path.join(root, "val")}, beside the '
        f'training images in {os.path.join(root, "train")}.'
      )
    train, files, classes = _test_files(tests, classes, class_of)
  log = source.UnreadableLog() if unreadable is None else unreadable
  found = _fields_of(train, files, fields)
  return _make(train, files, classes, split, log, found, class_of)


def _splits_of(root: str) -> tuple[str, list[str]]:
  """The folder with the training images, and the folders that may hold test images."""
  tests = [path for path in (os.path.join(root, name) for name in _TEST) if os.path.isdir(path)]
  for name in _TRAIN:
    train = os.path.join(root, name)
    if not os.path.isdir(train):
      continue
    if tests or all(file.startswith(f'{name}/') for file in _walk(root)[0]):
      return train, tests
  return root, []


def _test_files(
  tests: list[str], train: tuple[str, ...], class_of: Callable[[str], str]
) -> tuple[str, list[str], tuple[str, ...]]:
  """The test folder, its files, and the class names that number its labels."""
  filled = [path for path in tests if _walk(path)[0]]
  scanned = [(path, *_scan(path, class_of, train)) for path in filled or tests]
  path, files, classes = next((entry for entry in scanned if entry[2]), scanned[0])
  extra = sorted(set(classes) - set(train))
  if train and extra:
    raise ValueError(
      f'{path} has the class {extra[0]!r}, which the train folder has not; its classes are '
      f'{", ".join(train[:10])}{" ..." if len(train) > 10 else ""}.'
    )
  return path, files, train if classes else ()


def _scan(
  root: str, class_of: Callable[[str], str], classes: tuple[str, ...] = ()
) -> tuple[list[str], tuple[str, ...]]:
  """Sorted image files below `root`, as relative paths with '/', and the names of the classes.

  One class folder is enough where `classes` are known already.
  """
  files, others = _walk(root)
  if not files:
    held = f'it holds {others} other files' if others else 'it is empty'
    raise ValueError(f'{root} has no image in it: {held}; images end in {", ".join(SUFFIXES)}.')
  tops = {class_of(file) for file in files}
  if '' in tops or (len(tops) < 2 and not tops <= set(classes)):
    return files, ()
  return files, tuple(sorted(tops))


def _walk(root: str, suffixes: tuple[str, ...] = SUFFIXES) -> tuple[list[str], int]:
  """Every image below `root`, sorted, and how many other files there are."""
  files: list[str] = []
  others = 0
  visited = set()
  pending = [(root, '')]
  while pending:
    folder, prefix = pending.pop()
    status = os.stat(folder)
    # A link back to a parent, or a second way to the same place, is not walked again.
    if (status.st_dev, status.st_ino) in visited:
      continue
    visited.add((status.st_dev, status.st_ino))
    deeper = []
    with os.scandir(folder) as entries:
      for entry in entries:
        if entry.name.startswith('.'):
          continue
        if _is_folder(entry):
          deeper.append((entry.path, f'{prefix}{entry.name}/'))
        elif entry.name.lower().endswith(suffixes):
          files.append(prefix + entry.name)
        else:
          others += 1
    # The order of the walk decides under which name a folder with two is found.
    pending.extend(sorted(deeper, reverse=True))
  return sorted(files), others


def _is_folder(entry: os.DirEntry) -> bool:
  try:
    return entry.is_dir()
  except OSError:  # a link that leads to itself
    return False


def _make(
  root: str,
  files: list[str],
  classes: tuple[str, ...],
  split: str,
  unreadable: source.UnreadableLog,
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
    return np.array([number[class_of(file)] for file in files], np.int32)

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
    fields=(IMAGE, *fields),
  )


def _fields_of(
  images: str, files: Sequence[str], fields: Sequence[Field]
) -> dict[Field, list[str]]:
  """The file of each image for every field, and the fields with channels and type."""
  found = {}
  for field in fields:
    root = os.path.join(os.path.dirname(images), field.name)
    if not os.path.isdir(root):
      raise ValueError(f'{root} is not there: the field {field.name!r} needs a folder of its own.')
    own_files, _ = _walk(root, _FIELD_SUFFIXES)
    by_stem = {os.path.splitext(file)[0]: file for file in reversed(own_files)}
    missing = [file for file in files if os.path.splitext(file)[0] not in by_stem]
    if missing:
      raise ValueError(
        f'{root} has no file for {len(missing)} of {len(files)} images; the first is {missing[0]}.'
      )
    own = [os.path.join(root, by_stem[os.path.splitext(file)[0]]) for file in files]
    try:
      found[field_file.like(field, source.bytes_of(own[0]))] = own
    except UnreadableImageError as error:
      raise ValueError(f'{own[0]} cannot be read as a {field.kind}: {error}.') from error
  return found
