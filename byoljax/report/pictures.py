"""The report's pictures as files: neighbors, map, confusion matrix, first-layer filters."""

from collections.abc import Iterable, Mapping, Sequence
import pathlib
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from byoljax.report import figures, fonts
from byoljax.report.page import Gallery, Map, class_name
from byoljax.report.sheet import shortened
from byoljax.workdir.files import replacing

_CELL, _GAP, _TEXT = 72, 6, 16
_GOOD, _BAD, _SOFT, _INK = (26, 127, 75), (184, 53, 44), (150, 156, 166), (40, 40, 40)
_MOST_TICKS = 40
_COLUMN = 24  # entries of a legend in one column
_MOST_NAME = 220  # points, of the name of a class


def gallery(path: pathlib.Path, shown: Gallery, names: Sequence[str]) -> pathlib.Path:
  """Queries on the left, neighbors in frames: green for the query's class, red for another."""
  rows, columns = shown.neighbors.shape[:2]
  wide, high = _CELL + _GAP, _CELL + _TEXT + _GAP
  sheet = Image.new('RGB', ((columns + 1) * wide + 3 * _GAP, rows * high + _GAP), 'white')
  pen, font = ImageDraw.Draw(sheet), fonts.sans(10)

  def put(image: np.ndarray, x: int, y: int, frame: Any, text: str) -> None:
    picture = Image.fromarray(image).resize((_CELL - 6, _CELL - 6), Image.Resampling.LANCZOS)
    pen.rectangle((x, y, x + _CELL - 1, y + _CELL - 1), fill=frame)
    sheet.paste(picture, (x + 3, y + 3))
    text = fonts.composed(' '.join(text.split()))[:12]
    pen.text((x, y + _CELL), text, fill=_INK, font=font)

  for row, (query, label, images, labels, cosines) in enumerate(zip(*shown[:5], strict=True)):
    y = _GAP + row * high
    put(query, _GAP, y, _SOFT, class_name(label, names))
    for column, (image, other) in enumerate(zip(images, labels, strict=True)):
      known = label >= 0 and other >= 0
      frame = (_GOOD if other == label else _BAD) if known else _SOFT
      text = f'{cosines[column]:.2f} {class_name(other, names)}'.rstrip()
      put(image, 3 * _GAP + (column + 1) * wide, y, frame, text)
  return _saved(sheet, path)


def scatter(path: pathlib.Path, shown: Map, names: Sequence[str]) -> pathlib.Path:
  """One panel a layout, one color a class."""
  classes = sorted({int(label) for label in shown.labels})
  told = classes if 1 < len(classes) <= _MOST_TICKS else []
  columns = -(-len(told) // _COLUMN)
  figure = figures.figure(5.2 * len(shown.layouts) + columns * (0.5 + _inches(told, names, 9)), 5.2)
  colors = _hues(len(classes))
  panels = figure.subplots(1, len(shown.layouts), squeeze=False)[0]
  for panel, (name, points) in zip(panels, shown.layouts.items(), strict=True):
    for color, label in zip(colors, classes, strict=True):
      own = points[shown.labels == label]
      panel.scatter(*own.T, s=9, color=color, label=_class(label, names), linewidths=0, alpha=0.8)
    panel.set_title(name, fontsize=11)
    panel.set_xticks([])
    panel.set_yticks([])
  if told:
    panels[-1].legend(
      loc='center left', bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9, markerscale=2,
      ncols=columns, columnspacing=1.0, handletextpad=0.4,
    )  # fmt: skip
  return _drawn(figure, path)


def confusion(path: pathlib.Path, counts: np.ndarray, names: Sequence[str]) -> pathlib.Path:
  """Rows are true classes, in per cent of each."""
  count = len(counts)
  told = range(count if count <= _MOST_TICKS else 0)
  # Names take nothing from the squares.
  side = min(14.0, max(4.6, 0.42 * count + 1.2)) + _inches(told, names, 10)
  figure = figures.figure(side, side)
  panel = figure.subplots()
  shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
  panel.imshow(shares, cmap='Blues', vmin=0, vmax=100)
  panel.set_xlabel('predicted')
  panel.set_ylabel('true')
  if told:
    panel.set_xticks(told, [_class(i, names) for i in told], rotation=90)
    panel.set_yticks(told, [_class(i, names) for i in told])
  if count <= 20:
    for (i, j), share in np.ndenumerate(shares):
      color = 'white' if share > 55 else '#333333'
      panel.text(j, i, f'{share:.0f}', ha='center', va='center', fontsize=8, color=color)
  panel.set_title('k-NN, % of each class', fontsize=11)
  return _drawn(figure, path)


def histogram(path: pathlib.Path, counts: np.ndarray, label: str) -> pathlib.Path:
  """Shares in per cent, the largest first, and the line at which all would be equal."""
  figure = figures.figure(5.4, 2.6)
  panel = figure.subplots()
  shares = 100 * np.sort(counts)[::-1] / max(1, counts.sum())
  panel.bar(range(len(shares)), shares, width=1.0, color='#2f6fb0')
  panel.axhline(100 / len(shares), color='#b8352c', linewidth=1)
  panel.set_xlim(-0.5, len(shares) - 0.5)
  panel.set_xlabel(label)
  panel.set_ylabel('%')
  return _drawn(figure, path)


def first_kernel(params: Mapping[str, Any]) -> np.ndarray | None:
  """The first convolution's kernel on colors, float32 [h, w, 3, n], or None without one."""
  from flax.traverse_util import flatten_dict

  leaves: Any = flatten_dict(dict(params))
  found = [
    np.asarray(leaf)
    for path, leaf in leaves.items()
    if path[-1] == 'kernel' and np.ndim(leaf) == 4 and np.shape(leaf)[2] == 3
  ]
  return found[0] if found else None


def filters(path: pathlib.Path, kernel: np.ndarray) -> pathlib.Path:
  """Every kernel as a small color picture, scaled to its own range."""
  height, width, _, count = kernel.shape
  low, high = kernel.min((0, 1, 2)), kernel.max((0, 1, 2))
  scaled = ((kernel - low) / np.maximum(high - low, 1e-12) * 255).round().astype(np.uint8)
  zoom = max(1, 48 // max(height, width))
  across = min(count, 16)
  cell_x, cell_y = width * zoom + 4, height * zoom + 4
  sheet = Image.new('RGB', (across * cell_x + 4, -(-count // across) * cell_y + 4), 'white')
  for number in range(count):
    tile = Image.fromarray(scaled[..., number]).resize(
      (width * zoom, height * zoom), Image.Resampling.NEAREST
    )
    sheet.paste(tile, (4 + number % across * cell_x, 4 + number // across * cell_y))
  return _saved(sheet, path)


def _drawn(figure: Any, path: pathlib.Path) -> pathlib.Path:
  figures.save(figure, path, dpi=110)
  return path


def _class(label: int, names: Sequence[str]) -> str:
  """A class's name as matplotlib shows it: in one line, and without its middle if it is long."""
  name = ' '.join(class_name(label, names).split())
  return fonts.plain(shortened(name, _MOST_NAME, fonts.sans(10)))


def _inches(labels: Iterable[int], names: Sequence[str], size: int) -> float:
  """Width of the longest name of these classes, in letters of so many points."""
  font = fonts.sans(size)
  return max((font.getlength(_class(label, names)) for label in labels), default=0.0) / 72


def _hues(count: int) -> list[Any]:
  import matplotlib

  return [matplotlib.colormaps['hsv'](0.95 * i / max(1, count)) for i in range(count)]


def _saved(sheet: Image.Image, path: pathlib.Path) -> pathlib.Path:
  with replacing(path) as file:
    sheet.save(file, 'PNG')
  return path
