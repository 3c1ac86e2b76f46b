"""Images of which some have a label: a table or folders say which class, see docs/predict.md."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from byoljax.config import Config, ConfigError, expanded, user_errors

if TYPE_CHECKING:
  from byoljax.data.sources.source import Source, UnreadableLog


class PartlyLabelled(NamedTuple):
  """What a classifier is made from, and what it answers about.

  Attributes:
    train: labelled images.
    test: labelled images to test on, or None.
    rest: images without a label, or None.
    root: the folder that they lie in, or what to call them.
  """

  train: 'Source'
  test: 'Source | None'
  rest: 'Source | None'
  root: str


def open_images(
  config: Config,
  home: pathlib.Path,
  table: Mapping[str, str] | None = None,
  *,
  range_: str = '',
) -> PartlyLabelled:
  """The images of `config.data.dir` and their labels; what cannot be read is listed in `home`.

  Args:
    config: of the task.
    home: the directory that is written.
    table: {file: class}, in place of the one that `config.labels` names.
    range_: which numbers are black and white, see `data.sources.pixels`.

  Raises:
    ConfigError: no images or labels, or labels of images that are not there.
  """
  from byoljax.data.sources import datasets, folder, label_table
  from byoljax.data.sources.source import NoSplitError, UnreadableLog

  photos, labels = expanded(config.data.dir), config.labels
  log = UnreadableLog(home / 'unreadable.txt')
  if photos.suffix != '.npz' and not photos.is_dir():
    hint = f'; a table of labels is --labels={photos}' if photos.suffix == '.csv' else ''
    raise ConfigError(f"'{config.data.dir}' is neither a folder of images nor an .npz file{hint}.")
  with user_errors():
    if table is None and labels and expanded(labels).is_file():
      table = label_table.read_labels(labels)
    if table is not None:
      labels = labels or 'labels'
      files = folder.every_image(photos)
      known = label_table.matched(photos, files, table, labels)
      own = [file for file in files if file in known]
      others = [file for file in files if file not in known]
      if len(set(known.values())) < 2:
        raise ConfigError(f"'{labels}' names fewer than two classes: nothing can be told apart.")
      train = _files(photos, own, [known[file] for file in own], log, range_=range_)
      rest = _files(photos, others, range_=range_) if others else None
      return PartlyLabelled(train, None, rest, str(photos.resolve()))
    if labels and not expanded(labels).is_dir():
      raise ConfigError(f"labels='{labels}' is neither a table of labels nor a folder.")
    where = labels or str(photos)
    kind = 'npz' if where.endswith('.npz') else 'folder'
    train = datasets.load(kind, 'train', data_dir=where, unreadable_log=log.path, range_=range_)
    if train.num_classes < 2:
      raise ConfigError(
        f"'{where}' has no labels: give --labels=labels.csv with a file and its class in each "
        'line, or put every image into a folder of its class, two classes at least.'
      )
    try:
      test = datasets.load(kind, 'test', data_dir=where, unreadable_log=log.path, range_=range_)
    except NoSplitError:
      test = None
    rest = _others(photos, pathlib.Path(where), range_) if labels else None
    if kind == 'folder' and not labels:
      every = datasets.load(
        kind, 'pretrain', data_dir=where, unreadable_log=log.path, range_=range_
      )
      rest = _unlabelled(every)
    if test is not None and not test.num_classes:
      test = None
    return PartlyLabelled(train, test, rest, str(photos.resolve()))


def _unlabelled(source: 'Source') -> 'Source | None':
  """The images without a label among others with some."""
  labels = source.labels
  if labels is None or (labels >= 0).all():
    return None
  return source.subset(np.flatnonzero(labels < 0))


def _others(photos: pathlib.Path, labelled: pathlib.Path, range_: str) -> 'Source | None':
  """The images of a folder that do not lie in the folder with the labelled ones."""
  from byoljax.data.sources import folder

  inside = expanded(labelled).resolve()
  files = [
    file
    for file in folder.every_image(photos)
    if not (photos / file).resolve().is_relative_to(inside)
  ]
  return _files(photos, files, range_=range_) if files else None


def _files(
  root: pathlib.Path,
  files: Sequence[str],
  classes: Sequence[str] | None = None,
  log: 'UnreadableLog | None' = None,
  range_: str = '',
) -> 'Source':
  """Files of a folder, with the names of their classes."""
  from byoljax.data.sources import listed
  from byoljax.data.sources.label_values import number_labels

  labels, names = (None, ()) if classes is None else number_labels(classes, root.name)
  paths = [root / file for file in files]
  return listed.from_files(
    paths, labels, name=root.name, class_names=names, unreadable=log, range_=range_
  )
