"""The page of recipes and presets, made of the recipes themselves.

The text is their docstrings; the tables are what they return. No JAX is imported.
"""

import ast
import importlib
import pathlib
import sys
import textwrap
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Recipes whose part after the colon is one of configs/scales.py.
COLUMNS = ('scale', 'data', 'encoder', 'image', 'batch', 'length', 'optimizer', 'base_lr')


def page() -> str:
  """The whole page as Markdown."""
  if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
  from byoljax import cli

  names = [*cli.recipes(), *sorted(_evaluations())]
  parts = [
    '# Recipes and presets',
    'This page is made from the files in `configs/` when the site is built: the texts are their '
    'docstrings, the numbers what they return. A recipe is named with its part after the colon, '
    'as in `byoljax pretrain simclr:cifar10,v2` or `--config=configs/simclr.py:cifar10,v2`; '
    '`--print_config` shows every field.',
    '## Scales',
    _docstring('scales'),
    _scales(),
    '## Lengths and heads of the methods',
    'Default length, and what the method itself sets, at the scale of the built-in images and at '
    "ImageNet's.",
    _lengths(cli.recipes()),
    '## Pretraining',
    *(_section(name) for name in names if name in cli.recipes()),
    '## Evaluation, export and import',
    *(_section(name) for name in names if name not in cli.recipes()),
    '## Commands',
    'What `byoljax` can do; every field of a recipe is an option of its command.',
    cli.table(),
    '## Every field',
    'What `configs/base.py` holds before a recipe changes it.',
    f'```python\n{_function("base", "get_config")}\n```',
  ]
  return '\n\n'.join(parts) + '\n'


def _evaluations() -> set[str]:
  from byoljax import cli

  return {command.recipe.partition(':')[0] for command in cli.COMMANDS.values() if command.recipe}


def _section(name: str) -> str:
  title, _, rest = _docstring(name).partition('\n')
  # Docstrings are Markdown as they stand: what is indented is code.
  return f'### {name}\n\n{title}\n\n' + rest.strip('\n')


def _docstring(name: str) -> str:
  return ast.get_docstring(ast.parse(_text(name))) or ''


def _function(name: str, function: str) -> str:
  text = _text(name)
  tree = ast.parse(text)
  node = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
  return textwrap.dedent(ast.get_source_segment(text, node) or '')


def _text(name: str) -> str:
  return (ROOT / 'configs' / f'{name}.py').read_text()


def _scales() -> str:
  """One row for each scale, by BYOL's recipe."""
  scales = importlib.import_module('configs.scales')
  rows = []
  for scale in scales.SCALES:
    config = _load('byol', scale)
    sizes = ', '.join(str(size) for size in sorted({v.size for v in config.views.values()}))
    rows.append(
      [
        f'`{scale}`', config.data.name, config.encoder.name, f'{sizes} px', config.train.batch_size,
        config.train.length, config.optim.name, f'{config.optim.base_lr:g}',
      ]
    )  # fmt: skip
  return 'For BYOL:\n\n' + _table(COLUMNS, rows)


def _lengths(names: list[str]) -> str:
  rows = []
  for name in names:
    small, large = _load(name, 'shapes'), _load(name, 'imagenet')
    heads = [
      '; '.join(
        f'{field} {_plain(config.method[field])}'
        for field in ('projector', 'predictor', 'temperature', 'queue_size')
        if field in config.method
      )
      for config in (small, large)
    ]
    rows.append(
      [f'[`{name}`](#{name})', small.train.length, heads[0], large.train.length, heads[1]]
    )
  return _table(('recipe', 'shapes', 'heads there', 'imagenet', 'heads there'), rows)


def _load(name: str, arg: str) -> Any:
  from byoljax import config

  try:
    return config.load(str(ROOT / 'configs' / f'{name}.py') + f':{arg}')
  except config.ConfigError:  # A recipe may have fewer scales, and then names of its own.
    return config.load(str(ROOT / 'configs' / f'{name}.py'))


def _plain(value: Any) -> str:
  return '×'.join(map(str, value)) if isinstance(value, tuple) else str(value)


def _table(columns: tuple[str, ...], rows: list[list]) -> str:
  lines = [
    '| ' + ' | '.join(map(str, row)) + ' |' for row in (columns, ['---'] * len(columns), *rows)
  ]
  return '\n'.join(lines)
