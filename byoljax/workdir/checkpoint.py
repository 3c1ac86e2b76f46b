"""Checkpoints on disk, by Orbax: asynchronous, atomic, keeping the last k and the best one.

    <workdir>/config.json              the resolved configuration, versions, the recipe's name
    <workdir>/checkpoints/<step>/      state (the TrainState), meta (metrics, versions), integrity
    <workdir>/checkpoints/.removing/   those being deleted
    <workdir>/damaged-checkpoints/     those that could not be read; never deleted

A checkpoint holds arrays only and does not depend on the number of devices. `restore_subtrees`
reads the encoder of any run without knowing its method or optimizer. Everything that is read is
verified against the digests written with it (`byoljax.workdir.integrity`), and the previous
checkpoint replaces a damaged one. Every process reads independently; `hosts.all_agree` synchronizes
them.
"""

from collections.abc import Collection, Iterator, Mapping
import contextlib
import errno
import os
import pathlib
import re
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from byoljax.config import expanded
from byoljax.devices import hosts, mapping
from byoljax.version import __version__, versions
from byoljax.workdir import history, integrity, restore
from byoljax.workdir.integrity import DamagedError
from byoljax.workdir.restore import by_name, require_equal_shapes, restore_subtrees, stored_names
from byoljax.workdir.steps import finished_steps, is_whole, latest_finished

__all__ = [
  'BEST_METRIC',
  'Checkpoints',
  'DamagedError',
  'by_name',
  'checkpoint_directory',
  'finished_steps',
  'latest_finished',
  'require_equal_shapes',
  'restore_subtrees',
  'stored_names',
]  # fmt: skip

PyTree = Any
BEST_METRIC = 'knn/top1'
_REMOVING = '.removing'


class Checkpoints:
  """The checkpoints of one run.

  Args:
    workdir: the run's directory, created if necessary.
    keep: number of newest checkpoints to keep, in addition to the one with the best `BEST_METRIC`.
    always: steps whose checkpoints are kept, too.

  Attributes:
    notes: messages for the user about damaged checkpoints.

  Raises:
    ValueError: `keep` below 1, or a file where a directory has to be.
  """

  def __init__(
    self, workdir: str | os.PathLike[str], *, keep: int = 2, always: Collection[int] = ()
  ):
    if keep < 1:
      raise ValueError(f'checkpoint.keep={keep}: at least 1 checkpoint must be kept.')
    restore.quiet_orbax()
    # `best_fn` with `max_to_keep` would delete the newest checkpoint if its metric is worse.
    policy = preservation_policy.AnyPreservationPolicy(
      [
        preservation_policy.LatestN(keep),
        preservation_policy.BestN(get_metric_fn=_best_metric, n=1),
        preservation_policy.CustomSteps(sorted(always)),
      ]
    )
    self.notes: list[str] = []
    self._saved_last: int | None = None
    self._directory = pathlib.Path(os.path.abspath(workdir)) / 'checkpoints'
    self._runs = history.identities(self._directory.parent)
    for folder in (self._directory, integrity.aside(self._directory)):
      if folder.is_symlink() or folder.exists():
        _require_directory(folder)
    self._remove_what_is_not_kept()
    self._set_aside_what_orbax_would_stumble_over()
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        best_fn=_best_metric,
        cleanup_tmp_directories=True,
        # Renamed before it is deleted: a run that is killed while it deletes file by file would
        # leave what looks like a damaged checkpoint.
        todelete_subdir=_REMOVING,
      ),
      item_names=('state', 'meta', integrity.ITEM),
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *unused: object) -> None:
    self.close()

  def latest_step(self) -> int | None:
    """The newest finished checkpoint's step, or None."""
    return self._manager.latest_step()

  def steps(self) -> list[int]:
    """The steps of all finished checkpoints, ascending."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, state: PyTree, metrics: Mapping[str, float]) -> None:
    """Starts writing a checkpoint; returns once the state has been copied to the host.

    All processes must call it. Saving a step that exists does nothing.

    Raises:
      OSError: this checkpoint or the previous one could not be written.
      RuntimeError: a later step exists.
    """
    there = self.steps()
    if step in there:
      self._saved_last = step
      return
    if there and step < there[-1]:  # Orbax, made to save, might delete the later one for it.
      raise RuntimeError(f'checkpoint {step} was not saved: later ones exist ({there}).')
    numbers = {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
    record = {}
    # Alone: fetched once, while Orbax would slice a part off each device's copy and fetch that.
    state = mapping.fetch(state) if jax.process_count() == 1 else _globally_addressed(state)
    if hosts.is_first_process():  # Only this one writes JSON.
      leaves = restore.by_name(mapping.fetch(state))
      record = integrity.make(
        leaves, step=step, metrics=numbers, version=__version__, run=next(iter(self._runs), '')
      )
    self.wait()  # Raises errors of the previous save; frees space as well.
    with self._writing():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          meta=ocp.args.JsonSave({'metrics': numbers, 'versions': versions()}),
          **{integrity.ITEM: ocp.args.JsonSave(record)},
        ),
        metrics=numbers,
        force=True,
      )
    self._saved_last = step

  def restore(self, template: PyTree, step: int | None = None) -> PyTree:
    """Reads a checkpoint into NumPy arrays and verifies them against its integrity record.

    Args:
      template: a tree with the expected shapes and dtypes; its values are ignored.
      step: which checkpoint; the newest by default.

    Raises:
      FileNotFoundError: there is no checkpoint.
      DamagedError: the checkpoint cannot be read, or has changed.
      ValueError: the checkpoint has another structure, other shapes or dtypes.
    """
    self._manager.wait_until_finished()
    step = self.latest_step() if step is None else step
    if step is None:
      raise FileNotFoundError(f'no checkpoint in {self._directory}.')
    directory = self._directory / str(step)
    host = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), jax.eval_shape(lambda: template))
    if not (directory / 'state').is_dir():
      raise DamagedError("its 'state' directory is missing")
    record = integrity.read(directory)
    with _naming_the_version(record['byoljax']):
      require_equal_shapes(integrity.shapes(record), host, types=True)
    integrity.require_run(record, self._runs, directory)
    integrity.verify_shapes(record, restore.by_name(restore.shapes(directory)))
    state = restore.read(directory, host)
    integrity.verify(record, restore.by_name(state))
    return state

  def restore_newest(self, template: PyTree) -> tuple[PyTree, int] | None:
    """Reads the newest undamaged checkpoint; moves damaged ones aside.

    All processes must call it, and all get the same step.

    Args:
      template: see `restore`.

    Returns:
      The state in NumPy arrays and its step; None if there are no checkpoints.

    Raises:
      DamagedError: there are checkpoints, but none can be read.
      ValueError: the checkpoint has another structure, other shapes or dtypes.
    """
    self._manager.wait_until_finished()
    while (step := self.latest_step()) is not None:
      state, fault = None, ''
      try:
        state = self.restore(template, step)
      except DamagedError as error:
        fault = str(error)
      if hosts.all_agree(not fault):
        return state, step
      self._set_aside(self._directory / str(step), fault or 'another process could not read it')
      hosts.all_agree(True)  # A barrier: wait until the directory has been moved.
      self._manager.reload()
    if not hosts.all_agree(not self.notes):
      raise DamagedError(
        ' '.join(self.notes) + ' There is no other one to resume from: the next start begins at '
        'step 0.'
      )
    return None

  def _set_aside(self, directory: pathlib.Path, fault: str) -> None:
    if not hosts.is_first_process():
      return
    kept = integrity.set_aside(directory)
    self.notes.append(f"Checkpoint {directory.name} is damaged: {fault}; it is kept in '{kept}'.")

  def _remove_what_is_not_kept(self) -> None:
    if hosts.is_first_process():
      shutil.rmtree(self._directory / _REMOVING, ignore_errors=True)

  def _set_aside_what_orbax_would_stumble_over(self) -> None:
    """Orbax reads the metrics of all checkpoints at once, and fails if it cannot read one."""
    if hosts.is_first_process() and self._directory.is_dir():
      # Whatever Orbax might take for a step's: '²' and '007' as well.
      for directory in sorted(p for p in self._directory.iterdir() if p.name.isnumeric()):
        try:
          integrity.check_small_files(directory)
        except DamagedError as error:
          self._set_aside(directory, str(error))
    hosts.all_agree(True)

  def wait(self) -> None:
    """Blocks until all saves are on disk.

    Raises:
      OSError: it could not be written.
    """
    saved, self._saved_last = self._saved_last, None
    with self._writing():
      self._manager.wait_until_finished()
    self._remove_what_is_not_kept()
    if (
      saved is not None and hosts.is_first_process() and not is_whole(self._directory / str(saved))
    ):
      raise OSError(errno.EIO, f'checkpoint {saved} is not in {self._directory} after it was saved')

  def close(self) -> None:
    """Waits for pending saves and releases the directory; raises as `wait` does."""
    try:
      self.wait()
    finally:
      self._manager.close()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """Turns errors of Orbax and TensorStore about the disk into one message."""
    try:
      yield
    except Exception as error:
      self._saved_last = None
      number = getattr(error, 'errno', None)
      found = re.search(r"os_error_code='(\d+)'", str(error))
      number = int(found[1]) if found else number
      if not isinstance(number, int):
        raise
      raise OSError(
        number,
        f'a checkpoint could not be written: {os.strerror(number)}; there are those of steps '
        f'{", ".join(map(str, self.steps())) or "(none)"}, and the same command resumes from there',
        str(self._directory),
      ) from error


def checkpoint_directory(pretrained: str | os.PathLike[str]) -> pathlib.Path:
  """Resolves a workdir or a checkpoint's directory to a checkpoint's directory.

  Raises:
    FileNotFoundError: neither a checkpoint nor a workdir with one.
  """
  path = expanded(pretrained)
  if (path / 'state').is_dir():
    return path
  latest = latest_finished(path)
  if latest is None:
    what = 'exists but holds no checkpoint' if path.exists() else 'does not exist'
    raise FileNotFoundError(
      f"'{pretrained}' {what}: name a run's workdir or one of its checkpoints/<step> directories."
    )
  return path / 'checkpoints' / str(latest)


def _require_directory(path: pathlib.Path) -> None:
  if not path.is_dir():
    raise ValueError(f"'{path}' is not a directory: move it away, or choose another --workdir.")


def _best_metric(metrics: Mapping[str, float] | None) -> float:
  return (metrics or {}).get(BEST_METRIC, -1.0)


def _globally_addressed(state: PyTree) -> PyTree:
  """With several processes, presents each host-local replicated array as one global array."""
  return jax.tree.map(ocp.utils.fully_replicated_host_local_array_to_global_array, state)


@contextlib.contextmanager
def _naming_the_version(version: str) -> Iterator[None]:
  """Adds to an error that the checkpoint was written by another version of byoljax."""
  try:
    yield
  except ValueError as error:
    if version == __version__:
      raise
    raise ValueError(f'{error}\n(written by byoljax {version}, read by {__version__})') from error
