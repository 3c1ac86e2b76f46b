"""Kills real training runs at random moments, restarts them, and compares the end bit for bit.

    python experiments/faults/kill.py --out experiments/faults/kills.json

Takes about 10 minutes per case, and writes after every case what it has.

For every case (a method with state of its own kind; one or two processes) an
uninterrupted run is made, and others are killed with SIGKILL again and again: while they start,
while they train, while they save. One that gets to its end between two kills is compared, and the
next one begins; the last one is left alone until it is done. Every array of the last checkpoint and
every row of the metrics (but for times) must be those of the uninterrupted run.

Runs are tiny: 12-pixel images, the small encoder, 60 steps, a checkpoint every third step.
"""

import argparse
from collections.abc import Sequence
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from results import ROOT, write_kills

STEPS = 60
CASES = 'byol:1:14,moco:1:14,instance_discrimination:1:14,moco:2:9,swav:1:9,dino:1:9'
MODES = ('starting', 'training', 'saving')
# What each method brings: a target network, a queue, a bank of all examples, prototypes that are
# frozen at first with a queue that begins later, a teacher with a center.
METHODS = {
  'byol': ['--config.method.projector=(16,8)', '--config.method.predictor=(16,8)'],
  'moco': ['--config.method.projector=(16,8)', '--config.method.queue_size=64'],
  'instance_discrimination': ['--config.method.projector=(8,)', '--config.method.num_noise=12'],
  'swav': [
    '--config.method.projector=(16,8)',
    '--config.method.prototypes=12',
    '--config.method.queue_size=32',
    '--config.method.queue_from=3 epochs',
  ],
  'dino': ['--config.method.projector=(16,16,8)', '--config.method.outputs=32'],
}
# The sizes of each method's views.
VIEWS = {'instance_discrimination': (12,), 'swav': (12, 12, 8), 'dino': (12, 12, 8)}
_PATIENCE = 600.0  # Seconds without any progress after which a run counts as hanging.


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs all cases; returns 1 if any run ended differently."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--out', default='', help='JSON to write')
  parser.add_argument('--cases', default=CASES, help='method:processes:kills, ...')
  parser.add_argument('--add', action='store_true', help='to the cases that --out already has')
  parser.add_argument('--seed', type=int, default=0)
  options = parser.parse_args(arguments)
  with tempfile.TemporaryDirectory(prefix='byoljax-kills-') as scratch:
    home = pathlib.Path(scratch)
    data = home / 'tiny.npz'
    write_data(data)
    out = pathlib.Path(options.out) if options.out else None
    cases = json.loads(out.read_text())['cases'] if out and options.add else []
    for case in options.cases.split(','):
      method, processes, kills = case.split(':')
      cases.append(run_case(home, data, method, int(processes), int(kills), options.seed))
      if out:
        write_kills(out, cases, sys.argv[1:] if arguments is None else arguments)
  return 0 if all(case['equal'] for case in cases) else 1


def write_data(path: pathlib.Path) -> None:
  """80 images; without labels, so that no time goes into evaluations."""
  images = np.random.default_rng(0).integers(0, 256, (80, 12, 12, 3), dtype=np.uint8)
  np.savez(path, x_train=images)


def command(method: str, data: pathlib.Path, workdir: pathlib.Path) -> list[str]:
  """The command line of a run, the same for every start."""
  sizes = VIEWS.get(method, (12, 12))
  return [
    sys.executable, '-m', 'byoljax.main', f'--config=configs/{method}.py:smoke',
    f'--workdir={workdir}', '--config.data.name=npz', f'--config.data.dir={data}',
    f'--config.train.length={STEPS} steps', '--config.evals.image_size=12',
    '--config.evals.batch_size=16', '--config.checkpoint.every=3 steps',
    '--config.log.every=1 steps', '--config.log.tensorboard=false',
    *(f'--config.views.view{number + 1}.size={size}' for number, size in enumerate(sizes)),
    *METHODS[method],
  ]  # fmt: skip


class Run:
  """One start of a run, of one or several processes."""

  def __init__(self, arguments: list[str], processes: int, home: pathlib.Path):
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONDONTWRITEBYTECODE'} | {
      'PYTHONPATH': str(ROOT),
      'PYTHONPYCACHEPREFIX': str(home / 'bytecode'),
      'JAX_PLATFORMS': 'cpu',
      'JAX_COMPILATION_CACHE_DIR': str(home / f'compiled-{processes}'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '0',
      'XLA_FLAGS': '--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=1',
    }
    self.outputs, self.processes = [], []
    port = _free_port()
    for number in range(processes):
      more = [
        f'--coordinator_address=localhost:{port}', f'--num_processes={processes}',
        f'--process_id={number}',
      ] if processes > 1 else []  # fmt: skip
      output = tempfile.TemporaryFile('w+')  # noqa: SIM115
      self.outputs.append(output)
      self.processes.append(
        subprocess.Popen(
          [*arguments, *more], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
      )

  def ended(self) -> bool:
    """Whether every process has."""
    return all(process.poll() is not None for process in self.processes)

  def kill(self, rng: random.Random) -> str:
    """SIGKILL to all, or to one and a little later to the rest; returns which came first."""
    order = list(self.processes)
    rng.shuffle(order)
    together = rng.random() < 0.5
    for position, process in enumerate(order):
      if position and not together:
        time.sleep(rng.uniform(0, 1.5))
      process.send_signal(signal.SIGKILL)
    for process in self.processes:
      process.wait()
    first = 'all' if together else f'process {self.processes.index(order[0])}'
    return first if len(order) > 1 else 'the process'

  def text(self) -> str:
    """Everything that was printed."""
    for output in self.outputs:
      output.seek(0)
    return '\n'.join(output.read() for output in self.outputs)


def run_case(
  home: pathlib.Path, data: pathlib.Path, method: str, processes: int, kills: int, seed: int
) -> dict[str, Any]:
  """One method on so many processes: uninterrupted, and killed so many times.

  Returns:
    {'method', 'processes', 'kills': one entry each, 'equal', 'differences', 'seconds', ...}.
  """
  began = time.monotonic()
  whole, broken = home / f'{method}-{processes}-whole', home / f'{method}-{processes}-killed'
  _to_the_end(command(method, data, whole), processes, home)
  rng = random.Random(f'{seed} {method} {processes}')
  tally: list[dict[str, Any]] = []
  differences: list[str] = []
  starts, ends, damaged = 0, 0, 0
  while len(tally) < kills or broken.exists():
    if len(tally) < kills:
      run = Run(command(method, data, broken), processes, home)
      killed = kill_once(run, broken, MODES[len(tally) % len(MODES)], rng)
      said = run.text()
    else:
      said, killed = _to_the_end(command(method, data, broken), processes, home), None
    starts += 1
    if killed is not None:
      tally.append(killed)
      print(f'  {method} x {processes}: {killed}', flush=True)
      continue
    ends += 1
    found = compare(whole, broken)
    if found:
      kept = pathlib.Path(tempfile.mkdtemp(prefix=f'different-{method}-{processes}-'))
      shutil.copytree(whole, kept / 'whole')
      shutil.copytree(broken, kept / 'killed')
      print(f'{said}\nBoth runs are kept in {kept}.', flush=True)
    differences += found
    damaged += len(list(broken.glob('damaged-checkpoints/*')))
    print(f'  to the end after {len(tally)} kills of {kills}', flush=True)
    shutil.rmtree(broken)
  case = {
    'method': method,
    'processes': processes,
    'steps': STEPS,
    'starts': starts,
    'ends': ends,
    'kills': tally,
    'equal': not differences,
    'differences': differences,
    'damaged_checkpoints': damaged,
    'seconds': round(time.monotonic() - began),
  }
  verdict = 'bit-equal' if case['equal'] else f'DIFFERENT: {differences}'
  print(f'{method} on {processes}: {len(tally)} kills, {verdict}', flush=True)
  shutil.rmtree(whole)
  return case


def kill_once(
  run: Run, workdir: pathlib.Path, mode: str, rng: random.Random
) -> dict[str, Any] | None:
  """Waits for a moment of this kind and kills the run; None if it ended before.

  A moment of 'starting' is up to 6 s after the start, of 'training' a random delay after a random
  number of new steps, of 'saving' a random delay after Orbax began to write a checkpoint.
  """
  began = time.monotonic()
  before = _last_step(workdir)
  wanted_steps, wanted_saves = rng.randint(1, 8), rng.randint(1, 2)
  if mode == 'starting':
    moment = rng.uniform(0.2, 6.0)
    ready = lambda: time.monotonic() - began > moment  # noqa: E731
  elif mode == 'training':
    ready = lambda: _last_step(workdir) >= before + wanted_steps  # noqa: E731
  else:
    steps: set[str] = set()

    def ready() -> bool:
      steps.update(p.name for p in _unfinished(workdir) if _younger(p, started))
      return len(steps) >= wanted_saves

  started = time.time()
  while not ready():
    if run.ended():
      if any(process.returncode for process in run.processes):
        raise RuntimeError(f'the run failed by itself:\n{run.text()}')
      return None
    if time.monotonic() - began > _PATIENCE:
      raise RuntimeError(f'no progress in {_PATIENCE:.0f} s:\n{run.text()}')
    time.sleep(0.002)
  if mode != 'starting':
    time.sleep(rng.uniform(0, 0.08))
  first = run.kill(rng)
  if all(process.returncode == 0 for process in run.processes):
    return None  # It was faster.
  return {
    'while': mode,
    'after_s': round(time.monotonic() - began, 2),
    'first': first,
    'last_row': _last_step(workdir),
    'checkpoints': _steps(workdir),
    'half_written': [p.name.partition('.')[0] for p in _unfinished(workdir)],
  }


def compare(whole: pathlib.Path, broken: pathlib.Path) -> list[str]:
  """What differs between two finished runs: names of arrays, and rows of the metrics."""
  import jax

  from byoljax.workdir import checkpoint, metrics

  for run in (whole, broken):
    if checkpoint.latest_finished(run) != STEPS:
      return [f'{run.name} ends with the checkpoints {_steps(run)}']
  roles = [(role,) for role in ('step', 'params', 'opt_state', 'method_state', 'key')]
  ours, due = (
    jax.tree_util.tree_flatten_with_path(
      checkpoint.restore_subtrees(run / 'checkpoints' / str(STEPS), roles)
    )[0]
    for run in (broken, whole)
  )
  different = []
  if [path for path, _ in ours] != [path for path, _ in due]:
    different.append('other arrays')
  for (path, a), (_, b) in zip(ours, due, strict=False):
    if a.dtype != b.dtype or a.tobytes() != b.tobytes():
      different.append(jax.tree_util.keystr(path))
  rows = [
    [{k: v for k, v in row.items() if not k.startswith('time/')} for row in metrics.read(run)]
    for run in (broken, whole)
  ]
  if rows[0] != rows[1]:
    different.append('rows of the metrics')
  return different


def _to_the_end(arguments: list[str], processes: int, home: pathlib.Path) -> str:
  run = Run(arguments, processes, home)
  for process in run.processes:
    process.wait()
  if any(process.returncode for process in run.processes):
    raise RuntimeError(f'the run failed:\n{run.text()}')
  return run.text()


def _last_step(workdir: pathlib.Path) -> int:
  try:
    lines = (workdir / 'metrics.jsonl').read_bytes().split(b'\n')
  except FileNotFoundError:
    return 0
  whole = [line for line in lines[:-1] if line]
  return json.loads(whole[-1])['step'] if whole else 0


def _steps(workdir: pathlib.Path) -> list[int]:
  return sorted(int(p.name) for p in workdir.glob('checkpoints/*') if p.name.isdigit())


def _unfinished(workdir: pathlib.Path) -> list[pathlib.Path]:
  return list(workdir.glob('checkpoints/*.orbax-checkpoint-tmp*'))


def _younger(path: pathlib.Path, than: float) -> bool:
  try:
    return path.stat().st_ctime >= than - 0.01
  except FileNotFoundError:
    return False


def _free_port() -> int:
  with socket.socket() as found:
    found.bind(('localhost', 0))
    return found.getsockname()[1]


if __name__ == '__main__':
  sys.exit(main())
