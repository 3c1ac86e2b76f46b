"""What every evaluation of a checkpoint needs first: its data, and where its results go."""

import pathlib

from ml_collections import ConfigDict

from byoljax import evaluate, workdirs
from byoljax.config import Config, ConfigError, user_errors
from byoljax.data import datasets
from byoljax.evaluate import EvalData
from byoljax.workdirs import Invocation


def data_of(
  config: Config, pretraining: Config, batch_size: int, log_dir: pathlib.Path
) -> EvalData:
  """The data of an evaluation: what its own configuration leaves open is as in pretraining."""
  merged: Config = ConfigDict(pretraining.to_dict())
  if config.data.name:
    merged.data.name, merged.data.dir = config.data.name, config.data.dir
  elif config.data.dir:
    merged.data.dir = config.data.dir
  mode = merged.data.get('resident', 'auto')  # Runs before this field was there have none.
  with user_errors():
    sources = [
      datasets.load(
        merged.data.name,
        split,
        data_dir=merged.data.dir,
        unreadable_log=log_dir / 'unreadable.txt',
        in_memory=mode != 'off',
      )
      for split in ('train', 'test')
    ]
  if sources[0].num_classes < 2:
    raise ConfigError(f'{sources[0].name} has no labels: there is nothing to evaluate.')
  if sources[0].num_classes != sources[1].num_classes:
    raise ConfigError(
      f'{sources[0].num_classes} training classes but {sources[1].num_classes} test classes.'
    )
  return EvalData(
    *sources,
    image_size=config.image_size or merged.evals.image_size,
    mean=merged.data.mean,
    std=merged.data.std,
    batch_size=evaluate.fit_to_devices(batch_size),
    threads=config.data.threads,
    resident=mode,
  )


def home(
  task: str, config: Config, checkpoint_dir: pathlib.Path, invocation: Invocation
) -> pathlib.Path:
  """Where an evaluation's results go: beside the run, named after what was evaluated on what."""
  if invocation.workdir:
    return pathlib.Path(invocation.workdir)
  on = [config.data.name.replace(':', '-')] if config.data.name else []
  name = '-'.join([task, config.network, checkpoint_dir.name, *on])
  return workdirs.evals_dir(checkpoint_dir) / name
