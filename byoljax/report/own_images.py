"""A run's own images, as its report shows them, and whether they are still those.

A run records where its images lie and what they are. From another folder a relative path leads to
others, and files change.
"""

from collections.abc import Sequence
import pathlib
from typing import NamedTuple

from byoljax.config import Config, ConfigError, expanded, user_errors
from byoljax.data import fields
from byoljax.data.fields import Field
from byoljax.data.sources import datasets
from byoljax.data.sources.source import Source
from byoljax.devices import hosts
from byoljax.protocols import labelled
from byoljax.workdir import run_dir


class Images(NamedTuple):
  """What neighbors are looked for in, and for.

  Attributes:
    bank: the training images.
    queries: the test images, or the training images again.
  """

  bank: Source
  queries: Source


def find(run: pathlib.Path, config: Config) -> tuple[Images | None, str]:
  """The images of a run, None where they are not there; and what is wrong with them, or ''."""
  data, found, wrong = config.data, None, ''
  fix = 'put them back there'
  if data.dir and not expanded(data.dir).is_absolute():
    fix = 'call byoljax in the folder where the run was started'
  try:
    shown = load(config)
    if run_dir.data_fingerprint(run) not in ('', _trained_on(config).fingerprint):
      wrong = f"There are other images in data.dir='{data.dir}' than the run was trained on"
      wrong += f': {fix} to see those.' if data.dir else '.'
    found = shown
  except ConfigError as error:
    wrong = f'No images are shown: {error}'
    if data.dir:
      wrong = f'{wrong.rstrip(".")}; {fix} to see them.'
  return (found if hosts.all_agree(found is not None) else None), wrong


def load(config: Config, further: Sequence[Field] = ()) -> Images:
  """The images that a configuration names, with further fields.

  Of several labels an image none is shown: nothing here votes or colors by more than one.

  Raises:
    ConfigError: they are not there.
  """
  with user_errors():
    try:
      found = split(config, 'train', further), split(config, 'test', further)
    except ValueError:
      found = (split(config, 'pretrain', further),) * 2
  return Images(*(each.without_labels() if each.multi_label else each for each in found))


def split(config: Config, name: str, further: Sequence[Field] = ()) -> Source:
  """A split of the data that a configuration names; see `datasets.load`."""
  data = config.data
  return datasets.load(
    data.name, name, data_dir=data.dir, fields=further, frame_gap=data.frame_gap, range_=data.range
  )


def _trained_on(config: Config) -> Source:
  data = config.data
  with user_errors():
    every = split(config, 'pretrain', fields.parsed(data.fields))
    return labelled.trained_on(every, data.classes, data.unlabelled, data.labels, data.split_seed)
