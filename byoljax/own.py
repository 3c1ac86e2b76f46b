"""What is the user's own, by import path: 'package.module:name' or 'package.module:Net(width=2)'.

An encoder, a method, a view or a data set needs no entry in a table of ours. A run records in its
config.json where it was imported from, so that it can be read and evaluated later, and a command
line can name it. In the process that was given an object, its path leads to that very object.

Nothing is called here but classes with fields, linen modules say, whose arguments are literals.
"""

import ast
from collections.abc import Mapping
import dataclasses
import functools
import importlib
import inspect
from typing import Any

# What this process was given: path -> object.
_GIVEN: dict[str, Any] = {}
# Fields that linen gives every module, and what a path has for arguments that are no literals; of
# other objects that are made in the same way, '(...2)', '(...3)'.
_LINEN, _UNKNOWN = ('parent', 'name'), '(...)'


def is_path(name: str) -> bool:
  """Whether a name leads to something of the user's own: those of our tables have no colon."""
  module, _, rest = name.partition(':')
  return bool(module and rest)


def give(thing: Any) -> str:
  """The import path of an object, which leads to the object itself from now on.

  Args:
    thing: a function, a class, an instance of a dataclass such as a linen module, or a partial of
      one of the first two.

  Examples:
    >>> give(dataclasses.dataclass)
    'dataclasses:dataclass'
  """
  named, arguments = thing, ''
  if isinstance(thing, functools.partial):
    named, arguments = thing.func, _UNKNOWN if thing.args else _written(thing.keywords)
  elif not inspect.isclass(thing) and dataclasses.is_dataclass(thing):
    named, arguments = type(thing), _written(_changed(thing))
  elif not hasattr(thing, '__qualname__'):
    named, arguments = type(thing), _UNKNOWN
  path, number = f'{named.__module__}:{named.__qualname__}{arguments}', 1
  while arguments == _UNKNOWN and _is_another(_GIVEN.get(path), thing):
    number += 1
    path = f'{named.__module__}:{named.__qualname__}(...{number})'
  _GIVEN[path] = thing
  return path


def _is_another(there: Any, thing: Any) -> bool:
  """Whether two objects of one class, or partials of one function, have other arguments.

  An instance of any other class takes the place of the one before: a cell of a notebook that runs
  again makes a new one.
  """
  if isinstance(there, functools.partial) and isinstance(thing, functools.partial):
    there, thing = (there.args, there.keywords), (thing.args, thing.keywords)
  elif type(there) is not type(thing) or not dataclasses.is_dataclass(thing):
    return False
  # Arrays, which have no one answer, look alike.
  return not _equal(there, thing) and repr(there) != repr(thing)


def _changed(instance: Any) -> dict[str, Any]:
  """The fields of a dataclass that do not have their defaults."""
  changed = {}
  for field in dataclasses.fields(instance):
    value = getattr(instance, field.name)
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
      default = field.default_factory()
    if field.init and field.name not in _LINEN and not _equal(value, default):
      changed[field.name] = value
  return changed


def _equal(value: Any, default: Any) -> bool:
  try:
    return value is default or bool(value == default)
  except (ValueError, TypeError):  # Arrays.
    return False


def _written(arguments: Mapping[str, Any]) -> str:
  if not arguments:
    return ''
  text = f'({", ".join(f"{name}={value!r}" for name, value in arguments.items())})'
  try:
    return text if _literals(text) == dict(arguments) else _UNKNOWN
  except (ValueError, SyntaxError, TypeError):
    return _UNKNOWN


def _literals(arguments: str) -> dict[str, Any]:
  """The keyword arguments of '(a=1, b=(2, 3))'."""
  node = ast.parse(f'f{arguments}', mode='eval').body
  if not isinstance(node, ast.Call) or node.args:
    raise ValueError('arguments are keywords with literal values')
  return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}


def find(kind: str, path: str) -> Any:
  """The object that a path leads to.

  Args:
    kind: what it is, for messages: 'encoder'.
    path: as from `give`, or written by hand.

  Raises:
    ValueError: it cannot be imported, is not there, or cannot be made.
  """
  if path in _GIVEN:
    return _GIVEN[path]
  module_name, _, rest = path.partition(':')
  name, opened, _ = rest.partition('(')
  arguments = rest[len(name) :]
  made = _imported(kind, path, module_name, name)
  if not opened:
    return made
  if arguments.startswith(_UNKNOWN[:-1]):
    raise ValueError(
      f"the {kind} '{path}' was made with arguments that cannot be written down: make it again and "
      'give it to byoljax from Python.'
    )
  if not (inspect.isclass(made) and dataclasses.is_dataclass(made)):
    raise ValueError(f"the {kind} '{path}': only a linen module may have arguments here.")
  try:
    return made(**_literals(arguments))
  except (ValueError, SyntaxError, TypeError) as error:
    raise ValueError(f"the {kind} '{path}' cannot be made: {error}.") from error


def _imported(kind: str, path: str, module_name: str, name: str) -> Any:
  try:
    module = importlib.import_module(module_name)
  except (ImportError, ValueError) as error:
    raise ValueError(
      f"the {kind} '{path}' cannot be imported ({error}): its module must be where Python finds "
      'it, on PYTHONPATH say.'
    ) from error
  found: Any = module
  for part in name.split('.'):
    found = getattr(found, part, None)
  own = inspect.isfunction(found) or inspect.isclass(found)
  if (own and found.__module__ == module.__name__) or (
    dataclasses.is_dataclass(found) and not inspect.isclass(found)
  ):
    return found
  where = f'{module_name} defines no {name}'
  if module_name == '__main__':
    where = 'it was defined in the script or notebook that made the run; define it there again'
  raise ValueError(f"the {kind} '{path}' is not there: {where}, or give it from Python.")
