"""What a run says of itself in its config.json, for whoever only shows it: nothing is checked.

`stored_config` reads a configuration that is to be used.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

from byoljax.workdir.files import opened


def read(run: pathlib.Path) -> dict[str, Any]:
  """A run's config.json: 'recipe', 'config', 'facts'; {} where none is."""
  try:
    with opened(run / 'config.json') as file:
      stored = json.load(file)
    facts = stored.setdefault('facts', {})
    known = isinstance(stored['config'], dict) and isinstance(stored['recipe'], str)
    return stored if known and isinstance(facts, dict) else {}
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
    return {}


def flat(fields: Mapping[str, Any], prefix: str = '') -> dict[str, str]:
  """{'data': {'name': 'npz', 'threads': 0}} -> {'data.name': 'npz', 'data.threads': '0'}."""
  made: dict[str, str] = {}
  for name, value in fields.items():
    if isinstance(value, dict) and value:
      made |= flat(value, f'{prefix}{name}.')
    else:
      made[f'{prefix}{name}'] = value if isinstance(value, str) else json.dumps(value)
  return made


def short_recipe(recipe: str) -> str:
  """'/somewhere/configs/byol.py:cifar10' -> 'byol:cifar10', wherever that lies."""
  path, colon, options = recipe.partition(':')
  return f'{pathlib.PurePath(path).stem}{colon}{options}'
