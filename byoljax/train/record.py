"""What a run writes and shows while it trains: when, and how."""

from collections.abc import Callable, Mapping
import pathlib
from typing import NamedTuple

import numpy as np

from byoljax.devices import mapping, processes
from byoljax.step import Metrics
from byoljax.train.run import Run
from byoljax.wording import counted
from byoljax.workdir import metrics, progress
from byoljax.workdir.clock import Clock, ProfileWindow


class Cadence(NamedTuple):
  """What a run with a directory does beside training, and after how many steps; 0: only at the end.

  Attributes:
    evaluate: steps between two evaluations; -1: none, not even at the end.
    save: steps between two checkpoints; a requested stop is saved in any case.
    keep: how many of the newest checkpoints stay.
    tensorboard: whether metrics are also written for TensorBoard.
    csv: whether metrics are also written as CSV.
    sinks: services that get the metrics, see `byoljax.workdir.sinks`.
    profile_start: first step of a trace of the devices.
    profile_steps: how many steps are traced; 0: none.
  """

  evaluate: int = 0
  save: int = 0
  keep: int = 1
  tensorboard: bool = False
  csv: bool = False
  sinks: tuple[str, ...] = ()
  profile_start: int = 0
  profile_steps: int = 0


class Hooks(NamedTuple):
  """What a program wants to hear of a run while it trains; called on every process.

  Attributes:
    on_row: (a row of metrics, with 'step'), once it is in metrics.jsonl.
    on_checkpoint: (step, its directory), once it is complete on the disk.
  """

  on_row: Callable[[dict[str, float]], object] | None = None
  on_checkpoint: Callable[[int, pathlib.Path], object] | None = None


class Logging(NamedTuple):
  """What the run of a classifier writes.

  Attributes:
    every: duration between two rows of metrics; 'at the end' writes the last one only.
    tensorboard: whether metrics are also written for TensorBoard.
    csv: whether metrics are also written as CSV.
  """

  every: str = 'at the end'
  tensorboard: bool = False
  csv: bool = False


class Record:
  """What a run measures, shows and writes; a context manager.

  Args:
    run: see `byoljax.train.run`.
    workdir: where metrics and traces go.
    cadence: what is written, and which steps are traced.
    start: the step that the run starts from; later rows of an earlier attempt are dropped.
    must_be_finite: names of metrics that stop the run when they are not.

  Attributes:
    clock: times the loop.
    profiler: call it after every step.
  """

  def __init__(
    self,
    run: Run,
    workdir: pathlib.Path,
    cadence: Cadence,
    start: int,
    must_be_finite: tuple[str, ...],
  ):
    self._run, self._must_be_finite, self._since = run, must_be_finite, start
    self._latest: dict[str, float] = {}
    self.clock = Clock(run.length.total_steps, run.length.batch_size, start_step=start)
    self.profiler = ProfileWindow(
      workdir / 'profile', start=cadence.profile_start, steps=cadence.profile_steps
    )
    self._progress = progress.Progress(
      run.length.total_steps,
      steps_per_epoch=run.length.steps_per_epoch,
      prefix=processes.prefix(),
    )
    self._writer = metrics.Writer(
      workdir,
      tensorboard=cadence.tensorboard,
      csv=cadence.csv,
      sinks=cadence.sinks,
      resume_step=start,
    )

  def __enter__(self) -> 'Record':
    return self

  def __exit__(self, kind: object, *unused: object) -> None:
    self._progress.close()
    self.profiler.close()
    complete = self._since >= self._run.length.total_steps
    self._writer.close('failed' if kind else 'finished' if complete else 'stopped')

  def read(self, done: int, values: Metrics) -> dict[str, float]:
    """The metrics after `done` steps, on the host; waits for the device.

    Raises:
      FloatingPointError: a metric that must be finite is not, or too many steps were skipped.
    """
    row = {name: float(value) for name, value in mapping.fetch(dict(values)).items()}
    self.clock.tick(done)  # Only now are the steps up to here really done.
    limit = self._run.max_skipped
    skipped = int(row.get('skipped_in_a_row', 0))
    if skipped >= limit > 0:
      raise FloatingPointError(
        f'{counted(skipped, "step")} in a row up to step {done} had a loss or a gradient '
        f'that is not finite. The last checkpoint before that stays. A lower optim.base_lr may '
        f'help, or a larger train.max_skipped={limit}.'
      )
    for name in self._must_be_finite if 'skipped' not in row else ():
      if not np.isfinite(row[name]):
        raise FloatingPointError(
          f'{name} became {row[name]} between step {self._since + 1} and step {done}. The last '
          f'checkpoint before that stays. A lower optim.base_lr or a longer optim.warmup may help.'
        )
    self._since = done
    # What this step has no value of, among it the loss of a step that was skipped.
    row = {name: value for name, value in row.items() if not np.isnan(value)}
    if self._run.schedule is not None:
      row['lr'] = float(np.max(np.asarray(self._run.schedule(done - 1))))
    if self._run.earlier:
      row['view_size'] = self._run.at(done - 1).specs[0].size
    row['epoch'] = done / self._run.length.steps_per_epoch
    return row | self.clock.read()

  def write(self, done: int, row: Mapping[str, float]) -> None:
    """Writes a row to the metrics' files, durably, and shows it on the progress line."""
    self._latest |= row
    self._writer.write(done, row)
    self._writer.flush()
    self._progress.update(done, self._latest)
