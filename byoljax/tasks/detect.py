"""Detection: Faster R-CNN on a run's encoder, and beside it the same from scratch."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from byoljax import config as config_lib
from byoljax import streams
from byoljax.config import Config, ConfigError, user_errors
from byoljax.report import table
from byoljax.tasks import data as data_lib
from byoljax.tasks import evaluation
from byoljax.tasks.command import Command
from byoljax.wording import counted
from byoljax.workdir import run_dir
from byoljax.workdir.lock import lock_workdir
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.data.fields import Field
  from byoljax.data.sources.source import Source
  from byoljax.encoders.encoder import Encoder
  from byoljax.protocols.detect import DetectProtocol, Trained
  from byoljax.protocols.extraction import EvalData

_MOST = 100  # Boxes of an image, where the data do not say.
_HELD_OUT = 0.2
SHEET = 'predictions.png'
_SHOWN = 12  # images of the sheet
_SHOWN_SCORE = 0.5  # of a box on it
_START = {
  'online': "the run's online network",
  'target': "the run's target network",
  'random': 'scratch',
}


def run(config: Config, invocation: Invocation) -> int:
  """Trains a detector on a run's encoder; see `configs/detect.py`."""
  from byoljax.encoders import load
  from byoljax.protocols import detect
  from byoljax.train import assemble

  encoder, pretraining, directory = load.load_encoder(config.pretrained, config.network)
  home = evaluation.result_directory('detect', config, directory, invocation)
  data = data_of(config, pretraining, home)
  with config.unlocked():
    config.pretrained = str(directory.resolve())  # The same however the user wrote it.
  classes = detect.class_names(data.train, data.test)
  protocol = protocol_of(config)
  detect.make_run(encoder, data, len(classes), protocol, assemble.logging_of(config))
  with lock_workdir(home):
    evaluation.open_home(home, config, invocation, data.train, encoder)
    return _train(config, home, encoder, directory, data, classes, protocol)


def protocol_of(config: Config) -> 'DetectProtocol':
  """The protocol that a configuration describes."""
  from byoljax.protocols.detect import DetectProtocol

  return DetectProtocol(**config.detect.to_dict())


def data_of(config: Config, pretraining: Config, home: pathlib.Path | None) -> 'EvalData':
  """The images with their boxes; what the configuration leaves open is as in pretraining.

  Raises:
    ConfigError: no such data, or no boxes in them.
  """
  from byoljax.data.sources.source import NoSplitError
  from byoljax.protocols import training

  merged = evaluation.data_config(config, pretraining)
  fields = _fields(config.boxes, merged.data.name)
  train = _boxes_first(data_lib.open_split(merged, 'train', home, fields=fields), fields)
  try:
    test = _boxes_first(data_lib.open_split(merged, 'test', home, fields=fields), fields)
  except ConfigError as error:
    if not isinstance(error.__cause__, NoSplitError):
      raise
    # The same test images whatever the seed of the training.
    test, train = training.hold_out(train, _HELD_OUT, 0)
    say(f'{train.name} has no test images: {test.size:,} of its images are held out to test.')
  if config.images:
    if not 1 <= config.images <= train.size:
      raise ConfigError(
        f'images={config.images}, but {train.name} has {train.size:,} training images; 0 takes all.'
      )
    seeds = (config.detect.seed, streams.LABEL_SUBSET)
    order = np.random.default_rng(seeds).permutation(train.size)
    train = train.subset(np.sort(order[: config.images]))
  return data_lib.eval_data(
    train,
    test,
    merged,
    image_size=config.image_size or merged.evals.image_size,
    batch_size=config.detect.batch_size,
    threads=config.data.threads,
  )


def _fields(text: str, name: str) -> 'tuple[Field, ...]':
  """The field with the boxes, as the data call it."""
  from byoljax.data import fields
  from byoljax.data.sources import datasets

  with user_errors():
    kind = datasets.facts(name).kind
    if kind == 'shapes':
      raise ConfigError(
        'shapes has one object in every image and no boxes: take --data.name=sprites, or data of '
        'your own.'
      )
    usual = {'tfds': f'objects:boxes:{_MOST}', 'folder': f'boxes:boxes:{_MOST}'}
    found = fields.parsed([text or usual.get(kind, 'boxes:boxes')])
  if found[0].kind != 'boxes':
    raise ConfigError(f"boxes='{text}' must name a field of boxes, such as 'objects:boxes:100'.")
  return found


def _boxes_first(source: 'Source', fields: 'tuple[Field, ...]') -> 'Source':
  """The source with the field called 'boxes', whatever the data call it."""
  from byoljax.protocols.detect import FIELD

  own = fields[0].name
  if own == FIELD:
    return source

  def fetch(rows: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    return source.fetch(rows, [own if name == FIELD else name for name in names])

  return dataclasses.replace(
    source,
    fields=tuple(
      dataclasses.replace(field, name=FIELD) if field.name == own else field
      for field in source.fields
    ),
    fetch=fetch,
    decode=None,
  )


def _train(
  config: Config,
  home: pathlib.Path,
  encoder: 'Encoder',
  directory: pathlib.Path,
  data: 'EvalData',
  classes: tuple[str, ...],
  protocol: 'DetectProtocol',
) -> int:
  """The part of `detect` that one process at a time may do in a directory."""
  from byoljax.encoders.encoder import untrained
  from byoljax.protocols import detect
  from byoljax.train import assemble

  how = 'frozen' if protocol.frozen else 'fine-tuned'
  say(
    f'Detection by {directory} ({config.network} network, {how}): '
    f'{counted(len(classes), "class", "classes")}, {data.train.size:,} training and '
    f'{counted(data.test.size, "test image")} of {data.train.name}.'
  )
  starts = {config.network: encoder}
  if config.scratch or config.network == 'random':
    # Drawn with this training's seed, not with that of the pretraining.
    starts['random'] = untrained(encoder, protocol.seed)
  results, found = {}, {}
  for name, start in starts.items():
    say(f'training from {_START.get(name, name)} ...')
    # What is random learns nothing where it stays as it is.
    own = dataclasses.replace(protocol, frozen=protocol.frozen and name != 'random')
    trained = detect.fit(
      start, data, classes, own, logging=assemble.logging_of(config), workdir=home / name
    )
    results[name], found[name] = trained.result, trained.found
    _leave(trained, home / name, config, directory)
  _draw(home / SHEET, found, data, classes)
  run_dir.write_result(home / 'result.json', results, config, directory)
  say(format_results(results))
  say(f'result  {home / "result.json"}')
  return 0


def _leave(trained: 'Trained', home: pathlib.Path, config: Config, directory: pathlib.Path) -> None:
  """Saves a detector, unless its encoder is the user's own and cannot be made again from a file."""
  from byoljax.devices import hosts
  from byoljax.encoders import detector

  if trained.model is None or not hosts.is_first_process():
    return
  about = {'from': str(directory), 'config': json.loads(config_lib.to_json(config))}
  model = dataclasses.replace(trained.model, protocol={**trained.model.protocol, **about})
  with user_errors(f"'{home}'"):
    say(f'detector  {detector.save(model, home / detector.FOLDER)}')


def _draw(
  path: pathlib.Path,
  found: 'Mapping[str, Mapping[int, np.ndarray]]',
  data: 'EvalData',
  classes: tuple[str, ...],
) -> None:
  """Draws a few test images with their boxes, and those that each detector finds."""
  from byoljax.devices import hosts
  from byoljax.protocols import detect, found_boxes
  from byoljax.report import boxes

  if not hosts.is_first_process():
    return
  readable = np.array(sorted(next(iter(found.values()))))
  order = np.random.default_rng((0, streams.REPORT_SAMPLE, 4)).permutation(readable)[:_SHOWN]
  images = found_boxes.pictures(data.test, np.sort(order))
  rows = sorted(images)
  truth = detect.true_boxes(data.test, rows)
  columns = {'truth': [boxes.boxes_of(each) for each in truth]}
  for name, own in found.items():
    short = _START.get(name, name).removeprefix("the run's ")
    columns[short] = [boxes.boxes_of(own[row], _SHOWN_SCORE) for row in rows]
  with user_errors(f"'{path}'"):
    boxes.write_sheet(path, [images[row] for row in rows], columns, classes)
  say(f'pictures  {path}')


def format_results(results: Mapping[str, Mapping[str, Any]]) -> str:
  """The results as a table: a row for every start."""
  from byoljax.evals.detection import METRICS

  known = [name for name in METRICS if any(name in result for result in results.values())]
  rows = [
    {'start': _START.get(name, name), 'encoder': 'frozen' if result['frozen'] else 'fine-tuned'}
    | {METRICS[metric]: result.get(metric) for metric in known}
    for name, result in results.items()
  ]
  shown = [METRICS[metric] for metric in known]
  formats = dict.fromkeys(shown, '{:.1%}')
  return table.format_table(rows, ['start', 'encoder', *shown], formats=formats)


COMMAND = Command(
  'detect',
  'train a detector on the encoder, and from scratch',
  run,
  task='detect',
  recipe='detect',
  field='pretrained',
)
