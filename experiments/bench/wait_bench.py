"""Part `wait`: the share of its time that training waits for data, in short real runs.

Read from `time/wait_run` of the runs' own metrics.jsonl: time in `next(batches)` and in splitting
the batch over devices, since the end of the first step, which compiles (and gives the input a start
of three batches). A small encoder makes this a hard test: the less a step computes, the sooner its
data must be there. On a CPU the threads that make batches and the step share the same cores, so
what the input costs shows as fewer images per second rather than as waiting; see the part
`pipeline` for that.
"""

import shutil
import subprocess
import sys
from typing import Any

import pictures
from setting import ROOT, Setting, our_environment

from byoljax.workdir import metrics

# run -> recipe, images, steps, further settings
RUNS = {
  'default run: shapes, 32 px': ('byol.py', None, 200, []),
  'arrays, 32 px, small encoder': ('byol.py:npz', 'arrays', 100, ['encoder.name=small']),
  'JPEG, 128 px, small encoder': ('byol.py:folder', 'jpeg', 40, ['encoder.name=small']),
  'JPEG, 128 px, ResNet-18': ('byol.py:folder', 'jpeg', 15, ['train.batch_size=64']),
}


def measure(setting: Setting) -> list[dict[str, Any]]:
  """One result for each run."""
  return [_one(setting, name, *RUNS[name]) for name in RUNS]


def _one(
  setting: Setting, name: str, recipe: str, images: str | None, steps: int, changes: list[str]
) -> dict[str, Any]:
  """Trains for some steps without evaluation and returns what the clock said at the last one."""
  home = setting.scratch / 'wait'
  shutil.rmtree(home, ignore_errors=True)
  home.mkdir()
  steps = 3 if setting.quick else steps
  settings = [
    f'train.length={steps} steps',
    'optim.warmup=0 steps',
    f'log.every={steps} steps',
    'evals.final=false',
    'evals.knn.every=0 steps',
    'evals.knn.max_bank=256',
    'checkpoint.every=0 steps',
    *changes,
  ]
  if images is None:
    settings.append(f'data.dir={setting.shapes_dir}')
  else:
    what, path = _images(setting, images)
    settings.append(f'data.dir={path}')
    setting.say(f'wait: {name}: {what}')
  if setting.quick:
    settings.append('train.batch_size=16')
  command = [sys.executable, '-m', 'byoljax.main', f'--config=configs/{recipe}',
             f'--workdir={home / "run"}']  # fmt: skip
  command += [f'--config.{text}' for text in settings]
  done = subprocess.run(
    command, cwd=ROOT, env=our_environment(), capture_output=True, text=True, timeout=3600
  )
  if done.returncode:
    raise RuntimeError(f'{command} ended with status {done.returncode}:\n{done.stderr}')
  row = metrics.read(home / 'run')[-1]
  setting.say(f'  {name}: {row["time/wait_run"]:.1%}')
  return {'name': name, 'steps': steps, 'settings': [recipe, *settings],
          'wait_run': row['time/wait_run'], 'img_per_s_run': row['time/img_per_s_run']}  # fmt: skip


def _images(setting: Setting, kind: str) -> tuple[str, str]:
  """Draws or links images of their own for these runs, once."""
  count = 32 if setting.quick else 2048
  if kind == 'arrays':
    path = setting.scratch / 'wait_arrays.npz'
    return pictures.arrays(path, count), str(path)
  path = setting.scratch / 'wait_jpeg'
  if path.exists():
    return f'{count} JPEGs as before', str(path)
  return pictures.folder(path, count, setting.data), str(path)
