"""Notebooks without Jupyter: as Markdown for the site, and run cell by cell.

They are stored without outputs. `run` executes the code in one namespace and collects what each
cell prints, its last expression and its figures: all that these notebooks need of a kernel.
"""

import ast
import base64
from collections.abc import Callable
import contextlib
import io
import json
import pathlib
from typing import Any, NamedTuple


class Cell(NamedTuple):
  """A cell: 'markdown' or 'code', and its text."""

  kind: str
  text: str


class Output(NamedTuple):
  """What a code cell left: text, and figures as PNG."""

  text: str
  figures: tuple[bytes, ...]


def read(path: pathlib.Path) -> list[Cell]:
  """The cells of an .ipynb file."""
  cells = json.loads(path.read_text())['cells']
  return [Cell(cell['cell_type'], ''.join(cell['source'])) for cell in cells]


def run(cells: list[Cell], edit: Callable[[str], str] = lambda text: text) -> list[Output | None]:
  """Executes the code cells in order, in the current directory.

  Args:
    cells: of one notebook.
    edit: changes a code cell's text before it runs.

  Returns:
    One output per cell, None for text.
  """
  import matplotlib

  matplotlib.use('Agg')
  namespace: dict[str, Any] = {'__name__': '__main__'}
  return [_execute(edit(c.text), namespace) if c.kind == 'code' else None for c in cells]


def _execute(text: str, namespace: dict[str, Any]) -> Output:
  from matplotlib import pyplot

  tree = ast.parse(text)
  last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    exec(compile(tree, '<cell>', 'exec'), namespace)
    if last is not None:
      value = eval(compile(ast.Expression(last.value), '<cell>', 'eval'), namespace)
      if value is not None:
        print(repr(value))
  figures = []
  for number in pyplot.get_fignums():
    picture = io.BytesIO()
    pyplot.figure(number).savefig(picture, format='png', dpi=80, bbox_inches='tight')
    figures.append(picture.getvalue())
  pyplot.close('all')
  return Output(printed.getvalue(), tuple(figures))


def markdown(cells: list[Cell], outputs: list[Output | None] | None = None) -> str:
  """The notebook as a page, with outputs if there are any."""
  parts = []
  for cell, output in zip(cells, outputs or [None] * len(cells), strict=True):
    parts.append(cell.text if cell.kind == 'markdown' else f'```python\n{cell.text}\n```')
    if output and output.text.strip():
      parts.append(f'```text\n{output.text.rstrip()}\n```')
    for figure in output.figures if output else ():
      parts.append(f'![figure](data:image/png;base64,{base64.b64encode(figure).decode()})')
  return '\n\n'.join(parts) + '\n'
