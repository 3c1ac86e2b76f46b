"""Data sets that are arrays: an `.npz` file, or arrays already in memory. NumPy only.

An `.npz` holds `x_train`, `y_train`, `x_test`, `y_test` and, for pretraining alone, `x_unlabelled`:
images [N, H, W, C], uint8 or other numbers (`pixels` says which are black and white), or gray
[N, H, W], uint8 or other whole numbers; labels, whole numbers [N], -1 for none, or [N, C] with 1, 0
and -1 (does not count) where images have several labels each. Every `y_` may be absent. Gray
images, of one channel, are repeated to three when read, unless the field 'image' is asked for with
one channel. Floats [N, T, C] or [N, T] are series of numbers, which `series` puts into gray images.
A further field 'depth' is `depth_train`, `depth_test`, `depth_unlabelled`. A file written by
`np.savez` is stored uncompressed, so its images are mapped from the file; what
`np.savez_compressed` writes is loaded.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
from typing import Any
import zlib

import numpy as np

from byoljax.data.fields import IMAGE, Field, checked
from byoljax.data.sources import npz_file, pixels, series, source

_LABELS_OF = {'x_train': 'y_train', 'x_test': 'y_test', 'x_unlabelled': None}
MAX_CLASSES = 1_000_000
_CHECKSUM_BYTES = 4 << 30  # Of larger arrays, rows in equal distances that make up as much.
_MEMBERS = ('x_train', 'y_train', 'x_test', 'y_test', 'x_unlabelled', 'class_names')
# Which members a split is made of, in order; pretraining takes every image that is there.
_SPLITS = {
  'pretrain': ('x_unlabelled', 'x_train'),
  'train': ('x_train',),
  'test': ('x_test',),
}


def from_arrays(
  images: np.ndarray,
  labels: np.ndarray | None = None,
  *,
  name: str = 'arrays',
  class_names: tuple[str, ...] = (),
  num_classes: int | None = None,
  channels: int = 0,
  fields: Mapping[Field, np.ndarray] | None = None,
  range_: str = '',
  mark: str = '',
) -> source.Source:
  """Wraps arrays as a source.

  Args:
    images: [N, H, W, C] or [N, H, W], uint8; or uint16, floats in [0, 1], or, with a range, any
      numbers, which are read as float32 in [0, 1].
    labels: whole numbers [N] (-1: none), [N, C] for several labels per image, or None.
    name: for messages and the fingerprint.
    class_names: one per class, or empty.
    num_classes: by default the number of names, else the largest label + 1.
    channels: of the images as they are read: 1 keeps gray images as they are, 0 repeats them to
      three channels.
    fields: further fields: their arrays by `Field`, of shapes as `byoljax.data.fields` says.
    range_: which numbers are black and white, see `pixels`.
    mark: the fingerprint; '' makes it of the name and the arrays.

  Raises:
    ValueError: a shape or type is not one of these.
  """
  x = _check_images(images, name, 'images', range_)
  image = _image_field(x, channels, name, range_)
  extra = {}
  for field, values in (fields or {}).items():
    found, values = _check_field(field, values, x, name, field.name)
    extra[found] = [values]
  y = None if labels is None else check_labels(labels, len(x), name, 'labels')
  if not mark:
    labelled = b'' if y is None else y.tobytes()
    further = [(field.name, _checksum(values)) for field, (values,) in extra.items()]
    mark = source.fingerprint(name, x.shape, _checksum(x), labelled, *further)
  return _make(name, [x], [y], class_names, num_classes, mark, image, extra)


def from_npz(
  path: str | os.PathLike, split: str, fields: Sequence[Field] = (), range_: str = ''
) -> source.Source:
  """A split of an `.npz` file: 'pretrain' (x_unlabelled and x_train), 'train' or 'test'.

  Args:
    path: the file; `~` is expanded.
    split: which images.
    fields: further fields to read; `Field('image', 'image', 1)` keeps gray images as they are.
    range_: which numbers are black and white, see `pixels`.

  Raises:
    ValueError: no such file, not an `.npz`, a missing member, or a wrong type, shape or length.
  """
  if split not in _SPLITS:
    raise ValueError(f'arrays have no split {split!r}: use one of {", ".join(_SPLITS)}.')
  file = source.absolute(path)
  channels = next((field.channels for field in fields if field.name == 'image'), 0)
  further = [field for field in fields if field.name != 'image']
  beside = [_beside(key, field) for key in _SPLITS[split] for field in further]
  members, checksums = npz_file.read(file, {*_MEMBERS, *beside})
  members, found_series = series.without_series(members, _LABELS_OF, _SPLITS[split], file)
  if found_series is not None:
    channels = 1
  wanted = [key for key in _SPLITS[split] if key in members]
  if not wanted:
    raise source.NoSplitError(
      f'{file} has no {_SPLITS[split][-1]!r}, which the {split} split needs: it holds '
      f'{npz_file.listed(file)}, and the names are {", ".join(_MEMBERS)}.'
    )
  images, labels = [], []
  for key in wanted:
    images.append(_check_images(members[key], file, key, range_))
    label_key = _LABELS_OF[key]
    y = members.get(label_key) if label_key else None
    labels.append(None if y is None else check_labels(y, len(images[-1]), file, str(label_key)))
  shapes = {x.shape[1:3] for x in images}
  if len(shapes) > 1:
    raise ValueError(
      f'{file}: x_unlabelled and x_train must hold images of one size, got {sorted(shapes)}.'
    )
  found = {_image_field(x, channels, file, range_) for x in images}
  if len(found) > 1:
    raise ValueError(
      f'{file}: x_unlabelled and x_train must have equally many channels, and be both uint8 or '
      'neither.'
    )
  extra = dict(_npz_field(field, wanted, members, images, file) for field in further)
  names = members.get('class_names')
  class_names = () if names is None else tuple(str(n) for n in np.asarray(names).ravel())
  # Both splits count the classes of both, so that a test set without the last class agrees.
  every = [
    (y, check_labels(members[y], len(members.get(x, members[y])), file, y))
    for x, y in _LABELS_OF.items()
    if y in members
  ]
  most = max((_classes(y, file, key) for key, y in every if y.size), default=0)
  if not class_names:
    check_numbering([y for _, y in every], file)
  read = [*wanted, *(key for key in beside if key in members)]
  mark = source.fingerprint(
    'npz', split, [(key, members[key].shape, checksums[key]) for key in read]
  )
  num_classes = max(most, len(class_names))
  name = f'{os.path.basename(file)}:{split}'
  made = _make(name, images, labels, class_names, num_classes, mark, found.pop(), extra)
  return dataclasses.replace(made, series=found_series)


def _beside(key: str, field: Field) -> str:
  """The member that holds a field of the images `key`."""
  return f'{field.name}_{key.partition("_")[2]}'


def _checksum(values: np.ndarray) -> int:
  rows, found = values[:: -(-values.nbytes // _CHECKSUM_BYTES) or 1], 0
  for start in range(0, len(rows), 1024):
    found = zlib.crc32(np.ascontiguousarray(rows[start : start + 1024]).data, found)
  return found


def _npz_field(
  field: Field,
  wanted: Sequence[str],
  members: Mapping[str, np.ndarray],
  images: Sequence[np.ndarray],
  file: str,
) -> tuple[Field, list[np.ndarray]]:
  """A further field and its array for each member of images."""
  parts, found = [], field
  for key, x in zip(wanted, images, strict=True):
    member = _beside(key, field)
    if member not in members:
      raise ValueError(f'{file} has no {member!r}, which the field {field.name!r} needs.')
    # The second part must be like the first.
    found, values = _check_field(found, members[member], x, file, member)
    parts.append(values)
  return found, parts


def _make(
  name: str,
  images: list[np.ndarray],
  labels: list[np.ndarray | None],
  class_names: tuple[str, ...],
  num_classes: int | None,
  mark: str,
  image: Field,
  extra: Mapping[Field, list[np.ndarray]],
) -> source.Source:
  starts = np.cumsum([0] + [len(x) for x in images])
  # Of arrays without labels beside others with some, every label is unknown.
  shape: tuple[int, ...] = next((part.shape[1:] for part in labels if part is not None), ())
  y = np.concatenate(
    [
      np.full((len(x), *shape), -1, np.int32) if part is None else part
      for x, part in zip(images, labels, strict=True)
    ]
  )
  if num_classes is None:
    num_classes = len(class_names) or _classes(y, name, 'labels')
    if not class_names:
      check_numbering([y], name)
  if class_names and len(class_names) != num_classes:
    raise ValueError(
      f'{name} names {len(class_names)} classes but its labels need {num_classes}; name each one.'
    )
  if shape and shape != (num_classes,):
    raise ValueError(
      f'{name} has labels of {shape[0]} classes, but its other labels or class_names have '
      f'{num_classes}: every image needs a number for each class.'
    )
  if not shape and int(y.max(initial=-1)) >= num_classes:
    raise ValueError(
      f'{name} holds the label {y.max()}, but its classes are 0 to {num_classes - 1}.'
    )
  height, width = images[0].shape[1:3]

  parts = {'image': (image, images), **{field.name: (field, x) for field, x in extra.items()}}

  def fetch(rows: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    return tuple(
      y[rows] if name == 'label' else _rows(*parts[name], rows, starts, (height, width))
      for name in names
    )

  labelled = num_classes > 0 and bool((y >= 0).any())
  return source.Source(
    name=name,
    size=int(starts[-1]),
    num_classes=num_classes if labelled else 0,
    class_names=(class_names or tuple(str(i) for i in range(num_classes))) if labelled else (),
    encoded=False,
    image_shape=(height, width),
    fingerprint=mark,
    fetch=fetch,
    fetch_labels=lambda: y if labelled else None,
    locate=lambda row: f'{name}[{row}]',
    multi_label=labelled and bool(shape),
    fields=(image, *extra),
  )


def _rows(
  field: Field,
  parts: Sequence[np.ndarray],
  rows: np.ndarray,
  starts: np.ndarray,
  size: tuple[int, int],
) -> np.ndarray:
  """Rows of arrays that follow one another, of which part i begins at starts[i]."""
  shape = field.shape(*size)
  out = np.empty((len(rows), *shape), field.dtype)
  part = np.searchsorted(starts, rows, side='right') - 1
  for i, x in enumerate(parts):
    here = part == i
    picked = x[rows[here] - starts[i]]
    if field.kind == 'image' and field.dtype != IMAGE.dtype:
      picked = pixels.rows_to_unit(picked, field.range)
    # Assigning repeats a single gray channel.
    out[here] = picked[..., None] if picked.ndim == len(shape) and field.has_pixels else picked
  return out


def _image_field(images: np.ndarray, channels: int, where: str, range_: str) -> Field:
  """The field 'image' of checked arrays; `channels` is how many are asked for, 0 for any."""
  stored = images.shape[3] if images.ndim == 4 else 1
  given = channels or (3 if stored == 1 else stored)
  if given != stored and stored != 1:
    raise ValueError(f'{where}: the images have {stored} channels, not the {given} asked for.')
  plain = images.dtype == np.uint8 and not range_
  dtype = IMAGE.dtype if plain else 'float32'
  return Field('image', 'image', given, dtype=dtype, range='' if plain else range_)


def _check_field(
  field: Field, values: Any, images: np.ndarray, where: str, key: str
) -> tuple[Field, np.ndarray]:
  x = values if isinstance(values, np.ndarray) else np.asarray(values)
  if len(x) != len(images):
    raise ValueError(f'{where}: {key} has {len(x)} entries for {len(images)} images.')
  try:
    height, width = images.shape[1:3]
    return checked(field, x, (height, width)), x
  except ValueError as error:
    raise ValueError(f'{where}: {key} has {error}.') from error


def _classes(labels: np.ndarray, where: str, key: str) -> int:
  """How many classes there are at least."""
  if labels.ndim == 2 and labels.shape[1] > 1:
    return labels.shape[1]
  largest = int(labels.max(initial=-1))
  if largest >= MAX_CLASSES:
    raise ValueError(
      f'{where}: {key} holds {largest}, but classes are numbered from 0, at most {MAX_CLASSES:,}: '
      'renumber them, as np.unique(labels, return_inverse=True) does.'
    )
  return largest + 1


def check_numbering(labels: Sequence[np.ndarray], where: str) -> None:
  """Raises ValueError where labels are no numbers of classes: identifiers, sizes, gray values.

  Every class up to the largest has its place in classifiers and tables, whether it occurs or not.
  """
  occurring = np.unique(np.concatenate([y.ravel() for y in labels if y.ndim == 1] or [[]]))
  largest = int(occurring.max(initial=-1))
  count = len(occurring[occurring >= 0])
  if largest >= 1000 and largest >= 20 * count:
    raise ValueError(
      f'{where}: labels go up to {largest:,}, but only {count} different ones occur: number the '
      f'classes from 0, as np.unique(labels, return_inverse=True) does, or give class_names.'
    )


def _check_images(images: Any, where: str, key: str, range_: str) -> np.ndarray:
  x = images if isinstance(images, np.ndarray) else np.asarray(images)
  try:
    pixels.check_array(x, range_)
  except ValueError as error:
    hint = '. Series are floats [N, T, C].' if x.ndim in (2, 3) and not range_ else ''
    raise ValueError(f'{where}: {key} has {error}{hint}') from error
  # One or three rows of pixels would be a strange image: these are channels.
  first = x.ndim == 4 and x.shape[1] in (1, 3) and (x.shape[2] == x.shape[3] or x.shape[3] > 16)
  single = x.ndim == 3 and x.shape[2] in (3, 4) and min(x.shape[:2]) > 4
  if x.ndim in (3, 4) and not first and not single:
    if x.size:
      return x
    raise ValueError(f'{where}: {key} has shape {list(x.shape)}, no image.')
  hint = '; the channels come first here, so transpose with (0, 2, 3, 1)' if first else ''
  hint = '; of one image, give image[None]' if single else hint
  raise ValueError(
    f'{where}: {key} has shape {list(x.shape)}, but images must be [N, H, W, C] or [N, H, W]{hint}.'
  )


def check_labels(labels: Any, count: int, where: str, key: str) -> np.ndarray:
  """Labels as int32 [N] or [N, C].

  Raises:
    ValueError: no whole numbers, not `count` of them, below -1, or beyond MAX_CLASSES.
  """
  y = np.asarray(labels)
  if not np.issubdtype(y.dtype, np.integer):
    hint = ': np.unique(labels, return_inverse=True) numbers them' if y.dtype.kind in 'USO' else ''
    raise ValueError(f'{where}: {key} has type {y.dtype}, but labels must be whole numbers{hint}.')
  if y.ndim == 2 and y.shape[1] == 1:
    y = y[:, 0]
  if y.ndim not in (1, 2):
    raise ValueError(f'{where}: {key} has shape {list(y.shape)}, but labels must be [N] or [N, C].')
  if len(y) != count:
    raise ValueError(f'{where}: {key} has {len(y)} labels for {count} images.')
  if y.size and int(y.min()) < -1:
    raise ValueError(f'{where}: {key} holds {y.min()}, but labels are >= 0, or -1 for none.')
  _classes(y, where, key)
  if y.ndim == 2 and y.size and int(y.max()) > 1:
    raise ValueError(f'{where}: {key} holds {y.max()}, but labels [N, C] are 1, 0 or -1.')
  return y.astype(np.int32)
