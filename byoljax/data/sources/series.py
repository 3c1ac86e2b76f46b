"""Series of numbers [N, T, C], T steps of C channels, as images: everything else reads images.

Each channel's range over the training series, but for the lowest and the highest thousandth of its
numbers, is taken to the bytes 0 to 255; what is beyond is clipped. The T C numbers of a series,
step by step, fill a gray image of S x S pixels row by row; S is the smallest side that has room for
them, at least 8, and what is left is 0. Networks that read series take them out again
(`models.image_transformer`), so that nothing but them knows: batches, evaluations and exports are
those of images.
"""

from collections.abc import Iterable, Mapping, Sequence
import math
from typing import NamedTuple

import numpy as np

_LEAST_SIDE = 8  # of a view
_OUTSIDE = 0.001  # share of the numbers beyond each end: a few outliers must not take all levels


class Series(NamedTuple):
  """What the examples of a source are, where they are series.

  Attributes:
    steps: T.
    channels: C.
  """

  steps: int
  channels: int

  @property
  def side(self) -> int:
    """S, of the image that holds one."""
    return max(_LEAST_SIDE, math.isqrt(self.steps * self.channels - 1) + 1)


class Span(NamedTuple):
  """What the bytes of a channel stand for, float64 [C] each.

  Attributes:
    low: of 0.
    high: of 255.
  """

  low: np.ndarray
  high: np.ndarray


def is_series(values: np.ndarray) -> bool:
  """Whether an array holds series and not images, which are bytes: floats [N, T, C] or [N, T]."""
  return bool(np.issubdtype(values.dtype, np.floating)) and values.ndim in (2, 3)


def span_of(parts: Sequence[np.ndarray], where: str) -> Span:
  """The range of each channel over some arrays of series, without the outermost thousandths.

  Raises:
    ValueError: numbers that are not finite, or different numbers of channels.
  """
  whole = [part if part.ndim == 3 else part[..., None] for part in parts if part.size]
  if len({part.shape[2] for part in whole}) != 1:
    raise ValueError(f'{where}: series must have at least one step and equally many channels.')
  numbers = np.concatenate([part.reshape(-1, part.shape[2]) for part in whole])
  low, high = np.quantile(numbers.astype(np.float64), (_OUTSIDE, 1 - _OUTSIDE), axis=0)
  if not np.isfinite(numbers).all():
    raise ValueError(
      f'{where}: the series hold numbers that are not finite: fill in what is missing first.'
    )
  return Span(low, high)


def as_images(values: np.ndarray, span: Span, where: str) -> tuple[np.ndarray, Series]:
  """Series float [N, T, C] or [N, T] as images uint8 [N, S, S, 1].

  Raises:
    ValueError: other channels than the span's, or numbers that are not finite.
  """
  x = values if values.ndim == 3 else values[..., None]
  if x.shape[2] != len(span.low) or not x.shape[1]:
    raise ValueError(
      f'{where}: series of shape {list(values.shape)}, but those for training have '
      f'{len(span.low)} channels.'
    )
  if not np.isfinite(x).all():
    raise ValueError(
      f'{where}: the series hold numbers that are not finite: fill in what is missing first.'
    )
  found = Series(*x.shape[1:])
  extent = np.where(span.high > span.low, span.high - span.low, 1.0)
  levels = np.clip(np.round((x - span.low) / extent * 255.0), 0, 255).astype(np.uint8)
  images = np.zeros((len(x), found.side**2), np.uint8)
  images[:, : found.steps * found.channels] = levels.reshape(len(x), -1)
  return images.reshape(len(x), found.side, found.side, 1), found


def without_series(
  members: Mapping[str, np.ndarray], keys: Iterable[str], read: Sequence[str], file: str
) -> tuple[Mapping[str, np.ndarray], Series | None]:
  """The members of a file with images in place of series, on the scale of those for training.

  Args:
    members: arrays by name.
    keys: names that may hold images or series; all but 'x_test' are for training.
    read: those whose images are wanted.
    file: for messages.

  Raises:
    ValueError: series of several lengths, or what `span_of` and `as_images` refuse.
  """
  found = [key for key in keys if key in members and is_series(members[key])]
  if not found:
    return members, None
  training = [key for key in found if key != 'x_test'] or found
  span = span_of([members[key] for key in training], file)
  steps = {key: members[key].shape[1] for key in found}
  if len(set(steps.values())) > 1:
    each = ', '.join(f'{key} {count}' for key, count in steps.items())
    raise ValueError(f'{file}: series must have one length, got steps of {each}: cut them to one.')
  made, kind = dict(members), None
  for key in found:
    if key in read:
      made[key], kind = as_images(members[key], span, f'{file}: {key}')
  return made, kind


def of_images(images: np.ndarray, series: Series) -> np.ndarray:
  """The inverse, on the scale of the images: [N, S, S, 1] -> [N, T, C]."""
  flat = images.reshape(len(images), -1)[:, : series.steps * series.channels]
  return flat.reshape(len(images), *series)
