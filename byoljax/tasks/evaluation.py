"""What evaluations of a checkpoint share: data, directory, and how the simple ones run."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import json
import os
import pathlib
import shutil
from typing import TYPE_CHECKING, Any
import zlib

from ml_collections import ConfigDict

from byoljax import config as config_lib
from byoljax.config import Config, ConfigError, expanded, user_errors
from byoljax.devices import hosts
from byoljax.tasks import data as data_lib
from byoljax.wording import counted
from byoljax.workdir import activity, files, run_dir
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.data.sources.source import Source
  from byoljax.encoders.encoder import Encoder
  from byoljax.evals.frozen import Fitted
  from byoljax.protocols.answers import Trained
  from byoljax.protocols.extraction import EvalData
  from byoljax.protocols.frozen_features import Split

# Fields of evaluations that their directory is named after where they are not the usual ones.
_USUAL = {'classifier': 'logistic', 'gallery': 'queries', 'probe': 'knn'}
# (config, number of classes, training features, test features) -> the fitted classifier.
Compute = Callable[[Config, int, 'Split', 'Split'], 'Fitted']


def data_of(
  config: Config, pretraining: Config, batch_size: int, log_dir: pathlib.Path
) -> 'EvalData':
  """The data of an evaluation: what its own configuration leaves open is as in pretraining."""
  merged = data_config(config, pretraining)
  with _images_named(config, pretraining):
    opened = data_lib.open_labelled(merged, log_dir)
  return data_lib.eval_data(
    *opened,
    merged,
    image_size=config.image_size or merged.evals.image_size,
    batch_size=batch_size,
    threads=config.data.threads,
  )


def images_of(config: Config, pretraining: Config, log_dir: pathlib.Path) -> 'EvalData':
  """One split, `config.split`, for evaluations that need no labels: it stands for both.

  Raises:
    ConfigError: there is no such split.
  """
  merged = data_config(config, pretraining)
  with _images_named(config, pretraining):
    try:
      source = data_lib.open_split(merged, config.split, log_dir)
    except ConfigError as error:
      raise ConfigError(f'{error} With --split=pretrain all images are taken.') from error
  return data_lib.eval_data(
    source,
    source,
    merged,
    image_size=config.image_size or merged.evals.image_size,
    batch_size=config.batch_size,
    threads=config.data.threads,
  )


@contextlib.contextmanager
def _images_named(config: Config, pretraining: Config) -> Iterator[None]:
  """Says what helps where images that the evaluation does not name itself are not there."""
  try:
    yield
  except ConfigError as error:
    if config.data.name or config.data.dir:
      raise
    if pretraining.task == 'import':
      raise ConfigError(
        'imported weights have no images of their own: name yours, as in --data.name=folder '
        '--data.dir=photos.'
      ) from error
    where = pretraining.data.dir
    if not where or expanded(where).exists():
      raise
    raise ConfigError(
      f"the images of the run are not at data.dir='{where}': name them with --data.dir, or, if "
      'that is no whole path, call byoljax in the folder where the run was started.'
    ) from error


def data_config(config: Config, pretraining: Config) -> Config:
  """The run's configuration with the data that the evaluation names."""
  merged: Config = ConfigDict(pretraining.to_dict())
  merged.data.labels = ''  # Images are evaluated once each.
  if config.data.name:
    merged.data.update(name=config.data.name, dir=config.data.dir, classes=(), unlabelled='')
  elif config.data.dir:
    merged.data.dir = config.data.dir
  return merged


def result_directory(
  task: str, config: Config, checkpoint_dir: pathlib.Path, invocation: Invocation
) -> pathlib.Path:
  """Where an evaluation's results go: beside the run, named after what was evaluated on what, and
  after the protocol where one was asked for: 'linear-simclr-online-100' of `linear:simclr`. Of what
  trains on a part of the labels or images the part is named: 'finetune-online-100-1pc-0'.

  Folders of one name, such as a/images and b/images, do not share it: the second to come has a
  number at the end, made from its path.
  """
  if invocation.workdir:
    return pathlib.Path(invocation.workdir)
  own = config.get(task, {})
  asked = invocation.recipe.partition(':')[2].split(',')
  how = [name for name in own.get('protocol', '').split(', ') if name in asked]
  fields = {**config, **own}
  how += [fields[name] for name, usual in _USUAL.items() if fields.get(name, usual) != usual]
  words = [task, *how, config.network, checkpoint_dir.name]
  words += [data_words(config.data.name, config.data.dir), *tap_suffix(config)]
  words += [f'{config.image_size}px'] if config.get('image_size') else []
  words += _part_words(config, own)
  home = run_dir.evals_dir(checkpoint_dir) / '-'.join(filter(None, words))
  return apart(home, config.data.dir) if config.data.dir else home


def _part_words(config: Config, own: Mapping[str, Any]) -> list[str]:
  """Which labels or images are trained on, where a task has that field, and what stays frozen."""
  words = []
  if 'labels' in config:
    words = [_slug(config.labels), str(config.split_seed)]
  elif config.get('images'):
    words = [str(config.images), str(config.get('split_seed', own.get('seed')))]
  return [*words, *(['frozen'] if own.get('frozen') else [])]


def _slug(text: str) -> str:
  """'10 per class' -> '10-per-class', '1 %' -> '1pc'; the name of a file without its folder."""
  name = pathlib.PurePath(text).stem if '/' in text else text
  return name.replace(' %', '%').replace('%', 'pc').replace(' ', '-')


def apart(home: pathlib.Path, images: str | os.PathLike[str]) -> pathlib.Path:
  """A directory for results of some images: with a number where it has those of others."""
  place = expanded(images).resolve()
  if _data_of_results(home) in (None, place):
    return home
  return home.with_name(f'{home.name}-{zlib.crc32(os.fsencode(place)):08x}')


def _data_of_results(home: pathlib.Path) -> pathlib.Path | None:
  """Where the images lie that a directory has results of; None where it has none."""
  for name in ('config.json', 'result.json'):
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
      with files.opened(home / name) as file:
        there = json.load(file)['config']['data']['dir']
      return expanded(there).resolve()
  return None


def data_words(name: str, directory: str) -> str:
  """A data set as a part of a file's name: 'hf:owner/name' is 'hf-owner-name'."""
  place = expanded(directory).resolve().name.removesuffix('.npz')
  place = place if directory else ''
  return '-'.join(filter(None, [name.translate(str.maketrans(':/#', '---')), place]))


def open_home(
  home: pathlib.Path,
  config: Config,
  invocation: Invocation,
  train: 'Source',
  encoder: 'Encoder',
) -> None:
  """`run_dir.open_workdir` of an evaluation that trains: it resumes on the same encoder alone."""
  from byoljax.encoders import codec

  given = {'encoder': codec.digest((encoder.params, encoder.bn))}
  run_dir.open_workdir(home, config, invocation, train.name, train.fingerprint, {'given': given})


def tap_suffix(config: Config) -> list[str]:
  """What tells results of another tap from those of the embedding: [] or ['projection']."""
  from byoljax.encoders.encoder import EMBEDDING

  tap = config.get('tap', EMBEDDING)
  return [] if tap == EMBEDDING else [tap.replace('/', '-')]


def which(config: Config) -> str:
  """What is evaluated, for a person: 'online network', 'online network, projection'."""
  return ', '.join([f'{config.network} network', *tap_suffix(config)])


def on_frozen_features(
  name: str,
  compute: Compute,
  show: Callable[[Mapping[str, Any]], str],
  config: Config,
  invocation: Invocation,
  *,
  learns: bool = True,
) -> int:
  """Runs a task that needs nothing but labelled features of both splits.

  Args:
    name: of the task: of its directory and in messages.
    compute: see `Compute`; without a test split it is called for every part of `protocols.folds`,
      and for all images, as the classifier is to be kept.
    show: what to print of the result.
    config: with `pretrained`, `network`, `tap`, `data`, `image_size` and `batch_size`.
    invocation: how the task was called.
    learns: False: nothing is learned from the training images, so that without a test split all
      labelled images together are those of the test, and there are no parts.
  """
  from byoljax.encoders import load
  from byoljax.protocols import folds, frozen_features

  encoder, source, directory = load.load_encoder(config.pretrained, config.network, config.tap)
  home = result_directory(name, config, directory, invocation)
  data = data_of(config, source, config.batch_size, home)
  together = not (learns or data.has_test)
  on = f'{data.train.name} (all: there is no test split)' if together else folds.describe(data)
  say(f'{name} of {directory} ({which(config)}) on {on}')
  splits = frozen_features.splits(encoder, data)
  if together:
    every = frozen_features.every_image(data, splits)
    splits = [(every, every)]
  fit = functools.partial(compute, config, data.train.num_classes)
  with user_errors(name), activity.doing(f'{name} of {data.train.size:,} images'):
    trained = frozen_features.fit(encoder, data, splits, fit)
  leave(home, trained, data, config, directory)
  run_dir.write_result(home / 'result.json', trained.result, config, directory)
  say(show(trained.result))
  say(f'result  {home / "result.json"}')
  return 0


def leave(
  home: pathlib.Path,
  trained: 'Trained',
  data: 'EvalData',
  config: Config,
  directory: pathlib.Path | None,
  network: str = '',
  run: Mapping[str, Any] | None = None,
) -> pathlib.Path | None:
  """Saves the classifier that an evaluation has trained, and its confusion matrix; says so.

  Args:
    home: the evaluation's directory; the classifier is `home/classifier`.
    trained: its result gets the calibration.
    data: of the evaluation.
    config: of the evaluation, kept with the classifier.
    directory: the checkpoint whose encoder it stands on, where there is one.
    network: which network that was; '' as `config` says.
    run: what it is built from, see `classifier.Origin`; None: what the checkpoint's run says.

  Returns:
    The classifier's directory, or None where nothing is to be saved.
  """
  from byoljax.encoders import classifier
  from byoljax.protocols import answers
  from byoljax.report import confusion

  if run is None:
    assert directory is not None
    run = run_dir.run_record(directory.parent.parent)
  origin = classifier.Origin(run, network or config.network)
  about = {'from': str(directory or ''), 'config': json.loads(config_lib.to_json(config))}
  made = answers.classifier_of(trained, data, origin, about)
  if not hosts.is_first_process():
    return None
  if made is None:  # One that is here from another time would not be that of the result.
    shutil.rmtree(home / classifier.FOLDER, ignore_errors=True)
    (home / 'confusion.csv').unlink(missing_ok=True)
    return None
  with user_errors(f"'{home}'"):
    where = classifier.save(made, home / classifier.FOLDER)
    confusion.write_csv(home / 'confusion.csv', answers.confusion(trained), made.classes)
  say(calibration_text(trained.result['calibration']))
  say(f'classifier  {where}')
  return where


def calibration_text(found: Mapping[str, Any]) -> str:
  """What there is to say of `answers.calibrated`."""
  text = f'calibration error {found["ece"]:.1%} of test images'
  if not found['images']:
    return f'{text}, not calibrated: no training image was held out for it'
  how = f'temperature {found["temperature"]:.3g} from {counted(found["images"], "image")}'
  return f'{text}, {found["ece_uncalibrated"]:.1%} uncalibrated ({how})'
