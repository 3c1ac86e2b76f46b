"""k-NN evaluation of a run's encoder."""

from collections.abc import Mapping
from typing import Any

from byoljax.config import Config
from byoljax.report import table
from byoljax.tasks import evaluation
from byoljax.tasks.command import Command
from byoljax.workdir import run_dir
from byoljax.workdir.run_dir import Invocation, say


def run(config: Config, invocation: Invocation) -> int:
  """k-NN evaluation of a pretrained encoder; see `configs/knn.py`."""
  from byoljax.encoders import load
  from byoljax.evals import scores
  from byoljax.protocols import folds, frozen_features

  encoder, source_config, directory = load.load_encoder(
    config.pretrained, config.network, config.tap
  )
  home = evaluation.result_directory('knn', config, directory, invocation)
  data = evaluation.data_of(config, source_config, config.batch_size, home)
  say(f'k-NN of {directory} ({evaluation.which(config)}) on {folds.describe(data)}')
  trained = frozen_features.fit_knn(encoder, data, config.knn)
  result = trained.result
  evaluation.leave(home, trained, data, config, directory)
  run_dir.write_result(home / 'result.json', result, config, directory)
  say(_sweep(result))
  say(
    f'{scores.format_scores(result)} on {result["queries"]:,} test images: the headline, at '
    f'k = {result["k"]} and T = {result["temperature"]:g}, fixed in advance. The best of the other '
    'rows is chosen on the test images and is no test result.'
  )
  say(f'result  {home / "result.json"}')
  return 0


def _sweep(result: Mapping[str, Any]) -> str:
  """Every k and temperature, the headline's row marked."""
  headline = result['k'], result['temperature']
  rows = [
    row
    | {
      'balanced': row['mean_per_class'],
      '': '<- headline' if (row['k'], row['temperature']) == headline else '',
    }
    for row in result['sweep']
  ]
  columns = ['k', 'temperature', 'top1', 'balanced', '']
  return table.format_table(rows, columns, formats=dict.fromkeys(columns[2:4], '{:.2%}'))


COMMAND = Command(
  'knn', 'k-NN evaluation of a run', run, task='knn', recipe='knn', field='pretrained'
)
