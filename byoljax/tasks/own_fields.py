"""What the help of a command says about the fields of its recipe."""

from collections.abc import Collection
import pathlib
import re
from typing import Any

from byoljax import config as config_lib

_SHOWN = 6  # Fields of a group; those of a larger one are counted.
# Of a field in a recipe: its name, and what is said about it behind its value.
_NOTE = re.compile(r"^\s*'(\w+)':.*\S  # (.+)$", re.M)


def table(recipe: str, hidden: Collection[str] = ()) -> str:
  """One line per field, '--tap=embedding    or ...': the value by default, and the recipe's note.

  Args:
    recipe: 'configs/knn.py', with options.
    hidden: fields that are left out.
  """
  fields = config_lib.load(recipe, []).to_dict()
  text = pathlib.Path(recipe.partition(':')[0]).read_text(encoding='utf-8')
  notes = dict(reversed(_NOTE.findall(text)))  # The first one of a name.
  rows = [row for name, value in fields.items() if name not in hidden
          for row in _rows(name, value, notes)]  # fmt: skip
  width = max((len(option) for option, _ in rows if len(option) < 30), default=0)
  return '\n'.join(f'  {option:<{width}}  {note}'.rstrip() for option, note in rows)


def _rows(name: str, value: Any, notes: dict[str, str]) -> list[tuple[str, str]]:
  if not isinstance(value, dict):
    return [(f'--{name}={_text(value)}', notes.get(name, ''))]
  if len(value) > _SHOWN or any(isinstance(each, dict) for each in value.values()):
    return [(f'--{name}.NAME=VALUE', f'{len(config_lib.flatten(value))} fields')]
  return [row for inner, each in value.items() for row in _rows(f'{name}.{inner}', each, {})]


def _text(value: Any) -> str:
  text = str(value).replace(', ', ',')
  return f"'{text}'" if ' ' in text else text
