"""Configurations: load a recipe, override fields, say what is wrong with them in one sentence.

A recipe is a Python file with `get_config(arg='') -> ConfigDict`, named on the command line as
`configs/byol.py:arg`. It is code and runs as code: do not load one that you do not trust.
Every field can be overridden (`--config.optim.base_lr=0.3`), keeps the type of its default, and
holds a base quantity: peak learning rates, steps per epoch and the like are derived when the run
is assembled, so that an override never leaves a stale value behind.

Durations are strings with a unit: '40 epochs', '500 steps', '1000000 examples' or '10 %' of the
run.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import hashlib
import importlib.util
import json
import math
import os
import pathlib
import re
import sys
import types
from typing import Any

import ml_collections

from byoljax import suggest

# A ConfigDict. Its fields are attributes that no type checker knows.
Config = Any

# Fields that may change between two starts of one run: they do not change what is computed.
NEUTRAL = (
  'log', 'profile', 'bench', 'checkpoint', 'data.dir', 'data.threads', 'data.resident',
  'train.max_skipped', 'train.shard_state', 'encoder.remat', 'encoder.attention',
)  # fmt: skip


# Fields that are computed from the data where they are empty, 'auto' in text.
COMPUTED = ('data.mean', 'data.std')
# Of a tuple whose default is empty, for messages.
_EXAMPLES = "(0.1, 0.3) or ('a', 'b')"
# Smallest and largest value of fields that end so, in every recipe: 'seed' and 'split_seed'. What a
# task finds out only where it uses them may be after hours of training.
_RANGES = {
  'seed': (0, 2**32 - 1),
  'batch_size': (1, math.inf),
  'evals.image_size': (1, math.inf),
  'image_size': (0, math.inf),  # 0: as in pretraining, where it is the one above
  'max_iterations': (1, math.inf),
  'threads': (0, math.inf),  # 0: as many as there are cores
}


class ConfigError(ValueError):
  """A mistake in a configuration or on the command line; the message is for the user."""


@contextlib.contextmanager
def user_errors(where: str = '') -> Iterator[None]:
  """Turns a builder's complaint about its arguments into a `ConfigError`.

  Args:
    where: prefix of the message, such as 'config.encoder'.

  Raises:
    ConfigError: from ValueError, TypeError and OSError inside the block.
  """
  try:
    yield
  except ConfigError:
    raise
  except (ValueError, TypeError, OSError) as error:
    prefix = f'{where}: ' if where else ''
    raise ConfigError(f'{prefix}{error}') from error


def require_local(name: str, path: Any) -> None:
  """Raises ConfigError for a bucket's address: `pathlib` would make a local folder 'gs:' of it."""
  if '://' in str(path):
    raise ConfigError(
      f'{name}={path} is not a path on this computer: byoljax reads and writes files here. '
      f'Mount the bucket and name the folder that it is mounted at, or copy the files.'
    )


def path_of(name: str, path: Any) -> str:
  """A run's directory, or where one goes, with '~' expanded; '' stays empty.

  Raises:
    ConfigError: no path, a bucket's address, or an unknown home directory.
  """
  if not isinstance(path, str | os.PathLike):
    raise ConfigError(f"{name}={path!r} is no path: name a directory, such as 'runs/byol'.")
  require_local(name, path)
  text = os.fspath(path)  # './name' stays: it is no name on the hub.
  return str(expanded(text)) if text.startswith('~') else text


def expanded(path: str | os.PathLike[str]) -> pathlib.Path:
  """A path whose beginning '~' or '~user' is replaced by that home directory.

  Raises:
    ConfigError: there is none, as for a container's user without HOME.
  """
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError as error:
    raise ConfigError(
      f"'{path}': '{pathlib.Path(path).parts[0]}' is no home directory on this computer: write the "
      'path in full.'
    ) from error


def choose(kind: str, name: str, table: Mapping[str, Any] | Sequence[str]) -> Any:
  """Looks `name` up in a table (or checks it against a list) of what is allowed.

  Raises:
    ConfigError: unknown name; the message lists the valid ones and the closest.
  """
  if name not in table:
    raise ConfigError(suggest.unknown(kind, name, table))
  return table[name] if isinstance(table, Mapping) else name


def recipes_directory() -> pathlib.Path:
  """Where the recipes lie: in the installed package, else beside it in a clone."""
  package = pathlib.Path(__file__).parent
  inside = package / 'configs'
  return inside if inside.is_dir() else package.parent / 'configs'


def load(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> Config:
  """Runs a recipe and applies overrides.

  Args:
    spec: path of the recipe, optionally followed by ':' and its argument.
    overrides: (dotted field, text) pairs, applied in order.

  Raises:
    ConfigError: no such file, an argument that the recipe refuses, an unknown field, a value of
      the wrong type.
  """
  path_text, _, arg = spec.partition(':')
  path = expanded(path_text)
  if not path.is_file():
    recipes = sorted(str(p) for p in path.parent.glob('*.py') if p.stem != 'base')
    hint = suggest.did_you_mean(path, recipes) or f'; recipes there: {", ".join(recipes) or "none"}'
    raise ConfigError(f"no configuration file '{path}'{hint}")
  get_config = import_recipe(path)
  with user_errors(f'--config={path}:{arg}' if arg else f'--config={path}'):
    config = get_config(arg)
  for name, text in overrides:
    override(config, name, text)
  return config.lock()


def import_recipe(path: pathlib.Path) -> Any:
  """Imports a recipe by path, as a module of its directory (`from . import base`).

  The directory's parent is importable meanwhile, too (`from configs import base`).
  """
  directory = path.resolve().parent
  package = f'byoljax_recipes_{hashlib.sha256(bytes(directory)).hexdigest()[:8]}'
  if package not in sys.modules:
    made = types.ModuleType(package)
    made.__path__ = [str(directory)]
    sys.modules[package] = made
  module_spec = importlib.util.spec_from_file_location(f'{package}.{path.stem}', path)
  if module_spec is None or module_spec.loader is None:
    raise ConfigError(f"'{path}' is not a Python file.")
  module = importlib.util.module_from_spec(module_spec)
  root = str(directory.parent)
  sys.path.insert(0, root)
  try:
    module_spec.loader.exec_module(module)
  except SyntaxError as error:
    raise ConfigError(f"'{path}' is not valid Python: {error}.") from error
  finally:
    sys.path.remove(root)
  if not hasattr(module, 'get_config'):
    raise ConfigError(f"'{path}' has no get_config(arg) function.")
  return module.get_config


def override(config: Config, name: str, text: str) -> None:
  """Sets the dotted field `name` from text, in place, keeping the type of the present value.

  Raises:
    ConfigError: no such field (with the closest one), text that does not fit the type, or a number
      out of the range of `_RANGES`.

  Examples:
    >>> config = ml_collections.ConfigDict({'optim': {'base_lr': 0.3}})
    >>> override(config, 'optim.base_lr', '1e-2')
    >>> config.optim.base_lr
    0.01
    >>> override(config, 'optim.base_rl', '1')
    Traceback (most recent call last):
    byoljax.config.ConfigError: unknown field ... did you mean 'optim.base_lr'?
  """
  fields = flatten(config)
  fields |= _of_own_groups(name, fields)
  if name not in fields:
    inner = [field for field in fields if field.startswith(f'{name}.')]
    if inner:
      raise ConfigError(f"'{name}' is a group of fields; set one of {', '.join(inner)}.")
    meant = _meant(re.sub(r'\.groups\.\w+\.', '.', name), fields)
    raise ConfigError(f"unknown field '{name}'{meant}")
  *groups, last = name.split('.')
  target = config
  for group in groups:
    if group not in target:
      with target.unlocked():
        target[group] = ml_collections.ConfigDict()
    target = target[group]
  with target.unlocked():
    computed = text == 'auto' and name in COMPUTED
    target[last] = () if computed else _convert(name, text, fields[name])
  _check_range(name, target[last])


def _check_range(name: str, value: Any) -> None:
  """Raises ConfigError for a number that no field of this kind can have, see `_RANGES`."""
  if name.startswith('method.') or not isinstance(value, int | float):
    return  # Methods check their own fields, and those of a user's own may be of any type.
  for kind, (least, most) in _RANGES.items():
    if f'.{name}'.endswith((f'.{kind}', f'_{kind}')) and not least <= value <= most:
      above = f' and at most {most}' if math.isfinite(most) else ''
      raise ConfigError(f'{name}={value} must be at least {least}{above}.')


def _of_own_groups(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
  """'optim.groups.predictor.base_lr' of a recipe without it, as 'optim.base_lr'; {} for others."""
  of, _, inner = name.partition('.groups.')
  role, _, last = inner.partition('.')
  like = f'{of}.{last}'
  return {name: fields[like]} if role and name not in fields and like in fields else {}


def _meant(name: str, fields: Mapping[str, Any]) -> str:
  """The end of the message about an unknown field: what it may have meant, or what there is."""
  group, _, last = name.rpartition('.')
  # The right name in the wrong group is likelier than a misspelling.
  near = [field for field in fields if field.split('.')[-1] == last]
  near.sort(key=lambda field: field.count('.'))
  if not near:
    # Only the last part counts: a long group in common makes any two fields alike.
    alike = suggest.closest(last, {field.split('.')[-1] for field in fields})
    near = suggest.closest(name, [f for f in fields if f.split('.')[-1] in alike])
  if near:
    return ", did you mean '" + "' or '".join(near[:3]) + "'?"
  own = [field.rpartition('.')[2] for field in fields if field.rpartition('.')[0] == group]
  if group and own:
    return f': {group} has {", ".join(own)}.'
  return '; --print_config shows all fields.'


def _convert(name: str, text: str, present: Any) -> Any:
  """Parses text as the type of the present value."""
  kind = type(present)
  try:
    if kind is bool:
      return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]
    if kind is int:
      number = float(text) if re.search(r'[.eE]', text) else int(text)
      if number != int(number):
        raise ValueError
      return int(number)
    if kind is float:
      if not math.isfinite(float(text)):
        raise ValueError
      return float(text)
    if kind is tuple:
      return _convert_tuple(text, present)
    return text
  except (ValueError, KeyError, SyntaxError, TypeError, OverflowError):
    wanted = {bool: 'true or false', int: 'a whole number', float: 'a number'}.get(
      kind, f'a tuple such as {present or _EXAMPLES}'
    )
    raise ConfigError(f"{name}='{text}' is not {wanted} (the default is {present!r}).") from None


def _convert_tuple(text: str, present: tuple[Any, ...]) -> tuple[Any, ...]:
  if present and isinstance(present[0], str) and not re.search('[\'"()\\[]', text):
    return tuple(item.strip() for item in text.split(',') if item.strip())  # cifar10,dtd
  value = _tuples(ast.literal_eval(text))
  items = value if isinstance(value, tuple) else (value,)
  if present:
    kind = type(present[0])
    if kind in (int, float) and not all(type(item) in (int, float) for item in items):
      raise ValueError
    if any(kind(item) != item for item in items) or kind is float and math.inf in map(abs, items):
      raise ValueError
    items = tuple(kind(item) for item in items)
  return items


def _tuples(value: Any) -> Any:
  """Every list as a tuple, at any depth: as what JSON turns into lists comes back."""
  if isinstance(value, Mapping):
    return {name: _tuples(item) for name, item in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, (tuple, list)) else value


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Returns {dotted field: value} for every leaf of a nested configuration."""
  flat: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, (Mapping, ml_collections.ConfigDict)):
      flat |= flatten(value, f'{prefix}{name}.')  # type: ignore[arg-type]
    else:
      flat[f'{prefix}{name}'] = value
  return flat


def describe(config: Config) -> str:
  """One 'field = value' line per leaf, as `--print_config` shows them."""
  flat = flatten(config)
  width = max(len(name) for name in flat)
  return '\n'.join(f'--config.{name:<{width}} = {value!r}' for name, value in flat.items())


def to_json(config: Config) -> str:
  """The configuration as indented JSON; tuples become lists."""
  return json.dumps(json.loads(config.to_json()), indent=2)


def as_data(config: Config) -> dict[str, Any]:
  """The configuration as what JSON holds; tuples become lists.

  Raises:
    ConfigError: it is none.
  """
  if not isinstance(config, ml_collections.ConfigDict):
    raise ConfigError(
      f"recipe={config!r} is no recipe: give its name, such as 'byol:folder_small', the path of a "
      'file, or a ConfigDict.'
    )
  return json.loads(config.to_json())


def from_json(data: Mapping[str, Any]) -> Config:
  """The inverse of `to_json` on parsed JSON: every list becomes a tuple again."""
  return ml_collections.ConfigDict(_tuples(data)).lock()


def skips_non_finite(config: Config) -> bool:
  """Whether updates that are not finite are left out, rather than ending the run.

  Raises:
    ConfigError: an unknown policy, or a limit that ends the run at once.
  """
  policy, limit = config.train.non_finite, config.train.max_skipped
  choose('train.non_finite', policy, ('stop', 'skip'))
  if limit < 1:
    raise ConfigError(f'train.max_skipped={limit} must be at least 1.')
  return policy == 'skip'


def differences(old: Config, new: Config) -> list[str]:
  """Lists the fields that make two runs different, as 'field: old -> new'; see `NEUTRAL`."""
  a, b = decisive(old), decisive(new)
  absent = '(absent)'
  return [
    f'{name}: {a.get(name, absent)!r} -> {b.get(name, absent)!r}'
    for name in sorted(a.keys() | b.keys())
    if a.get(name, absent) != b.get(name, absent)
  ]


def decisive(config: Config) -> dict[str, Any]:
  """{dotted field: value} of all fields that make a run what it is: those not in `NEUTRAL`."""
  return {
    name: value
    for name, value in flatten(config).items()
    if not any(name == field or name.startswith(f'{field}.') for field in NEUTRAL)
  }
