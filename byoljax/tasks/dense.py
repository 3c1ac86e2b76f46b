"""What `segment` and `depth` share: a head on a run's encoder, frozen and trained along."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING, Any

from byoljax import config as config_lib
from byoljax.config import Config, ConfigError, choose, expanded, require_local, user_errors
from byoljax.report import table
from byoljax.tasks import data as data_lib
from byoljax.tasks import evaluation
from byoljax.wording import counted
from byoljax.workdir import places, run_dir
from byoljax.workdir.lock import lock_workdir
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.encoders.dense import DenseModel
  from byoljax.encoders.encoder import Encoder
  from byoljax.protocols.dense_protocol import DenseData, DenseProtocol

SHEET = 'predictions.png'
_SHOWN = 12  # images of the sheet
_SHORT = {'frozen': 'frozen', 'finetuned': 'tuned'}
_STARTS = {'online': 'online network', 'target': 'target network', 'random': 'scratch'}


def run(kind: str, config: Config, invocation: Invocation) -> int:
  """Trains heads for one kind of output at every pixel; `config.task` names its own fields."""
  from byoljax.encoders import load
  from byoljax.encoders.encoder import untrained
  from byoljax.protocols import dense
  from byoljax.protocols.dense_protocol import MODES, DenseProtocol
  from byoljax.train import assemble

  name = config.task
  encoder, pretraining, directory = load.load_encoder(config.pretrained, config.network)
  home = evaluation.result_directory(name, config, directory, invocation)
  for mode in config.modes:
    choose('mode', mode, MODES)
  if not config.modes:
    raise ConfigError(f'config.modes is empty: name {" or ".join(MODES)}.')
  protocol = DenseProtocol(**config[name].to_dict())
  protocol.check(name)
  data = open_data(kind, config, pretraining, home)
  logging = assemble.logging_of(config)
  dense.check(encoder, data, protocol, logging, name)
  with config.unlocked():
    config.pretrained = str(directory.resolve())  # The same however the user wrote it.
  starts = {config.network: encoder}
  if config.scratch or config.network == 'random':
    # Drawn with this training's seed, not with that of the pretraining.
    starts['random'] = untrained(encoder, protocol.seed)
  train = data.data.train
  with lock_workdir(home):
    evaluation.open_home(home, config, invocation, train, encoder)
    say(
      f'{name} of {directory} ({config.network} network) with {counted(train.size, "image")} of '
      f'{train.name}, on {data.data.test.size:,} of {data.data.test.name}'
    )
    return _train(kind, config, home, starts, directory, data, protocol)


def open_data(
  kind: str, config: Config, pretraining: Config, home: pathlib.Path | None
) -> 'DenseData':
  """The data of an evaluation with an output at every pixel: what is left open is the run's."""
  from byoljax.protocols import dense_data

  name = config.data.name or pretraining.data.name
  directory = config.data.dir or ('' if config.data.name else pretraining.data.dir)
  if home is not None:
    places.require_folder(home)
  if directory:
    require_local('data.dir', directory)
    if home is not None and expanded(directory).is_dir():
      data_lib.require_outside(home, pathlib.Path(directory))
  return dense_data.open_data(
    kind,
    name,
    directory,
    field=config.data.field,
    classes=config.get('classes', ()),
    images=config.images,
    seed=config.split_seed,
    range_=pretraining.data.range,
    unreadable_log=home and home / 'unreadable.txt',
    image_size=config.image_size or pretraining.evals.image_size,
    mean=tuple(pretraining.data.mean),
    std=tuple(pretraining.data.std),
    batch_size=config.batch_size,
    threads=config.data.threads,
    resident=pretraining.data.resident,
  )


def _train(
  kind: str,
  config: Config,
  home: pathlib.Path,
  starts: 'Mapping[str, Encoder]',
  directory: pathlib.Path,
  data: 'DenseData',
  protocol: 'DenseProtocol',
) -> int:
  """The part that one process at a time may do in a directory."""
  from byoljax.encoders import dense as dense_lib
  from byoljax.protocols import dense
  from byoljax.protocols.dense_protocol import KINDS
  from byoljax.train import assemble

  rows, models = [], {}
  for start, encoder in starts.items():
    for mode in config.modes:
      where = home / f'{start}-{mode}'
      say(f'training: {_STARTS.get(start, start)}, {mode} ...')
      trained = dense.fit(
        kind, encoder, data, protocol, mode, logging=assemble.logging_of(config), workdir=where
      )
      rows.append({'start': start, 'mode': mode} | trained.result)
      models[start, mode] = dataclasses.replace(
        trained.model,
        protocol={
          'from': str(directory),
          'start': start,
          'mode': mode,
          'config': json.loads(config_lib.to_json(config)),
          'data': data.data.train.name,
          'fingerprint': data.data.train.fingerprint,
          'result': trained.result,
        },
      )
      _leave(models[start, mode], where / dense_lib.FOLDER)
  run_dir.write_result(home / 'result.json', {'rows': rows}, config, directory)
  _draw(home / SHEET, models, data, config.batch_size)
  say(format_results(KINDS[kind].results, rows))
  say(f'result  {home / "result.json"}')
  return 0


def _leave(model: 'DenseModel', where: pathlib.Path) -> None:
  """Saves a model, unless its encoder is the user's own and cannot be made again from a file."""
  from byoljax.devices import hosts
  from byoljax.encoders import dense as dense_lib

  if not hosts.is_first_process():
    return
  with user_errors(f"'{where}'"):
    if isinstance(model.design.encoder, tuple):
      say(f'model  {dense_lib.save(model, where)}')


def _draw(
  path: pathlib.Path,
  models: 'Mapping[tuple[str, str], DenseModel]',
  data: 'DenseData',
  batch_size: int,
) -> None:
  """Draws a few test images with their truth and what each model makes of them."""
  import numpy as np

  from byoljax import streams
  from byoljax.data.batches import whole
  from byoljax.devices import hosts
  from byoljax.encoders.dense import DEPTH
  from byoljax.protocols import dense_evaluation
  from byoljax.report import dense as drawing

  if not hosts.is_first_process():
    return
  test = data.data.test
  order = np.random.default_rng((0, streams.REPORT_SAMPLE, 3)).permutation(test.size)[:_SHOWN]
  few = test.subset(np.sort(order))
  images, truths = {}, {}
  groups = whole.groups(few, multiple=1)
  for batch in whole.whole_batches(few, groups, batch_size=1, fields=(data.field,)):
    if batch['valid'][0]:
      images[int(batch['index'][0])] = batch['image'][0]
      truths[int(batch['index'][0])] = batch[data.field][0, ..., 0]
  rows = sorted(images)
  columns = {'truth': [truths[row] for row in rows]}
  for (start, mode), model in models.items():
    found = dict(
      dense_evaluation.predictions(model.design, model.params, model.bn, few, batch_size)
    )
    columns[f'{_STARTS.get(start, start).split()[0]}, {_SHORT[mode]}'] = [
      found[row] for row in rows
    ]
  depth = next(iter(models.values())).kind == DEPTH
  with user_errors(f"'{path}'"):
    drawing.write_sheet(
      path, [images[row] for row in rows], columns, depth=depth, classes=data.classes
    )
  say(f'pictures  {path}')


def format_results(
  results: Mapping[str, tuple[str, str]], rows: Sequence[Mapping[str, Any]]
) -> str:
  """The results of one data set as a table: a row for every start and mode."""
  from byoljax.protocols.dense_protocol import MODE_TITLES

  shown = [
    {
      'start': _STARTS.get(row['start'], row['start']),
      'encoder': MODE_TITLES[row['mode']],
      'images': f'{row["train_examples"]:,}',
      **{title: row[name] for name, (title, _) in results.items()},
      'base_lr': row['base_lr'],
    }
    for row in rows
  ]
  formats = dict(results.values()) | {'base_lr': '{:g}'}
  return table.format_table(shown, list(shown[0]), formats=formats)
