"""What a program's calls share with the command line: how recipes and data are named and read."""

from collections.abc import Iterator, Mapping
import contextlib
import os
from typing import Any

import numpy as np

from byoljax import cli, main, own
from byoljax import config as config_lib
from byoljax.config import Config, ConfigError, expanded
from byoljax.tasks.command import Command
from byoljax.version import __version__
from byoljax.workdir import activity, run_dir

# The arguments of calls that set fields of these groups.
_ARGUMENTS = {
  'data': 'data',
  'train': 'length',
  'encoder': 'encoder',
  'method': 'method',
  'optim': 'optimizer',
  'views': 'views',
}


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
  """Within, output and devices are as in a command: what takes long is said."""
  main.set_verbosity(False)
  from byoljax.devices import backend, xla

  xla.set_defaults()
  xla.keep_programs()
  with config_lib.user_errors(), backend.warnings_of_jax() as warnings:
    backend.require_usual_switches()
    devices = backend.describe(warnings)
  with run_dir.opening(f'byoljax {__version__} on {devices}'), activity.watching(what):
    yield


def configuration(recipe: Any) -> tuple[Config, str]:
  """A recipe, unlocked, and what to call it in the run's config.json.

  Args:
    recipe: as behind `byoljax pretrain`, 'byol:folder_small' or a path; or a ConfigDict, which is
      copied.

  Raises:
    ConfigError: no such recipe, or anything of another type.
  """
  if isinstance(recipe, str | os.PathLike):
    path = cli.locate(os.fspath(recipe))
    config = config_lib.load(path)
  else:
    path, config = '', config_lib.from_json(config_lib.as_data(recipe))
  config.unlock()
  return config, path


def evaluation(
  command: Command, options: str, own: Mapping[str, Any], settings: Mapping[str, Any] | None
) -> tuple[Config, str]:
  """The recipe that a command has as its own, with its own fields set; else as `configuration`."""
  path = cli.own_recipe(command, options)
  config = config_lib.load(path)
  config.unlock()
  set_fields(config, dict(command.overrides) | dict(own))
  set_fields(config, settings)
  return config, path


def mapping(name: str, given: Any, example: str) -> Mapping[str, Any]:
  """An argument that is a mapping; {} for None.

  Raises:
    ConfigError: it is something else.
  """
  if given is not None and not isinstance(given, Mapping):
    raise ConfigError(f'{name}={given!r} is no mapping: write {example}.')
  return given or {}


def set_fields(config: Config, settings: Mapping[str, Any] | None) -> None:
  """Sets fields of a configuration, in place.

  Args:
    config: unlocked.
    settings: dotted field -> value; or group -> such a mapping.

  Raises:
    ConfigError: no such field, or a value of another type.
  """
  fields = config_lib.flatten(mapping('settings', settings, "{'optim.base_lr': 0.01}"))
  for name, value in fields.items():
    if value is None:
      raise ConfigError(f"{name}=None is not a value: leave it out to keep the recipe's.")
    config_lib.override(config, name, value if isinstance(value, str) else _text(value))


def require_heeded(config: Config, settings: Mapping[str, Any] | None) -> None:
  """Raises ConfigError for a setting that an argument of the call has replaced.

  Args:
    config: with all arguments in it.
    settings: see `set_fields`.
  """
  wanted = config.copy_and_resolve_references()
  set_fields(wanted, settings)
  now, asked = config_lib.flatten(config), config_lib.flatten(wanted)
  for name, value in asked.items():
    if now[name] != value:
      raise ConfigError(
        f'settings have {name}={value!r}, but {_ARGUMENTS[name.partition(".")[0]]}=... makes it '
        f'{now[name]!r}: leave one of them out.'
      )


def _text(value: Any) -> str:
  """A value as it is written on a command line."""
  if isinstance(value, np.ndarray):
    value = value.tolist()
  if isinstance(value, list | tuple):
    return f'({", ".join(map(_quoted, value))},)' if value else '()'
  return str(value)


def _quoted(value: Any) -> str:
  return repr(value) if isinstance(value, str) else str(value)


def name_data(
  config: Config, data: Any, labels: Any, test: Any, test_labels: Any, *, range_: str
) -> Any:
  """Puts data into `config.data`; returns what has to be kept while the name is to be found.

  Args:
    config: with `data.name` and `data.dir`; changed in place.
    data: a path, a name, or what `given.give` takes; None leaves the configuration's.
    labels: of the training images.
    test: the test images.
    test_labels: of the test images.
    range_: `data.range` of the run: which numbers are black and white.

  Raises:
    ConfigError: a path where nothing lies, data that cannot be read, or labels and test images that
      do not go with them.
  """
  require_test(test, test_labels)
  if data is None:
    if labels is not None or test is not None:
      raise ConfigError('labels and test images belong to data: give data=... as well.')
    return None
  if isinstance(data, str | os.PathLike):
    if labels is not None or test is not None:
      raise ConfigError(
        f"labels and test images go with arrays or lists of files, not with data='{data}': a "
        'folder has class folders and a test split, or use byoljax.classify.'
      )
    config.data.update(_named(os.fspath(data)))
    return None
  from byoljax.data.sources import given

  with config_lib.user_errors('data'), activity.doing('reading the images'):
    made = given.give(data, labels, test=test, test_labels=test_labels, range_=range_)
  config.data.update(name=made.name, dir='')
  return made


def require_test(test: Any, test_labels: Any) -> None:
  """Raises ConfigError for labels of test images that are not given."""
  if test is None and test_labels is not None:
    raise ConfigError('test_labels belong to test images: give test=... as well.')


def _named(text: str) -> dict[str, str]:
  """`data.name` and `data.dir` of a path or a name."""
  from byoljax.data.sources import catalog, datasets

  kind = datasets.kind_of(expanded(text))
  if kind:
    return {'name': kind, 'dir': text}
  if text in catalog.DATASETS or own.is_path(text):
    return {'name': text, 'dir': ''}
  raise ConfigError(
    f"data='{text}' is neither a folder that is there, nor an .npz, zip, tar or Parquet file or a "
    f'list, nor the name of a data set: {", ".join(catalog.DATASETS)}, tfds:NAME.'
  )
