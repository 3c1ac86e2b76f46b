"""k-NN evaluation of a run's encoder."""

from byoljax.config import Config
from byoljax.report import table
from byoljax.tasks import evaluation
from byoljax.tasks.command import Command
from byoljax.workdir import run_dir
from byoljax.workdir.run_dir import Invocation, say


def run(config: Config, invocation: Invocation) -> int:
  """k-NN evaluation of a pretrained encoder; see `configs/knn.py`."""
  from byoljax.encoders import load
  from byoljax.protocols import extraction

  encoder, source_config, directory = load.load_encoder(
    config.pretrained, config.network, config.tap
  )
  home = evaluation.result_directory('knn', config, directory, invocation)
  data = evaluation.data_of(config, source_config, config.batch_size, home)
  result = extraction.knn_result(encoder, data, config.knn)
  run_dir.write_result(home / 'result.json', result, config, directory)
  say(f'k-NN of {directory} ({evaluation.which(config)}) on {data.test.name}')
  columns = ['k', 'temperature', 'top1']
  say(table.format_table(result['sweep'], columns, formats={'top1': '{:.2%}'}))
  say(f'result  {home / "result.json"}')
  return 0


COMMAND = Command(
  'knn', 'k-NN evaluation of a run', run, task='knn', recipe='knn', field='pretrained'
)
