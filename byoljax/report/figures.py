"""Diagrams of matplotlib without pyplot: no window system, no change to anybody's settings."""

import os
from typing import Any

from byoljax.report import fonts
from byoljax.workdir.files import replacing


def figure(width: float, height: float) -> Any:
  """An empty figure, of a size in inches, whose parts make room for each other."""
  from matplotlib.figure import Figure

  return Figure(figsize=(width, height), layout='constrained')


def open_above(panel: Any) -> None:
  """Leaves only the axes on the left and at the bottom."""
  for side in ('top', 'right'):
    panel.spines[side].set_visible(False)


def save(drawn: Any, path: str | os.PathLike[str], dpi: int) -> None:
  """Writes a figure as PNG, whole or not at all; letters that the font lacks are boxes."""
  with replacing(path) as file, fonts.boxes_for_others():
    drawn.savefig(file, format='png', dpi=dpi)
