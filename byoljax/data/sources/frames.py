"""Folders of frame sequences as a source of pairs: a frame, and the one that follows it.

    <clip>/<number>.png     frames of a clip, in the order of their numbers
    images/<clip>/<number>.png, moving/<clip>/<number>.png    where there are masks beside them

The folder is read as any folder of images is (`folder`): with `train` and `test` in it, or without,
and further fields in folders of their names beside `images`. An example is a frame that has one
`gap` places later in its clip, the field 'second', which may be a view of its own. Numbers are
compared as numbers: 9 comes before 10.

A clip is a folder that holds frames. Clips may lie in folders of classes, `<class>/<clip>/...`;
clips directly below the split's root are no classes of anything and leave frames unlabelled.

Video files are not read; `ffmpeg -i clip.mp4 clip/%05d.png` makes a folder of their frames. TFDS's
video sets are (`tfds_video`).
"""

from collections.abc import Sequence
import dataclasses
import os
import re

import numpy as np

from byoljax.data.fields import Field
from byoljax.data.sources import folder, source

SECOND = 'second'


def from_frames(
  path: str | os.PathLike,
  split: str,
  *,
  gap: int = 1,
  unreadable: source.UnreadableLog | None = None,
  fields: Sequence[Field] = (),
  range_: str = '',
) -> source.Source:
  """The pairs of frames of a folder of clips.

  Args:
    path: the folder; `~` is expanded.
    split: 'pretrain', 'train' or 'test'; the first two are the same frames.
    gap: places from a frame to its second one, at least 1.
    unreadable: where files that cannot be read are noted.
    fields: further fields; 'second', an image, is the later frame, others are folders.
    range_: which numbers are black and white, see `pixels`.

  Raises:
    ValueError: as `folder.from_folder`; no clip that is long enough; a gap below 1; or a field
      'second' that is not an image.
  """
  check_gap(gap, fields)
  others = [field for field in fields if field.name != SECOND]
  found = folder.from_folder(
    path, split, unreadable=unreadable, fields=others, class_of=_class_of, range_=range_
  )
  files = [found.locate(row) for row in range(found.size)]
  first, second = _pairs(files, gap)
  if not len(first):
    raise ValueError(
      f'{path} has no clip of {gap + 1} frames: frames of a clip lie in a folder of its own and '
      'have numbers in their names, as in clip/00001.png, clip/00002.png.'
    )
  frames = found.subset(first)
  image = frames.field('image')

  def fetch(rows: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    own = [name for name in names if name != SECOND]
    read = dict(zip(own, frames.fetch(rows, own), strict=True))
    if SECOND in names:
      (read[SECOND],) = found.fetch(second[rows], ('image',))
    return tuple(read[name] for name in names)

  return dataclasses.replace(
    frames,
    fingerprint=source.fingerprint('frames', gap, frames.fingerprint),
    fetch=fetch,
    fields=(image, dataclasses.replace(image, name=SECOND), *frames.fields[1:]),
  )


def check_gap(gap: int, fields: Sequence[Field]) -> None:
  """Checks what is asked of pairs of frames.

  Raises:
    ValueError: a gap below 1, or a field 'second' that is not an image.
  """
  if gap < 1:
    raise ValueError(f'data.frame_gap={gap} must be at least 1: frames to the second one.')
  for field in fields:
    if field.name == SECOND and field.kind != 'image':
      raise ValueError(f"the field 'second' of frames is an image, not a {field.kind}.")


def _class_of(file: str) -> str:
  """The folder above that of the clip, if any: clips themselves are no classes."""
  return folder.top_folder(file) if file.count('/') > 1 else ''


def _pairs(files: Sequence[str], gap: int) -> tuple[np.ndarray, np.ndarray]:
  """Rows of the first and of the second frames, clip by clip."""
  clips: dict[str, list[tuple[tuple, int]]] = {}
  for row, file in enumerate(files):
    clip, name = os.path.split(file)
    clips.setdefault(clip, []).append((_key(name), row))
  first, second = [], []
  for clip in sorted(clips):
    rows = [row for _, row in sorted(clips[clip])]
    first += rows[:-gap]
    second += rows[gap:]
  return np.array(first, np.int64), np.array(second, np.int64)


def _key(name: str) -> tuple:
  """Numbers in a name compare as numbers, the rest as text."""
  parts = re.split(r'(\d+)', os.path.splitext(name)[0])
  return tuple((part, 0) if i % 2 == 0 else ('', int(part)) for i, part in enumerate(parts)), name
