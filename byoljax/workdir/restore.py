"""Reads a checkpoint's directory, completely or in part, without the manager that wrote it.

Every process reads independently, waits for no other, and verifies what it read against the
integrity record. Errors of Orbax and TensorStore about damaged files become one `DamagedError`.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import logging
import os
import pathlib
from typing import Any
import warnings

import jax
import numpy as np
import orbax.checkpoint as ocp

from byoljax.workdir import history, integrity
from byoljax.workdir.integrity import DamagedError

PyTree = Any


def restore_subtrees(
  checkpoint: str | os.PathLike[str], prefixes: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], PyTree]:
  """Reads parts of a checkpoint's state without knowing the rest of it.

  Args:
    checkpoint: a step's directory.
    prefixes: paths into the state, such as ('params', 'encoder').

  Returns:
    {prefix: nested dict of NumPy arrays}; an empty dict if a subtree has no arrays.

  Raises:
    FileNotFoundError: no checkpoint there.
    DamagedError: it cannot be read, or has changed.
    KeyError: the state has no such path.
  """
  quiet_orbax()
  directory = pathlib.Path(os.path.abspath(checkpoint))
  with _naming(directory):
    return _subtrees(directory, prefixes)


def stored_names(checkpoint: str | os.PathLike[str], prefix: tuple[str, ...]) -> list[str]:
  """The names directly under a path into a checkpoint's state; empty if there is no such path.

  Raises:
    FileNotFoundError: no checkpoint there.
    DamagedError: its list of names cannot be read.
  """
  quiet_orbax()
  directory = pathlib.Path(os.path.abspath(checkpoint))
  with _naming(directory):
    tree = shapes(directory)
  try:
    return list(_lookup(tree, prefix) or ())
  except KeyError:
    return []


@contextlib.contextmanager
def _naming(directory: pathlib.Path) -> Iterator[None]:
  """Adds to an error which checkpoint is damaged, and what to do."""
  try:
    yield
  except DamagedError as error:
    raise DamagedError(
      f"'{directory}' is damaged: {error}. Use another checkpoint of the run, if there is one."
    ) from error


def _subtrees(
  directory: pathlib.Path, prefixes: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], PyTree]:
  tree = shapes(directory)
  record = integrity.read(directory)
  workdir = directory.parent.parent
  integrity.require_run(record, history.identities(workdir), directory)
  integrity.verify_shapes(record, by_name(tree))
  wanted: dict[str, Any] = {}
  for prefix in prefixes:
    _graft(wanted, prefix, _template(_lookup(tree, prefix)))
  restored = read(directory, wanted, partial=True)
  integrity.verify(record, by_name(restored))
  return {prefix: _lookup(restored, prefix) for prefix in prefixes}


def _alone() -> dict[str, Any]:
  """Orbax options for a process that reads independently of the others."""
  index = jax.process_index()
  options = ocp.options.MultiprocessingOptions(
    primary_host=index, active_processes={index}, barrier_sync_key_prefix=f'process{index}'
  )
  return {'multiprocessing_options': options}


def read(directory: pathlib.Path, wanted: PyTree, *, partial: bool = False) -> PyTree:
  """Reads a state, or a part of it, into NumPy arrays of the structure of `wanted`."""
  restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
  args = ocp.args.PyTreeRestore(wanted, restore_args=restore_args, partial_restore=partial)

  def attempt() -> PyTree:
    handler = ocp.PyTreeCheckpointHandler(**_alone())
    with ocp.Checkpointer(handler, **_alone()) as reader:
      return reader.restore(directory / 'state', args=args)

  return _twice(attempt)


def shapes(checkpoint: pathlib.Path) -> PyTree:
  """Shapes and dtypes of everything in a checkpoint's state, as nested dicts and lists."""
  path = checkpoint / 'state'
  if not path.is_dir():
    raise FileNotFoundError(f"'{checkpoint}' is not a checkpoint: it has no 'state' directory.")

  def attempt() -> PyTree:
    handler = ocp.StandardCheckpointHandler(**_alone())
    with ocp.Checkpointer(handler, **_alone()) as reader:
      found = reader.metadata(path).item_metadata
      if found is None:
        raise ValueError('the list of its arrays is missing')
      return found.tree

  return _twice(attempt)


def _twice(attempt: Callable[[], PyTree]) -> PyTree:
  """Reads, and retries once: a transient failure is not damage.

  Raises:
    PermissionError: the files are not readable.
    DamagedError: both attempts failed.
  """
  for last in (False, True):
    try:
      with _ending_what_was_begun():
        return attempt()
    except MemoryError:
      raise
    except Exception as error:  # TensorStore and Orbax raise arbitrary exceptions on damage.
      if isinstance(error, PermissionError) or 'PERMISSION_DENIED' in str(error):
        raise PermissionError(integrity.short(error)) from error
      if last:
        raise DamagedError(f'it cannot be read ({integrity.short(error)})') from error
  raise AssertionError


class _PatientLoop(asyncio.SelectorEventLoop):
  """An event loop that awaits its pending tasks before it closes."""

  def close(self) -> None:
    """Awaits all pending tasks, ignoring their errors, and closes."""
    while not self.is_closed() and (left := asyncio.all_tasks(self)):
      self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    super().close()


@contextlib.contextmanager
def _ending_what_was_begun() -> Iterator[None]:
  """Makes Orbax's event loops wait for all of their reads.

  Orbax reads all arrays concurrently and closes its loop when the first one fails. The others would
  then find it closed and print a traceback each.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', DeprecationWarning)  # Of policies, since Python 3.14.
    before, patient = asyncio.get_event_loop_policy(), asyncio.DefaultEventLoopPolicy()
    patient.new_event_loop = _PatientLoop  # type: ignore[method-assign]
    asyncio.set_event_loop_policy(patient)
    try:
      yield
    finally:
      asyncio.set_event_loop_policy(before)


def require_equal_shapes(stored: PyTree, wanted: PyTree, *, types: bool = False) -> None:
  """Compares a checkpoint with the expected tree; Orbax's own error has thousands of lines.

  Args:
    stored: a tree of arrays, or of objects with a shape and dtype.
    wanted: likewise.
    types: whether to compare dtypes as well.

  Raises:
    ValueError: missing or unexpected names, or other shapes; the first dozen are listed.
  """
  have, want = (
    {
      name: f'{tuple(leaf.shape)}{f" {leaf.dtype}" if types else ""}'
      for name, leaf in by_name(tree).items()
    }
    for tree in (stored, wanted)
  )
  lines = [f'- {name} (missing)' for name in want if name not in have]
  lines += [f'+ {name} (unexpected)' for name in have if name not in want]
  lines += [
    f'! {name}: {have[name]} in the checkpoint, {want[name]} expected'
    for name in want
    if name in have and have[name] != want[name]
  ]
  if lines:
    shown = lines[:12] + ([f'... and {len(lines) - 12} more'] if len(lines) > 12 else [])
    raise ValueError('the checkpoint does not fit this run:\n  ' + '\n  '.join(shown))


def by_name(tree: PyTree) -> dict[str, Any]:
  """The leaves of a tree, by path."""
  leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: hasattr(x, 'shape'))[0]
  # Tuples and dataclasses come back from disk as lists and dicts: only the names count.
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def _lookup(tree: PyTree, prefix: tuple[str, ...]) -> PyTree:
  for depth, key in enumerate(prefix):
    if not isinstance(tree, Mapping) or key not in tree:
      raise KeyError('/'.join(prefix[: depth + 1]))
    tree = tree[key]
  return tree


def _template(tree: PyTree) -> PyTree:
  return jax.tree.map(
    lambda leaf: np.empty(leaf.shape, leaf.dtype), tree, is_leaf=lambda x: hasattr(x, 'shape')
  )


def _graft(tree: dict[str, Any], prefix: tuple[str, ...], value: PyTree) -> None:
  for key in prefix[:-1]:
    tree = tree.setdefault(key, {})
  tree[prefix[-1]] = value


def quiet_orbax() -> None:
  """Silences Orbax, which logs every phase of a save and every error that it raises."""
  logging.getLogger('absl').setLevel(logging.CRITICAL)
