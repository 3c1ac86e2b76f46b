"""Random access to a data set: the one type that every kind of data is turned into.

A `Source` numbers its examples 0..N-1 and hands out any of them by number. The pipeline asks for
exactly the examples that a step needs, so the order is free, a resumed run starts at its step at
once, and nothing about the reader has to be saved. State is data: the fields say what the data are,
the closures how to get them; there is no class hierarchy and nothing to close.
"""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
import hashlib
import os
import threading
from typing import Any, NamedTuple

import numpy as np

from byoljax.data.fields import IMAGE, Field, find
from byoljax.data.sources.series import Series

SPLITS = ('pretrain', 'train', 'test')
UNREADABLE_FILE = 'unreadable.txt'


class NoSplitError(ValueError):
  """The data are there, but they have no such split: no test images, say."""


class UnreadableLog:
  """The examples that could not be read, each once; kept in memory and appended to a file.

  Attributes:
    names: name of each unreadable example -> the reason, in the order they were met.

  """

  def __init__(self, path: str | os.PathLike | None = None):
    """Keeps the log in `path`.

    Args:
      path: file to append to, one `name<TAB>reason` per line; without the suffix .txt it is a
        directory that gets `unreadable.txt`; None keeps no file. Nothing is created before the
        first example fails.
    """
    self.path = None if path is None else os.fspath(path)
    if self.path is not None and not self.path.endswith('.txt'):
      self.path = os.path.join(self.path, UNREADABLE_FILE)
    self.names: dict[str, str] = {}
    self._lock = threading.Lock()
    self._on_file: set[str] | None = None

  def add(self, name: str, reason: str) -> None:
    """Notes one unreadable example; a name that was noted before, in any run, is not repeated."""
    reason = ' '.join(str(reason).split())
    with self._lock:
      if name in self.names:
        return
      self.names[name] = reason
      if self.path is None:
        return
      if self._on_file is None:
        self._on_file = _first_columns(self.path)
      if name not in self._on_file:
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        with open(self.path, 'a', encoding='utf-8', errors='surrogateescape') as file:
          file.write(f'{name}\t{reason}\n')

  def __len__(self) -> int:
    """How many different examples were unreadable."""
    return len(self.names)


def _first_columns(path: str) -> set[str]:
  try:
    with open(path, encoding='utf-8', errors='surrogateescape') as file:
      return {line.split('\t', 1)[0].rstrip('\n') for line in file}
  except FileNotFoundError:
    return set()


@dataclasses.dataclass(frozen=True)
class Source:
  """A data set, or a part of one, with random access.

  Attributes:
    name: what to call it in messages.
    size: number of examples N, at least 1.
    num_classes: 0 where there are no labels.
    class_names: one per class, or empty.
    encoded: True: `read` gives images, maps and masks as files (object [b], each bytes, or an array
      where a map is stored as one); False: as arrays [b, H, W, C].
    image_shape: (H, W) where every image has the same, else None.
    fingerprint: short hash of what the data are (name, version, size, members); equal data give
      equal fingerprints wherever they lie. A resumed run compares it.
    fetch: (int64 [b], names of fields) -> their values, in the order of the names; called through
      `read`.
    fetch_labels: () -> int32 [N], or None where there are no labels; called through `labels`.
    locate: index -> the example's file or record, for messages.
    unreadable: where examples that cannot be read are noted.
    multi_label: True: images have several labels each, and labels are int32 [b, C] instead: 1 where
      the class is there, 0 where not, -1 where that does not count.
    fields: what every example consists of, beside its label; 'image' first.
    starts: the first index of each part, where several sources were joined: what cannot be read is
      replaced by an example of the same part.
    notes: what a user should know about these data, one sentence each.
    series: what the examples are where they are series of numbers (`series`), which must be taken
      whole: a crop or a mirror would mix up the steps. None: images.
    decode: () -> the same examples as arrays in memory, made on the first call (`memory.keep`);
      None where every batch reads and decodes anew. The pipeline calls it.
  """

  name: str
  size: int
  num_classes: int
  class_names: tuple[str, ...]
  encoded: bool
  image_shape: tuple[int, int] | None
  fingerprint: str
  fetch: Callable[[np.ndarray, Sequence[str]], tuple[np.ndarray, ...]]
  fetch_labels: Callable[[], np.ndarray | None]
  locate: Callable[[int], str]
  unreadable: UnreadableLog = dataclasses.field(default_factory=UnreadableLog)
  multi_label: bool = False
  fields: tuple[Field, ...] = (IMAGE,)
  starts: tuple[int, ...] = (0,)
  notes: tuple[str, ...] = ()
  series: Series | None = None
  decode: 'Callable[[], Source] | None' = None

  def __post_init__(self):
    """Refuses an empty set."""
    if self.size < 1:
      raise ValueError(f'{self.name} holds no example.')

  def read(
    self, indices: np.ndarray, names: Sequence[str] = ('image', 'label')
  ) -> tuple[np.ndarray, ...]:
    """Reads examples in the given order.

    Args:
      indices: integer [b] in [0, N); repeats are allowed.
      names: of the fields that are wanted.

    Returns:
      The values of each field in the order of `names`: images uint8 or float32 [b, H, W, C], or
      object [b] of bytes, empty where a file could not be opened; labels int32
      [b, *label_shape], -1 where unknown; others as `byoljax.data.fields` says of their kind.

    Raises:
      ValueError: an index is out of range, or there is no such field.
    """
    for name in names:
      if name != 'label':
        self.field(name)
    return self.fetch(_checked(indices, self.size, self.name), tuple(names))

  def field(self, name: str) -> Field:
    """The field of this name.

    Raises:
      ValueError: there is none; the closest is named.
    """
    return find(self.fields, name, self.name)

  @property
  def channels(self) -> int:
    """Channels of the images."""
    return self.field('image').channels

  def shape_of(self, name: str) -> tuple[int, ...]:
    """The shape of one example's value; for pixels, where all images have one size."""
    if name == 'label':
      return self.label_shape
    field = self.field(name)
    assert self.image_shape is not None or not field.has_pixels, 'the images differ in size'
    return field.shape(*(self.image_shape or (0, 0)))

  def part_of(self, index: int) -> range:
    """The indices of the part that an example belongs to: all, unless sources were joined."""
    part = int(np.searchsorted(self.starts, index, side='right'))
    return range(self.starts[part - 1], (*self.starts, self.size)[part])

  @property
  def labels(self) -> np.ndarray | None:
    """Labels of all examples, int32 [N, *label_shape], or None; read once, on first use."""
    return self.fetch_labels()

  @property
  def label_shape(self) -> tuple[int, ...]:
    """The shape of one example's label: () or, with several labels each, (C,)."""
    return (self.num_classes,) if self.multi_label else ()

  def opened(self) -> 'Source':
    """The source to make batches from: decoded, where it is to be kept in memory, else itself."""
    return self if self.decode is None else self.decode()

  def subset(self, indices: np.ndarray) -> 'Source':
    """The examples `indices` as a source of their own, numbered 0..len(indices)-1 in that order.

    Args:
      indices: integer [n] in [0, N), n >= 1.

    Raises:
      ValueError: an index is out of range, or there is none.
    """
    chosen = _checked(indices, self.size, self.name)
    whole = self.decode

    def labels() -> np.ndarray | None:
      parents = self.labels
      return None if parents is None else parents[chosen]

    return dataclasses.replace(
      self,
      size=len(chosen),
      fingerprint=fingerprint(self.fingerprint, chosen.astype('<i8').tobytes()),
      fetch=lambda rows, names: self.fetch(chosen[rows], names),
      starts=(0,),
      fetch_labels=functools.cache(labels),
      locate=lambda row: self.locate(int(chosen[row])),
      decode=None if whole is None else functools.cache(lambda: whole().subset(chosen)),
    )

  def labelled(self) -> 'Source':
    """The examples that have a label, numbered anew; the source itself where all do, or none."""
    labels = self.labels
    if labels is None or self.multi_label or (labels >= 0).all() or (labels < 0).all():
      return self
    return self.subset(np.flatnonzero(labels >= 0))

  def without_labels(self) -> 'Source':
    """The same examples, of which nobody can ask the labels."""
    whole = self.decode

    def fetch(rows: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, ...]:
      values = iter(self.fetch(rows, [name for name in names if name != 'label']))
      unknown = np.full(len(rows), -1, np.int32)
      return tuple(unknown if name == 'label' else next(values) for name in names)

    return dataclasses.replace(
      self,
      num_classes=0,
      class_names=(),
      multi_label=False,
      fetch=fetch,
      fetch_labels=lambda: None,
      decode=None if whole is None else functools.cache(lambda: whole().without_labels()),
    )

  def of_classes(self, classes: Sequence[int]) -> 'Source':
    """The examples of these classes, numbered anew; the source itself for ().

    Raises:
      ValueError: there are no labels, several for each image, or no example of one of the classes.
    """
    if not len(classes):
      return self
    labels = self.labels
    if labels is None or self.multi_label:
      raise ValueError(
        f'data.classes={tuple(classes)} chooses images by their class, but those of {self.name} '
        'have no label, or several.'
      )
    for number in classes:
      if not np.any(labels == number):
        raise ValueError(
          f'data.classes={tuple(classes)}: no image of {self.name} is of class {number}; classes '
          f'are 0 to {self.num_classes - 1}.'
        )
    return self.subset(np.flatnonzero(np.isin(labels, classes)))


def _checked(indices: np.ndarray, size: int, name: str) -> np.ndarray:
  indices = np.asarray(indices)
  if indices.ndim != 1 or not (np.issubdtype(indices.dtype, np.integer) or not indices.size):
    raise ValueError(
      f'indices must be one row of whole numbers, got {indices.dtype} {list(indices.shape)}.'
    )
  if indices.size and not 0 <= indices.min() <= indices.max() < size:
    wrong = indices.min() if indices.min() < 0 else indices.max()
    raise ValueError(f'index {wrong} is not in {name}, which has examples 0 to {size - 1}.')
  return indices.astype(np.int64)


class Pieces(NamedTuple):
  """Bytes for `fingerprint` that need not be in memory at once.

  Attributes:
    size: of all pieces together, in bytes.
    each: the pieces.
  """

  size: int
  each: Iterable[bytes]


def fingerprint(*parts: Any) -> str:
  """Hash of the parts as 12 hexadecimal digits: bytes, whole or in `Pieces`, or by their repr."""
  digest = hashlib.blake2b(digest_size=6)
  for part in parts:
    if not isinstance(part, Pieces):
      raw = part if isinstance(part, bytes) else repr(part).encode('utf-8', 'surrogateescape')
      part = Pieces(len(raw), (raw,))
    digest.update(part.size.to_bytes(8, 'little'))
    for piece in part.each:
      digest.update(piece)
  return digest.hexdigest()


def absolute(path: str | os.PathLike) -> str:
  """The absolute path, with `~` expanded."""
  return os.path.abspath(os.path.expanduser(os.fspath(path)))


def bytes_of(path: str) -> bytes:
  """A file's bytes, empty where it cannot be opened: that counts as an unreadable image."""
  try:
    with open(path, 'rb') as file:
      return file.read()
  except (OSError, ValueError):  # A name with a null byte is a ValueError.
    return b''
