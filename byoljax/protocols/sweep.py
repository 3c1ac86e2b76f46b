"""What is kept of each setting of a sweep: how it does on held-out images.

score.json      its score
held_out.npz    its logits and labels, which fit the temperature of the best one
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from byoljax.protocols.answers import Scored
from byoljax.workdir.files import replacing, write_json

_SCORE, _HELD = 'score.json', 'held_out.npz'


class Held(NamedTuple):
  """How a setting does on held-out images.

  Attributes:
    score: the first score.
    scored: logits and labels; None where the training diverged, or of several labels per image.
  """

  score: float
  scored: Scored | None


def write(home: pathlib.Path, held: Held, setting: Mapping[str, Any]) -> None:
  """Stores how a setting did, so that a stopped sweep can be resumed; the score comes last."""
  if held.scored:
    with replacing(home / _HELD) as file:
      np.savez(file, logits=held.scored[0], labels=held.scored[1])
  write_json(home / _SCORE, {'held_out': held.score, **setting})


def read(home: pathlib.Path | None) -> Held | None:
  """What was stored; None where nothing was, or without a directory."""
  if home is None or not (home / _SCORE).exists():
    return None
  scored = None
  if (home / _HELD).exists():
    with np.load(home / _HELD, allow_pickle=False) as found:
      scored = found['logits'], found['labels']
  return Held(json.loads((home / _SCORE).read_text())['held_out'], scored)
