"""Image files that are named one by one, in a list, with or without labels."""

from collections.abc import Sequence
import functools
import os

import numpy as np

from byoljax.data.sources import source


def from_files(
  paths: Sequence[str | os.PathLike],
  labels: Sequence[int] | np.ndarray | None = None,
  *,
  name: str = 'files',
  class_names: tuple[str, ...] = (),
  unreadable: source.UnreadableLog | None = None,
) -> source.Source:
  """The images of a list of files, in its order.

  Args:
    paths: the files; they are opened when they are needed.
    labels: whole numbers [N], -1: none; or None.
    name: for messages and the fingerprint.
    class_names: one per class; by default their numbers.
    unreadable: where files that cannot be read are noted.

  Raises:
    ValueError: no files, or labels that are not one class number for each of them.
  """
  files = [os.path.abspath(os.path.expanduser(os.fspath(path))) for path in paths]
  y = None if labels is None else np.asarray(labels)
  if y is not None:
    if y.shape != (len(files),) or not np.issubdtype(y.dtype, np.integer):
      raise ValueError(
        f'{name}: labels of {len(files)} files must be as many whole numbers, got {y.dtype} '
        f'{list(y.shape)}.'
      )
    y = y.astype(np.int32)
  count = 0 if y is None else max(len(class_names), int(y.max(initial=-1)) + 1)
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
  )
