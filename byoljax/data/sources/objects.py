"""Data sets that are objects of a program: arrays, lists, `tf.data`, those of other libraries.

    as_source(images)                       uint8 [N, H, W, C], uint16, or float in [0, 1]
    as_source(images, labels)               labels: whole numbers [N]
    as_source(['a.jpg', 'b.jpg'])           files
    as_source(torchvision.datasets.CIFAR10('data'))
    as_source(datasets.load_dataset('imagefolder', data_dir='photos')['train'])
    as_source(tfds.load('cifar10', split='train'))

Whatever has a length and hands out examples by number will do (`items` says what an example may
be). What fits into a quarter of the memory is read once; of anything larger an example is read when
a batch needs it, and its labels must be there without that: given, as the attribute `targets` or
`labels`, or as a column. Of what is read at once these count only where an example has no label of
its own: a data set may transform its labels. Bytes stay bytes, other numbers are float32. Random
transforms of a data set would be drawn once: views are what byoljax augments.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import os
import threading
from typing import Any

import numpy as np

from byoljax.data.sources import arrays, items, listed, memory, pixels, source
from byoljax.data.sources.source import Source

_LOOKED_AT = 16  # examples in a fingerprint, at least


def as_source(data: Any, labels: Any = None, *, name: str = 'images', range_: str = '') -> Source:
  """A data set as a source.

  Args:
    data: see the module.
    labels: whole numbers [N], -1 for none, in place of those that the data have.
    name: for messages.
    range_: which numbers are black and white, see `pixels`; '' and 'file' say as the types do.

  Raises:
    ValueError: something else, or examples that are not what they should be.
  """
  range_ = '' if range_ == pixels.FILE else pixels.check_range(range_)
  if isinstance(data, Source):
    _check_source(data, labels, range_)
    return data
  if labels is None and isinstance(data, tuple) and len(data) == 2 and _is_array(data[0]):
    data, labels = data
  if isinstance(data, Mapping):
    data, labels = _columns(data, labels)
  labels = None if labels is None else np.asarray(labels)
  if _is_array(data):
    return arrays.from_arrays(_images(data, name, range_), labels, name=name, range_=range_)
  if _is_list_of_files(data):
    return listed.from_files(data, labels, name=name, range_=range_)
  if hasattr(data, 'as_numpy_iterator'):
    return _from_iterator(data, labels, name, range_)
  if hasattr(data, '__getitem__') and hasattr(data, '__len__') and not isinstance(data, str):
    return _from_sequence(data, labels, name, range_)
  raise ValueError(
    f'data of type {type(data).__name__} cannot be read: give a path, an array [N, H, W, C], a '
    'list of files, a tf.data.Dataset, or anything with a length that hands out examples by number.'
  )


def _check_source(made: Source, labels: Any, range_: str) -> None:
  """Raises ValueError for what a source would have to have been made with."""
  if labels is not None:
    raise ValueError(
      f'{made.name} is a source, which has its own labels: give labels when it is made.'
    )
  own = made.field('image').range
  if range_ and own != range_:
    raise ValueError(
      f"{made.name} is a source that was made with range_='{own}', but the numbers are to be read "
      f"by data.range='{range_}': make it with that."
    )


def _is_array(data: Any) -> bool:
  return hasattr(data, '__array__') and len(getattr(data, 'shape', ())) > 1


def _is_list_of_files(data: Any) -> bool:
  return isinstance(data, list | tuple) and all(isinstance(x, str | os.PathLike) for x in data)


def _columns(data: Mapping[str, Any], labels: Any) -> tuple[Any, Any]:
  """Images and labels of a mapping of arrays."""
  image = next((name for name in items.IMAGE_NAMES if name in data), None)
  if image is None:
    raise ValueError(
      f'the data have {", ".join(map(str, data))}, but images are looked for as '
      f'{", ".join(items.IMAGE_NAMES)}.'
    )
  found = (data[name] for name in items.LABEL_NAMES if name in data)
  return data[image], next(found, None) if labels is None else labels


def _images(data: Any, name: str, range_: str) -> np.ndarray:
  if type(data).__module__.split('.')[0] == 'torch':
    made = data.detach().cpu().numpy()
    made = np.moveaxis(made, 1, -1) if made.ndim == 4 else made
  else:
    made = data if isinstance(data, np.ndarray) else np.asarray(data)
  if range_ or made.ndim not in (3, 4) or made.dtype.kind not in 'uif':
    return made  # `from_arrays` says what is wrong.
  return items.checked_numbers(made, name)


def _from_iterator(data: Any, labels: Any, name: str, range_: str) -> Source:
  """A `tf.data.Dataset`, read to its end; batches of images are taken apart."""
  if int(np.asarray(data.cardinality())) == -1:
    raise ValueError(f'{name} never ends: leave out `repeat`, byoljax passes through it itself.')
  read, room = [], memory.room()
  for example in data.as_numpy_iterator():
    image, label = items.split(example)
    if getattr(image, 'ndim', 0) == 4:
      read += zip(image, _batch_labels(label, len(image)), strict=True)
    else:
      read.append((image, label))
    room -= getattr(image, 'nbytes', len(image) if isinstance(image, bytes) else 0)
    if room < 0:
      raise ValueError(
        f'{name} does not fit into a quarter of the memory: name a TFDS set by its name, or give '
        'something that hands out examples by number.'
      )
  return _from_sequence(read, labels, name, range_)


def _batch_labels(labels: Any, count: int) -> Sequence[Any]:
  """The labels of a batch of images."""
  if labels is None:
    return [None] * count
  if np.shape(labels)[:1] != (count,):
    raise ValueError(
      f'a batch of {count} images has labels of shape {list(np.shape(labels))}: each image has one.'
    )
  return list(labels)


def _from_sequence(data: Any, labels: Any, name: str, range_: str) -> Source:
  count = len(data)
  if not count:
    raise ValueError(f'{name} holds no example.')
  image, _ = items.split(data[0])
  told = labels if labels is not None else _known_labels(data, count)
  file = items.file_of(image)
  size = len(file) if file is not None else items.array_of(image).nbytes
  lock = threading.Lock()  # Whether others may be asked by several threads is not known.

  def example(row: int) -> Any:
    with lock:
      return data[int(row)]

  if count * size > memory.room():
    if labels is None and told is not None:
      _check_told(lambda row: items.split(example(row))[1], told, name)

    def later(row: int) -> bytes:
      return items.as_file(items.split(example(row))[0], range_)

    return _named(_of_files(later, _places(count), count, told, name, range_), data)
  read = [items.split(example(row)) for row in range(count)]
  known = told if labels is not None else _own_labels([label for _, label in read], told)
  # Its names of classes are those of the labels that it tells.
  named = data if told is None or known is None or np.array_equal(told, known) else None
  if file is None:
    made = [items.array_of(image) for image, _ in read]
    made = made if range_ else items.checked_alike(made, name)
    if len({(image.shape, image.dtype) for image in made}) == 1:
      return _named(arrays.from_arrays(np.stack(made), known, name=name, range_=range_), named)
    read = [(image, None) for image in made]
  files = [items.as_file(image, range_) for image, _ in read]
  return _named(_of_files(files.__getitem__, range(count), count, known, name, range_), named)


def _own_labels(labels: Sequence[Any], told: np.ndarray | None) -> np.ndarray | None:
  """The labels of examples, and of those without any what the data set tells."""
  own = [items.class_number(label) for label in labels]
  if all(number is None for number in own):
    return told
  spare = np.full(len(own), -1) if told is None else told
  return np.array([x if number is None else number for x, number in zip(spare, own, strict=True)])


def _check_told(label: Callable[[int], Any], told: np.ndarray, name: str) -> None:
  """Raises ValueError where some of the examples have other labels than the data set tells."""
  for row in _places(len(told)):
    number = items.class_number(label(row))
    if number is not None and number != told[row]:
      raise ValueError(
        f'{name}: example {row} has the label {number}, but {told[row]} in the labels of the whole '
        'data set: give labels=, whole numbers [N].'
      )


def _places(count: int) -> range:
  """The examples of a data set that are looked at."""
  return range(0, count, max(1, count // _LOOKED_AT))


def _known_labels(data: Any, count: int) -> np.ndarray | None:
  """Labels that can be had without reading the images."""
  for name in ('targets', 'labels'):
    found = getattr(data, name, None)
    if found is not None and not callable(found):
      made = np.asarray(found)
      if made.shape == (count,) and made.dtype.kind in 'iu':
        return made
  columns = getattr(data, 'column_names', None) or ()
  for name in items.LABEL_NAMES:  # In the order in which they are looked for in an example.
    if name in columns:
      made = np.asarray(list(data[name]))
      if made.shape == (count,) and made.dtype.kind in 'iu':
        return made
  return None


def _named(made: Source, data: Any) -> Source:
  """With the names of its classes, where the data say them."""
  names = getattr(data, 'classes', None)
  features = getattr(data, 'features', None)
  if isinstance(features, Mapping):
    known = (features[name] for name in items.LABEL_NAMES if name in features)
    found = (getattr(feature, 'names', None) for feature in known)
    names = next(filter(None, found), names)
  if isinstance(names, list | tuple) and len(names) >= made.num_classes > 0:
    return dataclasses.replace(
      made, num_classes=len(names), class_names=tuple(str(name) for name in names)
    )
  return made


def _of_files(
  file: Callable[[int], bytes],
  marked: range,
  count: int,
  labels: np.ndarray | None,
  name: str,
  range_: str,
) -> Source:
  """Examples that are files, of which those in `marked` make the fingerprint."""
  y = None if labels is None else arrays.check_labels(labels, count, name, 'labels')
  if y is not None and y.ndim != 1:
    raise ValueError(f'{name}: images of several sizes have one label each, got {list(y.shape)}.')
  if y is not None:
    arrays.check_numbering([y], name)
  classes = 0 if y is None else int(y.max(initial=-1)) + 1
  looked_at = [file(row) for row in marked]
  # Nothing names what these bytes are: an image of more than 8 bits may be any of them.
  image, notes = pixels.image_field(
    [f'{name}[{row}].npy' for row in marked], looked_at.__getitem__, range_, name
  )

  def fetch(rows: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    return tuple(values(rows, each) for each in names)

  def values(rows: np.ndarray, what: str) -> np.ndarray:
    if what == 'label':
      return np.full(len(rows), -1, np.int32) if y is None else y[rows]
    read = np.empty(len(rows), object)
    read[:] = [file(int(row)) for row in rows]
    return read

  return Source(
    name=name,
    size=count,
    num_classes=classes,
    class_names=tuple(map(str, range(classes))),
    encoded=True,
    image_shape=None,
    fingerprint=source.fingerprint(name, count, *looked_at, b'' if y is None else y.tobytes()),
    fetch=fetch,
    fetch_labels=functools.cache(lambda: y),
    locate=lambda row: f'{name}[{row}]',
    fields=(image,),
    notes=notes,
  )
