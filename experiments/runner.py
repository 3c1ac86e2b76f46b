"""Starts many runs of byoljax, several side by side, and remembers which are done.

Runs side by side share the cores out among them, an equal number each, so a run's CPU time on its
own cores is close to the time that it would take on them alone. Used by the scripts beside it.
"""

from collections.abc import Callable, Sequence
from concurrent import futures
import json
import os
import pathlib
import queue
import subprocess
import sys
from typing import Any, NamedTuple


class Job(NamedTuple):
  """One run.

  Attributes:
    recipe: the recipe's name, such as 'byol:shapes,15'.
    workdir: of the run, and of nothing else.
    overrides: flags after the recipe, such as '--config.seed=1'.
  """

  recipe: str
  workdir: pathlib.Path
  overrides: Sequence[str] = ()

  def command(self) -> list[str]:
    """The command line, with this interpreter."""
    name, _, options = self.recipe.partition(':')
    return [
      sys.executable, '-m', 'byoljax.main', f'--config=configs/{name}.py:{options}',
      f'--workdir={self.workdir}', '--config.evals.report=false', *self.overrides,
    ]  # fmt: skip


def run_all(jobs: Sequence[Job], workers: int) -> list[dict | None]:
  """Runs what is not done yet; results in the order of the jobs, None where a run failed.

  Args:
    jobs: each is stopped and started again from where it was if this is interrupted.
    workers: runs at a time; each gets its own share of this process's cores.

  Returns:
    For each job {'cpu_minutes', 'training_minutes', 'result', 'config', 'versions'}; 'result' is
    that of the run's own results.json.
  """
  return on_shares(_result, jobs, workers)


def on_shares(
  function: Callable[[Any, Sequence[int]], Any], items: Sequence[Any], workers: int
) -> list[Any]:
  """`function(item, cores)` of every item; `workers` at a time share the cores out."""
  cores = sorted(os.sched_getaffinity(0))
  share = len(cores) // workers
  if share < 1:
    raise SystemExit(f'{workers} workers need as many cores; this process has {len(cores)}.')
  shares: queue.Queue[list[int]] = queue.Queue()
  for worker in range(workers):
    shares.put(cores[worker * share : (worker + 1) * share])

  def on_a_share(item: Any) -> Any:
    own = shares.get()
    try:
      return function(item, own)
    finally:
      shares.put(own)

  with futures.ThreadPoolExecutor(workers) as pool:
    return list(pool.map(on_a_share, items))


def _result(job: Job, cores: Sequence[int]) -> dict | None:
  done = job.workdir / 'done.json'
  if not done.exists():
    print(job.workdir.name, flush=True)
    status, cpu_s = measured(job.command(), cores, _log(job.workdir))
    if status:
      print(f'{job.workdir.name} failed: see {_log(job.workdir)}', flush=True)
      return None
    stored = json.loads((job.workdir / 'results.json').read_text())
    last = (job.workdir / 'metrics.jsonl').read_text().splitlines()[-1]
    done.write_text(
      json.dumps(
        {
          'cpu_minutes': cpu_s / 60,
          'training_minutes': json.loads(last)['time/elapsed_s'] / 60,
          'result': stored['result'],
          'config': stored['config'],
          'versions': stored.get('versions'),
        }
      )
    )
  return json.loads(done.read_text())


def _log(workdir: pathlib.Path) -> pathlib.Path:
  return workdir.parent / f'{workdir.name}.log'


def measured(command: Sequence[str], cores: Sequence[int], log: pathlib.Path) -> tuple[int, float]:
  """The exit status of a command on these cores, and the CPU seconds that it took."""
  log.parent.mkdir(parents=True, exist_ok=True)
  with log.open('wb') as file:
    process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    os.sched_setaffinity(process.pid, cores)  # Before it has imported anything: inherited by all.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
  return process.returncode, usage.ru_utime + usage.ru_stime


def record(run: dict) -> dict:
  """A result as it is stored: where the data lie on this machine is nobody's business."""
  config = json.loads(json.dumps(run['config']))
  config['data']['dir'] = pathlib.Path(config['data']['dir']).name
  return run | {'config': config}
