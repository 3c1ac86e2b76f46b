"""Linear evaluation: a linear classifier on the frozen encoder, trained by SGD."""

from collections.abc import Mapping
from typing import Any

from byoljax.config import Config
from byoljax.tasks import evaluation
from byoljax.tasks.command import Command
from byoljax.workdir import run_dir
from byoljax.workdir.lock import lock_workdir
from byoljax.workdir.run_dir import Invocation, say


def run(config: Config, invocation: Invocation) -> int:
  """Linear evaluation of a pretrained encoder; see `configs/linear.py`."""
  from byoljax.encoders import load
  from byoljax.evals import scores
  from byoljax.protocols import folds, linear
  from byoljax.train import assemble

  encoder, source_config, directory = load.load_encoder(
    config.pretrained, config.network, config.tap
  )
  home = evaluation.result_directory('linear', config, directory, invocation)
  data = evaluation.data_of(config, source_config, config.linear.batch_size, home)
  protocol, logging = linear.LinearProtocol(**config.linear.to_dict()), assemble.logging_of(config)
  linear.check(data, protocol, logging)
  with config.unlocked():
    config.pretrained = str(directory.resolve())  # The same however the user wrote it.
  with lock_workdir(home):
    evaluation.open_home(home, config, invocation, data.train, encoder)
    say(f'Linear evaluation of {directory} ({evaluation.which(config)}) on {folds.describe(data)}.')
    trained = linear.fit(encoder, data, protocol, logging=logging, workdir=home)
  result = trained.result
  evaluation.leave(home, trained, data, config, directory)
  run_dir.write_result(home / 'result.json', result, config, directory)
  say(
    f'{scores.format_scores(result)} on {result["test_examples"]:,} test images ({_chosen(result)})'
  )
  say(f'result  {home / "result.json"}')
  return 0


def _chosen(result: Mapping[str, Any]) -> str:
  rate = f'base_lr {result["base_lr"]:g}, batch {result["batch_size"]}'
  if 'held_out_top1' not in result:
    return f'{rate}, the only one'
  return f'{rate}, {result["held_out_top1"]:.2%} on held-out training images'


COMMAND = Command(
  'linear', 'linear evaluation of a run', run, task='linear', recipe='linear', field='pretrained'
)
