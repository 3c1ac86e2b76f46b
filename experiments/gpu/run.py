"""Measures byoljax on one GPU within ten minutes: one command for everything.

    python experiments/gpu/run.py --out experiments/gpu --data cifar10.npz --torch-python python3

Writes results.json, after each job, and table.md. See README.md for what is measured. Without a GPU
it measures the CPU, which takes far longer and is of no use but for `--quick`.
"""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'experiments' / 'bench')]

import jobs as jobs_lib  # noqa: E402
import tables  # noqa: E402


def main(arguments: list[str]) -> int:
  """Measures, writes, prints the tables, and returns the exit status."""
  options = _parse(arguments)
  signal.signal(signal.SIGTERM, lambda *unused: sys.exit(143))  # What it has started ends, too.
  out = options.out or (ROOT / 'runs' / 'gpu_quick' if options.quick else HERE)
  out.mkdir(parents=True, exist_ok=True)
  began = time.monotonic()
  results: dict[str, Any] = {
    'command': shlex.join(['python', 'experiments/gpu/run.py', *map(_without_folder, arguments)]),
    'quick': options.quick, 'seconds': 0.0, 'driver': _driver(), 'jobs': [],
  }  # fmt: skip
  kept = _kept(out / 'results.json') if options.missing else {}
  with tempfile.TemporaryDirectory(prefix='byoljax-gpu-') as scratch:
    for job in jobs_lib.jobs(options.quick, options.data or '', options.torch_python or ''):
      if job.part not in options.only and (job.part, job.name) not in kept:
        continue
      left = 60 * options.minutes - (time.monotonic() - began)
      outcome = kept.get((job.part, job.name))
      if outcome is None:
        outcome = _outcome(job, left, options.quick, pathlib.Path(scratch), results)
      shown = outcome.get('not_run') or outcome.get('failed') or f'{outcome["took_s"]:.0f} s'
      print(f'{job.part}: {job.name}: {shown}', file=sys.stderr, flush=True)
      results['jobs'].append({'part': job.part, 'name': job.name} | outcome)
      results['seconds'] = time.monotonic() - began
      _write(results, out, scratch)
  print(tables.page(results))
  return 0


def _kept(path: pathlib.Path) -> dict[tuple[str, str], dict[str, Any]]:
  """What an earlier run has found, by part and name."""
  stored = json.loads(path.read_text(encoding='utf-8'))['jobs'] if path.exists() else []
  return {(job['part'], job['name']): job for job in stored if 'found' in job}


def _outcome(
  job: jobs_lib.Job, left: float, quick: bool, scratch: pathlib.Path, results: dict[str, Any]
) -> dict[str, Any]:
  """What was 'found', or why it was 'not_run', or how it 'failed'."""
  if job.part == 'accuracy' and not job.case['data']:
    return {'not_run': 'no --data with CIFAR-10'}
  if job.part == 'torch' and not job.case['python']:
    return {'not_run': 'no --torch-python'}
  seconds = jobs_lib.fits(job, left)
  if not seconds:
    return {'not_run': 'no time left'}
  trained = [each['found'] for each in results['jobs'] if each['part'] == 'training'
             and 'found' in each]  # fmt: skip
  request = job._asdict() | {'quick': quick, 'scratch': str(scratch), 'seconds': seconds}
  request |= {'img_per_s': trained[0]['resident']['img_per_s'] if trained else None}
  given, found, log = (scratch / name for name in ('job.json', 'found.json', 'log'))
  given.write_text(json.dumps(request), encoding='utf-8')
  found.unlink(missing_ok=True)
  began = time.monotonic()
  with log.open('wb') as printed:
    process = subprocess.Popen(
      [sys.executable, str(HERE / 'measure.py'), str(given), str(found)],
      env=_environment(job, quick, scratch),
      stdout=printed,
      stderr=subprocess.STDOUT,
      start_new_session=True,  # Whatever it has started is ended with it.
    )
    try:
      status = process.wait(seconds)
    except subprocess.TimeoutExpired:
      return {'failed': f'not done after {seconds:.0f} s', 'took_s': seconds}
    finally:
      if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
  took = {'took_s': time.monotonic() - began}
  if found.exists():
    result = json.loads(found.read_text(encoding='utf-8'))
    return ({'not_run': result['not_run']} if 'not_run' in result else {'found': result}) | took
  lines = log.read_text(encoding='utf-8', errors='replace').strip().splitlines() or ['']
  return {'failed': f'status {status}, {lines[-1][:200]}', 'log': lines[-30:]} | took


def _environment(job: jobs_lib.Job, quick: bool, scratch: pathlib.Path) -> dict[str, str]:
  """That of a job's process: one GPU; compiled programs are kept for the run's later jobs."""
  changes = {
    'CUDA_VISIBLE_DEVICES': os.environ.get('CUDA_VISIBLE_DEVICES', '0').partition(',')[0],
    'JAX_COMPILATION_CACHE_DIR': str(scratch / 'compiled'),
    'BYOLJAX_DATA': str(scratch / 'data'),
    'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH', '')])),
  }
  if job.part == 'torch':  # The GPU's memory is PyTorch's.
    changes['JAX_PLATFORMS'] = 'cpu'
  if quick:
    flags = os.environ.get('XLA_FLAGS', '')
    changes['XLA_FLAGS'] = f'{flags} --xla_backend_optimization_level=0'.strip()
  return dict(os.environ) | changes


def _driver() -> str:
  """What `nvidia-smi` says of the driver, as a sentence; '' without it."""
  if shutil.which('nvidia-smi') is None:
    return ''
  query = ['nvidia-smi', '--query-gpu=driver_version,memory.total', '--format=csv,noheader']
  found = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
  return f'Driver and memory: {found.splitlines()[0]}. ' if found else ''


def _write(results: dict[str, Any], out: pathlib.Path, scratch: str) -> None:
  """Writes both files, without the path of the scratch directory, which will be gone."""
  text = json.dumps(results, indent=1).replace(scratch, 'scratch')
  for name, content in (('results.json', text + '\n'), ('table.md', tables.page(results))):
    partial = out / f'{name}.partial'
    partial.write_text(content, encoding='utf-8')
    partial.replace(out / name)


def _without_folder(argument: str) -> str:
  name, equals, value = argument.rpartition('=')
  return name + equals + (pathlib.Path(value).name if os.path.isabs(value) else value)


def _names(text: str) -> list[str]:
  names = text.split(',')
  if unknown := sorted(set(names) - set(jobs_lib.PARTS)):
    parts = ', '.join(jobs_lib.PARTS)
    raise argparse.ArgumentTypeError(f'no part {unknown[0]!r}; there are {parts}')
  return names


def _file(text: str) -> str:
  if not pathlib.Path(text).is_file():
    raise argparse.ArgumentTypeError(f'{text} is not a file: name an .npz with x_train, y_train, '
                                     'x_test and y_test')  # fmt: skip
  return str(pathlib.Path(text).resolve())


def _program(text: str) -> str:
  if shutil.which(text) is None:
    raise argparse.ArgumentTypeError(f'{text} cannot be run')
  return text


def _minutes(text: str) -> float:
  try:
    minutes = float(text)
  except ValueError:
    minutes = 0.0
  if not 0 < minutes < float('inf'):
    raise argparse.ArgumentTypeError(f'{text} is not a number of minutes above 0')
  return minutes


def _parse(arguments: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--out', type=pathlib.Path, help='where to write (default: beside this file)')
  parser.add_argument('--minutes', type=_minutes, default=9.0, help='for all together (default: 9)')
  parser.add_argument('--only', type=_names, default=list(jobs_lib.PARTS),
                      help=f'of {",".join(jobs_lib.PARTS)} (default: all)')  # fmt: skip
  parser.add_argument('--missing', action='store_true',
                      help='keep the rows that results.json has, measure the others')  # fmt: skip
  parser.add_argument('--data', type=_file, help='.npz of CIFAR-10, for the accuracy')
  parser.add_argument('--torch-python', type=_program, help='interpreter with PyTorch')
  parser.add_argument('--quick', action='store_true', help='tiny sizes: does everything work?')
  return parser.parse_args(arguments)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
