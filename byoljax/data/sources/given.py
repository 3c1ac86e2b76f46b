"""Data sets that a program gave to byoljax: found by a name while the program has them.

A run's config.json has the name, `given:` and the fingerprint of its images. Another process knows
that the images were given, and by whom they have to be given again.
"""

from collections.abc import Mapping
from typing import Any
import weakref

from byoljax.data.sources import objects, source
from byoljax.data.sources.source import NoSplitError, Source

PREFIX = 'given:'


class Given:
  """The splits of a data set that was given; keep it for as long as its name is to be found.

  Attributes:
    name: of the set, in `config.data.name`.
    splits: 'pretrain', 'train' and, where there is one, 'test'.
  """

  def __init__(self, splits: Mapping[str, Source]):
    self.splits = dict(splits)
    marks = {split: made.fingerprint for split, made in self.splits.items()}
    self.name = PREFIX + source.fingerprint(sorted(marks.items()))


_GIVEN: weakref.WeakValueDictionary[str, Given] = weakref.WeakValueDictionary()


def give(data: Any, labels: Any = None, *, test: Any = None, test_labels: Any = None) -> Given:
  """Makes a data set known by a name.

  Args:
    data: the training images, see `objects.as_source`; or a mapping with 'train' and perhaps 'test'
      and 'pretrain', each of them such images: 'pretrain' are all, labelled or not.
    labels: of the training images.
    test: the test images.
    test_labels: of the test images.

  Raises:
    ValueError: what cannot be read.
  """
  parts: dict[str, tuple[Any, Any]] = {'train': (data, labels)}
  if isinstance(data, Mapping) and 'train' in data:
    own = {'train': labels}
    parts = {name: (value, own.get(name)) for name, value in data.items() if name in _NAMES}
    if 'test' not in parts and 'validation' in data:
      parts['test'] = (data['validation'], None)
  if test is not None:
    parts['test'] = (test, test_labels)
  made = {split: objects.as_source(*part, name=_NAMES[split]) for split, part in parts.items()}
  given = Given({'pretrain': made['train']} | made)
  return _GIVEN.setdefault(given.name, given)


_NAMES = {'pretrain': 'all given images', 'train': 'given images', 'test': 'given test images'}


def find(name: str, split: str) -> Source:
  """A split of a data set that this process was given.

  Raises:
    NoSplitError: the set has no such split.
    ValueError: this process was given no such set.
  """
  given = _GIVEN.get(name)
  if given is None:
    raise ValueError(
      f"the images '{name}' were given to byoljax by a program and are not on the disk: name data "
      'that are (--data.name and --data.dir), or evaluate from Python with data=...'
    )
  if split not in given.splits:
    raise NoSplitError(f'the images that were given have no {split} split: give test=...')
  return given.splits[split]
