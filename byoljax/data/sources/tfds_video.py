"""Clips in TFDS sets, such as videos, as pairs: a frame, and the one that follows it.

An example is a frame that has one `gap` places later in its clip, the field 'second', as of folders
of clips (`frames`). A clip is any sequence of images, wherever a set keeps it: UCF101's 'video',
DAVIS's 'video/frames', a robot's 'steps/observation/image'. Other sequences beside it are fields,
each of its own name: 'segmentations'.

Frames stay encoded. A record holds its whole clip, so that a batch reads the clip of each of its
frames, once: of long clips that is most of the time of an epoch, and a folder of frames is faster.
How many frames each clip has is counted in one pass when the set is first opened, and kept in the
cache.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
from typing import Any

import numpy as np

from byoljax.data.fields import IMAGE, Field
from byoljax.data.sources import (
  frames,
  records,
  source,
  tensorflow_import,
  tfds_fields,
  tfds_files,
)

_CLIPS_AT_ONCE = 64


def clips_of(info: Any) -> dict[str, Any]:
  """The image feature of each sequence of images of a prepared set, by its key in the records."""
  return _clips(info.features, '', False)


def _clips(features: Any, prefix: str, in_sequence: bool) -> dict[str, Any]:
  kinds = tensorflow_import.tensorflow_datasets().features
  found = {}
  for key, feature in sorted(features.items()):
    several = isinstance(feature, kinds.Sequence)
    inner = feature.feature if several else feature
    if isinstance(inner, kinds.FeaturesDict):
      found |= _clips(inner, f'{prefix}{key}/', in_sequence or several)
    elif isinstance(inner, kinds.Image) and several != in_sequence:
      found[prefix + key] = inner
  return found


def from_clips(
  info: Any,
  split: str,
  *,
  frames_key: str,
  label_key: str,
  gap: int,
  fields: Sequence[Field],
  unreadable: source.UnreadableLog,
) -> source.Source:
  """The pairs of frames of a split.

  Args:
    info: of a prepared builder.
    split: in TFDS's notation.
    frames_key: a key of `clips_of`.
    label_key: the feature that holds the class of a clip, which its frames get; where it is
      missing or no class, they are unlabelled.
    gap: places from a frame to its second one, at least 1.
    fields: further fields: 'second', an image, is the later frame; others are sequences of images
      of these names beside that of the frames, with as many.
    unreadable: where frames that cannot be decoded are noted.

  Raises:
    ValueError: no such split, damaged files, a field that is not there, a gap below 1, or no clip
      that is long enough.
  """
  name = f'{info.full_name}#{frames_key}:{split}'
  frames.check_gap(gap, fields)
  read, number = tfds_files.open_split(info, split)
  classes, class_names = _classes(info, label_key)
  lengths, labels = _contents(info, name, read, number, frames_key, label_key if classes else '')
  if labels.max(initial=-1) >= max(classes, 1):
    raise ValueError(
      f'{name} holds the label {labels.max()}, but its classes are 0 to {classes - 1}: prepare '
      'the data set again.'
    )
  counts = np.maximum(lengths - gap, 0)
  clip = np.repeat(np.arange(number), counts)
  place = np.arange(len(clip)) - np.repeat(np.cumsum(counts) - counts, counts)
  if not len(clip):
    raise ValueError(
      f'{name} has no clip of {gap + 1} frames, which data.frame_gap={gap} needs: the longest has '
      f'{lengths.max(initial=0)}.'
    )

  folder = frames_key[: frames_key.rfind('/') + 1]
  clips = clips_of(info)
  beside = {
    key.removeprefix(folder): feature for key, feature in clips.items() if key.startswith(folder)
  }
  others = [field for field in fields if field.name != frames.SECOND]
  further = tfds_fields.resolve(others, beside, name)
  stored = {'image': (frames_key, 0), frames.SECOND: (frames_key, gap)}
  stored |= {field.name: (folder + field.name, 0) for field in further}

  def fetch(rows: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    known: dict[str, np.ndarray] = {'label': labels[clip[rows]]}
    wanted = set(names) - {'label'}
    chosen, which = np.unique(clip[rows], return_inverse=True)
    found = [_features(record) for record in read(chosen)] if wanted else []
    for one in wanted:
      key, later = stored[one]
      known[one] = np.empty(len(rows), object)
      for row, (at, start) in enumerate(zip(which, place[rows], strict=True)):
        images = found[at][key].bytes_list.value if key in found[at] else ()
        known[one][row] = images[start + later] if start + later < len(images) else b''
    return tuple(known[one] for one in names)

  height, width = clips[frames_key].shape[:2]
  return source.Source(
    name=name,
    size=len(clip),
    num_classes=classes,
    class_names=class_names,
    encoded=True,
    image_shape=(height, width) if height and width else None,
    fingerprint=source.fingerprint('clips', name, gap, lengths.astype('<i8').tobytes()),
    fetch=fetch,
    fetch_labels=lambda: labels[clip] if classes else None,
    locate=lambda row: f'{name}[{clip[row]}], frame {place[row]}',
    unreadable=unreadable,
    fields=(IMAGE, dataclasses.replace(IMAGE, name=frames.SECOND), *further),
  )


def _classes(info: Any, label_key: str) -> tuple[int, tuple[str, ...]]:
  """The number of the classes and their names; 0 without."""
  kinds = tensorflow_import.tensorflow_datasets().features
  feature: Any = dict(info.features.items()).get(label_key)
  if not isinstance(feature, kinds.ClassLabel):
    return 0, ()
  return int(feature.num_classes or 0), tuple(feature.names or ())


def _contents(
  info: Any,
  name: str,
  read: Callable[[np.ndarray], list[bytes | None]],
  number: int,
  frames_key: str,
  label_key: str,
) -> tuple[np.ndarray, np.ndarray]:
  """Frames int64 [n] and labels int32 [n] (-1: none) of all clips; one pass, kept in the cache.

  A clip that cannot be read has no frames, and is looked at again the next time.
  """
  file = records.file_key(os.path.join(info.data_dir, 'dataset_info.json'))
  cache = records.cache_path('clips', name, label_key, number, *file)
  table = records.load_cached(cache)
  if table is None or table.shape != (number, 2):
    rows = []
    for start in range(0, number, _CLIPS_AT_ONCE):
      for record in read(np.arange(start, min(start + _CLIPS_AT_ONCE, number))):
        found = _features(record)
        images = found[frames_key].bytes_list.value if frames_key in found else ()
        label = found[label_key].int64_list.value if label_key in found else []
        rows.append((len(images), label[0] if label else -1))
    table = np.array(rows, np.int64).reshape(-1, 2)
    if table[:, 0].all():
      records.save_cached(cache, table)
  return table[:, 0], table[:, 1].astype(np.int32)


def _features(record: bytes | None) -> Mapping[str, Any]:
  """The features of a serialized example; none where it cannot be read."""
  from google.protobuf.message import DecodeError

  try:
    example = tensorflow_import.tensorflow().train.Example.FromString(record or b'')
  except DecodeError:
    return {}
  return example.features.feature
