"""One encoder on many data sets: the transfer table, linear and fine-tuned, beside its baselines.

Every cell is a result of its own, stored as soon as it is there: a table that was stopped resumes
where it was, and a longer list of data sets computes what is new. Sets that are not prepared are
skipped, with a word on how to get them.
"""

from collections.abc import Mapping
import csv
import json
import pathlib
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from byoljax import config as config_lib
from byoljax.config import Config, ConfigError, user_errors
from byoljax.devices import hosts
from byoljax.report import table
from byoljax.tasks import evaluation
from byoljax.tasks.command import Command
from byoljax.version import versions
from byoljax.workdir import run_dir
from byoljax.workdir.files import write_json
from byoljax.workdir.lock import lock_workdir
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.encoders.encoder import Encoder
  from byoljax.protocols.extraction import EvalData


def run(config: Config, invocation: Invocation) -> int:
  """Evaluates a run's encoder on a list of data sets; see `configs/transfer.py`."""
  from byoljax.encoders import load
  from byoljax.encoders.encoder import untrained

  encoder, pretraining, directory = load.load_encoder(config.pretrained, config.network)
  home = pathlib.Path(
    invocation.workdir
    or run_dir.evals_dir(directory) / f'transfer-{config.network}-{directory.name}'
  )
  for name in config.protocols:
    config_lib.choose('protocol', name, PROTOCOLS)
  if not config.protocols:
    raise ConfigError(f'config.protocols is empty: name some of {", ".join(PROTOCOLS)}.')
  if not config.datasets:
    raise ConfigError('config.datasets is empty: name some, such as \'("cifar10", "dtd")\'.')
  starts = {config.network: encoder}
  if config.baselines and config.network != 'random':
    starts['random'] = untrained(encoder, pretraining.seed)
  with lock_workdir(home):
    return _fill_table(config, home, pretraining, starts, directory)


def _fill_table(
  config: Config,
  home: pathlib.Path,
  pretraining: Config,
  starts: Mapping[str, 'Encoder'],
  directory: pathlib.Path,
) -> int:
  """The part of `transfer` that one process at a time may do in a directory."""
  from byoljax.data.sources.source import fingerprint
  from byoljax.evals import scores
  from byoljax.protocols import folds

  rows, skipped = [], {}
  for entry in config.datasets:
    try:
      data = _data(entry, config, pretraining, home)
    except ConfigError as error:
      skipped[entry] = str(error)
      say(f'{entry}: skipped. {error}')
      continue
    metric = _metric(entry, data)
    say(f'{entry}: {data.train.size:,} training images, tested on {folds.describe(data)}')
    row, largest = {'data set': entry, 'metric': scores.METRICS[metric]}, None
    for protocol in config.protocols:
      for name, start in starts.items():
        # Named after all that it depends on: interrupted training is never resumed by
        # another protocol, nor from other weights.
        asked = _asked(config, protocol, data, start)
        digest = fingerprint(json.dumps(asked, sort_keys=True))
        where = home / _slug(entry) / f'{protocol}-{name}-{digest}'
        result = _stored(where, asked)
        if result is None:
          say(f'{entry}: {protocol}, {name} ...')
          with user_errors(entry):
            result = PROTOCOLS[protocol](start, data, config, where)
          _store(where, result, asked)
        row[f'{protocol}, {name}'] = result[metric]
        largest = result.get('majority')
    row['largest class'] = largest
    rows.append(row)
  run_dir.write_result(home / 'result.json', {'rows': rows, 'skipped': skipped}, config, directory)
  if rows:
    say('\n' + _write_table(rows, home) + '\n')
  say(f'result  {home / "result.json"}')
  if not rows:
    raise ConfigError('none of the data sets is there: nothing was evaluated.')
  return 0


def _data(entry: str, config: Config, pretraining: Config, home: pathlib.Path) -> 'EvalData':
  """The data of one entry: NAME, or NAME=DIRECTORY."""

  name, _, directory = entry.partition('=')
  one = ConfigDict(
    {
      'data': {'name': name, 'dir': directory or config.data.dir, 'threads': config.data.threads},
      'image_size': config.image_size,
    }
  )
  return evaluation.data_of(one, pretraining, config.batch_size, home)


def _metric(entry: str, data: 'EvalData') -> str:
  from byoljax.data.sources import datasets

  return 'map11' if data.train.multi_label else datasets.facts(entry.partition('=')[0]).metric


def _logistic(
  encoder: 'Encoder', data: 'EvalData', config: Config, home: pathlib.Path
) -> dict[str, Any]:
  from byoljax.evals import frozen
  from byoljax.protocols import folds, frozen_features

  del home
  fields = config.logistic
  results = [
    frozen.logistic(
      train,
      test,
      lambdas=fields.lambdas or frozen.LAMBDAS,
      held_out=fields.held_out,
      seed=fields.seed,
      max_iterations=fields.max_iterations,
    )
    for train, test in frozen_features.splits(encoder, data)
  ]
  return folds.combined(results)


def _knn(
  encoder: 'Encoder', data: 'EvalData', config: Config, home: pathlib.Path
) -> dict[str, Any]:
  from byoljax.protocols import frozen_features

  del home
  return frozen_features.knn_result(encoder, data, config.knn)


def _linear(
  encoder: 'Encoder', data: 'EvalData', config: Config, home: pathlib.Path
) -> dict[str, Any]:
  from byoljax.protocols.linear import LinearProtocol, linear_result
  from byoljax.train import assemble

  protocol = LinearProtocol(**config.linear.to_dict())
  return linear_result(encoder, data, protocol, logging=assemble.logging_of(config), workdir=home)


def _finetune(
  encoder: 'Encoder', data: 'EvalData', config: Config, home: pathlib.Path
) -> dict[str, Any]:
  from byoljax.protocols.finetune import FinetuneProtocol, finetune_result
  from byoljax.train import assemble

  protocol = FinetuneProtocol(**config.finetune.to_dict())
  return finetune_result(encoder, data, protocol, logging=assemble.logging_of(config), workdir=home)


PROTOCOLS = {'knn': _knn, 'logistic': _logistic, 'linear': _linear, 'finetune': _finetune}


def _stored(where: pathlib.Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
  """A cell's result, if it is there and of the same protocol, images and weights."""
  try:
    stored = json.loads((where / 'result.json').read_text())
  except (OSError, ValueError):
    return None
  return stored['result'] if stored.get('asked') == asked else None


def _store(where: pathlib.Path, result: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
  if hosts.is_first_process():
    with user_errors():
      where.mkdir(parents=True, exist_ok=True)
    write_json(
      where / 'result.json',
      {'result': dict(result), 'asked': dict(asked), 'versions': versions()},
    )


def _asked(config: Config, protocol: str, data: 'EvalData', encoder: 'Encoder') -> dict[str, Any]:
  """What a cell depends on. A directory that is given may have cells of another run."""
  from byoljax.encoders import codec

  return {
    'protocol': json.loads(json.dumps(config[protocol].to_dict())),
    'data': [data.train.fingerprint, data.test.fingerprint, data.image_size],
    'weights': codec.digest((encoder.params, encoder.bn))[:16],
  }


def _slug(entry: str) -> str:
  name, _, directory = entry.partition('=')
  return '-'.join(filter(None, [evaluation.file_word(name),
                                pathlib.PurePath(directory).stem]))  # fmt: skip


def _write_table(rows: list[dict[str, Any]], home: pathlib.Path) -> str:
  """The table for the terminal; also written as Markdown and CSV."""
  columns = list(rows[0])
  formats = dict.fromkeys(columns[2:], '{:.1%}')
  if hosts.is_first_process():
    (home / 'table.md').write_text(
      table.format_table(rows, columns, formats=formats, style='markdown') + '\n'
    )
    with (home / 'table.csv').open('w', newline='') as file:
      writer = csv.DictWriter(file, columns)
      writer.writeheader()
      writer.writerows(rows)
  return table.format_table(rows, columns, formats=formats)


COMMAND = Command(
  'transfer',
  'one encoder on many data sets',
  run,
  task='transfer',
  recipe='transfer',
  field='pretrained',
)
