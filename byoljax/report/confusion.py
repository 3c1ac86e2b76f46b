"""Which classes are taken for which, and how each one fares: tables for people, and a CSV file."""

from collections.abc import Sequence
import csv
import os
from typing import Any

import numpy as np

from byoljax.evals import scores
from byoljax.report import table
from byoljax.wording import counted
from byoljax.workdir.files import replacing

# Of more classes, tables show the worst and the commonest.
_MOST = 30
_PAIRS = 5


def write_csv(path: str | os.PathLike[str], counts: np.ndarray, names: Sequence[str]) -> None:
  """Writes a confusion matrix: a line for each true class, a column for each predicted one.

  Args:
    path: the file.
    counts: int [C, C] of `scores.confusion`.
    names: of the C classes.
  """
  with replacing(path, 'w') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['true class', *names])
    writer.writerows([name, *row] for name, row in zip(names, counts.tolist(), strict=True))


def by_class(counts: np.ndarray, names: Sequence[str]) -> str:
  """Images, recall and precision of every class, the worst first, as a table."""
  rows: list[dict[str, Any]] = [
    row | {'class': names[row['class']]} for row in scores.by_class(counts) if row['images']
  ]
  rows.sort(key=lambda row: row['recall'])
  columns = ['class', 'images', 'recall', 'precision']
  made = table.format_table(
    rows[:_MOST], columns, formats={'recall': '{:.1%}', 'precision': '{:.1%}'}
  )
  more = len(rows) - _MOST
  if more <= 0:
    return made
  return f'{made}\n... and {counted(more, "better class", "better classes")}'


def commonest(counts: np.ndarray, names: Sequence[str]) -> str:
  """'cat for dog 12 times, ...': what is most often taken for what; '' without a mistake."""
  return ', '.join(
    f'{names[truth]} for {names[said]} {counted(times, "time")}'
    for truth, said, times in scores.mistakes(counts, _PAIRS)
  )
