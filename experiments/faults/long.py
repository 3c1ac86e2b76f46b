"""A run of days in minutes: many tiny steps, with a look at the process every so often.

    python experiments/faults/long.py --out experiments/faults/long.json

Trains for 20,000 steps (a linear layer on 8-pixel images, so that a step is over in milliseconds)
with data from the host and with data that live on the device, resumes each run from three quarters,
and writes what it saw: resident memory, bytes of live JAX arrays, open files, sizes of what the run
writes, seconds to the first step. Ends with status 1 and says why if anything grows.
"""

import argparse
from collections.abc import Sequence
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
from results import ROOT, facts

# Where the data are: `data.resident`.
MODES = {'host': 'off', 'device': 'on'}
LOOKS = 40

# The program, with a look at the process whenever metrics are written, and at the data it asks for.
WATCHED = """
import json, os, sys, time
began = time.monotonic()
import jax
from byoljax import main
from byoljax.data.sources import source
from byoljax.workdir import clock, metrics
write, tick, read = metrics.Writer.write, clock.Clock.tick, source.Source.read
out, fetched, first = open(sys.argv[1], 'a'), [0], {}

def counted(self, *what):
  fetched[0] += 1
  return read(self, *what)

def ticked(self, step):
  tick(self, step)
  if not first:
    first.update(step=step, seconds=round(time.monotonic() - began, 2), fetched=fetched[0])

def watched(self, step, row):
  pages = int(open('/proc/self/statm').read().split()[1])
  look = {'step': step, 'mb': round(pages * os.sysconf('SC_PAGE_SIZE') / 1e6, 1),
          'arrays_kb': round(sum(x.nbytes for x in jax.live_arrays()) / 1e3, 1),
          'files': len(os.listdir('/proc/self/fd')), 'fetched': fetched[0], 'first': first}
  print(json.dumps(look), file=out, flush=True)
  write(self, step, row)

metrics.Writer.write, clock.Clock.tick, source.Source.read = watched, ticked, counted
sys.exit(main.main(sys.argv[2:]))
"""


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs both modes; returns 1 if anything grew."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--out', required=True, help='JSON to write; a figure goes beside it')
  parser.add_argument('--steps', type=int, default=20_000)
  parser.add_argument('--modes', default=','.join(MODES))
  options = parser.parse_args(arguments)
  out = pathlib.Path(options.out)
  with tempfile.TemporaryDirectory(prefix='byoljax-long-') as scratch:
    found = {
      mode: measure(pathlib.Path(scratch) / mode, MODES[mode], options.steps)
      for mode in options.modes.split(',')
    }
  wrong = [f'{mode}: {text}' for mode, seen in found.items() for text in problems(seen)]
  write(out, found, wrong, sys.argv[1:] if arguments is None else arguments)
  print('\n'.join(wrong) or 'Nothing grew.')
  return 1 if wrong else 0


def measure(home: pathlib.Path, resident: str, steps: int) -> dict[str, Any]:
  """One run to its end, and once more from three quarters."""
  from byoljax.workdir import checkpoint, metrics

  home.mkdir()
  data, run = home / 'tiny.npz', home / 'run'
  rng = np.random.default_rng(0)
  np.savez(data, x_train=rng.integers(0, 256, (64, 8, 8, 3), dtype=np.uint8))
  every = steps // LOOKS
  arguments = [
    '--config=configs/byol.py:smoke', '--config.data.name=npz', f'--config.data.dir={data}',
    f'--config.data.resident={resident}', '--config.encoder.name=pixels',
    '--config.views.view1.size=8', '--config.views.view2.size=8', '--config.evals.image_size=8',
    '--config.method.projector=(8,4)', '--config.method.predictor=(8,4)',
    '--config.train.batch_size=4', f'--config.train.length={steps} steps',
    f'--config.log.every={every} steps', f'--config.checkpoint.every={steps // 4} steps',
    f'--workdir={run}',
  ]  # fmt: skip
  whole, first = _watched(arguments, home / 'whole.jsonl')
  kept = sorted(int(p.name) for p in (run / 'checkpoints').iterdir() if p.name.isdigit())
  sizes = {
    'metrics': (run / 'metrics.jsonl').stat().st_size,
    'log': (run / 'run.log').stat().st_size,
    'tensorboard': sum(p.stat().st_size for p in (run / 'tensorboard').iterdir()),
  }
  rows = len(metrics.read(run))
  (run / 'checkpoints' / str(steps)).rename(home / 'last')
  again, first_again = _watched(arguments, home / 'again.jsonl')
  same = [
    (home / 'last' / 'integrity' / 'metadata').read_bytes(),
    (run / 'checkpoints' / str(steps) / 'integrity' / 'metadata').read_bytes(),
  ]
  leaves = [json.loads(text)['leaves'] for text in same]
  return {
    'steps': steps,
    'first': first,
    'looks': whole,
    'checkpoints': kept,
    'bytes': sizes,
    'rows': rows,
    'resumed_first': first_again,
    'resumed': again,
    'resumed_rows': len(metrics.read(run)),
    'resumed_bit_equal': leaves[0] == leaves[1],
    'resumed_finished': checkpoint.latest_finished(run) == steps,
  }


def problems(seen: dict[str, Any]) -> list[str]:
  """What should not have happened, in sentences."""
  steps, looks, again = seen['steps'], seen['looks'], seen['resumed']
  every = steps // LOOKS
  wrong = []

  def check(fine: bool, text: str) -> None:
    if not fine:
      wrong.append(text)

  check([row['step'] for row in looks] == list(range(every, steps + 1, every)), 'other rows')
  # Allocators and caches settle in the first quarter, which ends with the first checkpoint.
  settled = [row for row in looks if row['step'] > steps // 4]
  half = len(settled) // 2
  early, late = (max(row['mb'] for row in part) for part in (settled[:half], settled[half:]))
  check(late - early < 20, f'memory grew from {early:.0f} MB to {late:.0f} MB')
  # The least of each half: a look may meet a checkpoint that is being written.
  for name, room in (('arrays_kb', 1), ('files', 1)):
    early, late = (min(row[name] for row in part) for part in (settled[:half], settled[half:]))
    check(late - early < room, f'{name} went from {early} to {late}')
  check(seen['checkpoints'] == [steps * 3 // 4, steps], f'checkpoints {seen["checkpoints"]} stay')
  check(seen['rows'] == seen['resumed_rows'] == LOOKS, 'rows of metrics are missing or too many')
  check(seen['bytes']['metrics'] < LOOKS * 2000, f'metrics of {seen["bytes"]["metrics"]} bytes')
  check(seen['bytes']['log'] < 20_000, f'a log of {seen["bytes"]["log"]} bytes')
  check(again[0]['step'] == steps * 3 // 4 + every, 'resumed somewhere else')
  # The data of the steps before are not gone through again.
  check(again[0]['fetched'] < every + 100, f'{again[0]["fetched"]} batches were read on resume')
  check(
    seen['resumed_first']['step'] == steps * 3 // 4 + 1, 'the first step after resuming is another'
  )
  check(seen['resumed_bit_equal'] and seen['resumed_finished'], 'the resumed run ends differently')
  return wrong


def write(
  path: pathlib.Path, found: dict[str, Any], wrong: list[str], given: Sequence[str]
) -> None:
  """The JSON, and the figure beside it."""
  whole = facts('long', given) | {'problems': wrong, 'modes': found}
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(_compact(json.dumps(whole, indent=1)) + '\n')
  plot(path.with_suffix('.png'), found)


def _compact(text: str) -> str:
  """One line per look."""
  return text.replace('\n     ', ' ').replace('\n    }', ' }')


def plot(path: pathlib.Path, found: dict[str, Any]) -> None:
  """Memory, live arrays and open files over the steps."""
  import matplotlib

  matplotlib.use('agg')
  from matplotlib import pyplot

  panels = {'mb': 'resident memory, MB', 'arrays_kb': 'live JAX arrays, kB', 'files': 'open files'}
  figure, axes = pyplot.subplots(1, 3, figsize=(11, 3), layout='constrained')
  for place, (name, label) in zip(axes, panels.items(), strict=True):
    for mode, seen in found.items():
      place.plot(
        [row['step'] for row in seen['looks']],
        [row[name] for row in seen['looks']],
        label=f'data from the {mode}' if mode == 'host' else f'data on the {mode}',
      )
    place.set(xlabel='step', title=label)
    place.set_ylim(0, 1.2 * max(row[name] for seen in found.values() for row in seen['looks']))
    for side in ('top', 'right'):
      place.spines[side].set_visible(False)
  axes[0].legend(frameon=False, loc='lower right')
  figure.savefig(path, dpi=110)
  pyplot.close(figure)


def _watched(
  arguments: list[str], out: pathlib.Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """What was seen, and when the first step was done: after how many seconds and batches."""
  environment = os.environ | {
    'PYTHONPATH': str(ROOT),
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '--xla_force_host_platform_device_count=1',
  }
  command = [sys.executable, '-c', WATCHED, str(out), *arguments]
  done = subprocess.run(
    command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
  )
  if done.returncode:
    raise RuntimeError(done.stdout + done.stderr)
  looks = [json.loads(line) for line in out.read_text().splitlines()]
  return looks, [look.pop('first') for look in looks][0]


if __name__ == '__main__':
  sys.exit(main())
