"""Runs of days in minutes: thousands of steps with flat memory and handles; kills and restarts."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from byoljax import checkpoint, metrics

ROOT = pathlib.Path(__file__).parent.parent
STEPS = int(os.environ.get('BYOLJAX_LONG_STEPS', '20000'))
pytestmark = pytest.mark.slow

# The program, with a look at the process whenever metrics are written, and at the data it asks for.
WATCHED = """
import json, os, sys
from byoljax import main, metrics
from byoljax.data import source
write, fetched, out = metrics.Writer.write, [0], open(sys.argv[1], 'a')
read = source.Source.read

def counted(self, indices):
  fetched[0] += 1
  return read(self, indices)

def watched(self, step, row):
  pages = int(open('/proc/self/statm').read().split()[1])
  row_of = {'step': step, 'mb': pages * os.sysconf('SC_PAGE_SIZE') / 1e6,
            'fetched': fetched[0], 'files': len(os.listdir('/proc/self/fd'))}
  print(json.dumps(row_of), file=out, flush=True)
  write(self, step, row)

metrics.Writer.write, source.Source.read = watched, counted
sys.exit(main.main(sys.argv[2:]))
"""


def watched(arguments, out):
  environment = os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=1'}
  subprocess.run(
    [sys.executable, '-c', WATCHED, str(out), *arguments], cwd=ROOT, env=environment, check=True
  )
  return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.skipif(not pathlib.Path('/proc/self/statm').exists(), reason='needs /proc')
def test_many_steps_with_flat_memory_and_handles(tmp_path):
  rng = np.random.default_rng(0)
  np.savez(tmp_path / 'tiny.npz', x_train=rng.integers(0, 256, (64, 8, 8, 3), dtype=np.uint8))
  every = STEPS // 40
  arguments = [
    '--config=configs/byol.py:smoke', '--config.data.name=npz',
    f'--config.data.dir={tmp_path / "tiny.npz"}', '--config.encoder.name=pixels',
    '--config.views.view1.size=8', '--config.views.view2.size=8', '--config.evals.image_size=8',
    '--config.method.projector=(8,4)', '--config.method.predictor=(8,4)',
    '--config.train.batch_size=4', f'--config.train.length={STEPS} steps',
    f'--config.log.every={every} steps', f'--config.checkpoint.every={STEPS // 4} steps',
    f'--workdir={tmp_path / "run"}',
  ]  # fmt: skip
  seen = watched(arguments, tmp_path / 'seen.jsonl')
  assert [row['step'] for row in seen] == list(range(every, STEPS + 1, every))
  # Allocators and caches settle in the first quarter, which ends with the first checkpoint.
  settled = [row for row in seen if row['step'] > STEPS // 4]
  half = len(settled) // 2
  early, late = (max(row['mb'] for row in part) for part in (settled[:half], settled[half:]))
  assert late - early < 20, f'{early:.0f} MB, later {late:.0f} MB'
  assert max(row['files'] for row in settled) <= settled[0]['files'] + 3
  assert len(metrics.read(tmp_path / 'run')) == 40
  names = {name for row in metrics.read(tmp_path / 'run') for name in row}
  assert len(names) < 40
  kept = checkpoint.Checkpoints(tmp_path / 'run')
  assert kept.steps() == [STEPS * 3 // 4, STEPS]
  kept.close()
  # Resumed from three quarters: the data of the steps before are not gone through again.
  (tmp_path / 'run' / 'checkpoints' / str(STEPS)).rename(tmp_path / 'last')
  again = watched(arguments, tmp_path / 'again.jsonl')
  assert again[0]['step'] == STEPS * 3 // 4 + every
  assert again[0]['fetched'] < every + 100
  for a, b in zip(metrics.read(tmp_path / 'run'), seen, strict=True):
    assert a['step'] == b['step']


def test_killed_three_times_is_bit_equal():
  command = [sys.executable, 'experiments/faults/kill.py', '--cases', 'moco:1:3']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout + done.stderr
  assert 'moco on 1: 3 kills, bit-equal' in done.stdout
