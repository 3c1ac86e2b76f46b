"""`byoljax.classify`: `byoljax classify` from a program, and the classifier as an object."""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import functools
import html
import json
import numbers
import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from byoljax.api import session
from byoljax.api.saved_run import SavedRun
from byoljax.config import ConfigError, expanded, path_of, user_errors
from byoljax.report.table import html_table
from byoljax.tasks import classify as task
from byoljax.tasks.partly_labelled import PartlyLabelled, open_images
from byoljax.workdir.run_dir import Invocation

if TYPE_CHECKING:
  from byoljax.data.sources.source import Source
  from byoljax.encoders.classifier import Classifier

# What each column of `scores` is in result.json.
_SCORES = {
  'top-1': 'top1', 'balanced': 'mean_per_class', 'largest class': 'majority',
  'calibration error': 'ece', 'cross-entropy': 'cross_entropy',
}  # fmt: skip


class SavedClassifier:
  """A classifier in its directory, with what it scored and what it said of images without a label.

  Args:
    directory: that `byoljax.classify` or an evaluation left.
    module: the encoder's module, where it is none that can be imported.

  Attributes:
    directory: see above.
  """

  def __init__(self, directory: str | pathlib.Path, module: Any = None):
    self.directory = pathlib.Path(directory)
    self._module = module

  def __repr__(self) -> str:
    return f"<classifier of {len(self.classes)} classes in '{self.directory}'>"

  @functools.cached_property
  def classifier(self) -> 'Classifier':
    """Network, readout and classes as one pure function of images; see `encoders.classifier`."""
    from byoljax.encoders import classifier

    return classifier.load(self.directory, module=self._module)

  @property
  def classes(self) -> tuple[str, ...]:
    """The C names, in the order of the probabilities."""
    return self.classifier.classes

  def predict(self, images: Any) -> np.ndarray:
    """Probabilities of new images, float64 [n, C]; a row of NaN where one cannot be read.

    Args:
      images: a folder, a file, an `.npz`; or an array, a list of files or a data set, as for
        `byoljax.pretrain`, of any size: the center square of 7/8 of the shorter side is resized to
        the encoder's size, as in evaluations; images of that size stay as they are.

    Raises:
      ConfigError: a ValueError of one sentence: no such images.
    """
    from byoljax.data.sources import objects
    from byoljax.protocols import prediction
    from byoljax.tasks import predict

    with user_errors('images'):
      if isinstance(images, str | os.PathLike):
        source = predict.open_images(os.fspath(images), self.classifier.encoder.preprocessing)
      else:
        range_ = self.classifier.encoder.preprocessing.range
        source = objects.as_source(images, range_=range_)
      found = prediction.predict(self.classifier, source)
    chances = np.full((source.size, len(self.classes)), np.nan)
    chances[found.index] = found.chances
    return chances

  def __call__(self, images: Any) -> list[str]:
    """The likeliest class of each image, '' of one that cannot be read; see `predict`."""
    return [
      '' if np.isnan(row).any() else self.classes[int(row.argmax())] for row in self.predict(images)
    ]

  @property
  def result(self) -> dict[str, Any]:
    """All scores with their protocol: the same as in `result.json`."""
    return json.loads((self.directory / 'result.json').read_text())['result']

  @property
  def scores(self) -> list[dict[str, Any]]:
    """A row for each head that was tried, for `pandas.DataFrame(made.scores)`."""
    result = self.result
    calibration = result.get('calibration', {})
    heads = result.get('heads') or {'finetune': result | {'ece': calibration.get('ece')}}
    taken = result.get('head', 'finetune')
    return [
      {'head': name}
      | {title: each.get(key) for title, key in _SCORES.items()}
      | {'taken': name == taken}
      for name, each in heads.items()
    ]

  @property
  def answers(self) -> list[dict[str, str]]:
    """A row for each image without a label, as in `predictions.csv`; [] where all had one."""
    path = self.directory / 'predictions.csv'
    if not path.is_file():
      return []
    with path.open(encoding='utf-8', newline='') as file:
      return list(csv.DictReader(file))

  def _repr_html_(self) -> str:
    """What notebooks show: the scores."""
    rows = [{name: _shown(name, value) for name, value in row.items()} for row in self.scores]
    return f'<b>{html.escape(", ".join(self.classes))}</b>{html_table(rows)}'


def _shown(name: str, value: Any) -> str:
  if value is None:
    return '–'
  form = '.3f' if name == 'cross-entropy' else '.1%'
  return f'{value:{form}}' if isinstance(value, float) else str(value)


def classify(
  images: Any,
  labels: Any = None,
  *,
  from_: Any,
  test: Any = None,
  test_labels: Any = None,
  head: str = 'auto',
  network: str = 'online',
  workdir: str | pathlib.Path = '',
  settings: Mapping[str, Any] | None = None,
) -> SavedClassifier:
  """Makes a classifier from labelled images and answers about those that have no label.

  It leaves the same directory as `byoljax classify`, for `byoljax predict` and `byoljax export`.

  Args:
    images: a folder or an `.npz` file; or an array, a list of files or a data set, as for
      `byoljax.pretrain`.
    labels: of a folder a table, a folder of class folders, or {file: class}; of an object one for
      each image: whole numbers, of any type, or names; '', None, NaN and the number -1 are none.
      None where the images have them.
    from_: whose encoder to use: a run, its directory or one of its checkpoints, or an encoder.
    test: labelled images to test on, of an object; without any, it is cross-validated.
    test_labels: of these.
    head: 'logistic', 'knn' or 'auto', the better one, on frozen features; or 'finetune'.
    network: 'online' or 'target', of a run.
    workdir: where it goes; '' is evals/classify-... of the run.
    settings: dotted field of the recipe `classify` -> value.

  Raises:
    ConfigError: a ValueError of one sentence: whatever is wrong with the arguments, before anything
      is written.
  """
  workdir = path_of('workdir', workdir)
  with session.working('classify: working'):
    named = not isinstance(from_, str | os.PathLike | SavedRun)
    run = from_.directory if isinstance(from_, SavedRun) else from_
    fields = {'from': '' if named else path_of('from_', run), 'head': head, 'network': network}
    from byoljax.tasks import COMMANDS

    config, path = session.evaluation(COMMANDS['classify'], '', fields, settings)
    task.check(config)
    given = _given(config, from_) if named else task.encoder_of(config)
    with user_errors('images'):
      if isinstance(images, str | os.PathLike):
        if test is not None or test_labels is not None:
          raise ConfigError('test images of a folder or an .npz file are those of its test split.')
        config.data.dir, home, parts = _of_files(config, images, labels, given, workdir)
      else:
        range_ = given.encoder.preprocessing.range
        parts = _of_objects(images, labels, test, test_labels, range_)
        mark = parts.train.fingerprint[:12]
        home = pathlib.Path(workdir or task.default_home(config, given, None, f'given-{mark}'))
    task.make(config.lock(), Invocation(path, workdir), given, parts, home)
  return SavedClassifier(home, task.own_module(given))


def _given(config: Any, encoder: Any) -> task.Given:
  """An encoder that is no run."""
  from byoljax.encoders.encoder import EMBEDDING, Encoder

  if not isinstance(encoder, Encoder):
    raise ConfigError(
      f'from_ of type {type(encoder).__name__} is no encoder: give a run, its directory, or what '
      'byoljax.load returns.'
    )
  if encoder.tap != EMBEDDING or config.head == task.FINETUNE:
    raise ConfigError('from_ must be a run, not its encoder, for another tap or for fine-tuning.')
  size = config.image_size or encoder.preprocessing.image_size
  run = {'config': {'encoder': dict(encoder.fields)}, 'facts': {}}
  return task.Given(encoder, size, None, run)


def _of_files(
  config: Any, images: Any, labels: Any, given: task.Given, workdir: str | pathlib.Path
) -> tuple[str, pathlib.Path, PartlyLabelled]:
  """`config.data.dir`, the directory to write, and the images."""
  from byoljax.tasks import data as data_lib

  config.data.dir = os.fspath(images)
  photos = expanded(images)
  home = pathlib.Path(workdir or task.default_home(config, given, photos))
  if photos.is_dir():
    data_lib.require_outside(home, photos)
  if isinstance(labels, Mapping):
    named = {os.fspath(file): _name(each) for file, each in labels.items() if not _is_none(each)}
    range_ = given.encoder.preprocessing.range
    return config.data.dir, home, open_images(config, home, named, range_=range_)
  if labels is not None and not isinstance(labels, str | os.PathLike):
    raise ConfigError(
      "labels of a folder are a table, a folder of class folders, or {'holiday.jpg': 'beach'}."
    )
  config.labels = os.fspath(labels or '')
  return config.data.dir, home, open_images(config, home, range_=given.encoder.preprocessing.range)


def _of_objects(
  images: Any, labels: Any, test: Any, test_labels: Any, range_: str
) -> PartlyLabelled:
  from byoljax.data.sources import objects

  session.require_test(test, test_labels)
  names: tuple[str, ...] = ()
  labels = _whole_numbers(labels)
  if labels is None or _are_numbers(labels):
    test_labels = _whole_numbers(test_labels)
  else:
    names = tuple(sorted({_name(name) for name in labels if not _is_none(name)}))
    labels = _numbers(labels, names)
    if test_labels is not None:
      test_labels = _numbers(test_labels, names)
  source = objects.as_source(images, labels, name='given images', range_=range_)
  held = None
  if test is not None:
    held = objects.as_source(test, test_labels, name='given test images', range_=range_)
  if source.labels is None or source.num_classes < 2:
    raise ConfigError('the images have no labels of two classes at least: give labels=...')
  if names:
    source = _with_names(source, names)
    held = None if held is None else _with_names(held, names)
  _check_test(source, held)
  rest = np.flatnonzero(np.asarray(source.labels).reshape(source.size, -1).max(1) < 0)
  if not len(rest):
    return PartlyLabelled(source, held, None, source.name)
  known = np.setdiff1d(np.arange(source.size), rest)
  return PartlyLabelled(source.subset(known), held, source.subset(rest), source.name)


def _check_test(source: 'Source', held: 'Source | None') -> None:
  """Raises ConfigError where test images have no labels, or other classes."""
  if held is None:
    return
  if not held.num_classes:
    raise ConfigError('the test images have no labels: give test_labels=...')
  if held.class_names != source.class_names[: held.num_classes]:
    raise ConfigError(
      f'the test images have the classes {", ".join(held.class_names)}, the labelled images '
      f'{", ".join(source.class_names)}: they must be the same.'
    )


def _with_names(made: 'Source', names: tuple[str, ...]) -> 'Source':
  return dataclasses.replace(made, num_classes=len(names), class_names=names)


def _are_numbers(labels: Any) -> bool:
  return np.asarray(labels).dtype.kind in 'iu'


def _whole_numbers(labels: Any) -> Any:
  """Numbers of classes as int32 [N], -1 for none, whatever their type; names as they are."""
  if labels is None or _are_numbers(labels):
    return labels
  found = [-1 if _is_none(label) else label for label in labels]
  return np.array(found, np.int32) if all(map(_is_whole, found)) else labels


def _is_whole(label: Any) -> bool:
  number = isinstance(label, numbers.Real) and not isinstance(label, bool)
  return number and float(label).is_integer() and abs(float(label)) < 2**31


def _numbers(labels: Sequence[Any], names: tuple[str, ...]) -> np.ndarray:
  place = {name: at for at, name in enumerate(names)}
  unknown = [name for name in labels if not _is_none(name) and _name(name) not in place]
  if unknown:
    raise ConfigError(f"the test images' class '{unknown[0]}' is none of the labelled images'.")
  return np.array([-1 if _is_none(name) else place[_name(name)] for name in labels], np.int32)


def _name(label: Any) -> str:
  return label.decode(errors='replace') if isinstance(label, bytes) else str(label)


def _is_none(name: Any) -> bool:
  """Whether this is no label: '', None or -1, or NaN, as pandas has it."""
  if isinstance(name, str | bytes):
    return not name
  return name is None or str(name) in ('nan', '<NA>', '-1', '-1.0')
