"""Predictions as files: a table with a line for every image, and a page to look through.

    file,class,probability,note,top1,p1,...,top5,p5
    new/a.jpg,cat,0.9312,,cat,0.9312,dog,0.0501,...
    new/b.jpg,,0.4203,abstained,dog,0.4203,cat,0.3121,...
    new/c.jpg,,,unreadable: truncated,,,...

No image is left out: what cannot be read has a line that says so.
"""

from collections.abc import Callable, Mapping, Sequence
import csv
import os
from typing import Any, NamedTuple

import numpy as np

from byoljax.report import table
from byoljax.workdir.files import replacing

TOP = 5
ABSTAINED, UNREADABLE = 'abstained', 'unreadable'
# Ranges of the confidence whose images the summary counts.
_BANDS = ((0.0, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 1.01))


class Answer(NamedTuple):
  """What is said of one image.

  Attributes:
    name: its file or record.
    row: its position in the source.
    top: the likeliest classes and their probabilities, at most five; () of an unreadable image.
    note: '', 'abstained', or 'unreadable: why'.
    truth: its class, where that is known; ''.
  """

  name: str
  row: int
  top: tuple[tuple[str, float], ...]
  note: str = ''
  truth: str = ''

  @property
  def label(self) -> str:
    """The class; '' where there is no answer."""
    return '' if self.note or not self.top else self.top[0][0]

  @property
  def confidence(self) -> float:
    """The largest probability; 0 of an unreadable image."""
    return self.top[0][1] if self.top else 0.0


def answers(
  index: np.ndarray,
  chances: np.ndarray,
  classes: Sequence[str],
  name_of: Callable[[int], str],
  *,
  size: int,
  reasons: Mapping[str, str],
  abstain: float = 0.0,
  truth: np.ndarray | None = None,
) -> list[Answer]:
  """One answer for every image of a source, in its order.

  Args:
    index: int [n], the rows that there are probabilities of.
    chances: [n, C].
    classes: C names.
    name_of: row -> file or record.
    size: how many images there are.
    reasons: file or record -> why it cannot be read.
    abstain: no class is named whose probability is below this.
    truth: int [size], known classes, -1 where unknown; or None.
  """
  place = {int(row): at for at, row in enumerate(index)}
  best = np.argsort(-chances, axis=1, kind='stable')[:, :TOP]
  made = []
  for row in range(size):
    name = name_of(row)
    known = '' if truth is None or truth[row] < 0 else classes[int(truth[row])]
    at = place.get(row)
    if at is None:
      why = f'{UNREADABLE}: {reasons.get(name, "no image")}'
      made.append(Answer(name, row, (), why, known))
      continue
    top = tuple((classes[int(i)], float(chances[at, i])) for i in best[at])
    made.append(Answer(name, row, top, ABSTAINED if top[0][1] < abstain else '', known))
  return made


def write_csv(path: str | os.PathLike[str], made: Sequence[Answer], root: str = '') -> None:
  """Writes the table, whole or not at all.

  Args:
    path: the file.
    made: of `answers`.
    root: files are named by their path within this folder.

  Raises:
    OSError: it cannot be written.
  """
  columns = max([len(each.top) for each in made], default=0)
  pairs = [name for rank in range(1, columns + 1) for name in (f'top{rank}', f'p{rank}')]
  with replacing(path, 'w') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['file', 'class', 'probability', 'note', *pairs])
    for each in made:
      top = [cell for label, chance in each.top for cell in (label, f'{chance:.4f}')]
      chance = f'{each.confidence:.4f}' if each.top else ''
      writer.writerow([short(each.name, root), each.label, chance, each.note, *top]
                      + [''] * (2 * columns - len(top)))  # fmt: skip


def short(name: str, root: str) -> str:
  """A file's path within a folder; the name itself of what is no file there."""
  if root and os.path.isabs(name) and name.startswith(root.rstrip(os.sep) + os.sep):
    name = os.path.relpath(name, root)
  # A name of bytes that are no text must not end the whole table.
  return name.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace')


def unreadable(made: Sequence[Answer]) -> list[Answer]:
  """Those that could not be read."""
  return [each for each in made if each.note.startswith(UNREADABLE)]


def summary(made: Sequence[Answer], classes: Sequence[str]) -> str:
  """How many images of every class, how sure; what was abstained from, what cannot be read."""
  found: dict[str, list[float]] = {label: [] for label in classes}
  for each in made:
    if each.label:
      found[each.label].append(each.confidence)
  rows: list[dict[str, Any]] = []
  for label, own in found.items():
    if own:
      counts = [sum(low <= chance < high for chance in own) for low, high in _BANDS]
      rows.append({'class': label, 'images': len(own), 'mean probability': float(np.mean(own))}
                  | dict(zip(_HEADINGS, counts, strict=True)))  # fmt: skip
  rows.sort(key=lambda row: -row['images'])
  lines = []
  if rows:
    columns = ['class', 'images', 'mean probability', *_HEADINGS]
    lines.append(table.format_table(rows, columns, formats={'mean probability': '{:.1%}'}))
  silent = sum(each.note == ABSTAINED for each in made)
  if silent:
    lines.append(f'{silent:,} of {len(made):,} images: no class is probable enough to be named')
  return '\n'.join(lines)


_HEADINGS = ('below 50 %', '50 to 80 %', '80 to 95 %', 'above 95 %')
