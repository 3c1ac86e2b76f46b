"""Mean and standard deviation of a set's channels, which images are normalized by; their sizes."""

import contextlib
from typing import NamedTuple

import numpy as np

from byoljax import streams
from byoljax.data.batches import pipeline
from byoljax.data.sources import image_file, pixels
from byoljax.data.sources.source import Source

MOST = 10_000  # images that are looked at
MOST_SIZES = 200  # whole files are read for them
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
  source = _some(source, most)
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


def shorter_sides(source: Source, *, most: int = MOST_SIZES) -> np.ndarray:
  """The shorter side in pixels of each readable image of at most `most`, int32 [n], ascending."""
  if source.image_shape is not None:
    return np.array([min(source.image_shape)], np.int32)
  some, found = _some(source, most), []
  for row in range(some.size):  # One by one: photographs are large.
    ((file,),) = some.read(np.array([row]), ('image',))
    with contextlib.suppress(image_file.UnreadableImageError):
      found.append(min(pixels.inspect(file, some.field('image'))[1:]))
  return np.sort(np.array(found, np.int32))


def _some(source: Source, most: int) -> Source:
  """At most so many examples, drawn with a fixed seed, in their order."""
  if source.size <= most:
    return source
  order = np.random.default_rng((0, streams.STATISTICS)).permutation(source.size)
  return source.subset(np.sort(order[:most]))
