"""Which images have labels: '1 %', '10 per class', '100 %', '250' in all, or a file of names.

A part is stratified and a function of the labels and a seed alone, so a result can be repeated and
two runs compare on the same images.
"""

from collections.abc import Sequence
import os
import pathlib
import re

import numpy as np

from byoljax import streams
from byoljax.config import ConfigError, expanded
from byoljax.data.sources import datasets
from byoljax.data.sources.joined import join
from byoljax.data.sources.source import Source
from byoljax.evals import frozen
from byoljax.wording import counted


def part(source: Source, text: str, seed: int) -> Source:
  """The labelled images that `text` stands for, as a source of their own.

  Args:
    source: labelled images; those without a label are never chosen.
    text: '1 %' of every class (rounded, at least one image), '10 per class', '250' for so many in
      all, equally many of each class, or the path of a file with a file name or an example's number
      in each line. Folders before a name, of any root, tell images of one name apart, and the last
      one must be the image's own.
    seed: draws the part; unused by files and by '100 %'.

  Raises:
    ConfigError: none of these, more images than there are, or names that are not there or of
      several images.
  """
  return source.subset(positions(source, text, seed))


def trained_on(
  source: Source, classes: Sequence[int], unlabelled: str, labels: str, split_seed: int
) -> Source:
  """What a run learns from: of all images to pretrain on, what its fields `data` make of them.

  Args:
    source: the split 'pretrain'.
    classes: those that are kept; () for all.
    unlabelled: more images, see `datasets.with_unlabelled`; '' for none.
    labels: see `two_streams`; '' for one stream.
    split_seed: draws the images whose label is known.

  Raises:
    ValueError: the images do not have what is asked of them.
  """
  source = source.of_classes(classes)
  if unlabelled:
    source = datasets.with_unlabelled(source, unlabelled)
  return two_streams(source, labels, split_seed) if labels else source


def two_streams(source: Source, labels: str, split_seed: int) -> Source:
  """The images whose label is to be known, and after them all as if none had one.

  Raises:
    ConfigError: there are no labels, or `labels` is not about them.
  """
  if source.num_classes < 2:
    raise ConfigError(
      f"data.labels='{labels}' chooses labelled images, but those of {source.name} have no label."
    )
  known, _ = told(source, labels, split_seed)
  name = f'{source.name}: {known.size:,} with their label, and {source.size:,} without'
  return join([known, source.without_labels()], name)


def told(
  source: Source, text: str, seed: int, classes: Sequence[int] = ()
) -> tuple[Source, np.ndarray]:
  """The images whose label a run is told, and where in the source they are, int [n].

  `part` of those that have a label, and are of `classes` where some are named; the source may hold
  others, as data to pretrain on and those to evaluate on differ in.
  """
  known = source.of_classes(classes).labelled()
  chosen = positions(known, text, seed)
  if known is source:
    return known.subset(chosen), chosen
  labels = source.labels
  assert labels is not None
  where = np.flatnonzero(np.isin(labels, classes) if classes else labels >= 0)
  return known.subset(chosen), where[chosen]


def positions(source: Source, text: str, seed: int) -> np.ndarray:
  """Where in the source the images of `part` are, int [n]; arguments and errors as there."""
  labels = source.labels
  if labels is None:
    raise ConfigError(f'{source.name} has no labels.')
  if seed < 0:
    raise ConfigError(f'split_seed={seed} must be at least 0.')
  if labels.ndim == 2:
    return _of_multi_label(source, text, seed)
  if text.isdecimal():
    text = _per_class(source, int(text))
  share = re.fullmatch(r'([0-9.]+) ?%', text)
  count = re.fullmatch(r'(\d+) per class', text)
  seeds = (seed, streams.LABEL_SUBSET)
  if share:
    value = _share(text, share.group(1))
    known = np.flatnonzero(labels >= 0)
    chosen = known if value == 1 else frozen.subset(labels, share=value, seed=seeds)
  elif count:
    number = int(count.group(1))
    least = min(np.unique(labels[labels >= 0], return_counts=True)[1].tolist(), default=0)
    if not 1 <= number <= least:
      raise ConfigError(f"labels='{text}': give 1 to {least}, the images of the smallest class.")
    chosen = frozen.subset(labels, count=number, seed=seeds)
  else:
    chosen = _named(source, text)
    unknown = int((labels[chosen] < 0).sum())
    if unknown:
      images = counted(unknown, 'image')
      raise ConfigError(f"labels='{text}' names {images} of {source.name} without a label.")
  return chosen


def _per_class(source: Source, total: int) -> str:
  """'10 per class' for 100 of 10 classes."""
  count = source.num_classes
  if total < count or total % count:
    near = max(count, total // count * count)
    raise ConfigError(
      f"labels='{total}' cannot be divided equally among {count} classes: give {near} or "
      f'{near + count}.'
    )
  return f'{total // count} per class'


def _of_multi_label(source: Source, text: str, seed: int) -> np.ndarray:
  """Images with several labels each: shares at random, since there are no classes to balance."""
  share = re.fullmatch(r'([0-9.]+) ?%', text)
  if re.fullmatch(r'\d+( per class)?', text):
    raise ConfigError(
      f"labels='{text}' counts images by class, but those of {source.name} have several labels "
      "each: give a share such as '10 %', or a file with the names of the labelled images."
    )
  if not share:
    return _named(source, text)
  count = max(1, round(_share(text, share.group(1)) * source.size))
  order = np.random.default_rng((seed, streams.LABEL_SUBSET)).permutation(source.size)
  return np.sort(order[:count])


def _share(text: str, number: str) -> float:
  try:
    value = float(number) / 100
  except ValueError:
    value = 0.0
  if not 0 < value <= 1:
    raise ConfigError(f"labels='{text}' must be above 0 % and at most 100 %.")
  return value


def _named(source: Source, text: str) -> np.ndarray:
  """Positions of the images that a file names, in its order without repeats."""
  path = expanded(text)
  if not path.is_file():
    raise ConfigError(
      f"labels='{text}' is neither a share such as '1 %', nor a number such as '10 per class', "
      'nor a file with the names of the labelled images.'
    )
  try:
    lines = path.read_text(encoding='utf-8').split('\n')
  except (OSError, UnicodeDecodeError) as error:
    raise ConfigError(f"labels='{text}' cannot be read: {error}.") from error
  names = [line.strip() for line in lines if line.strip()]
  if not names:
    raise ConfigError(f"labels='{text}' is empty: it must name at least one image.")
  if all(name.isdecimal() for name in names):
    numbers = np.array(list(dict.fromkeys(map(int, names))))
    if numbers.max() >= source.size:
      raise ConfigError(
        f"labels='{text}' names example {numbers.max()}, but {source.name} has {source.size}."
      )
    return numbers
  where: dict[str, list[int]] = {}
  for row in range(source.size):
    where.setdefault(pathlib.PurePath(source.locate(row)).name, []).append(row)
  found = {name: _meant(source, name, where.get(pathlib.PurePath(name).name, [])) for name in names}
  missing = [name for name, rows in found.items() if not rows]
  if missing:
    raise ConfigError(
      f"labels='{text}' names {counted(len(missing), 'image')} not in {source.name}, such as "
      f"'{missing[0]}'."
    )
  for name, rows in found.items():
    if len(rows) > 1:
      raise ConfigError(
        f"labels='{text}': '{name}' may be {len(rows)} images of {source.name}, such as "
        f"'{source.locate(rows[0])}' and '{source.locate(rows[1])}': give the folder as well."
      )
  return np.array(list(dict.fromkeys(rows[0] for rows in found.values())))


def _meant(source: Source, name: str, rows: list[int]) -> list[int]:
  """Of images of one file name, those that share the most folders with what is named.

  They share one at least, where both have any: a list may have been made under another root.
  """
  named = pathlib.PurePath(name).parts[::-1]
  located = {row: pathlib.PurePath(source.locate(row)).parts[::-1] for row in rows}
  shared = {
    row: len(os.path.commonprefix([named, parts]))
    for row, parts in located.items()
    if named[:2] == parts[:2] or 1 in (len(named), len(parts))
  }
  most = max(shared.values(), default=0)
  return [row for row in shared if shared[row] == most]
