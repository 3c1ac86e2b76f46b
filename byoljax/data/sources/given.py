"""Data sets that a program gave to byoljax: found by a name while the program has them.

A run's config.json has the name, `given:` and the fingerprint of its images. Another process knows
that the images were given, and by whom they have to be given again.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any
import weakref

from byoljax.data.sources import objects, pixels, source
from byoljax.data.sources.source import NoSplitError, Source
from byoljax.suggest import check_name

PREFIX = 'given:'


class Given:
  """The splits of a data set that was given; keep it for as long as its name is to be found.

  Args:
    read: the range of the numbers, see `pixels` -> 'pretrain', 'train' and, where there is one,
      'test'.
    range_: by which its content is first read.

  Attributes:
    name: of the set, in `config.data.name`.
  """

  def __init__(self, read: Callable[[str], Mapping[str, Source]], range_: str):
    self._read = functools.cache(read)
    marks = {split: made.fingerprint for split, made in self.splits(range_).items()}
    self.name = PREFIX + source.fingerprint(sorted(marks.items()))

  def splits(self, range_: str) -> Mapping[str, Source]:
    """The splits with numbers of this range, read once: 'file' is what the types say, as ''."""
    return self._read('' if range_ == pixels.FILE else pixels.check_range(range_))


_GIVEN: weakref.WeakValueDictionary[str, Given] = weakref.WeakValueDictionary()


def give(
  data: Any, labels: Any = None, *, test: Any = None, test_labels: Any = None, range_: str = ''
) -> Given:
  """Makes a data set known by a name.

  Args:
    data: the training images, see `objects.as_source`; or a mapping with 'train' and perhaps a name
      of test images (`_SPLITS`) and 'pretrain', each of them such images: 'pretrain' are all,
      labelled or not.
    labels: of the training images.
    test: the test images.
    test_labels: of the test images.
    range_: which numbers are black and white, see `pixels`.

  Raises:
    ValueError: what cannot be read, or a mapping with something else beside 'train'.
  """
  parts: dict[str, tuple[Any, Any]] = {'train': (data, labels)}
  if isinstance(data, Mapping) and 'train' in data:
    for name in data:
      check_name('split', name, _SPLITS)
    # The first of several names of test images.
    parts = {_SPLITS[name]: (data[name], None) for name in reversed(_SPLITS) if name in data}
    parts['train'] = (data['train'], labels)
  if test is not None:
    parts['test'] = (test, test_labels)

  def read(range_: str) -> Mapping[str, Source]:
    made = {
      split: objects.as_source(*part, name=_NAMES[split], range_=range_)
      for split, part in parts.items()
    }
    return {'pretrain': made['train']} | made

  given = Given(read, range_)
  return _GIVEN.setdefault(given.name, given)


_NAMES = {'pretrain': 'all given images', 'train': 'given images', 'test': 'given test images'}
# Keys of a mapping -> the split that it holds.
_SPLITS = {
  'pretrain': 'pretrain', 'train': 'train',
  'test': 'test', 'validation': 'test', 'valid': 'test', 'val': 'test',
}  # fmt: skip


def find(name: str, split: str, range_: str = '') -> Source:
  """A split of a data set that this process was given.

  Raises:
    NoSplitError: the set has no such split.
    ValueError: this process was given no such set, or no numbers of this range.
  """
  given = _GIVEN.get(name)
  if given is None:
    raise ValueError(
      f"the images '{name}' were given to byoljax by a program and are not on the disk: name data "
      'that are (--data.name and --data.dir), or evaluate from Python with data=...'
    )
  splits = given.splits(range_)
  if split not in splits:
    raise NoSplitError(f'the images that were given have no {split} split: give test=...')
  return splits[split]
