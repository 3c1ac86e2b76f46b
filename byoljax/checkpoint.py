"""Checkpoints on disk, by Orbax: asynchronous, atomic, the last k and the best one kept.

    <workdir>/config.json              the resolved configuration, versions, the recipe's name
    <workdir>/checkpoints/<step>/      state (the TrainState) and meta (metrics, versions)

A checkpoint holds arrays only and does not depend on the number of devices. `restore_subtrees`
reads the encoder of any run without knowing its method or optimiser.
"""

from collections.abc import Mapping, Sequence
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

PyTree = Any
BEST_METRIC = 'knn/top1'
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'ml-collections', 'numpy')


class Checkpoints:
  """The checkpoints of one run.

  Args:
    workdir: the run's directory; it is made if need be.
    keep: how many of the newest checkpoints stay. The one with the best `BEST_METRIC` stays, too.

  Raises:
    ValueError: `keep` below 1.
  """

  def __init__(self, workdir: str | os.PathLike[str], *, keep: int = 2):
    if keep < 1:
      raise ValueError(f'checkpoint.keep={keep}: at least 1 checkpoint must stay.')
    _quiet_orbax()
    # `best_fn` with `max_to_keep` would delete the newest checkpoint when its metric is worse.
    policy = preservation_policy.AnyPreservationPolicy(
      [
        preservation_policy.LatestN(keep),
        preservation_policy.BestN(get_metric_fn=_best_metric, n=1),
      ]
    )
    self._manager = ocp.CheckpointManager(
      os.path.abspath(pathlib.Path(workdir) / 'checkpoints'),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policy, best_fn=_best_metric, cleanup_tmp_directories=True
      ),
      item_names=('state', 'meta'),
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

    All processes call it. Saving a step that is already there does nothing.

    Raises:
      RuntimeError: Orbax refused, because a later step is already there.
    """
    if step in self._manager.all_steps():
      return
    numbers = {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
    saved = self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(_globally_addressed(state)),
        meta=ocp.args.JsonSave({'metrics': numbers, 'versions': versions()}),
      ),
      metrics=numbers,
      force=True,
    )
    if not saved:
      raise RuntimeError(
        f'checkpoint {step} was not saved: later ones are already there ({self.steps()}).'
      )

  def restore(self, template: PyTree, step: int | None = None) -> PyTree:
    """Reads a checkpoint into NumPy arrays.

    Args:
      template: a tree with the shapes and dtypes to expect; its values do not matter.
      step: which checkpoint; the newest by default.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: the checkpoint holds another structure or other shapes.
    """
    self._manager.wait_until_finished()
    step = self.latest_step() if step is None else step
    if step is None:
      raise FileNotFoundError(f'no checkpoint in {self._manager.directory}.')
    host = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), jax.eval_shape(lambda: template))
    require_equal_shapes(_stored_tree(pathlib.Path(self._manager.directory) / str(step)), host)
    restored = self._manager.restore(
      step, args=ocp.args.Composite(state=ocp.args.StandardRestore(host))
    )
    return restored['state']

  def metrics(self, step: int) -> dict[str, float]:
    """The metrics stored with a checkpoint."""
    args = ocp.args.Composite(meta=ocp.args.JsonRestore())
    return self._manager.restore(step, args=args)['meta']['metrics']

  def wait(self) -> None:
    """Blocks until everything that was saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for pending saves and releases the directory."""
    self._manager.wait_until_finished()
    self._manager.close()


def restore_subtrees(
  checkpoint: str | os.PathLike[str], prefixes: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], PyTree]:
  """Reads parts of a checkpoint's state without knowing the rest of it.

  Args:
    checkpoint: a step's directory.
    prefixes: paths into the state, such as ('params', 'encoder').

  Returns:
    {prefix: nested dict of NumPy arrays}; an empty dict where a subtree holds no arrays.

  Raises:
    FileNotFoundError: no checkpoint there.
    KeyError: the state has no such path.
  """
  _quiet_orbax()
  directory = pathlib.Path(os.path.abspath(checkpoint))
  tree = _stored_tree(directory)
  wanted: dict[str, Any] = {}
  for prefix in prefixes:
    _graft(wanted, prefix, _template(_lookup(tree, prefix)))
  restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    args = ocp.args.PyTreeRestore(wanted, restore_args=restore_args, partial_restore=True)
    restored = reader.restore(directory / 'state', args=args)
  return {prefix: _lookup(restored, prefix) for prefix in prefixes}


def stored_names(checkpoint: str | os.PathLike[str], prefix: tuple[str, ...]) -> list[str]:
  """The names right under a path into a checkpoint's state; none where there is no such path."""
  _quiet_orbax()
  try:
    return list(_lookup(_stored_tree(pathlib.Path(os.path.abspath(checkpoint))), prefix) or ())
  except KeyError:
    return []


def _stored_tree(checkpoint: pathlib.Path) -> PyTree:
  """Shapes and dtypes of everything in a checkpoint's state, as nested dicts and lists."""
  path = checkpoint / 'state'
  if not path.is_dir():
    raise FileNotFoundError(f"'{checkpoint}' is not a checkpoint: it has no 'state' directory.")
  with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
    return reader.metadata(path).item_metadata.tree


def latest_finished(workdir: str | os.PathLike[str]) -> int | None:
  """The newest complete checkpoint's step in a workdir, without opening it; None without one."""
  folder = pathlib.Path(workdir) / 'checkpoints'
  steps = [int(p.name) for p in folder.glob('*') if p.name.isdigit() and (p / 'state').is_dir()]
  return max(steps, default=None)


def checkpoint_directory(pretrained: str | os.PathLike[str]) -> pathlib.Path:
  """Resolves a workdir or a checkpoint's directory to a checkpoint's directory.

  Raises:
    FileNotFoundError: neither a checkpoint nor a workdir with one.
  """
  path = pathlib.Path(pretrained)
  if (path / 'state').is_dir():
    return path
  latest = latest_finished(path)
  if latest is None:
    what = 'exists but holds no checkpoint' if path.exists() else 'does not exist'
    raise FileNotFoundError(
      f"'{pretrained}' {what}: name a run's workdir or one of its checkpoints/<step> directories."
    )
  return path / 'checkpoints' / str(latest)


def write_json(path: pathlib.Path, data: Mapping[str, Any]) -> None:
  """Writes JSON so that the file is either the old one or the new one, never half of it."""
  scratch = path.with_name(path.name + '.tmp')
  scratch.write_text(json.dumps(data, indent=2) + '\n')
  os.replace(scratch, path)


def versions() -> dict[str, str]:
  """The versions that a result depends on."""
  found = {'python': platform.python_version()}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def _best_metric(metrics: Mapping[str, float] | None) -> float:
  return (metrics or {}).get(BEST_METRIC, -1.0)


def _globally_addressed(state: PyTree) -> PyTree:
  """On several processes, presents each host-local replicated array as one global array."""
  if jax.process_count() == 1:
    return state
  return jax.tree.map(ocp.utils.fully_replicated_host_local_array_to_global_array, state)


def require_equal_shapes(stored: PyTree, wanted: PyTree) -> None:
  """Compares a checkpoint with what is wanted; Orbax's own complaint is thousands of lines.

  Raises:
    ValueError: missing or unexpected names, or other shapes; the first dozen are listed.
  """
  have = {_name(path): tuple(leaf.shape) for path, leaf in _leaves(stored)}
  want = {_name(path): tuple(leaf.shape) for path, leaf in _leaves(wanted)}
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


def _leaves(tree: PyTree) -> list[tuple[Any, Any]]:
  return jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: hasattr(x, 'shape'))[0]


def _name(path: Sequence[Any]) -> str:
  # Tuples and dataclasses come back from disk as lists and dicts: only the names count.
  return '/'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in path)


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


def _quiet_orbax() -> None:
  """Orbax reports every phase of every save; only problems are of interest here."""
  logging.getLogger('absl').setLevel(logging.ERROR)
