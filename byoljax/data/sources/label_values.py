"""Labels as files say them, by number or by name: what each means, and how classes are numbered."""

from collections.abc import Sequence
import re
from typing import Any

import numpy as np

from byoljax.data.sources import arrays

_DIGITS = 20  # that are read of a number: enough to be beyond any class


def read_label(value: Any, where: str) -> int | str | None:
  """The number or the name of a class; None for no label: None, an empty text and -1.

  Args:
    value: a number, or a text, which is a number where it consists of digits.
    where: begins the sentence of an error.

  Raises:
    ValueError: several labels, or a number that is below -1 or beyond `arrays.MAX_CLASSES`.
  """
  if value is None:
    return None
  if isinstance(value, list | tuple | dict):
    raise ValueError(
      f'{where} has the label {str(value)[:60]}: an image has one label here, the number or the '
      'name of its class.'
    )
  text = str(value).strip()
  if not re.fullmatch('-?[0-9]+', text):
    return text or None
  number = int(text[:_DIGITS])
  if not -1 <= number < arrays.MAX_CLASSES:
    raise ValueError(
      f'{where} has the label {number}, but classes are 0 to {arrays.MAX_CLASSES - 1:,}, and -1 is '
      'none: number them from 0, or leave the labels out.'
    )
  return None if number == -1 else number


def number_labels(
  labels: Sequence[int | str | None], where: str, known: tuple[str, ...] = ()
) -> tuple[list[int], tuple[str, ...]]:
  """Class numbers [N], -1 for no label, and the names of the classes; () where no image has one.

  Where all labels are numbers, they are the numbers of the classes. Otherwise all are names, and
  classes are numbered in the order of their names.

  Args:
    labels: of `read_label`.
    where: the set, for messages.
    known: what is known of the names of classes that are numbers.

  Raises:
    ValueError: numbers that are no numbers of classes, such as identifiers.
  """
  told = {label for label in labels if label is not None}
  if not all(isinstance(label, int) for label in told):
    classes = tuple(sorted({str(label) for label in told}))
    place = {name: number for number, name in enumerate(classes)}
    return [-1 if label is None else place[str(label)] for label in labels], classes
  numbers = [-1 if label is None else int(label) for label in labels]
  count = max(numbers, default=-1) + 1
  if count and len(known) < count:
    arrays.check_numbering([np.array(numbers)], where)
    known = tuple(map(str, range(count)))
  return numbers, known if count else ()
