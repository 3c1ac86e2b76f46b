"""One encoder on many data sets: the transfer table, by any evaluation, beside its baselines.

A column is an evaluation of `cells.EVALUATIONS` from one start, a row a data set and a metric; each
metric has a table of its own. Every cell is a result of its own, stored as soon as it is there: a
table that was stopped resumes where it was, and a longer list of data sets computes what is new.
Sets that are not prepared, or have no masks where masks are asked for, are skipped, with a word on
why.
"""

from collections.abc import Mapping, Sequence
import csv
import json
import pathlib
from typing import TYPE_CHECKING, Any

from byoljax import config as config_lib
from byoljax.config import Config, ConfigError, user_errors
from byoljax.devices import hosts
from byoljax.report import table
from byoljax.tasks import cells, evaluation
from byoljax.tasks.cells import EVALUATIONS, Opened
from byoljax.tasks.command import Command
from byoljax.version import versions
from byoljax.workdir import run_dir
from byoljax.workdir.files import write_json
from byoljax.workdir.lock import lock_workdir
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.encoders.encoder import Encoder

_ALL = 'all'  # Among an evaluation's own data sets: those of `config.datasets`.


def run(config: Config, invocation: Invocation) -> int:
  """Evaluates a run's encoder on a list of data sets; see `configs/transfer.py`."""
  from byoljax.encoders import load
  from byoljax.encoders.encoder import untrained
  from byoljax.protocols.dense_protocol import MODES

  for name in config.protocols:
    config_lib.choose('protocol', name, EVALUATIONS)
  config_lib.choose('mode', config.mode, MODES)
  if not config.protocols:
    raise ConfigError(f'config.protocols is empty: name some of {", ".join(EVALUATIONS)}.')
  if 'finetune' in config.protocols and config.finetune.head_layers:
    raise ConfigError(
      f'finetune.head_layers={config.finetune.head_layers} keeps layers of the projector, which '
      '`byoljax finetune` does: set it to 0 here.'
    )
  wanted = _wanted(config)
  encoder, pretraining, directory = load.load_encoder(config.pretrained, config.network)
  home = pathlib.Path(
    invocation.workdir
    or run_dir.evals_dir(directory) / f'transfer-{config.network}-{directory.name}'
  )
  starts = {config.network: encoder}
  if config.baselines and config.network != 'random':
    starts['random'] = untrained(encoder, pretraining.seed)
  with lock_workdir(home):
    return _fill_table(config, home, pretraining, wanted, starts, directory)


def _wanted(config: Config) -> dict[str, list[str]]:
  """The evaluations of every data set.

  Raises:
    ConfigError: an evaluation has none.
  """
  wanted: dict[str, list[str]] = {}
  for name in config.protocols:
    own = config.reads[name].datasets
    entries = [entry for word in own for entry in (config.datasets if word == _ALL else (word,))]
    if not entries:
      where = 'datasets' if _ALL in own else f'reads.{name}.datasets'
      raise ConfigError(f'config.{where} is empty: name some, such as \'("cifar10", "dtd")\'.')
    for entry in dict.fromkeys(entries):
      wanted.setdefault(entry, []).append(name)
  return wanted


def _fill_table(
  config: Config,
  home: pathlib.Path,
  pretraining: Config,
  wanted: Mapping[str, list[str]],
  starts: 'Mapping[str, Encoder]',
  directory: pathlib.Path,
) -> int:
  """The part of `transfer` that one process at a time may do in a directory."""
  from byoljax.evals.headlines import HEADLINES

  rows: dict[tuple[str, str], dict[str, Any]] = {}
  skipped: dict[str, dict[str, str]] = {}
  for entry, names in wanted.items():
    for name, opened in _open_all(entry, names, config, pretraining, home).items():
      if isinstance(opened, str):
        skipped.setdefault(entry, {})[name] = opened
        continue
      title = HEADLINES[opened.headline].title
      row = rows.setdefault((title, entry), {'data set': entry, 'metric': title})
      largest = row.pop('largest class', None)  # Stands last.
      for start, encoder in starts.items():
        result = _cell(entry, name, start, encoder, opened, config, home)
        row[f'{name}, {start}'] = result.get(opened.headline)
        largest = result.get('majority', largest)
      if largest is not None:
        row['largest class'] = largest
  found = list(rows.values())
  run_dir.write_result(home / 'result.json', {'rows': found, 'skipped': skipped}, config, directory)
  if found:
    say('\n' + _write_tables(found, home) + '\n')
  say(f'result  {home / "result.json"}')
  if not found:
    raise ConfigError('none of the data sets is there: nothing was evaluated.')
  return 0


def _open_all(
  entry: str, names: Sequence[str], config: Config, pretraining: Config, home: pathlib.Path
) -> dict[str, Opened | str]:
  """A data set as each evaluation reads it, once for those that read it alike; or why not."""
  from byoljax.protocols import folds

  found: dict[Any, Opened | str] = {}
  made: dict[str, Opened | str] = {}
  for name in names:
    each = EVALUATIONS[name]
    alike = each.open, config.reads[name].image_size
    try:
      if alike not in found:
        found[alike] = each.open(cells.configuration(entry, name, config), pretraining, home)
    except ConfigError as error:
      found[alike] = str(error)
    opened = made[name] = found[alike]
    try:
      if each.single and not isinstance(opened, str):
        folds.require_single(opened.images.train, name)
    except ConfigError as error:
      made[name] = str(error)
  for why in dict.fromkeys(each for each in made.values() if isinstance(each, str)):
    skipping = ', '.join(name for name, each in made.items() if each == why)
    say(f'{entry}: skipped by {skipping}. {why}')
  return made


def _cell(
  entry: str,
  name: str,
  start: str,
  encoder: 'Encoder',
  opened: Opened,
  config: Config,
  home: pathlib.Path,
) -> dict[str, Any]:
  """The result of one evaluation on one data set, as it was stored or computed anew."""
  from byoljax.data.sources.source import fingerprint
  from byoljax.protocols import folds

  asked = _asked(config, name, opened, encoder)
  # Named after all that it depends on: interrupted training is never resumed by another protocol,
  # nor from other weights.
  digest = fingerprint(json.dumps(asked, sort_keys=True))
  where = home / evaluation.data_words(*entry.partition('=')[::2]) / f'{name}-{start}-{digest}'
  result = _stored(where, asked)
  if result is None:
    images = opened.images
    say(f'{entry}: {name}, {start} ... ({images.train.size:,} training images, tested on '
        f'{folds.describe(images)})')  # fmt: skip
    with user_errors(entry):
      own = cells.configuration(entry, name, config)
      result = EVALUATIONS[name].compute(encoder, opened.data, own, where)
    _store(where, result, asked)
  return result


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


def _asked(config: Config, name: str, opened: Opened, encoder: 'Encoder') -> dict[str, Any]:
  """What a cell depends on. A directory that is given may have cells of another run."""
  from byoljax.encoders import codec

  images = opened.images
  return {
    'protocol': json.loads(json.dumps(config[name].to_dict())),
    'data': [images.train.fingerprint, images.test.fingerprint, images.image_size],
    'weights': codec.digest((encoder.params, encoder.bn))[:16],
    **opened.about,
  }


def _write_tables(rows: Sequence[Mapping[str, Any]], home: pathlib.Path) -> str:
  """A table for every metric, for the terminal; also as Markdown, and all rows as CSV."""
  from byoljax.evals.headlines import titled

  columns = list(dict.fromkeys(name for row in rows for name in row))
  titles = list(dict.fromkeys(row['metric'] for row in rows))

  def text(style: str | None) -> str:
    made = []
    for title in titles:
      metric = titled(title)
      own = [{metric.heading: row['data set'], **row} for row in rows if row['metric'] == title]
      shown = [name for name in columns[2:] if any(name in row for row in own)]
      formats = dict.fromkeys(shown, metric.form)
      made.append(table.format_table(own, [metric.heading, *shown], formats=formats, style=style))
    return '\n\n'.join(made)

  if hosts.is_first_process():
    (home / 'table.md').write_text(text('markdown') + '\n')
    with (home / 'table.csv').open('w', newline='') as file:
      writer = csv.DictWriter(file, columns)
      writer.writeheader()
      writer.writerows(rows)
  return text(None)


COMMAND = Command(
  'transfer',
  'evaluate one encoder on many data sets',
  run,
  task='transfer',
  recipe='transfer',
  field='pretrained',
)
