"""Data sets that are decoded once and kept in memory, where all images have one size and fit.

Decoding CIFAR-10 or STL-10 again in every epoch costs more than everything else on the host, and
the result is the same every time. The examples, their order, labels and fingerprint do not change;
crops are made by `resize.resample`, as for any arrays. Photographs of various sizes are not kept: a
training crop needs a region of each, at its own resolution.
"""

from concurrent import futures
import dataclasses
import functools
import math
import os
import weakref

import numpy as np

from byoljax.data.fields import Field
from byoljax.data.sources import arrays, field_file, image_file
from byoljax.data.sources.source import Source

# Largest share of this computer's memory that the decoded images of one split may take.
SHARE = 1 / 4
_READ_AT_ONCE = 1024
# Splits that are in use: pretraining and the evaluations open the same ones.
_decoded: weakref.WeakValueDictionary[tuple[str, tuple[Field, ...]], Source] = (
  weakref.WeakValueDictionary()
)


def keep(source: Source, limit_bytes: int | None = None) -> Source:
  """The same source, decoded when the first batch is asked for, where that is possible.

  Args:
    source: any source; arrays, images of various sizes and sets that are too large come back as
      they are. A set with an unreadable image is read and decoded anew by every batch, as without
      this function: which image replaces it is a matter of the batch.
    limit_bytes: largest size of the decoded images; `SHARE` of this computer's memory when None.
  """
  if not source.encoded or source.image_shape is None:
    return source
  if decoded_bytes(source) > (room() if limit_bytes is None else limit_bytes):
    return source
  return dataclasses.replace(source, decode=functools.cache(lambda: _decode(source)))


def decoded_bytes(source: Source) -> int:
  """Bytes of all fields as arrays; the images of the source have one size."""
  return source.size * sum(
    math.prod(source.shape_of(field.name)) * np.dtype(field.dtype).itemsize
    for field in source.fields
  )


def _decode(source: Source) -> Source:
  key = (source.fingerprint, source.fields)
  known = _decoded.get(key)
  if known is not None:
    return known
  assert source.image_shape is not None
  size = source.image_shape
  names = [field.name for field in source.fields]
  made = {
    field.name: np.empty((source.size, *source.shape_of(field.name)), field.dtype)
    for field in source.fields
  }
  labels = np.empty((source.size, *source.label_shape), np.int32)

  def fill(start: int) -> None:
    rows = np.arange(start, min(start + _READ_AT_ONCE, source.size))
    *read, labels[rows] = source.read(rows, (*names, 'label'))
    for field, values in zip(source.fields, read, strict=True):
      if not field.has_pixels:
        made[field.name][rows] = values
        continue
      for row, data in zip(rows, values, strict=True):
        made[field.name][row] = field_file.decode(field, data, size)

  try:
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      list(pool.map(fill, range(0, source.size, _READ_AT_ONCE)))
  except image_file.UnreadableImageError:
    return source
  kept = arrays.from_arrays(
    made.pop('image'),
    labels,
    name=source.name,
    num_classes=max(source.num_classes, 1),
    fields={source.field(name): values for name, values in made.items()},
    mark=source.fingerprint,
  )
  kept = dataclasses.replace(
    kept,
    num_classes=source.num_classes,
    class_names=source.class_names,
    fetch_labels=source.fetch_labels,
    locate=source.locate,
    unreadable=source.unreadable,
  )
  _decoded[key] = kept
  return kept


def room() -> float:
  """Bytes that the decoded images of a split may take."""
  return _memory_bytes() * SHARE


def _memory_bytes() -> int:
  try:
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  except (AttributeError, ValueError, OSError):  # Not on every system.
    return 8 << 30
