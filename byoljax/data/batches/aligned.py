"""Further fields beside the views: which of them a batch holds, and their crops on the host.

The images of files are decoded and cropped by TensorFlow (`decode`). Everything else that has a
place in the image follows here, in NumPy: maps, masks, boxes, further images; and where each view
was cut.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from byoljax.data.augment import crop, drawn, resize, view_checks, views
from byoljax.data.fields import Field
from byoljax.data.sources.source import Source


class Aligned(NamedTuple):
  """One field as one view shows it, or, for a label, as it is; or the window of a view.

  Attributes:
    field: which; None for the window, see `drawn.window`.
    view: number of the view, -1 for a label.
    size: side of the view in pixels.
    kernel: of an image, see `resize.KERNELS`.
    is_view: whether this is the view itself, of an image field other than 'image'.
  """

  field: Field | None
  view: int
  size: int
  kernel: str = resize.DEFAULT
  is_view: bool = False

  @property
  def name(self) -> str:
    """In batches."""
    return 'window' if self.field is None else self.field.name

  @property
  def kind(self) -> str:
    """Of the field, see `data.fields`; 'window'."""
    return 'window' if self.field is None else self.field.kind

  @property
  def shape(self) -> tuple[int, ...]:
    """Of one example."""
    if self.field is None:
      return (drawn.NUM_WINDOW,)
    return self.field.shape(self.size, self.size)

  @property
  def dtype(self) -> np.dtype:
    """Of what travels to the accelerator."""
    if self.field is None:
      return np.dtype('float32')
    return np.dtype(self.field.dtype if self.kind == 'image' else self.field.dtype_in_view())

  def empty(self, rows: int) -> np.ndarray:
    """What rows hold that are not there: zeros, no boxes, no labels."""
    made = np.zeros((rows, *self.shape), self.dtype)
    if self.kind in ('boxes', 'label'):
      made[...] = -1
    return made

  def stored(self, values: np.ndarray) -> np.ndarray:
    """What travels to the accelerator of a crop: images in [0, 1] as bytes, if they were."""
    if self.kind != 'image' or self.dtype != np.uint8:
      return values
    return np.floor(values * np.float32(255) + np.float32(0.5)).astype(np.uint8)

  def cut(
    self, values: Sequence[np.ndarray], boxes: np.ndarray, flips: np.ndarray, sides: np.ndarray
  ) -> np.ndarray:
    """What the view shows of each example, [n, *shape].

    Args:
      values: of the whole images, one for each example; () for a window.
      boxes: crops of all views, int32 [n, V, 4] (y, x, h, w).
      flips: whether to mirror each view, bool [n, V].
      sides: height and width of the images, int32 [n, 2].
    """
    if self.field is None:
      return drawn.window(np, boxes[:, self.view], flips[:, self.view], *sides.T)
    if self.kind == 'label':
      return np.stack(values) if len(values) else self.empty(0)
    made = self.empty(len(values))
    for row, (value, (height, width)) in enumerate(zip(values, sides, strict=True)):
      one = slice(row, row + 1)
      window = (boxes[one, self.view], flips[one, self.view], self.size)
      found = crop.crop_field(np, self.field, value[None], *window, height, width, self.kernel)
      made[row] = self.stored(found[0])
    return made


def for_views(
  source: Source, specs: Sequence[views.ViewSpec], names: Sequence[str]
) -> tuple[Aligned, ...]:
  """What a batch of these views holds beside the views of 'image'.

  Where the host cuts the views, that is their windows, too.

  Raises:
    ValueError: the source has no such field, or a view shows one that is not like its images.
  """
  found = []
  for number, spec in enumerate(specs):
    field = source.field(spec.field)
    if field.kind != 'image' or field.channels != source.channels:
      raise ValueError(
        f'view {number} shows the field {field.name!r}, {field.kind} of {field.channels} channels, '
        f'but a view shows an image of {source.channels} channels.'
      )
    view_checks.check_channels(spec, field.channels)
    if spec.field != 'image':
      found.append(Aligned(field, number, spec.size, spec.kernel, is_view=True))
  for field in further(source, names):
    if field.kind == 'label':
      found.append(Aligned(field, -1, 0))
    else:
      found += [Aligned(field, number, spec.size, spec.kernel) for number, spec in enumerate(specs)]
  if source.encoded:
    found += [Aligned(None, number, spec.size) for number, spec in enumerate(specs)]
  return tuple(found)


def further(source: Source, names: Sequence[str]) -> tuple[Field, ...]:
  """The fields of these names; 'image' and 'label', which every batch has, are none of them.

  Raises:
    ValueError: there is no such field, or a name that needs not be given or is given twice.
  """
  for name in names:
    if name in ('image', 'label') or list(names).count(name) > 1:
      raise ValueError(f'fields {list(names)}: name each further field once, without {name!r}.')
  return tuple(source.field(name) for name in names)


def packed(wanted: Sequence[Aligned], arrays: Sequence[Any]) -> dict[str, Any]:
  """The entries of a batch, of arrays or their shapes: a tuple with one per view, or a label's."""
  made: dict[str, Any] = {}
  for one, array in zip(wanted, arrays, strict=True):
    if one.kind == 'label':
      made[one.name] = array
    elif not one.is_view:
      made[one.name] = (*made.get(one.name, ()), array)
  return made


def views_of(
  images: Sequence[np.ndarray], wanted: Sequence[Aligned], arrays: Sequence[np.ndarray]
) -> tuple[np.ndarray, ...]:
  """The views, where those that show another field are among the further arrays."""
  shown: Mapping[int, np.ndarray] = {
    one.view: array for one, array in zip(wanted, arrays, strict=True) if one.is_view
  }
  return tuple(shown.get(number, image) for number, image in enumerate(images))
