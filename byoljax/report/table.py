"""Small tables for the terminal, for Markdown and for HTML."""

from collections.abc import Mapping, Sequence
import html
import re
import sys
from typing import Any
import unicodedata

import numpy as np

from byoljax.suggest import check_name

STYLES = ('unicode', 'ascii', 'markdown')

_CONTROL = re.compile(r'[\x00-\x1f\x7f-\x9f]')

# Most decimals of a number that has no format of its own.
_DECIMALS = 4


def format_table(
  rows: Sequence[Mapping[str, Any]],
  columns: Sequence[str],
  *,
  formats: Mapping[str, str] | None = None,
  style: str | None = None,
) -> str:
  """Aligns rows under headers: text to the left, numbers to the right.

  Numbers of a column share one count of decimals, as many as the most exact of them needs, up to
  four, unless the column has a format.

  Args:
    rows: column name to value; a missing value or None is shown as a dash.
    columns: which to show, in order; the names are the headers.
    formats: column name to the format of its numbers, such as '{:.1%}'.
    style: 'unicode', 'ascii' or 'markdown'; None takes 'unicode' where standard output can show
      it and 'ascii' elsewhere.

  Returns:
    The table, without a newline at the end.

  Raises:
    ValueError: an unknown style, or a format for a column that is not shown.
  """
  style = _checked_style(style)
  formats = dict(formats or {})
  for name in formats:
    if name not in columns:
      raise ValueError(f'There is no column {name!r} to format; columns: {", ".join(columns)}.')
  texts, rights = [], []
  for name in columns:
    values = [row.get(name) for row in rows]
    numbers = [value for value in values if _is_number(value)]
    form = formats.get(name) or f'{{:.{_decimals(numbers)}f}}'
    texts.append([_escape(name, style), *(_text(value, form, style) for value in values)])
    rights.append(bool(numbers))
  widths = [max(3, *map(_width, column)) for column in texts]
  lines = [
    [_pad(*cell) for cell in zip(line, widths, rights, strict=True)]
    for line in zip(*texts, strict=True)
  ]
  if style == 'markdown':
    rule = [
      '-' * (w - 1) + (':' if right else '-') for w, right in zip(widths, rights, strict=True)
    ]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in [lines[0], rule, *lines[1:]])
  rule = [('─' if style == 'unicode' else '-') * width for width in widths]
  return '\n'.join('  '.join(line).rstrip() for line in [lines[0], rule, *lines[1:]])


def html_table(rows: Sequence[Mapping[str, Any]], missing: str = '', attributes: str = '') -> str:
  """Rows as a table in HTML: a column for every name, in the order in which they occur.

  Args:
    rows: values by column.
    missing: what stands where a row has no such column.
    attributes: of the <table>.
  """
  columns = list(dict.fromkeys(name for row in rows for name in row))
  head = ''.join(f'<th>{html.escape(name)}</th>' for name in columns)
  body = ''.join(
    '<tr>'
    + ''.join(f'<td>{html.escape(str(row.get(name, missing)))}</td>' for name in columns)
    + '</tr>'
    for row in rows
  )
  return f'<table{attributes}><tr>{head}</tr>{body}</table>'


def _checked_style(style: str | None) -> str:
  if style is None:
    encoding = getattr(sys.stdout, 'encoding', None) or 'ascii'
    return 'unicode' if encoding.lower().replace('-', '').startswith('utf') else 'ascii'
  check_name('table style', style, STYLES)
  return style


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _decimals(numbers: Sequence[Any]) -> int:
  """Decimals after which every number is as exact as it will get: 0.07, 0.1 -> 2."""
  for digits in range(_DECIMALS):
    if all(
      round(float(n), digits) == round(float(n), _DECIMALS) for n in numbers if np.isfinite(n)
    ):
      return digits
  return _DECIMALS


def _text(value: Any, form: str, style: str) -> str:
  if value is None:
    return '-' if style == 'ascii' else '–'
  text = form.format(value) if _is_number(value) else str(value)
  if style == 'ascii':
    text = text.encode('ascii', 'replace').decode()
  return _escape(text, style)


def _escape(text: str, style: str) -> str:
  # A line break would end the row in every style, a bar would end the cell in Markdown. What else
  # controls a terminal may stand in the names of files, too.
  text = _CONTROL.sub(' ', ' '.join(text.splitlines()))
  return text.replace('|', '\\|') if style == 'markdown' else text


def _width(text: str) -> int:
  """Columns of a terminal: wide East Asian characters take two, combining marks none."""
  wide = sum(unicodedata.east_asian_width(c) in 'WF' for c in text)
  return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _pad(text: str, width: int, right: bool) -> str:
  blanks = ' ' * (width - _width(text))
  return blanks + text if right else text + blanks
