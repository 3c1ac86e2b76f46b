"""What tasks need first: the data that a configuration names, and where results go."""

import logging
import pathlib

from ml_collections import ConfigDict

from byoljax.config import Config, ConfigError, user_errors
from byoljax.data.sources import datasets
from byoljax.data.sources.source import Source
from byoljax.encoders.encoder import EMBEDDING
from byoljax.protocols import extraction
from byoljax.protocols.extraction import EvalData
from byoljax.workdir import run_dir
from byoljax.workdir.run_dir import Invocation

log = logging.getLogger('byoljax')


def data_of(
  config: Config, pretraining: Config, batch_size: int, log_dir: pathlib.Path
) -> EvalData:
  """The data of an evaluation: what its own configuration leaves open is as in pretraining."""
  merged = _merged(config, pretraining)
  sources = [open_split(merged, split, log_dir) for split in ('train', 'test')]
  if sources[0].num_classes < 2:
    raise ConfigError(f'{sources[0].name} has no labels: there is nothing to evaluate.')
  if sources[0].num_classes != sources[1].num_classes:
    raise ConfigError(
      f'{sources[0].num_classes} training classes but {sources[1].num_classes} test classes.'
    )
  size = config.image_size or merged.evals.image_size
  return _eval_data(sources[0], sources[1], merged, size, batch_size, config.data.threads)


def images_of(config: Config, pretraining: Config, log_dir: pathlib.Path) -> EvalData:
  """One split, `config.split`, for evaluations that need no labels: it stands for both.

  Raises:
    ConfigError: there is no such split.
  """
  merged = _merged(config, pretraining)
  try:
    source = open_split(merged, config.split, log_dir)
  except ConfigError as error:
    raise ConfigError(f'{error} With --config.split=pretrain all images are taken.') from error
  size = config.image_size or merged.evals.image_size
  return _eval_data(source, source, merged, size, config.batch_size, config.data.threads)


def while_training(config: Config, workdir: pathlib.Path) -> EvalData | None:
  """The labelled images of a pretraining configuration; None without labels or a test split."""
  try:
    train, test = (open_split(config, split, workdir) for split in ('train', 'test'))
  except ConfigError as error:
    log.info('no evaluation during training: %s', error)
    return None
  if min(train.num_classes, test.num_classes) < 2:
    return None
  evals = config.evals
  return _eval_data(train, test, config, evals.image_size, evals.batch_size, config.data.threads)


def _eval_data(
  train: Source, test: Source, config: Config, image_size: int, batch_size: int, threads: int
) -> EvalData:
  data = config.data
  return EvalData(
    train,
    test,
    image_size=image_size,
    mean=tuple(data.mean),
    std=tuple(data.std),
    batch_size=extraction.fit_to_devices(batch_size),
    threads=threads,
    resident=data.resident,
  )


def _merged(config: Config, pretraining: Config) -> Config:
  """The run's configuration with the data that the evaluation names."""
  merged: Config = ConfigDict(pretraining.to_dict())
  if config.data.name:
    merged.data.name, merged.data.dir = config.data.name, config.data.dir
  elif config.data.dir:
    merged.data.dir = config.data.dir
  return merged


def open_split(config: Config, split: str, log_dir: pathlib.Path | None) -> Source:
  """A split of the data that `config.data` names.

  Args:
    config: of a pretraining run.
    split: 'pretrain', 'train' or 'test'.
    log_dir: where images that cannot be read are listed; None: nowhere.

  Raises:
    ConfigError: no such data, or not such a split.
  """
  with user_errors():
    return datasets.load(
      config.data.name,
      split,
      data_dir=config.data.dir,
      unreadable_log=None if log_dir is None else log_dir / 'unreadable.txt',
      in_memory=config.data.resident != 'off',
    )


def home(
  task: str, config: Config, checkpoint_dir: pathlib.Path, invocation: Invocation
) -> pathlib.Path:
  """Where an evaluation's results go: beside the run, named after what was evaluated on what."""
  if invocation.workdir:
    return pathlib.Path(invocation.workdir)
  on = [config.data.name.replace(':', '-')] if config.data.name else []
  name = '-'.join([task, config.network, checkpoint_dir.name, *on, *tap_suffix(config)])
  return run_dir.evals_dir(checkpoint_dir) / name


def tap_suffix(config: Config) -> list[str]:
  """What tells results of another tap from those of the embedding: [] or ['projection']."""
  tap = config.tap if 'tap' in config else EMBEDDING
  return [] if tap == EMBEDDING else [tap.replace('/', '-')]


def which(config: Config) -> str:
  """What is evaluated, for a person: 'online network', 'online network, projection'."""
  return ', '.join([f'{config.network} network', *tap_suffix(config)])
