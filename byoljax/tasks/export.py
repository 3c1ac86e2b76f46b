"""A run's encoder as a folder that other libraries read."""

from collections.abc import Callable, Iterator
import contextlib
import os
import pathlib
from typing import TYPE_CHECKING, Any

from byoljax.config import Config, ConfigError, expanded, user_errors
from byoljax.tasks.command import Command
from byoljax.workdir import activity, files
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.encoders.classifier import Classifier


def run(config: Config, invocation: Invocation) -> int:
  """Writes a run's encoder as a folder, or a classifier with its own; see `configs/export.py`."""
  folder = write(config.pretrained, config.network, invocation.workdir)
  tell(folder)
  return 0


def write(pretrained: str, network: str, to: str | pathlib.Path = '') -> pathlib.Path:
  """Writes the folder and returns it.

  Args:
    pretrained: a run, one of its checkpoints, or a classifier.
    network: of a run, 'online' or 'target'.
    to: the folder; '' for `export` in the run.

  Raises:
    ConfigError: nothing to load there, or the folder is not empty.
  """
  from byoljax.encoders import classifier, dense, detector, load
  from byoljax.weights import exporting

  given = expanded(pretrained)
  if pretrained and classifier.is_one(given):
    require_usual_network(network, f"'{pretrained}' is a classifier")
    return _classifier(classifier.load(given), pathlib.Path(to or given / 'export'))
  if pretrained and not (given / 'checkpoints').is_dir():
    for kind in (dense, detector):
      if kind.every(given) or (given / kind.FILE).is_file():
        raise ConfigError(
          f"'{pretrained}' was made by `byoljax segment`, `depth` or `detect`: `byoljax predict` "
          'and Python use it as it is, and export takes a run or a classifier.'
        )
  encoder, source, directory = load.load_encoder(pretrained, network)
  home = directory.parent.parent
  folder = pathlib.Path(to or home / 'export')
  about = {
    'method': source.get('method', {}).get('name', 'another library'),
    'data': source.data.name,
    'network': network,
    'step': int(directory.name),
    # The final table is that of the online network.
    'results': _results(home, int(directory.name)) if network == 'online' else {},
  }
  with _filling(folder) as made:
    exporting.write(encoder, made, about)
    _add_onnx(lambda: exporting.write_onnx(encoder, made))
  return folder


def require_usual_network(network: str, what: str) -> None:
  """Raises ConfigError for another network of something that has one only."""
  if network != 'online':
    raise ConfigError(f'--network={network}, but {what} and has one network: leave it out.')


def _classifier(made: 'Classifier', folder: pathlib.Path) -> pathlib.Path:
  from byoljax.weights import exporting, exporting_classifier

  with _filling(folder) as scratch:
    exporting.write(made.encoder, scratch, about_encoder_of(made))
    exporting_classifier.write(made, scratch)
    _add_onnx(
      lambda: exporting.write_onnx(made.encoder, scratch),
      lambda: exporting_classifier.write_onnx(made, scratch),
    )
  return folder


@contextlib.contextmanager
def _filling(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """The folder to fill; none is there before all of it is."""
  doing = activity.doing('compiling for every platform and writing')
  with user_errors('--workdir'), doing, files.whole_folder(folder) as scratch:
    yield scratch


def about_encoder_of(made: 'Classifier') -> dict[str, Any]:
  """What the card says of a classifier's encoder, which may be of no run."""
  config, step = made.origin.run['config'], pathlib.PurePath(made.protocol['from']).name
  return {
    'method': config.get('method', {}).get('name', 'another library'),
    'data': config.get('data', {}).get('name', 'images that are not known'),
    'network': made.origin.network,
    'step': int(step) if step.isdecimal() else 0,
    'results': {},
  }


def _add_onnx(*writers: Callable[[], None]) -> None:
  """Writes ONNX where that can be done, else says why not: the folder is whole without."""
  try:
    for write_onnx in writers:
      write_onnx()
  except ValueError as error:
    say(f'no ONNX: {error}')


def tell(folder: pathlib.Path) -> None:
  """Says which files there are."""
  for path in sorted(folder.iterdir()):
    say(f'{os.path.getsize(path):>12,} bytes  {path}')


def _results(run: pathlib.Path, step: int) -> dict[str, Any]:
  """The final table of a run if it is of this step, without what depends on this machine."""
  from byoljax.report import evaluations

  final = evaluations.final(run)
  if final.step not in (None, step):
    return {}
  try:
    return {
      name: {
        kind: {score: each[kind][score] for score in ('top1', 'mean_per_class')}
        for kind in ('knn', 'linear')
      }
      for name, each in final.results.items()
    }
  except (KeyError, TypeError):
    return {}


COMMAND = Command(
  'export',
  'write an encoder or a classifier for other libraries',
  run,
  task='export',
  recipe='export',
  field='pretrained',
  workdir='RUN/export',
)
