"""Progressive resolution: a run begins with views of fewer pixels than it ends with.

What the work of a step grows with is the number of pixels, and the early steps learn what small
images show as well: FixRes (Touvron et al. 2019, arXiv 1906.06423) trains at low resolution and
ends at a higher one, EfficientNetV2 (Tan and Le 2021, arXiv 2104.00298) and FFCV (Leclerc et al.
2023, arXiv 2306.12517) raise the resolution as training goes on.

The run is cut into stages. A stage's views show what they would show otherwise, crop, mirroring and
colors of the same random numbers, at another size; nothing else depends on the stage. Different
from EfficientNetV2, augmentation does not become stronger with the size. Widths in pixels, such as
the blur's, stay.
"""

from collections.abc import Sequence
import dataclasses
import re
from typing import NamedTuple

from byoljax.data.augment.views import ViewSpec
from byoljax.length import Length


class Part(NamedTuple):
  """A first part of a run.

  Attributes:
    share: of the views' sizes, in (0, 1).
    until: step that it ends with.
  """

  share: float
  until: int


def parse(text: str, length: Length) -> tuple[Part, ...]:
  """What `train.progressive` says: '0.5 until 40 %, 0.75 until 70 %'; '' is ().

  Parts that are shorter than half a step are left out.

  Raises:
    ValueError: anything else, sizes that are no shares, or ends out of order.

  Examples:
    >>> parse('0.5 until 2 epochs, 0.75 until 70 %', Length(64, 10, 100))
    (Part(share=0.5, until=20), Part(share=0.75, until=70))
  """
  name, found = f"train.progressive='{text}'", []
  for item in text.split(',') if text.strip() else ():
    match = re.fullmatch(r'\s*([0-9.]+)\s+until\s+(.+?)\s*', item)
    share = _number(match.group(1)) if match else 0.0
    if match is None or not 0 < share < 1:
      raise ValueError(
        f"{name}: '{item.strip()}' does not say how large views are until when; write a share of "
        "their size below 1 and a duration, such as '0.5 until 40 %, 0.75 until 70 %'."
      )
    until = length.steps('train.progressive', match.group(2))
    before = found[-1].until if found else 0
    if until < before or until >= length.total_steps:
      raise ValueError(
        f"{name}: '{item.strip()}' ends with step {until:,}, but it must be after step {before:,} "
        f'and before the end of the run, step {length.total_steps:,}.'
      )
    if until > before:
      found.append(Part(share, until))
  return tuple(found)


def _number(text: str) -> float:
  try:
    return float(text)
  except ValueError:
    return 0.0


def scaled(specs: Sequence[ViewSpec], share: float, unit: int = 1) -> tuple[ViewSpec, ...]:
  """The views at a share of their size, rounded to multiples of `unit` pixels, at least one.

  Raises:
    ValueError: a view would be too small.
  """
  made = []
  for spec in specs:
    size = max(unit, unit * round(spec.size * share / unit))
    ratio = size / spec.size
    zoom = None if spec.zoom is None else (spec.zoom[0] * ratio, spec.zoom[1] * ratio)
    made.append(dataclasses.replace(spec, size=size, zoom=zoom))
  return tuple(made)


def sizes(specs: Sequence[ViewSpec]) -> str:
  """The views' sizes in pixels, each once, in order: '224 and 96'."""
  return ' and '.join(map(str, dict.fromkeys(spec.size for spec in specs)))


def described(stages: Sequence[tuple[int, Sequence[ViewSpec]]]) -> str:
  """'12 px up to step 100, 24 px up to the end', of (last step, views) of each stage."""
  ends = [f'up to step {until:,}' for until, _ in stages[:-1]] + ['up to the end']
  return ', '.join(f'{sizes(specs)} px {end}' for (_, specs), end in zip(stages, ends, strict=True))
