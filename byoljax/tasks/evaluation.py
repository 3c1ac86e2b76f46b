"""How an evaluation of frozen features runs: encoder, features of both splits, one result.json."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from byoljax.config import Config, user_errors
from byoljax.workdir import run_dir
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.protocols.frozen_features import Split

# (config, training features, test features) -> the result, and what to print of it.
Compute = Callable[[Config, 'Split', 'Split'], tuple[dict[str, Any], str]]


def on_frozen_features(name: str, compute: Compute, config: Config, invocation: Invocation) -> int:
  """Runs a task that needs nothing but labelled features of both splits.

  Args:
    name: of the task: of its directory and in messages.
    compute: see `Compute`.
    config: with `pretrained`, `network`, `tap`, `data`, `image_size` and `batch_size`.
    invocation: how the task was called.
  """
  from byoljax.encoders import load
  from byoljax.protocols import frozen_features
  from byoljax.tasks import eval_data

  encoder, source, directory = load.load_encoder(config.pretrained, config.network, config.tap)
  home = eval_data.home(name, config, directory, invocation)
  data = eval_data.data_of(config, source, config.batch_size, home)
  say(f'{name} of {directory} ({eval_data.which(config)}) on {data.test.name}')
  splits = frozen_features.splits(encoder, data)
  with user_errors(name):
    result, text = compute(config, *splits)
  run_dir.write_result(home / 'result.json', result, config, directory)
  say(text)
  say(f'result  {home / "result.json"}')
  return 0
