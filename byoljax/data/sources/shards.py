"""Images packed into files: zip, tar (WebDataset's, too), Parquet and Arrow, one file or a folder.

Split: what a file's name or the folders around it say (`train-00000-of-00003.parquet`,
`birds-val-000.tar`, `test/data-00000-of-00001.arrow`), or the first folder within an archive
(`train/`, `val/`); else all are training images. Of several splits that are none for training the
first with labels, else the first, is taken for the test images, as for a folder: test, val, valid,
validation. Labels: an example's own (`.cls` or `.json` in a tar, a column of a table), or the
folders of an archive, where there are two at least and every image lies in one. A folder that
everything in an archive lies in does not count.
"""

from collections.abc import Sequence
import dataclasses
import functools
import itertools
import os

import numpy as np

from byoljax.data.sources import memory, packed_files, pixels, source, table_file
from byoljax.data.sources.archives import Shard, from_archive
from byoljax.data.sources.label_values import number_labels
from byoljax.data.sources.split_folders import TEST, TRAIN
from byoljax.wording import counted


def from_shards(
  path: str | os.PathLike,
  split: str,
  *,
  unreadable: source.UnreadableLog | None = None,
  range_: str = '',
) -> source.Source:
  """The images of a packed file, or of all such files in a folder.

  Args:
    path: the file or the folder; `~` is expanded.
    split: 'pretrain', 'train' or 'test'; the first two are the same images.
    unreadable: where images that cannot be read are noted.
    range_: which numbers are black and white, see `pixels`.

  Raises:
    ValueError: no such file, none that can be read, no image, or no test split.
  """
  root = source.absolute(path)
  files = packed_files.files(root)
  said = [packed_files.split_of(root, file) for file in files]
  shards = [_open(file) for file in files]
  names = [_without_common(shard.names) for shard in shards]
  splits = [
    [word] * len(own) if word else _splits(own) for word, own in zip(said, names, strict=True)
  ]
  rows = [(at, place) for at, shard in enumerate(shards) for place in range(len(shard.names))]
  if not rows:
    raise ValueError(f'{root} has no image in it.')
  known, classes = _labels(root, shards, names, splits)
  wanted = _test_split(splits, known) if split == 'test' else 'train'
  chosen = [(at, place) for at, place in rows if splits[at][place] == wanted]
  if not chosen:
    kind = source.NoSplitError if split == 'test' else ValueError
    raise kind(
      f"{root} has no {split} images: a file's name, or a folder in an archive, says which are, "
      f"such as 'train-0.tar' and 'val-0.tar'."
    )
  _check_memory(root, [shards[at] for at in dict.fromkeys(at for at, _ in chosen)])
  labels = None if not classes else np.array([known[at][place] for at, place in chosen], np.int32)
  made = _make(root, split, shards, chosen, labels, classes, unreadable)
  inner = [shards[at].names[place] for at, place in chosen]
  image, notes = pixels.image_field(
    inner, lambda row: shards[chosen[row][0]].read(chosen[row][1]), range_, root
  )
  told = [word or _says_splits(own) for word, own in zip(said, names, strict=True)]
  said_of_files = (*packed_files.notes(files, told), *_note_beside(shards))
  return dataclasses.replace(made, fields=(image,), notes=(*said_of_files, *notes))


def _note_beside(shards: Sequence[Shard]) -> tuple[str, ...]:
  """Says which images are left out, if any."""
  beside = [name for shard in shards for name in shard.beside]
  if not beside:
    return ()
  images = counted(len(beside), 'image')
  return (f"Left out: {images} beside the example's own, such as {beside[0]}.",)


def _open(file: str) -> Shard:
  table = file.lower().endswith((table_file.PARQUET, table_file.ARROW))
  return table_file.from_table(file) if table else from_archive(file)


def _check_memory(root: str, shards: Sequence[Shard]) -> None:
  """Raises ValueError where tables that have to be read as a whole are more than there is room."""
  held = sum(shard.held for shard in shards)
  if held > memory.room():
    raise ValueError(
      f'{root} holds {held / 2**30:.1f} GiB of images in Parquet files, more than a quarter of the '
      'memory: write a folder, tars, or with save_to_disk() Arrow files, which are read image by '
      'image.'
    )


def _without_common(names: Sequence[str]) -> list[str]:
  """Names without the folders that all of them lie in, but for those that say a split."""
  own = [name.split('/') for name in names]
  while own and all(len(parts) > 1 for parts in own) and len({parts[0] for parts in own}) == 1:
    if own[0][0].lower() in (*TRAIN, *TEST):
      break
    own = [parts[1:] for parts in own]
  return ['/'.join(parts) for parts in own]


def _splits(names: Sequence[str]) -> list[str]:
  """'train', or a word of `TEST`, of each image of an archive whose name says none."""
  tops = [name.split('/')[0].lower() if '/' in name else '' for name in names]
  if not set(tops) & set(TRAIN):
    return ['train'] * len(names)
  return [top if top in TEST else 'train' for top in tops]


def _says_splits(names: Sequence[str]) -> str:
  """The first folder of an archive that is named like a split, or ''."""
  tops = (name.split('/')[0].lower() for name in names if '/' in name)
  return next((top for top in tops if top in (*TRAIN, *TEST)), '')


def _test_split(splits: Sequence[Sequence[str]], known: Sequence[Sequence[int]]) -> str:
  """The split for the test: the first of `TEST` with labels, else the first; '' for none."""
  there = {split for own in splits for split in own}
  labelled = {
    split
    for own, numbers in zip(splits, known, strict=False)
    for split, number in zip(own, numbers, strict=True)
    if number >= 0
  }
  return next((name for name in TEST if name in labelled), '') or next(
    (name for name in TEST if name in there), ''
  )


def _labels(
  root: str,
  shards: Sequence[Shard],
  names: Sequence[Sequence[str]],
  splits: Sequence[Sequence[str]],
) -> tuple[list[list[int]], tuple[str, ...]]:
  """Numbers of all images, -1 for none, and the names of the classes; () without any."""
  told = [list(shard.labels) for shard in shards]
  flat = list(itertools.chain(*told))
  if all(label is None for label in flat):
    told = [_folders(own, parts) for own, parts in zip(names, splits, strict=True)]
    flat = list(itertools.chain(*told))
    if len(set(flat)) < 2 or None in flat:
      return [], ()
  known = next((shard.class_names for shard in shards if shard.class_names), ())
  numbers, classes = number_labels(flat, root, known)
  left = iter(numbers)
  return [list(itertools.islice(left, len(labels))) for labels in told], classes


def _folders(names: Sequence[str], splits: Sequence[str]) -> list[str | None]:
  """The folder that each image of an archive lies in, below its split."""
  found: list[str | None] = []
  for name, split in zip(names, splits, strict=True):
    parts = name.split('/')
    if len(parts) > 1 and parts[0].lower() in (split, *(TRAIN if split == 'train' else ())):
      parts = parts[1:]
    found.append(parts[0] if len(parts) > 1 else None)
  return found


def _make(
  root: str,
  split: str,
  shards: Sequence[Shard],
  rows: Sequence[tuple[int, int]],
  labels: np.ndarray | None,
  classes: tuple[str, ...],
  unreadable: source.UnreadableLog | None,
) -> source.Source:
  def values(wanted: np.ndarray, what: str) -> np.ndarray:
    if what == 'label':
      return np.full(len(wanted), -1, np.int32) if labels is None else labels[wanted]
    read = np.empty(len(wanted), object)
    for i, row in enumerate(wanted):
      at, place = rows[row]
      read[i] = shards[at].read(place)
    return read

  def locate(row: int) -> str:
    at, place = rows[row]
    return f'{shards[at].path}/{shards[at].names[place]}'

  sizes = [os.path.getsize(shard.path) for shard in shards]
  told = '\n'.join(f'{os.path.basename(shards[at].path)}/{shards[at].names[i]}' for at, i in rows)
  mark = source.fingerprint(
    'shards', split, classes, sizes, told, b'' if labels is None else labels.tobytes()
  )
  return source.Source(
    name=os.path.basename(root) or root,
    size=len(rows),
    num_classes=len(classes),
    class_names=classes,
    encoded=True,
    image_shape=None,
    fingerprint=mark,
    fetch=lambda wanted, names: tuple(values(wanted, name) for name in names),
    fetch_labels=functools.cache(lambda: labels),
    locate=locate,
    unreadable=source.UnreadableLog() if unreadable is None else unreadable,
  )
