"""Masks and depth maps as pictures: colors of classes, a sheet of predictions beside the truth."""

from collections.abc import Mapping, Sequence
import os
import pathlib

import numpy as np
from PIL import Image

from byoljax.report import sheet
from byoljax.report.sheet import Color
from byoljax.workdir.files import replacing

IGNORED = 255
_UNLABELED = (224, 224, 192)
_DEPTHS = 5  # in a legend


def palette() -> np.ndarray:
  """The color of each number, uint8 [256, 3]: VOC's, whose bits are spread over the channels.

  Neighboring numbers have distant colors; 0 is black, 255, no label, light.
  """
  numbers = np.arange(256)
  colors = np.zeros((256, 3), np.uint8)
  for place in range(8):
    for channel in range(3):
      bit = (numbers >> (3 * place + channel)) & 1
      colors[:, channel] |= (bit << (7 - place)).astype(np.uint8)
  colors[IGNORED] = _UNLABELED
  return colors


def colored_mask(mask: np.ndarray) -> np.ndarray:
  """Class numbers [H, W] as uint8 [H, W, 3]; whatever is not in 0 ... 254 is no label.

  All colors but the background's are a third lighter than in `palette`: its darkest ones can hardly
  be told from black.
  """
  known = (mask >= 0) & (mask < IGNORED)
  colors = palette()
  colors[1:IGNORED] = 85 + colors[1:IGNORED] // 3 * 2
  return colors[np.where(known, mask, IGNORED).astype(np.int64)]


def colored_depth(depth: np.ndarray, low: float, high: float) -> np.ndarray:
  """Depths [H, W] as uint8 [H, W, 3], near is bright; unknown ones are gray.

  Args:
    depth: 0, negative and infinite numbers are unknown.
    low: the depth of the brightest color.
    high: that of the darkest.
  """
  import matplotlib

  known = np.isfinite(depth) & (depth > 0)
  place = (high - np.where(known, depth, high)) / max(high - low, 1e-12)
  colors = matplotlib.colormaps['inferno'](np.clip(place, 0, 1))[..., :3]
  return np.where(known[..., None], np.round(colors * 255), 128).astype(np.uint8)


def range_of(depths: Sequence[np.ndarray]) -> tuple[float, float]:
  """The smallest and largest known depth of some maps; (0, 1) where none is known."""
  known = [depth[np.isfinite(depth) & (depth > 0)] for depth in depths]
  values = np.concatenate(known) if known else np.zeros(0)
  return (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)


def write_masks(path: str | os.PathLike[str], mask: np.ndarray) -> None:
  """Writes class numbers [H, W], below 256, as a PNG with a palette."""
  picture = Image.fromarray(mask.astype(np.uint8))
  picture.putpalette(palette().ravel().tolist())
  with replacing(path) as file:
    picture.save(file, format='PNG')


def write_depth(path: str | os.PathLike[str], depth: np.ndarray) -> None:
  """Writes depths float32 [H, W] as they are, `.npy`."""
  with replacing(path) as file:
    np.save(file, depth.astype(np.float32))


def write_sheet(
  path: pathlib.Path,
  images: Sequence[np.ndarray],
  columns: Mapping[str, Sequence[np.ndarray]],
  *,
  depth: bool,
  classes: Sequence[str] = (),
  captions: Sequence[str] = (),
  cell: int = 96,
) -> None:
  """Draws one row an image: the image, and a mask or depth map of every column.

  Args:
    path: the PNG to write.
    images: uint8 or float in [0, 1], [H, W, C], of any sizes.
    columns: title -> numbers [H, W] of each image.
    depth: whether they are depths; those of one sheet share their colors.
    classes: names of the classes; the sheet says which color each has that is on it.
    captions: what stands under the images; () for nothing.
    cell: least side of a picture, in pixels.
  """
  # The truth, where there is one, is the first column: one wild guess does not decide.
  low, high = range_of(next(iter(columns.values()))) if depth else (0.0, 1.0)

  def colored(numbers: np.ndarray) -> np.ndarray:
    return colored_depth(numbers, low, high) if depth else colored_mask(numbers)

  every = [numbers for each in columns.values() for numbers in each]
  legend = _legend_of_depths(low, high) if depth else _legend_of_classes(every, classes)
  empty = [[''] * len(images)] * len(columns)
  sheet.write(
    path,
    list(images),
    [[_within(colored(numbers), cell) for numbers in each] for each in columns.values()],
    list(columns),
    captions=[list(captions), *empty] if captions else (),
    legend=legend,
    cell=cell,
  )


def _legend_of_depths(low: float, high: float) -> list[tuple[Color, str]]:
  values = np.linspace(low, high, _DEPTHS)
  colors = colored_depth(np.maximum(values, 1e-12)[None], low, high)[0]
  return [(_color(color), f'{value:.3g}') for color, value in zip(colors, values, strict=True)]


def _legend_of_classes(
  masks: Sequence[np.ndarray], classes: Sequence[str]
) -> list[tuple[Color, str]]:
  """The classes that occur in some masks, in their order."""
  occur = np.unique(np.concatenate([np.unique(mask) for mask in masks])) if len(masks) else []
  shown = [int(number) for number in occur if 0 <= number < len(classes)]
  colors = colored_mask(np.array([shown]))[0]
  return [(_color(color), classes[number]) for color, number in zip(colors, shown, strict=True)]


def _color(color: np.ndarray) -> Color:
  red, green, blue = (int(value) for value in color)
  return red, green, blue


def _within(picture: np.ndarray, cell: int) -> np.ndarray:
  """A picture no larger than a cell: sheets make their cells as large as the largest view."""
  height, width = picture.shape[:2]
  most = max(height, width)
  if most <= cell:
    return picture
  size = max(1, round(width * cell / most)), max(1, round(height * cell / most))
  return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST))
