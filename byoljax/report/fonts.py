"""Text in pictures: matplotlib's own font, which knows more letters than Pillow's, and names."""

import functools
import importlib.util
import pathlib
from typing import Any
import unicodedata


@functools.cache
def sans(size: int) -> Any:
  """DejaVu Sans as Pillow takes it: Latin, Greek, Cyrillic, Arabic and more, not Chinese."""
  from PIL import ImageFont

  # Where matplotlib is, without importing it, which takes longer than drawing a sheet.
  spec = importlib.util.find_spec('matplotlib')
  assert spec is not None and spec.origin is not None
  folder = pathlib.Path(spec.origin).parent / 'mpl-data' / 'fonts' / 'ttf'
  return ImageFont.truetype(str(folder / 'DejaVuSans.ttf'), size)


def plain(name: str) -> str:
  r"""A name as matplotlib shows it letter by letter: `$` begins no formula, `_` hides no label.

  >>> plain('lr$_$x')
  'lr\\$_\\$x'
  """
  return f'{" " * name.startswith("_")}{name}'.replace('$', r'\$')


def composed(text: str) -> str:
  """The text with accents in their letters: macOS has them apart in the names of files."""
  return unicodedata.normalize('NFC', text)
