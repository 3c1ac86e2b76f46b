"""What `byoljax bench` has measured on a real machine, as the share of the peak that a plan takes.

A plan cannot know which share of a chip's peak a network reaches. A measurement of the recipe, or
of one like it, on one device of the kind does: the share of the step alone is the plan's fast end,
that of whole training, with its input, the slow one.
"""

import json
from typing import NamedTuple

from byoljax.config import ConfigError, expanded


class Calibration(NamedTuple):
  """A measurement that a plan is made from.

  Attributes:
    share: of the peak in training and in the step alone, the smaller one first, in (0, 1].
    measured: what was measured, and on what, for a person.
  """

  share: tuple[float, float]
  measured: str


def read(path: str) -> Calibration:
  """A bench.json.

  Raises:
    ConfigError: it cannot be read, is none, or says no share of a peak.
  """
  try:
    found = json.loads(expanded(path).read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise ConfigError(f'--bench={path} cannot be read: {error}.') from error
  found = found.get('result', found) if isinstance(found, dict) else {}
  try:
    shares = [found['flops'][part]['share_of_peak'] for part in ('training', 'step')]
    images = found['batch_size'] // found['devices']
    name = f'{found["method"]}, {found["encoder"]} in {found["dtype"]}, {images} images a device'
    device = f'{found["devices"]} x {found["device_kind"]}'
  except (KeyError, TypeError) as error:
    raise ConfigError(
      f'--bench={path} is not what `byoljax bench` writes ({error} is missing): give the '
      'bench.json in its workdir.'
    ) from error
  if None in shares:
    raise ConfigError(
      f'--bench={path} was measured on {device}, whose peak is not known: give one of a GPU or a '
      'TPU.'
    )
  low, high = sorted(min(share, 1.0) for share in shares)
  return Calibration((low, high), f'{name}, on {device}')
