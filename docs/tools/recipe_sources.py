"""Prints, for the cards in docs/methods/, where recipes differ from what their numbers are from.

    python docs/tools/recipe_sources.py            all tables
    python docs/tools/recipe_sources.py --write    puts each into its card, between the two marks

The settings behind the published numbers are in published.py beside this file.
"""

import pathlib
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'docs' / 'tools')]

from published import SOURCES  # noqa: E402
from sources import FULL, Source  # noqa: E402

from byoljax import config as config_lib  # noqa: E402

BEGIN = '<!-- docs/tools/recipe_sources.py -->'
END = '<!-- end -->'


def table(card: str) -> str:
  """The differences of a card's recipes, as Markdown."""
  lines = [
    '| recipe, published number | setting | there | here |',
    '|---|---|---|---|',
  ]
  for recipe, source in SOURCES[card].items():
    different, same = differences(recipe, source)
    different |= FULL | source.beyond
    title = f'`{recipe}`: {source.result} ({source.origin}); {same} settings as there'
    for number, (what, (there, here)) in enumerate(different.items()):
      lines.append(f'| {title if number == 0 else ""} | {what} | {there} | {here} |')
    if not different:
      lines.append(f'| {title} | – | | |')
  return '\n'.join(lines)


def differences(recipe: str, source: Source) -> tuple[dict[str, tuple[str, str]], int]:
  """Fields whose value differs -> (there, here), and the number of those that are equal."""
  name, _, options = recipe.partition(':')
  config = config_lib.load(str(ROOT / 'configs' / f'{name}.py') + f':{options}')
  found: dict[str, tuple[str, str]] = {}
  same = 0
  for path, there in source.fields.items():
    if there is None:
      continue
    here = value_at(config, path)
    if here == there:
      same += 1
    else:
      found[f'`{path}`'] = (_text(there), _text(here))
  return found, same


def value_at(config: Any, path: str) -> Any:
  """The field at a dotted path, lists as tuples."""
  value = config
  for name in path.split('.'):
    value = value[name]
  return value.to_dict() if hasattr(value, 'to_dict') else _plain(value)


def _plain(value: Any) -> Any:
  return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _text(value: Any) -> str:
  return f'{value:g}' if isinstance(value, float) else str(value)


def with_table(text: str, card: str) -> str:
  """The text of a card with its table between the marks.

  Raises:
    ValueError: there are no marks.
  """
  before, found, rest = text.partition(BEGIN)
  _, end, after = rest.partition(END)
  if not found or not end:
    raise ValueError(f'docs/methods/{card}.md lacks {BEGIN} or {END}.')
  return f'{before}{BEGIN}\n{table(card)}\n{END}{after}'


def main() -> None:
  """Prints or writes the tables."""
  for card in SOURCES:
    if '--write' in sys.argv[1:]:
      path = ROOT / 'docs' / 'methods' / f'{card}.md'
      path.write_text(with_table(path.read_text(), card))
    else:
      print(f'{card}\n\n{table(card)}\n')


if __name__ == '__main__':
  main()
