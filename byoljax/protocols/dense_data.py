"""Images with a truth at every pixel: opened, and looked through for classes and mean depth."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from byoljax import streams
from byoljax.config import ConfigError, user_errors
from byoljax.data.batches import whole
from byoljax.data.fields import Field
from byoljax.data.sources import datasets
from byoljax.data.sources.source import NoSplitError, Source
from byoljax.encoders.dense import SEGMENTATION
from byoljax.protocols import extraction, training
from byoljax.protocols.dense_protocol import DenseData
from byoljax.protocols.extraction import EvalData
from byoljax.workdir import activity
from byoljax.workdir.run_dir import say

IGNORED = 255
HELD_OUT = 0.2
_MOST_CLASSES = 1000
_DEPTHS_OF = 200  # images


def open_data(
  kind: str,
  name: str,
  directory: str,
  *,
  field: str = '',
  classes: Sequence[str] = (),
  images: int = 0,
  seed: int = 0,
  range_: str = '',
  unreadable_log: Any = None,
  **reading: Any,
) -> DenseData:
  """Training and test images of a data set with their masks or depths.

  Args:
    kind: 'segmentation' or 'depth'.
    name: of the data set, see `datasets`.
    directory: see `datasets.load`.
    field: that holds the truth; '' for the set's usual one.
    classes: their names in the order of their numbers; () for the set's own, or as many as the
      training masks have, 255 being no label.
    images: so many of the training images, at random; 0 for all.
    seed: draws them.
    range_: which numbers are black and white, see `data.sources.pixels`.
    unreadable_log: see `datasets.load`.
    reading: `image_size` (side of the crops), `mean`, `std`, `batch_size` (of whole images),
      `threads` and `resident` of `EvalData`.

  Raises:
    ConfigError: no such data, field or split, or masks that do not number classes.
  """
  with user_errors():
    known = datasets.facts(name)
    usual = known.mask if kind == SEGMENTATION else known.depth
    if not (field or usual):
      what = 'masks of classes' if kind == SEGMENTATION else 'depths'
      raise ConfigError(f'{name} has no {what}; --data.field names them where another set does.')
    field = field or usual
    wanted = Field(field, 'mask') if kind == SEGMENTATION else Field(field, 'map', 0, 'nearest')

    def load(split: str) -> Source:
      return datasets.load(
        name,
        split,
        data_dir=directory,
        fields=(wanted,),
        unreadable_log=unreadable_log,
        range_=range_,
      )

    train = load('train')
    try:
      test, rest = load('test'), train
    except NoSplitError:
      test, rest = training.hold_out(train, HELD_OUT, 0)
      say(f'{train.name} has no test split: {test.size} of its images, at random, are held out.')
    for source in (train, test):
      if source.field(field).channels != 1:
        raise ConfigError(
          f'the field {field!r} of {source.name} has {source.field(field).channels} channels, but '
          'a mask or a depth is one number a pixel: store masks as palette or gray images.'
        )
  if images:
    if not 0 < images <= rest.size:
      raise ConfigError(f'images={images}: there are 1 to {rest.size} training images; 0 for all.')
    order = np.random.default_rng((seed, streams.LABEL_SUBSET)).permutation(rest.size)
    rest = rest.subset(np.sort(order[:images]))
  size = extraction.fit_to_devices(min(reading.pop('batch_size'), test.size))
  data = EvalData(rest, test, batch_size=size, has_test=True, **reading)
  if kind != SEGMENTATION:
    return DenseData(data, field, (), mean_depth(rest, field))
  names = tuple(classes) or (known.mask_classes if field == known.mask else ())
  return DenseData(data, field, names or numbered(train, field))


def numbered(source: Source, field: str) -> tuple[str, ...]:
  """Classes by their numbers, as many as the masks of a source have, 255 not counted.

  Raises:
    ConfigError: numbers that are none of classes.
  """
  largest = -1
  for masks in _values(source, field, 'classes'):
    known = masks[masks != IGNORED]
    largest = max(largest, int(known.max()) if known.size else -1)
  if not 1 <= largest < _MOST_CLASSES:
    raise ConfigError(
      f'the masks {field!r} of {source.name} go up to {largest}: they must number the classes from '
      f'0, of which there are 2 to {_MOST_CLASSES:,}; {IGNORED} is no label.'
    )
  return tuple(map(str, range(largest + 1)))


def mean_depth(source: Source, field: str) -> float:
  """The mean over the known depths of some images, drawn with a fixed seed.

  Raises:
    ConfigError: none is known.
  """
  order = np.random.default_rng((0, streams.STATISTICS)).permutation(source.size)[:_DEPTHS_OF]
  total, count = 0.0, 0
  for depths in _values(source.subset(np.sort(order)), field, 'depths'):
    known = depths[np.isfinite(depths) & (depths > 0)].astype(np.float64)
    total, count = total + float(known.sum()), count + known.size
  if not count:
    raise ConfigError(f'the field {field!r} of {source.name} has no depth above 0 in {len(order)} '
                      'images: 0, negative and infinite ones are unknown.')  # fmt: skip
  return total / count


def _values(source: Source, field: str, what: str) -> Any:
  """The numbers of every image's field, one array an image."""
  with user_errors():
    groups = whole.groups(source, multiple=64)
    batches = whole.whole_batches(source, groups, batch_size=8, fields=(field,))
    label = f'{what} of {source.name}'
    for batch in activity.counted(batches, label, source.size, activity.rows, 'images'):
      for row in np.flatnonzero(batch['valid']):
        yield batch[field][row][batch['inside'][row]]
