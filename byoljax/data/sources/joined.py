"""Several sources as one: labelled and unlabelled images, say, for an `order.MixedOrder`."""

from collections.abc import Sequence
import functools

import numpy as np

from byoljax.data.sources.source import Source, fingerprint


def join(sources: Sequence[Source], name: str = '') -> Source:
  """The examples of all sources, those of the second after those of the first, and so on.

  Args:
    sources: at least one, all encoded or all arrays, with the same fields; parts without labels are
      allowed beside labelled ones.
    name: for messages; by default the names of the parts, joined by '+'.

  Raises:
    ValueError: in what two of them differ.
  """
  _check_alike(sources)
  first = sources[0]
  labelled = [source for source in sources if source.num_classes]
  classes = {(source.num_classes, source.class_names, source.multi_label) for source in labelled}
  if len(classes) > 1:
    raise ValueError(
      f'{" and ".join(source.name for source in labelled)} cannot be joined: their classes differ.'
    )
  num_classes, class_names, multi_label = classes.pop() if classes else (0, (), False)
  starts = np.cumsum([0, *(source.size for source in sources)])
  label_shape = (num_classes,) if multi_label else ()

  def part_of(rows: np.ndarray) -> np.ndarray:
    return np.searchsorted(starts, rows, side='right') - 1

  def fetch(rows: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    part = part_of(rows)
    made: list[np.ndarray] = []
    for number in np.unique(part):
      here, source = part == number, sources[number]
      values = source.read(rows[here] - starts[number], names)
      if not made:
        made = [
          np.full((len(rows), *label_shape), -1, np.int32)
          if name == 'label'
          else np.empty((len(rows), *value.shape[1:]), value.dtype)
          for name, value in zip(names, values, strict=True)
        ]
      for name, out, value in zip(names, made, values, strict=True):
        if name != 'label' or source.num_classes:
          out[here] = value
    return tuple(made)

  def labels() -> np.ndarray | None:
    if not labelled:
      return None
    made = np.full((starts[-1], *label_shape), -1, np.int32)
    for source, start in zip(sources, starts, strict=False):
      known = source.labels if source.num_classes else None
      if known is not None:
        made[start : start + source.size] = known
    return made

  def locate(row: int) -> str:
    part = int(part_of(np.array([row]))[0])
    return sources[part].locate(row - int(starts[part]))

  def decode() -> Source:
    return join([source.opened() for source in sources], name)

  shapes = {source.image_shape for source in sources}
  return Source(
    name=name or '+'.join(source.name for source in sources),
    size=int(starts[-1]),
    num_classes=num_classes,
    class_names=class_names,
    encoded=first.encoded,
    image_shape=shapes.pop() if len(shapes) == 1 else None,
    fingerprint=fingerprint('joined', [source.fingerprint for source in sources]),
    fetch=fetch,
    fetch_labels=functools.cache(labels),
    locate=locate,
    unreadable=first.unreadable,
    multi_label=multi_label,
    fields=first.fields,
    series=first.series,
    starts=tuple(int(start) for start in starts[:-1]),
    decode=functools.cache(decode) if all(source.decode for source in sources) else None,
  )


def _check_alike(sources: Sequence[Source]) -> None:
  """Raises ValueError where there is no source, or two differ in more than their labels."""
  if not sources:
    raise ValueError('there is no source to join.')
  first = sources[0]
  for other in sources[1:]:
    for what in ('encoded', 'fields', 'image_shape', 'series'):
      a, b = getattr(first, what), getattr(other, what)
      if a != b and not (what == 'image_shape' and first.encoded):
        raise ValueError(
          f'{first.name} and {other.name} cannot be joined: they differ in {what}, {a} and {b}.'
        )
