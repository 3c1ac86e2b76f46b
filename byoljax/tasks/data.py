"""The data that a configuration names: opened here and nowhere else in tasks."""

import logging
import pathlib
from typing import TYPE_CHECKING

from byoljax.config import Config, ConfigError, user_errors

if TYPE_CHECKING:
  from byoljax.data.sources.source import Source
  from byoljax.protocols.extraction import EvalData

log = logging.getLogger('byoljax')


def open_split(config: Config, split: str, log_dir: pathlib.Path | None) -> 'Source':
  """A split of the data that `config.data` names.

  Args:
    config: of a pretraining run.
    split: 'pretrain', 'train' or 'test'.
    log_dir: where images that cannot be read are listed; None: nowhere.

  Raises:
    ConfigError: no such data, or not such a split.
  """
  from byoljax.data.sources import datasets

  with user_errors():
    return datasets.load(
      config.data.name,
      split,
      data_dir=config.data.dir,
      unreadable_log=None if log_dir is None else log_dir / 'unreadable.txt',
      in_memory=config.data.resident != 'off',
    )


def eval_data(
  train: 'Source', test: 'Source', config: Config, *, image_size: int, batch_size: int, threads: int
) -> 'EvalData':
  """Labelled images, read and normalized as `config.data` says."""
  from byoljax.protocols import extraction

  return extraction.EvalData(
    train,
    test,
    image_size=image_size,
    mean=tuple(config.data.mean),
    std=tuple(config.data.std),
    batch_size=extraction.fit_to_devices(batch_size),
    threads=threads,
    resident=config.data.resident,
  )


def while_training(config: Config, workdir: pathlib.Path) -> 'EvalData | None':
  """The labelled images of a pretraining configuration; None without labels or a test split."""
  try:
    train, test = (open_split(config, split, workdir) for split in ('train', 'test'))
  except ConfigError as error:
    log.info('no evaluation during training: %s', error)
    return None
  if min(train.num_classes, test.num_classes) < 2:
    return None
  return eval_data(
    train,
    test,
    config,
    image_size=config.evals.image_size,
    batch_size=config.evals.batch_size,
    threads=config.data.threads,
  )
