"""What a recipe's augmentations look like, before anything is trained."""

import pathlib

import numpy as np

from byoljax.config import Config, user_errors
from byoljax.tasks import data as data_lib
from byoljax.tasks.command import RECIPE, Command
from byoljax.workdir import run_dir
from byoljax.workdir.run_dir import Invocation, say


def run(config: Config, invocation: Invocation) -> int:
  """Writes a contact sheet of the augmented views that a configuration produces."""
  from byoljax.report import preview
  from byoljax.train import assemble

  workdir = pathlib.Path(invocation.workdir or run_dir.default_workdir(invocation.recipe))
  source = data_lib.open_split(config, 'pretrain', workdir)
  # Pictures need neither a batch of images nor devices that share it: a few images are repeated.
  batch = config.train.batch_size
  if source.size < batch:
    source = source.subset(np.resize(np.arange(source.size), batch))
  with config.unlocked():
    config.train.accumulate = 1
  made = assemble.from_config(config, source, num_devices=1)
  with user_errors():
    workdir.mkdir(parents=True, exist_ok=True)
  preview.write_sheet(made, workdir / 'views.png', assemble.spec_names(config))
  say(f'views  {workdir / "views.png"}')
  return 0


COMMAND = Command(
  'views',
  "show a recipe's augmentations",
  run,
  (RECIPE,),
  task='views',
  workdir='runs/<recipe>',
  overrides=(('task', 'views'),),
)
