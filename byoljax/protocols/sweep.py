"""What is kept of each setting of a sweep: how it does on held-out images.

score.json      its score; null where training diverged or nothing can be told
held_out.npz    its logits and labels, which fit the temperature of the best one
"""

from collections.abc import Callable, Mapping, Sequence
import json
import math
import pathlib
import shutil
from typing import Any, NamedTuple

import numpy as np

from byoljax.devices import hosts
from byoljax.protocols.answers import Scored
from byoljax.workdir.files import replacing, write_json
from byoljax.workdir.run_dir import say

_SCORE, _HELD = 'score.json', 'held_out.npz'


class Held(NamedTuple):
  """How a setting does on held-out images.

  Attributes:
    score: higher is better; None where nothing is known, as where the training diverged.
    scored: logits and labels; None where the training diverged, or of several labels per image.
  """

  score: float | None
  scored: Scored | None = None


def run(
  workdir: pathlib.Path | None,
  settings: Sequence[Mapping[str, Any]],
  score: Callable[[int, pathlib.Path | None], Held],
) -> list[Held]:
  """How each setting does on held-out images; what a stopped sweep has stored is not run again.

  Args:
    workdir: where each has a directory; None keeps nothing.
    settings: what is stored beside the scores, with 'base_lr'.
    score: (number of the setting, its directory) -> how it does; FloatingPointError where training
      diverges.
  """
  return [
    _held(workdir / f'sweep{number}' if workdir else None, number, setting, score)
    for number, setting in enumerate(settings)
  ]


def best(made: Sequence[Held]) -> int:
  """The number of the best setting, the first of equal ones; 0 where nothing is known."""
  known = [-math.inf if each.score is None else each.score for each in made]
  return int(np.argmax(known)) if known else 0


def _held(
  home: pathlib.Path | None,
  number: int,
  setting: Mapping[str, Any],
  score: Callable[[int, pathlib.Path | None], Held],
) -> Held:
  found = _read(home)
  if found is not None:
    return found
  try:
    found = score(number, home)
    if found.score is not None and not math.isfinite(found.score):
      found = found._replace(score=None)
  except FloatingPointError:  # Too high a rate is a result, too.
    say(f'base_lr {setting["base_lr"]:g}: not finite')
    found = Held(None)
  if home and hosts.is_first_process():
    home.mkdir(parents=True, exist_ok=True)
    _write(home, found, setting)
    shutil.rmtree(home / 'checkpoints', ignore_errors=True)  # Only its score is wanted.
  return found


def _write(home: pathlib.Path, held: Held, setting: Mapping[str, Any]) -> None:
  """Stores how a setting did; the score comes last."""
  if held.scored:
    with replacing(home / _HELD) as file:
      np.savez(file, logits=held.scored[0], labels=held.scored[1])
  write_json(home / _SCORE, {'held_out': held.score, **setting})


def _read(home: pathlib.Path | None) -> Held | None:
  """What was stored; None where nothing was, or without a directory."""
  if home is None or not (home / _SCORE).exists():
    return None
  scored = None
  if (home / _HELD).exists():
    with np.load(home / _HELD, allow_pickle=False) as found:
      scored = found['logits'], found['labels']
  return Held(json.loads((home / _SCORE).read_text())['held_out'], scored)
