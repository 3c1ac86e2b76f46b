"""Kills a process that does nothing but save checkpoints, hundreds of times, anywhere in a save.

    python experiments/faults/kill_saves.py --seconds 300 --out experiments/faults/kill_saves.json

`kill.py` kills whole runs, of which saving is a small part. Here a process (forked: Linux and
macOS) saves 30 steps one after the other with two of them kept, is killed with SIGKILL up to 1.6 s
after it began, and another one goes on from what is there, until one ends by itself. Then the last
checkpoint must be there with the right numbers, and nothing may have been found damaged.
"""

import argparse
from collections.abc import Sequence
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from typing import Any

import numpy as np
from results import facts

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
STEPS = 30


def main(arguments: Sequence[str] | None = None) -> int:
  """Returns 1 if anything was lost, damaged or wrong."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--out', default='', help='JSON to write')
  parser.add_argument('--seconds', type=float, default=300.0)
  parser.add_argument('--seed', type=int, default=0)
  options = parser.parse_args(arguments)
  rng, until = random.Random(options.seed), time.monotonic() + options.seconds
  tally = dict.fromkeys(
    ('rounds', 'kills', 'half_written', 'failed', 'without_the_last', 'set_aside'), 0
  )
  with tempfile.TemporaryDirectory(prefix='byoljax-saves-') as scratch:
    while time.monotonic() < until:
      one_round(pathlib.Path(scratch) / str(tally['rounds']), rng, tally)
      print(tally, flush=True)
  if options.out:
    given = sys.argv[1:] if arguments is None else arguments
    found = facts('kill_saves', given) | tally
    pathlib.Path(options.out).write_text(json.dumps(found, indent=1) + '\n')
  return int(any(tally[name] for name in ('failed', 'without_the_last', 'set_aside')))


def one_round(home: pathlib.Path, rng: random.Random, tally: dict[str, int]) -> None:
  """One directory, from its first save to its last; adds to the tally."""
  from byoljax.workdir import checkpoint

  while (status := start_and_kill(home, rng.uniform(0.05, 1.6))) == -signal.SIGKILL:
    tally['kills'] += 1
    tally['half_written'] += bool(list(home.glob('checkpoints/*.orbax-checkpoint-tmp*')))
  tally['rounds'] += 1
  tally['failed'] += status != 0
  tally['without_the_last'] += checkpoint.latest_finished(home) != STEPS
  tally['set_aside'] += len(list(home.glob('damaged-checkpoints/*')))
  shutil.rmtree(home)


def start_and_kill(home: pathlib.Path, seconds: float) -> int:
  """Forks a process that saves, kills it after so long; returns how it ended."""
  child = os.fork()
  if child == 0:
    status = 1
    try:
      save_all(home)
      status = 0
    except BaseException:
      traceback.print_exc()
    finally:
      os._exit(status)
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    found, status = os.waitpid(child, os.WNOHANG)
    if found:
      return os.waitstatus_to_exitcode(status)
    time.sleep(0.002)
  os.kill(child, signal.SIGKILL)
  return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def save_all(home: pathlib.Path) -> None:
  """Goes on from the newest checkpoint to the last, as a run does; compares what it reads."""
  import jax

  from byoljax.workdir import checkpoint, lock

  with lock.lock_workdir(home), checkpoint.Checkpoints(home, keep=2) as checkpoints:
    found = checkpoints.restore_newest(state_of(0))
    state, step = found or (state_of(0), 0)
    jax.tree.map(np.testing.assert_array_equal, state, state_of(step))
    for due in range(step + 1, STEPS + 1):
      checkpoints.save(due, state_of(due), {'loss': 1.0 / due})


def state_of(step: int) -> dict[str, Any]:
  """Numbers that follow from the step."""
  rng = np.random.default_rng(step)
  shapes = {'a': (300, 50), 'b': (7,), 'c': (400,)}
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


if __name__ == '__main__':
  # Imported before the forks, which then begin at once; no device is touched before them.
  import byoljax.workdir.checkpoint
  import byoljax.workdir.lock  # noqa: F401

  sys.exit(main())
