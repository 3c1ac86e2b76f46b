"""Configurations of runs that may be older than this version.

Fields that the recipes have gained since a run was started are added with their defaults, so that
the run is evaluated and used as before: a new field's default says what runs did before there was
the field. Fields that have gone or have another name are not known here; the changelog names them.
"""

from collections.abc import Mapping
import functools
import pathlib
from typing import Any

from byoljax import config as config_lib


def stored(data: Mapping[str, Any], recipe: str = '') -> config_lib.Config:
  """The configuration of a run that may be older than this version, from its JSON.

  Fields that `configs/base.py` and the method's recipe have gained since then are added with their
  defaults: a new field's default says what runs did before there was the field. An evaluation's
  get those of its recipe.

  Args:
    data: of config.json.
    recipe: what the run was started with, 'configs/finetune.py:small'; only its name and options
      count, and only if it is one of the package's.
  """
  return config_lib.from_json(completed(data, recipe))


def completed(data: Mapping[str, Any], recipe: str = '') -> dict[str, Any]:
  """As `stored`, in JSON: fields by group."""
  if 'method' not in data:
    return _added(_of_recipe(recipe), data)
  newest, method = _newest('base'), data['method']
  views = dict.fromkeys(data.get('views', {}), newest['views']['view1'])
  # By its name among ours, not by a path: what was fetched does not choose what is run. Recipes of
  # commands, as 'depth' is one, have no method.
  if method.get('name') in _recipes():
    method = _newest(method['name']).get('method', {}) | method
  return _added(newest | {'views': views}, data) | {'method': method}


def stored_encoder(fields: Mapping[str, Any]) -> dict[str, Any]:
  """As `stored`, of the fields of `config.encoder` alone; {}, no network of ours, stays."""
  if not fields:
    return {}
  return config_lib.from_json(_newest('base')['encoder'] | dict(fields)).to_dict()


def _added(newest: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
  """What is stored, with the fields that only `newest` has, at every depth."""
  deeper = {
    name: _added(value, data[name])
    for name, value in newest.items()
    if isinstance(value, Mapping) and name in data
  }
  return {**newest, **data, **deeper}


def _recipes() -> set[str]:
  """The names of the package's recipes."""
  return {path.stem for path in config_lib.recipes_directory().glob('*.py')}


def _of_recipe(recipe: str) -> dict[str, Any]:
  """The JSON of one of the package's recipes without a method; {} of others and other options."""
  path, _, options = recipe.partition(':')
  name = pathlib.PurePath(path).stem
  try:
    found = _newest(name, options) if name in _recipes() - {'base'} else {}
  except ValueError:
    return {}
  return {} if 'method' in found else found


@functools.cache
def _newest(recipe: str, options: str = '') -> dict[str, Any]:
  """The JSON of a recipe of the package, without options or with some; never a user's own file."""
  path = config_lib.recipes_directory() / f'{recipe}.py'
  return config_lib.as_data(config_lib.import_recipe(path)(*([options] if options else [])))
