"""The font of pictures with text: matplotlib's own, which knows more letters than Pillow's."""

import functools
import importlib.util
import pathlib
from typing import Any
import unicodedata

from PIL import ImageFont


@functools.cache
def sans(size: int) -> Any:
  """DejaVu Sans as Pillow takes it: Latin, Greek, Cyrillic, Arabic and more, not Chinese."""
  # Where matplotlib is, without importing it, which takes longer than drawing a sheet.
  spec = importlib.util.find_spec('matplotlib')
  assert spec is not None and spec.origin is not None
  folder = pathlib.Path(spec.origin).parent / 'mpl-data' / 'fonts' / 'ttf'
  return ImageFont.truetype(str(folder / 'DejaVuSans.ttf'), size)


def composed(text: str) -> str:
  """The text with accents in their letters: macOS has them apart in the names of files."""
  return unicodedata.normalize('NFC', text)
