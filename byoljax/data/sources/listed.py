"""Image files that are named one by one, in a list, with or without labels.

A list is a CSV file with a header, with commas, semicolons or tabs, a JSON list of objects, or JSON
lines, with these columns, their names in any case:

    path    the file, relative to the list; or 'file', 'filename', 'file_name', 'image', 'name'
    label   optional, the name or the number of the class, nothing or -1 where it is not known; or
            'class', 'class_name', 'category', 'target'
    split   optional; train, or test, val, valid or validation

    path,label,split
    cats/1.jpg,cat,train
    dogs/2.jpg,,train

Where all labels are numbers, they are those of the classes; else classes are numbered in the order
of their names, those of all splits together. Without a column 'split' all are training images. JSON
may also be a list of paths alone.
"""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import functools
import io
import itertools
import json
import os
from typing import Any

import numpy as np

from byoljax.data.sources import arrays, pixels, source
from byoljax.data.sources.label_values import number_labels, read_label
from byoljax.data.sources.split_folders import TEST, TRAIN

# Names of columns, in any case.
PATHS = ('path', 'file', 'filename', 'file_name', 'image', 'name')
LABELS = ('label', 'class', 'class_name', 'category', 'target')
SPLIT = 'split'
SUFFIXES = ('.csv', '.json', '.jsonl')


def from_list(
  path: str | os.PathLike,
  split: str,
  *,
  unreadable: source.UnreadableLog | None = None,
  range_: str = '',
) -> source.Source:
  """A split of the images that a list names.

  Args:
    path: the list; `~` is expanded.
    split: 'pretrain', 'train' or 'test'; the first two are the same images.
    unreadable: where files that cannot be read are noted.
    range_: which numbers are black and white, see `pixels`.

  Raises:
    ValueError: no such list, no column with paths, an unknown split, or no image in the split.
  """
  file = source.absolute(path)
  rows = _rows(file)
  key = _column(rows, PATHS, file)
  label_key = next((name for name in LABELS if any(name in row for row in rows)), None)
  told = [row.get(label_key) if label_key else None for row in rows]
  found = [read_label(x, f"{file}: '{row[key]}'") for x, row in zip(told, rows, strict=True)]
  numbers, classes = number_labels(found, file)
  others = [name for name in dict.fromkeys(itertools.chain(*rows)) if name not in (key, SPLIT)]
  notes = () if label_key or not others else (
    f"{os.path.basename(file)} has no column {', '.join(LABELS)}, so that no image has a label; "
    f'not read: {", ".join(others)}.',
  )  # fmt: skip
  wanted = TEST if split == 'test' else (*TRAIN, '')
  chosen = []
  for number, row in enumerate(rows):
    own = str(row.get(SPLIT) or '').strip().lower()
    if own not in (*TEST, *TRAIN, ''):
      raise ValueError(f"{file}: split '{own}' of {row[key]} is none of train, {', '.join(TEST)}.")
    if own in wanted:
      chosen.append(number)
  if not chosen:
    kind = source.NoSplitError if split == 'test' else ValueError
    raise kind(f"{file} names no {split} images: a column '{SPLIT}' says which are.")
  home = os.path.dirname(file)
  labels = [numbers[row] for row in chosen]
  made = from_files(
    [os.path.join(home, os.path.expanduser(str(rows[row][key]))) for row in chosen],
    labels if max(labels) >= 0 else None,
    name=f'{os.path.basename(file)}:{split}',
    class_names=classes if max(labels) >= 0 else (),
    unreadable=unreadable,
    range_=range_,
  )
  return dataclasses.replace(made, notes=(*made.notes, *notes))


def _rows(file: str) -> list[Mapping[str, Any]]:
  try:
    with open(file, encoding='utf-8-sig', newline='') as opened:
      text = opened.read()
    if file.endswith('.csv'):
      head, *cells = csv_rows(text) or [[]]
      names = [name.strip().lower() for name in head]
      return [dict(zip(names, row, strict=False)) for row in cells]
    lines = file.endswith('.jsonl')
    found = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else (
      json.loads(text)
    )  # fmt: skip
  except (OSError, ValueError, csv.Error) as error:
    raise ValueError(f'{file} cannot be read as a list of images: {error}.') from error
  if not isinstance(found, list):
    raise ValueError(f'{file} holds no list: JSON is [{{"path": ..., "label": ...}}, ...] here.')
  if not all(isinstance(row, (str, dict)) for row in found):
    raise ValueError(f'{file}: every entry is a path, or an object with one.')
  return [
    {PATHS[0]: row} if isinstance(row, str) else {name.lower(): row[name] for name in row}
    for row in found
  ]


def csv_rows(text: str) -> list[list[str]]:
  """The rows of a CSV file but for empty ones; what its first line has most of separates them."""
  mark = max(',;\t', key=text.split('\n', 1)[0].count)
  rows = csv.reader(io.StringIO(text, newline=''), delimiter=mark)
  return [row for row in rows if any(map(str.strip, row))]


def _column(rows: Sequence[Mapping[str, Any]], names: Sequence[str], file: str) -> str:
  """The first of the names that every row has."""
  if not rows:
    raise ValueError(f'{file} names no image.')
  for name in names:
    if all(row.get(name) for row in rows):
      return name
  raise ValueError(
    f'{file} has no column {", ".join(names)} with the path of every image: it has '
    f'{", ".join(map(str, rows[0]))}.'
  )


def from_files(
  paths: Sequence[str | os.PathLike],
  labels: Sequence[Any] | np.ndarray | None = None,
  *,
  name: str = 'files',
  class_names: tuple[str, ...] = (),
  unreadable: source.UnreadableLog | None = None,
  range_: str = '',
) -> source.Source:
  """The images of a list of files, in its order.

  Args:
    paths: the files; they are opened when they are needed.
    labels: whole numbers [N], -1: none; [N, C], 1, 0 or -1, where images have several; or None.
    name: for messages and the fingerprint.
    class_names: one per class; by default their numbers.
    unreadable: where files that cannot be read are noted.
    range_: which numbers are black and white, see `pixels`.

  Raises:
    ValueError: no files, or labels that are not one class number, or row, for each of them; numbers
      without names that are no classes, such as identifiers.
  """
  files = [source.absolute(path) for path in paths]
  y = None if labels is None else arrays.check_labels(labels, len(files), name, 'labels')
  several = y is not None and y.ndim == 2
  count = 0
  if y is not None:
    count = y.shape[1] if several else max(len(class_names), int(y.max(initial=-1)) + 1)
    if not class_names:
      arrays.check_numbering([y], name)
  if class_names and len(class_names) != count:
    raise ValueError(f'{name} names {len(class_names)} classes, but labels go up to {count - 1}.')

  def fetch(rows: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    return tuple(_labels(rows) if each == 'label' else _files(rows) for each in names)

  def _labels(rows: np.ndarray) -> np.ndarray:
    return np.full(len(rows), -1, np.int32) if y is None else y[rows]

  def _files(rows: np.ndarray) -> np.ndarray:
    read = np.empty(len(rows), object)
    read[:] = [source.bytes_of(files[row]) for row in rows]
    return read

  image, notes = pixels.image_field(files, lambda row: source.bytes_of(files[row]), range_, name)
  return source.Source(
    name=name,
    size=len(files),
    num_classes=count,
    class_names=class_names or tuple(map(str, range(count))),
    encoded=True,
    image_shape=None,
    fingerprint=source.fingerprint('files', '\n'.join(files), b'' if y is None else y.tobytes()),
    fetch=fetch,
    fetch_labels=functools.cache(lambda: y),
    locate=lambda row: files[row],
    unreadable=source.UnreadableLog() if unreadable is None else unreadable,
    multi_label=several,
    fields=(image,),
    notes=notes,
  )
