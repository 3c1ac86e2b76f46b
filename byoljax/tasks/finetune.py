"""Fine-tuning: a run's encoder, trained with labels, and beside it the same from scratch."""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from byoljax.config import Config, ConfigError, user_errors
from byoljax.report import table
from byoljax.tasks import evaluation
from byoljax.tasks.command import Command
from byoljax.workdir import run_dir
from byoljax.workdir.lock import lock_workdir
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.encoders.encoder import Encoder
  from byoljax.protocols.extraction import EvalData
  from byoljax.protocols.finetune import FinetuneProtocol


def run(config: Config, invocation: Invocation) -> int:
  """Trains the whole network of a run on labelled images; see `configs/finetune.py`."""
  from byoljax.encoders import load
  from byoljax.protocols import finetune, labelled
  from byoljax.train import assemble

  encoder, pretraining, directory = load.load_encoder(config.pretrained, config.network)
  home = evaluation.result_directory('finetune', config, directory, invocation)
  data = evaluation.data_of(config, pretraining, config.finetune.batch_size, home)
  with config.unlocked():
    config.pretrained = str(directory.resolve())  # The same however the user wrote it.
  with user_errors():
    some = labelled.part(data.train, config.labels, config.split_seed)
  data = data._replace(train=some) if data.has_test else data._replace(train=some, test=some)
  protocol = finetune.FinetuneProtocol(**config.finetune.to_dict())
  finetune.check(data, protocol, assemble.logging_of(config), encoder)
  head = None
  if config.finetune.head_layers:
    encoder, head = with_head(encoder, directory, config.network, config.finetune.head_layers)
  with lock_workdir(home):
    evaluation.open_home(home, config, invocation, data.train, encoder)
    return _train(config, home, encoder, head, directory, data, protocol)


def _train(
  config: Config,
  home: pathlib.Path,
  encoder: 'Encoder',
  head: Mapping[str, Any] | None,
  directory: pathlib.Path,
  data: 'EvalData',
  protocol: 'FinetuneProtocol',
) -> int:
  """The part of `finetune` that one process at a time may do in a directory."""
  from byoljax.encoders.encoder import untrained
  from byoljax.protocols import finetune, folds
  from byoljax.train import assemble

  say(
    f'Fine-tuning of {directory} ({config.network} network) with {data.train.size:,} labelled '
    f'images, on {folds.describe(data)}.'
  )
  starts = {config.network: encoder}
  if config.scratch or config.network == 'random':
    # Drawn with this training's seed, not with that of the pretraining.
    starts['random'] = untrained(encoder, config.finetune.seed)
  results = {}
  for name, start in starts.items():
    say(f'training from {_START.get(name, name)} ...')
    trained = finetune.fit(
      start,
      data,
      protocol,
      logging=assemble.logging_of(config),
      head=head,
      workdir=home / name,
    )
    results[name] = trained.result
    evaluation.leave(home / name, trained, data, config, directory, name)
  run_dir.write_result(home / 'result.json', results, config, directory)
  say(format_results(results))
  say(f'result  {home / "result.json"}')
  return 0


_START = {
  'online': "the run's online network",
  'target': "the run's target network",
  'random': 'scratch',
}


def format_results(results: Mapping[str, Mapping[str, Any]]) -> str:
  """The results of one data set as a table: a row for every start."""
  from byoljax.evals import scores

  names = (*scores.METRICS, 'majority')
  metrics = [name for name in names if any(name in result for result in results.values())]
  shown = {'mean_per_class': 'balanced', 'majority': 'largest class'}
  rows = [
    {'start': _START.get(name, name), 'images': str(result['train_examples'])}
    | {shown.get(metric, metric): result[metric] for metric in metrics}
    | {'base_lr': result['base_lr'], 'length': result['length']}
    for name, result in results.items()
  ]
  metrics = [shown.get(metric, metric) for metric in metrics]
  columns = ['start', 'images', *metrics, 'base_lr', 'length']
  formats = dict.fromkeys(metrics, '{:.1%}') | {'base_lr': '{:g}'}
  return table.format_table(rows, columns, formats=formats)


def with_head(
  encoder: 'Encoder', directory: pathlib.Path, network: str, layers: int
) -> 'tuple[Encoder, dict[str, Any]]':
  """The encoder with the first layers of its projector, and what those look like.

  Raises:
    ConfigError: no projector with so many layers in front of its output.
  """
  from byoljax.method import NETWORKS
  from byoljax.workdir import checkpoint

  where = f"finetune.head_layers={layers}: '{directory}'"
  if network not in NETWORKS:
    raise ConfigError(f'{where} is of no use for network={network}, which has no projector.')
  prefixes = tuple((*prefix, 'projector') for prefix in NETWORKS[network])
  try:
    params, bn = checkpoint.restore_subtrees(directory, prefixes).values()
  except KeyError as error:
    raise ConfigError(f'{where} has no projector ({error.args[0]}).') from error
  names = [f'linear{i}' for i in range(1, layers + 1)]
  if any(name not in params for name in (*names, f'linear{layers + 1}')):
    have = sum(name.startswith('linear') for name in params)
    raise ConfigError(
      f'{where} has a projector of {have} plain layers; give at most {max(0, have - 1)}.'
    )
  keep = {*names, *(f'bn{i}' for i in range(1, layers + 1))}
  own, statistics = ({k: v for k, v in tree.items() if k in keep} for tree in (params, bn))
  head = {
    'features': tuple(int(own[name]['kernel'].shape[1]) for name in names),
    'hidden_bias': 'bias' in own['linear1'],
    'norm': 'bn1' in own,
  }
  return dataclasses.replace(
    encoder,
    params=encoder.params | {'projector': own},
    bn=encoder.bn | {'projector': statistics},
  ), head


COMMAND = Command(
  'finetune',
  'fine-tune the encoder, and train it from scratch',
  run,
  task='finetune',
  recipe='finetune',
  field='pretrained',
)
