"""`byoljax.pretrain`: a run of `byoljax pretrain`, from a program."""

from collections.abc import Callable, Mapping
import pathlib
from typing import Any

from byoljax import own
from byoljax.api import session
from byoljax.api.saved_run import SavedRun
from byoljax.config import Config, ConfigError, choose, path_of
from byoljax.tasks import pretrain as pretrain_task
from byoljax.workdir.run_dir import Invocation, default_workdir


def pretrain(
  recipe: Any = 'byol',
  data: Any = None,
  labels: Any = None,
  *,
  test: Any = None,
  test_labels: Any = None,
  length: str = '',
  extend: bool = False,
  new_images: bool = False,
  workdir: str | pathlib.Path = '',
  encoder: Any = None,
  method: Callable[..., Any] | None = None,
  views: Mapping[str, Callable[..., Any]] | None = None,
  optimizer: Callable[..., Any] | None = None,
  settings: Mapping[str, Any] | None = None,
  on_row: Callable[[dict[str, float]], object] | None = None,
  on_checkpoint: Callable[[int, pathlib.Path], object] | None = None,
  on_end: Callable[[SavedRun], object] | None = None,
) -> SavedRun:
  """Trains an encoder, or goes on with it, in a directory that the command line knows as well.

  Called again with the same arguments it resumes, bit for bit; a finished run is only opened.
  Interrupted (Ctrl-C, a notebook's stop button), it saves and raises `KeyboardInterrupt`.

  Args:
    recipe: as behind `byoljax pretrain`: 'byol:folder_small', or the path of a file; or a
      configuration, such as `byoljax.configs.byol.get_config('npz')`.
    data: the images: a folder, an `.npz` file or the name of a data set; or an object, see
      `byoljax.data.sources.objects`, or a mapping of such with 'train' and 'test'. None: those of
      the recipe.
    labels: of the images, whole numbers [N], where the data do not have them; they reach only the
      probe and the evaluations.
    test: test images, for the final evaluation; without any it cross-validates.
    test_labels: of the test images.
    length: of the training, '20 epochs' or '500 steps'; '' is the recipe's.
    extend: whether the run that is in `workdir` goes on to another length, with a schedule that is
      planned anew; see `byoljax.tasks.extension` for what else may change.
    new_images: whether it may go on with other images than those it began with.
    workdir: the run's directory; '' is runs/<recipe>.
    encoder: a name, a linen module, or a function (bn_axis, bn_groups) -> module; see
      `byoljax.models`. The run records its import path.
    method: a function (make_encoder, setting) -> `byoljax.method.Method`, in place of the recipe's.
      Further arguments with plain defaults are fields: `settings={'method.weight': 2.0}`.
    views: name of a view, 'view1' -> a function of JAX's that changes it, (image float32 [S, S, C]
      in [0, 1], key) -> the same, after what the recipe does; see `data.augment.own_view`.
    optimizer: a function (schedule) -> optax optimizer, which may also take weight_decay, mask,
      momentum, nesterov and b2, by name; schedule and groups are those of the recipe.
    settings: dotted field of the recipe -> value, {'optim.base_lr': 0.01}, or group -> such a
      mapping, {'optim': {'base_lr': 0.01}}.
    on_row: called with every row of metrics.
    on_checkpoint: called with the step and the directory of every checkpoint, once it is complete.
    on_end: called with the run at its end. What any of them raises ends the call.

  Raises:
    ConfigError: a ValueError of one sentence: whatever is wrong with the arguments, before anything
      is written.
    FloatingPointError: the loss is not finite.
  """
  workdir = path_of('workdir', workdir)
  if length is not None and not isinstance(length, str):
    raise ConfigError(f"length={length!r} has no unit: write '20 epochs' or '500 steps'.")
  for name, hook in {'on_row': on_row, 'on_checkpoint': on_checkpoint, 'on_end': on_end}.items():
    if hook is not None and not callable(hook):
      raise ConfigError(f'{name}={hook!r} is no function.')
  with session.working('pretrain: working'):
    config, path = session.configuration(recipe)
    views = session.mapping('views', views, "{'view1': function}")
    names = _use_own(config, encoder, method, optimizer, views)
    session.set_fields(config, settings)
    config.update_from_flattened_dict(names)
    if length:
      config.train.length = length
    kept = session.name_data(config, data, labels, test, test_labels, range_=config.data.range)
    session.require_heeded(config, settings)
    home = workdir or default_workdir(path or config.method.name.replace(':', '-'))
    from byoljax.train.record import Hooks

    invocation = Invocation(path, home, extend, new_images)
    done = pretrain_task.train(config.lock(), invocation, Hooks(on_row, on_checkpoint))
  run = SavedRun(done, kept)
  if on_end is not None:
    on_end(run)
  return run


def _use_own(
  config: Config, encoder: Any, method: Any, optimizer: Any, views: Mapping[str, Any]
) -> dict[str, str]:
  """Makes room in the configuration for what is the user's own.

  Returns:
    The fields that name it: dotted field -> name or import path.
  """
  names = {}
  for view, function in views.items():
    choose('view', view, tuple(config.views))
    names[f'views.{view}.own'] = _path('view', function)
  if optimizer is not None:
    names['optim.name'] = _path('optimizer', optimizer)
  if encoder is not None:
    from byoljax.models import options

    names['encoder.name'] = _path('encoder', encoder)
    # What only the recipe's own encoder has goes with it.
    config.encoder.update(options.lacking(names['encoder.name']))
  if method is not None:
    from byoljax import methods

    beside = {n: v for n, v in config.method.to_dict().items() if n.startswith('auxiliary')}
    name = names['method.name'] = _path('method', method)
    config.method = type(config)(methods.defaults_of(name) | {'name': name} | beside)
  return names


def _path(kind: str, thing: Any) -> str:
  """The name of something of the user's own, which may be a name already."""
  if not (isinstance(thing, str) or callable(thing)):
    raise ConfigError(f'{kind}={thing!r} is neither a name nor a function or module.')
  return thing if isinstance(thing, str) else own.give(thing)
