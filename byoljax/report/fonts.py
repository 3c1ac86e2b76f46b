"""Text in pictures: matplotlib's own font, which knows more letters than Pillow's, and names."""

from collections.abc import Iterator
import contextlib
import functools
import importlib.util
import pathlib
from typing import Any
import unicodedata
import warnings


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


@contextlib.contextmanager
def boxes_for_others() -> Iterator[None]:
  """Lets matplotlib draw letters that it does not know as boxes, without a warning for each."""
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', r'Glyph .* missing from', UserWarning)
    yield


def composed(text: str) -> str:
  """The text with accents in their letters: macOS has them apart in the names of files."""
  return unicodedata.normalize('NFC', text)
