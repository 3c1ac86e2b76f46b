"""Mean and standard deviation of a set's channels, which images are normalized by."""

import contextlib
from typing import NamedTuple

import numpy as np

from byoljax import streams
from byoljax.data.batches import pipeline
from byoljax.data.sources.source import Source

MOST = 10_000  # images that are looked at
_DIGITS = 4  # so that other machines, which add up in another order, say the same


class Statistics(NamedTuple):
  """What was found.

  Attributes:
    mean: per channel, of images in [0, 1].
    std: per channel, over all pixels of all images.
    images: how many were looked at.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  images: int


def of_channels(
  source: Source, image_size: int, *, most: int = MOST, threads: int = 0
) -> Statistics:
  """Statistics of center crops, rounded to four digits, or eight where they hardly spread.

  Args:
    source: the images.
    image_size: side of the crops in pixels.
    most: images to look at, drawn with a fixed seed; all where there are not more.
    threads: for decoding, 0 for as many as there are cores.

  Raises:
    ValueError: no image can be read, or all have one value in a channel.
  """
  if source.size > most:
    order = np.random.default_rng((0, streams.STATISTICS)).permutation(source.size)
    source = source.subset(np.sort(order[:most]))
  total = square = np.zeros(source.channels)
  images, side = 0, image_size
  batches = pipeline.eval_batches(
    source, image_size=side, batch_size=min(256, source.size), threads=threads
  )
  with contextlib.closing(batches):
    for batch in batches:
      shown = batch['image'][batch['valid']]
      pixels = shown.astype(np.float64) / (255 if shown.dtype == np.uint8 else 1)
      total = total + pixels.sum((0, 1, 2))
      square = square + (pixels**2).sum((0, 1, 2))
      images += len(pixels)
  if not images:
    raise ValueError(f'no image of {source.name} can be read.')
  mean = total / (images * side**2)
  std = np.sqrt(np.maximum(square / (images * side**2) - mean**2, 0))
  # Images of 16 bits may be nearly of one shade, and differ all the same.
  digits = _DIGITS if std.min() >= 0.01 else 2 * _DIGITS
  rounded = [tuple(map(float, x.round(digits))) for x in (mean, std)]
  made = Statistics(rounded[0], rounded[1], images)
  if min(made.std) <= 0:
    channel = int(np.argmin(made.std))
    raise ValueError(
      f'the images of {source.name} have one value in channel {channel}, {made.mean[channel]:g}: '
      'it cannot be normalized.'
    )
  return made
