"""Any image set that TensorFlow Datasets has prepared, by name or directory, without the network.

The prepared files are read directly, record by record (`records.py`): TFDS's own reader gives a
sequence whose order depends on the number of processes, and which cannot start at step k.
TFDS itself says which files make up a split (`train`, `train[:90%]`, `train+unlabelled`) and what
the features are. Records are parsed a batch at a time by TensorFlow's example parser; images stay
encoded, and what cannot be read counts as an empty image without a label. A feature that is a clip
is read as pairs of its frames (`tfds_video`).
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import os
from typing import Any

import numpy as np

from byoljax.data.fields import IMAGE, Field
from byoljax.data.sources import (
  records,
  source,
  tensorflow_import,
  tfds_fields,
  tfds_files,
  tfds_video,
)

_LABEL_BATCH = 1024


def from_tfds(
  name: str,
  split: str,
  *,
  data_dir: str | os.PathLike = '',
  image_key: str = 'image',
  label_key: str = 'label',
  unreadable: source.UnreadableLog | None = None,
  fields: Sequence[Field] = (),
  frame_gap: int = 1,
) -> source.Source:
  """A split of a prepared TFDS set of images or of clips.

  Args:
    name: as TFDS writes it, `cifar10`, `imagenette/160px-v2`, `cifar10:3.0.2`, or a prepared
      version directory.
    split: a split, a slice or a sum of them, in TFDS's notation.
    data_dir: where sets are prepared; empty means `tfds_files.default_dir()`.
    image_key: feature that holds the image, or the frames of a clip: 'video', 'video/frames'.
    label_key: feature that holds the class; where it is missing, 'labels' is looked for (several
      per image; VOC's `labels_no_difficult` says which count), else the examples are unlabelled.
    unreadable: where images that cannot be decoded are noted.
    fields: further fields, each the feature of its name; of clips see `tfds_video.from_clips`.
    frame_gap: of clips: places from a frame to its second one.

  Raises:
    ValueError: not prepared, unknown name, split or feature, or damaged files.
  """
  directory = tfds_files.version_directory(name, os.fspath(data_dir))
  tfds = tensorflow_import.tensorflow_datasets()
  info = tfds.builder_from_directory(directory).info
  log = source.UnreadableLog() if unreadable is None else unreadable
  if image_key in tfds_video.clips_of(info):
    return tfds_video.from_clips(
      info, split, frames_key=image_key, label_key=label_key, gap=frame_gap, fields=fields,
      unreadable=log,
    )  # fmt: skip
  image, label_keys, names, classes = _features(tfds, info, image_key, label_key)
  multi_label = len(label_keys) == 2
  fetch_records, size = tfds_files.open_split(info, split)
  label = f'{info.full_name}:{split}'
  further = tfds_fields.resolve(fields, dict(info.features.items()), info.full_name)
  parsers = tfds_fields.parsers(further, dict(info.features.items()))

  def fetch(rows: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    own = [field for field in further if field.name in names]
    parse = functools.partial(
      _parse,
      image_key=image_key,
      label_keys=label_keys if classes else (),
      classes=classes,
      fields=[(field, parsers[field.name]) for field in own],
    )
    images, labels, *values = _parse_each(fetch_records(rows), parse)
    if not multi_label and classes and labels.max(initial=-1) >= classes:
      raise ValueError(
        f'{label} holds the label {labels.max()}, but its classes are 0 to {classes - 1}: prepare '
        'the data set again.'
      )
    known = {'image': images, 'label': labels}
    known |= {field.name: value for field, value in zip(own, values, strict=True)}
    return tuple(known[name] for name in names)

  @functools.cache
  def labels() -> np.ndarray | None:
    shape = (size, classes) if multi_label else (size,)
    return _all_labels((label, *label_keys), directory, shape, fetch) if classes else None

  height, width = image.shape[:2]
  return source.Source(
    name=label,
    size=size,
    num_classes=classes,
    class_names=names,
    encoded=True,
    image_shape=(height, width) if height and width else None,
    fingerprint=fingerprint(label, size, image_key, label_key),
    fetch=fetch,
    fetch_labels=labels,
    locate=lambda row: f'{label}[{row}]',
    unreadable=log,
    multi_label=multi_label,
    fields=(IMAGE, *further),
  )


def fingerprint(name: str, size: int, image_key: str, label_key: str) -> str:
  """What identifies a split: its full name with version, its size, and what is read of it."""
  return source.fingerprint('tfds', name, size, image_key, label_key)


def _features(
  tfds: Any, info: Any, image_key: str, label_key: str
) -> tuple[Any, tuple[str, ...], tuple[str, ...], int]:
  """The image feature, the labels' keys, and the names and number of the classes (0: unlabelled).

  Several labels per image have two keys: of all classes, and of those that count (VOC's objects
  that are not 'difficult'), the same one where there is no such distinction.
  """
  features = dict(info.features.items())
  image: Any = features.get(image_key)
  if not isinstance(image, tfds.features.Image):
    images = [key for key, value in features.items() if isinstance(value, tfds.features.Image)]
    clips = ', '.join(f'tfds:{info.full_name}#{key}' for key in tfds_video.clips_of(info))
    raise ValueError(
      f'{info.full_name} has no image feature {image_key!r}: its images are '
      f'{", ".join(map(repr, images)) or "none"}, its features {", ".join(features)}.'
      f'{clips and " Frames of its clips are read as " + clips + "."}'
    )
  if np.dtype(image.np_dtype) not in (np.uint8, np.uint16):
    raise ValueError(
      f'{info.full_name}: images of type {image.np_dtype} are not supported, only uint8 and uint16.'
    )
  keys: tuple[str, ...] = (label_key,)
  several: Any = features.get('labels')
  if label_key not in features and _several(tfds, several):
    keys = ('labels', 'labels_no_difficult' if 'labels_no_difficult' in features else 'labels')
  label: Any = features.get(label_key) if len(keys) == 1 else several.feature
  if not isinstance(label, tfds.features.ClassLabel):
    return image, (), (), 0
  return image, keys, tuple(label.names or ()), int(label.num_classes or 0)


def _several(tfds: Any, feature: Any) -> bool:
  """Whether a feature holds any number of class labels."""
  sequence = isinstance(feature, tfds.features.Sequence)
  return sequence and isinstance(feature.feature, tfds.features.ClassLabel)


def _parse_each(
  serialized: list[bytes | None], parse: Callable[[list[bytes]], tuple[np.ndarray, ...]]
) -> tuple[np.ndarray, ...]:
  """As `parse`, but examples that cannot be parsed or are None become empty images, unlabelled."""
  whole = [example if example is not None else b'' for example in serialized]
  try:
    parsed = parse(whole)
  except tfds_fields.TooManyBoxesError:
    raise
  except Exception:  # TensorFlow raises what damage leads it to, and does not say which one it was.
    if len(whole) == 1:
      parsed = parse([b''])
    else:
      parts = [_parse_each([example], parse) for example in serialized]
      parsed = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
  images, labels, *_ = parsed
  for row in np.flatnonzero([not image for image in images]):
    labels[row] = -1
  return parsed


def _parse(
  serialized: list[bytes],
  *,
  image_key: str,
  label_keys: tuple[str, ...],
  classes: int,
  fields: Sequence[tuple[Field, Mapping[str, Any]]],
) -> tuple[np.ndarray, ...]:
  """Of serialized examples: images, object [b] of bytes, labels int32 [b] or [b, C], and fields."""
  tf = tensorflow_import.tensorflow()
  wanted: dict[str, Any] = {image_key: tf.io.FixedLenFeature((), tf.string, default_value=b'')}
  one = tf.io.FixedLenFeature((), tf.int64, default_value=-1)
  several = tf.io.RaggedFeature(tf.int64)
  wanted |= dict.fromkeys(label_keys, one if len(label_keys) == 1 else several)
  for _, stored in fields:
    wanted |= stored
  parsed = tf.io.parse_example(tf.constant(serialized, tf.string), wanted)
  values = (tfds_fields.value(field, parsed) for field, _ in fields)
  return parsed[image_key].numpy(), _labels(parsed, label_keys, classes, len(serialized)), *values


def _labels(
  parsed: Mapping[str, Any], label_keys: tuple[str, ...], classes: int, count: int
) -> np.ndarray:
  if not label_keys:
    return np.full(count, -1, np.int32)
  if len(label_keys) == 1:
    return parsed[label_keys[0]].numpy().astype(np.int32)
  shown, counting = (_marks(parsed[key], classes) for key in label_keys)
  return np.where(shown & ~counting, -1, counting).astype(np.int32)


def _marks(ragged: Any, classes: int) -> np.ndarray:
  """Whether each class is among an example's labels, bool [b, C]."""
  marks = np.zeros((int(ragged.nrows()), classes), bool)
  marks[ragged.value_rowids().numpy(), ragged.values.numpy()] = True
  return marks


def _all_labels(
  what: tuple[str, ...], directory: str, shape: tuple[int, ...], fetch: Any
) -> np.ndarray:
  """Labels of a whole split: one pass over its records, kept in the cache under `what` they are."""
  key = records.file_key(os.path.join(directory, 'dataset_info.json'))
  cache = records.cache_path('labels', *what, *shape, *key)
  known = records.load_cached(cache)
  if known is not None and known.shape == shape and known.dtype == np.int32:
    return known
  size = shape[0]
  rows = np.arange(size)
  names = ('image', 'label')
  parts = [fetch(rows[i : i + _LABEL_BATCH], names) for i in range(0, size, _LABEL_BATCH)]
  labels = np.concatenate([part for _, part in parts])
  if all(image for images, _ in parts for image in images):  # The damaged may be mended.
    records.save_cached(cache, labels)
  return labels
