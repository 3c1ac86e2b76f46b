"""Images with a truth at every pixel: opened, and looked through for classes and mean depth."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from byoljax import streams
from byoljax.config import ConfigError, user_errors
from byoljax.data.batches import whole
from byoljax.data.fields import Field
from byoljax.data.sources import datasets, field_file, image_file
from byoljax.data.sources.source import NoSplitError, Source
from byoljax.encoders.dense import SEGMENTATION
from byoljax.protocols import extraction, training
from byoljax.protocols.dense_protocol import DenseData
from byoljax.protocols.extraction import EvalData
from byoljax.wording import counted
from byoljax.workdir import activity
from byoljax.workdir.run_dir import say

IGNORED = 255
HELD_OUT = 0.2
_MOST_CLASSES = 1000
_DEPTHS_OF = 200  # images
_READ_AT_ONCE = 64


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
      masks have, 255 being no label.
    images: so many of the training images, at random; 0 for all.
    seed: draws them.
    range_: which numbers are black and white, see `data.sources.pixels`.
    unreadable_log: see `datasets.load`.
    reading: `image_size` (side of the crops), `mean`, `std`, `batch_size` (of whole images),
      `threads` and `resident` of `EvalData`.

  Raises:
    ConfigError: no such data, field or split, masks that do not number classes or have more of them
      than names, or test images without a pixel that is known.
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
  names: tuple[str, ...] = ()
  if kind == SEGMENTATION:
    names = tuple(classes) or (known.mask_classes if field == known.mask else ())
    names = numbered((rest, test), field, names)
  if images:
    if not 0 < images <= rest.size:
      raise ConfigError(f'images={images}: there are 1 to {rest.size} training images; 0 for all.')
    order = np.random.default_rng((seed, streams.LABEL_SUBSET)).permutation(rest.size)
    rest = rest.subset(np.sort(order[:images]))
  size = extraction.fit_to_devices(min(reading.pop('batch_size'), test.size))
  data = EvalData(rest, test, batch_size=size, has_test=True, **reading)
  if kind == SEGMENTATION:
    return DenseData(data, field, names)
  mean = mean_depth(rest, field)
  if not any(_known(depths).any() for depths in _values(test, field, 'depths')):
    raise ConfigError(f'no depth {field!r} of the test images of {test.name} is above 0: there '
                      'is nothing to test on.')  # fmt: skip
  return DenseData(data, field, (), mean)


def numbered(sources: Sequence[Source], field: str, names: tuple[str, ...] = ()) -> tuple[str, ...]:
  """The names of the classes; (): their numbers, as many as the masks of all have but for 255.

  Raises:
    ConfigError: numbers that are none of classes, or of more classes than there are names; or a
      source without any label.
  """
  largest = -1
  for source in sources:
    own = -1
    for masks in _values(source, field, 'classes'):
      known = masks[masks != IGNORED]
      own = max(own, int(known.max()) if known.size else -1)
    if own < 0:
      raise ConfigError(
        f'the masks {field!r} of {source.name} have no label in any of its '
        f'{counted(source.size, "image")}: they must number the classes from 0; {IGNORED} '
        'is no label.'
      )
    if names and own >= len(names):
      raise ConfigError(
        f'the masks {field!r} of {source.name} number classes up to {own}, but {len(names)} have a '
        f'name, from 0: name every class, and give pixels of no class the number {IGNORED}.'
      )
    largest = max(largest, own)
  if names:
    return names
  if not 1 <= largest < _MOST_CLASSES:
    raise ConfigError(
      f'the masks {field!r} of {sources[0].name} go up to {largest}: they must number the classes '
      f'from 0, of which there are 2 to {_MOST_CLASSES:,}; {IGNORED} is no label.'
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
    known = depths[_known(depths)].astype(np.float64)
    total, count = total + float(known.sum()), count + known.size
  if not count:
    raise ConfigError(f'the field {field!r} of {source.name} has no depth above 0 in {len(order)} '
                      'images: 0, negative and infinite ones are unknown.')  # fmt: skip
  return total / count


def _known(depths: np.ndarray) -> np.ndarray:
  return np.isfinite(depths) & (depths > 0)


def _values(source: Source, field: str, what: str) -> Iterator[np.ndarray]:
  """The numbers of every image's field, one array [H, W, C] an image; images are not decoded."""
  found = source.field(field)

  def batches() -> Iterator[list[np.ndarray]]:
    for group in whole.groups(source, multiple=1):
      for start in range(0, len(group.index), _READ_AT_ONCE):
        rows = group.index[start : start + _READ_AT_ONCE]
        (values,) = source.read(rows, (field,))
        made = list[np.ndarray]()
        for row, value in zip(rows, values, strict=True):
          try:
            size = group.height, group.width
            made.append(field_file.decode(found, value, size) if source.encoded else value)
          except image_file.UnreadableImageError as error:
            source.unreadable.add(source.locate(int(row)), str(error))
        yield made

  with user_errors():
    label = f'{what} of {source.name}'
    for made in activity.counted(batches(), label, source.size, len, 'images'):
      yield from made
