"""The data that a configuration names: opened here and nowhere else in tasks."""

from collections.abc import Callable, Mapping, Sequence
import functools
import pathlib
from typing import TYPE_CHECKING, Any

from byoljax.config import Config, ConfigError, expanded, require_local, user_errors
from byoljax.devices import hosts
from byoljax.wording import counted
from byoljax.workdir import activity, places, run_dir

if TYPE_CHECKING:
  from byoljax.data.fields import Field
  from byoljax.data.sources.source import Source
  from byoljax.protocols.extraction import EvalData

# Sets of which every image in a folder is one.
_FOLDERS = ('folder', 'frames')


def open_split(
  config: Config,
  split: str,
  log_dir: pathlib.Path | None,
  *,
  resolve: bool = True,
  fields: 'Sequence[Field]' = (),
) -> 'Source':
  """A split of the data that `config.data` names; for 'pretrain' with its further fields.

  Where `data.mean` or `data.std` is empty, 'auto' on the command line, 'pretrain' puts that of its
  images there; a run that has begun keeps what it has. Of series, it puts their length and the size
  of the images that hold them there.

  Args:
    config: of a pretraining run.
    split: 'pretrain', 'train' or 'test'.
    log_dir: where output goes, with a list of images that cannot be read; None: nowhere.
    resolve: whether to compute what is empty.
    fields: of another split than 'pretrain', further ones.

  Raises:
    ConfigError: no such data or split, output that would lie among the images or cannot be written,
      processes that find different images; for 'pretrain', a class that is not there.
  """
  from byoljax.data.fields import parsed
  from byoljax.data.sources import catalog, datasets
  from byoljax.protocols import labelled

  if log_dir is not None:
    places.require_folder(log_dir)
  with user_errors():
    if catalog.facts(config.data.name).kind in catalog.LOCAL:
      require_local('data.dir', config.data.dir)
  require_local('data.unlabelled', config.data.unlabelled)
  folders = [config.data.unlabelled]
  if config.data.name in _FOLDERS:
    folders.append(config.data.dir)
  for images in folders:
    if images and log_dir is not None:
      require_outside(log_dir, pathlib.Path(images))

  def load() -> 'Source':
    with user_errors():
      return datasets.load(
        config.data.name,
        split,
        data_dir=config.data.dir,
        unreadable_log=None if log_dir is None else log_dir / 'unreadable.txt',
        in_memory=config.data.resident != 'off',
        fields=parsed(config.data.fields) if split == 'pretrain' else fields,
        frame_gap=config.data.frame_gap,
        range_=config.data.range,
      )

  source = _same_everywhere(split, load)
  with user_errors():
    for note in source.notes:
      _say_once(f'Note: {note}')
    if split != 'pretrain':
      return source
    data = config.data
    source = labelled.trained_on(
      source, data.classes, data.unlabelled, data.labels, data.split_seed
    )
    if source.series is not None:
      _resolve_series(config, source)
    _resolve_range(config, source)
    _repeat_statistics(config, source)
    if resolve:
      _resolve_statistics(config, source, log_dir)
    return source


def _same_everywhere(split: str, load: 'Callable[[], Source]') -> 'Source':
  """What `load` gives, or raises, once all processes have got the same.

  Each reads its part of every batch, and all have to evaluate, or none.
  """
  found, failed = None, None
  try:
    found = load()
  except ConfigError as error:
    failed = error
  if others := hosts.differing(found.fingerprint if found else ''):
    raise ConfigError(
      f'other {split} images in process {", ".join(map(str, others))} than in process 0: all must '
      f'read copies of the same ({found.name if found else failed} here).'
    ) from failed
  if found is None:
    assert failed is not None
    raise failed
  return found


def _resolve_series(config: Config, source: 'Source') -> None:
  """Puts what the series are like where the configuration has the sizes of images.

  Raises:
    ConfigError: views that would mix up the steps.
  """
  from byoljax.data.augment import view_checks, views

  found = source.series
  assert found is not None
  with config.unlocked():
    config.encoder.update(series=tuple(found), grid=found.side)
    config.evals.image_size = found.side
    for view in config.views.values():
      view.size = found.side
  with user_errors('config.views'):
    for spec in views.specs_of(config.views.to_dict()):
      view_checks.require_whole(spec, source.name)


def _resolve_range(config: Config, source: 'Source') -> None:
  """Notes that images have more than 8 bits where the configuration leaves that to them."""
  from byoljax.data.sources import pixels

  image = source.field('image')
  if image.dtype == 'float32' and not config.data.range:
    with config.unlocked():
      config.data.range = pixels.FILE
    _say_once(
      f'{source.name} is read as numbers of {counted(image.channels, "channel")}: every bit '
      f'counts, and black and white are those of the files (data.range={pixels.FILE})'
    )


def _repeat_statistics(config: Config, source: 'Source') -> None:
  """Writes one mean or standard deviation for all channels once for each: encoders count them."""
  channels = source.field('image').channels
  with config.unlocked():
    for name in ('mean', 'std'):
      if len(config.data[name]) == 1:
        config.data[name] = tuple(config.data[name]) * channels


def _resolve_statistics(config: Config, source: 'Source', workdir: pathlib.Path | None) -> None:
  """Puts mean and standard deviation of the images where the configuration leaves them open."""
  from byoljax.data.batches import statistics

  open_fields = [name for name in ('mean', 'std') if not config.data[name]]
  if not open_fields:
    return
  if workdir is not None and (workdir / 'config.json').exists():
    found = run_dir.run_config(workdir).data
  else:
    with activity.doing('mean and spread of the images'):
      found = statistics.of_channels(source, config.evals.image_size, threads=config.data.threads)
  with config.unlocked():
    for name in open_fields:
      config.data[name] = getattr(found, name)
      run_dir.say(f'data.{name} of the images: {tuple(config.data[name])}')


@functools.cache
def _say_once(text: str) -> None:
  run_dir.say(text)


def require_sheet(out: str, data: Mapping[str, Any]) -> None:
  """Raises ConfigError where no PNG can be written, or it would lie among the images."""
  path = pathlib.PurePath(out)
  if path.name and path.suffix.lower() != '.png':
    raise ConfigError(f"--out={out}: the sheet is a PNG; name it '{path.with_suffix('.png')}'.")
  places.require_file(out, '--out')
  if data['name'] in _FOLDERS and data['dir']:
    require_outside(pathlib.Path(out), pathlib.Path(data['dir']), '--out')


def require_outside(output: pathlib.Path, images: pathlib.Path, flag: str = '--workdir') -> None:
  """Raises ConfigError where what is written would be read as images at the next start."""
  inside, around = expanded(output).resolve(), expanded(images).resolve()
  if inside.is_relative_to(around):
    raise ConfigError(
      f"'{output}' lies within the images of config.data.dir='{images}': its pictures would count "
      f'as such the next time. Choose a {flag} outside of them.'
    )


def open_labelled(config: Config, log_dir: pathlib.Path | None) -> 'tuple[Source, Source | None]':
  """The labelled training images and the test images, None where the data have no test split.

  Raises:
    ConfigError: no such data, no labels, or test images of other classes, by number or by name.
  """
  from byoljax.data.sources.source import NoSplitError

  train = open_split(config, 'train', log_dir)
  if train.num_classes < 2:
    raise ConfigError(
      f'{train.name} has {"one class" if train.num_classes else "no labels"}, so that there is '
      'nothing to evaluate. A folder has labels where most training images lie in class folders, '
      'of which there are at least two.'
    )
  try:
    test = open_split(config, 'test', log_dir)
  except ConfigError as error:
    if isinstance(error.__cause__, NoSplitError):
      return train, None
    raise
  if not test.num_classes:
    raise ConfigError(
      f'the test images of {test.name}, such as {test.locate(0)}, have no labels, but the training '
      f'images do: put each into a folder of its class, or remove them to be tested by '
      f'cross-validation.'
    )
  if train.num_classes != test.num_classes:
    raise ConfigError(
      f'{train.num_classes} training classes in {train.name} but '
      f'{counted(test.num_classes, "test class", "test classes")} in {test.name}.'
    )
  _require_same_names(train, test)
  return train, test


def _require_same_names(train: 'Source', test: 'Source') -> None:
  """Raises ConfigError where a number means one class in training and another one in the test."""
  numbers = tuple(map(str, range(train.num_classes)))  # Names of classes without names.
  names = train.class_names, test.class_names
  if numbers in names or () in names:
    return
  for number, (own, other) in enumerate(zip(*names, strict=True)):
    if own != other:
      raise ConfigError(
        f"class {number} is '{own}' in {train.name} but '{other}' in {test.name}: name the same "
        'classes in the same order in both.'
      )


def eval_data(
  train: 'Source',
  test: 'Source | None',
  config: Config,
  *,
  image_size: int,
  batch_size: int,
  threads: int,
) -> 'EvalData':
  """Images read and normalized as `config.data` says; a batch is at most all of them."""
  from byoljax.protocols import extraction

  most = max(train.size, test.size if test else 0)
  return extraction.EvalData(
    train,
    test or train,
    image_size=image_size,
    mean=tuple(config.data.mean),
    std=tuple(config.data.std),
    batch_size=extraction.fit_to_devices(min(batch_size, most)),
    threads=threads,
    resident=config.data.resident,
    has_test=test is not None,
  )


def while_training(config: Config, workdir: pathlib.Path) -> 'tuple[EvalData | None, str]':
  """The labelled images of a pretraining configuration; None, and a sentence why, without any."""
  from byoljax.protocols import folds

  try:
    train, test = open_labelled(config, workdir)
    folds.require_single(train, 'an evaluation while training')
  except ConfigError as error:
    return None, str(error)
  data = eval_data(
    train,
    test,
    config,
    image_size=config.evals.image_size,
    batch_size=config.evals.batch_size,
    threads=config.data.threads,
  )
  return data, ''
