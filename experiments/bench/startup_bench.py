"""Part `startup`: seconds from the command to its first finished train step, and to other answers.

The clock starts when the process is started and stops when the first row of metrics.jsonl is on the
disk (`log.every` is one step): interpreter, imports, opening the data, the contact sheet of the
views, compiling, the first step and writing are all in it. The run then goes on to its end, which
is timed as well. Variants take turns, each in a process and a directory of its own:

  first use    the built-in images are drawn first; measured once
  cold         they are there; nothing is compiled yet
  warm         JAX_COMPILATION_CACHE_DIR names the cache of an earlier run; JAX keeps only programs
               that took a second to compile
  warm, all    and JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0: every program is kept
"""

import pathlib
import shutil
import subprocess
import sys
import time
from typing import Any

from setting import ROOT, Setting, our_environment

from byoljax.workdir import metrics

_COMMAND = [sys.executable, '-m', 'byoljax.main']
_TIMEOUT = 600.0
_POLL = 0.005

# question -> arguments, expected status; each is answered without training
ANSWERS = {
  '--help': (['--help'], 0),
  'misspelt field': (['--config=configs/byol.py:smoke', '--config.optim.base_rl=1'], 2),
  'warm-up longer than training': (
    ['--config=configs/byol.py:smoke', "--config.optim.warmup='7 steps'"],
    2,
  ),
}


def measure(setting: Setting) -> dict[str, Any]:
  """Samples of every variant and of every question."""
  home = setting.scratch / 'startup'
  on = {'JAX_ENABLE_COMPILATION_CACHE': 'true'}
  caches = {
    'cold': {},
    'warm': on | {'JAX_COMPILATION_CACHE_DIR': str(home / 'cache')},
    'warm, all': on
    | {
      'JAX_COMPILATION_CACHE_DIR': str(home / 'cache_all'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    },
  }
  rounds = 1 if setting.quick else 5
  samples: dict[str, list[dict[str, float]]] = {}
  if not setting.quick:
    setting.say('startup: first use')
    samples['first use'] = [_run(setting, home, {})]
  for name in ('warm', 'warm, all'):
    setting.say(f'startup: fill the cache of "{name}"')
    _run(setting, home, caches[name])
  for number in range(rounds):
    for name, changes in caches.items():
      time.sleep(setting.pause)
      samples.setdefault(name, []).append(_run(setting, home, changes))
      setting.say(f'  round {number + 1}/{rounds}  {name}')
  answers: dict[str, list[float]] = {name: [] for name in ANSWERS}
  for _ in range(rounds):
    for name, (arguments, status) in ANSWERS.items():
      time.sleep(setting.pause)
      answers[name].append(_answer(setting, home, arguments, status))
  setting.say('  answers without training')
  return {'command': 'python -m byoljax.main --config=configs/byol.py:smoke', 'samples': samples,
          'answers': answers}  # fmt: skip


def _run(setting: Setting, home: pathlib.Path, changes: dict[str, str]) -> dict[str, float]:
  """One smoke run: seconds to the first row and to the end, and what the run's own clock says."""
  workdir = home / 'run'
  shutil.rmtree(workdir, ignore_errors=True)
  arguments = [
    '--config=configs/byol.py:smoke',
    f'--config.data.dir={setting.shapes_dir}',
    '--config.log.every=1 steps',
    f'--workdir={workdir}',
  ]
  home.mkdir(exist_ok=True)
  log = home / 'run.log'
  with log.open('wb') as printed:
    begin = time.perf_counter()
    process = subprocess.Popen(
      [*_COMMAND, *arguments],
      cwd=ROOT,
      env=our_environment(**changes),
      stdin=subprocess.DEVNULL,
      stdout=printed,
      stderr=subprocess.STDOUT,
    )
    try:
      first = _first_row(workdir / metrics.JSONL, process, begin)
      status = process.wait(timeout=_TIMEOUT)
    finally:
      process.kill()
      process.wait()
  total = time.perf_counter() - begin
  if first is None or status:
    raise RuntimeError(f'a run ended with status {status}:\n{log.read_text(errors="replace")}')
  row = metrics.read(workdir)[0]
  return {'first_step_s': first, 'compile_and_step_s': row['time/first_step_s'], 'total_s': total}


def _first_row(path: pathlib.Path, process: subprocess.Popen, begin: float) -> float | None:
  """Seconds until the file has a whole line; None when the process ends without."""
  while time.perf_counter() - begin < _TIMEOUT:
    if path.exists() and '\n' in path.read_text():
      return time.perf_counter() - begin
    if process.poll() is not None:
      return None
    time.sleep(_POLL)
  raise RuntimeError(f'no train step within {_TIMEOUT:.0f} s.')


def _answer(setting: Setting, home: pathlib.Path, arguments: list[str], expected: int) -> float:
  """Seconds until a command that does not train has ended."""
  command = [*_COMMAND, *arguments]
  if expected:
    command += [f'--config.data.dir={setting.shapes_dir}', f'--workdir={home / "refused"}']
  begin = time.perf_counter()
  done = subprocess.run(
    command, cwd=ROOT, env=our_environment(), capture_output=True, text=True, timeout=_TIMEOUT
  )
  seconds = time.perf_counter() - begin
  if done.returncode != expected:
    raise RuntimeError(f'{command} ended with status {done.returncode}:\n{done.stderr}')
  return seconds
