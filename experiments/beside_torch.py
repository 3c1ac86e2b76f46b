"""What measurements of a train step beside the same one in PyTorch have in common.

Both sides are processes on one core, one after the other, and CPU seconds are counted, so that
other work on the machine matters little. byoljax runs its method and its `train_step`; the other
side starts from the same weights and images, and the losses of the first steps have to agree.
"""

from collections.abc import Mapping, Sequence
import functools
import json
import os
import pathlib
import subprocess
import tempfile
import time
from typing import Any

from collect import processor
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax

from byoljax import optim
from byoljax.devices import xla
from byoljax.method import Method
from byoljax.step import init_state, train_step

RATE, CHECKED = 1e-3, 3  # of Adam; steps whose losses are compared


def one_core() -> None:
  """For JAX to count one core it has to be called first."""
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  xla.set_defaults()


def batch_of(views: np.ndarray) -> dict[str, Any]:
  """A batch of images that are views already."""
  index = np.arange(len(views), dtype=np.int32)
  return {'views': (views,), 'label': index, 'index': index, 'epoch': 0 * index}


def step_of(method: Method, batch: Mapping[str, Any]) -> tuple[Any, Any]:
  """The state before training, and the compiled step."""
  tx = optax.adam(RATE)
  state = init_state(method, tx, dict(batch), 0)
  step = functools.partial(
    train_step, method=method, tx=tx, augment=lambda batch, step: batch, axis=None
  )
  return state, jax.jit(step, donate_argnums=0).lower(state, batch).compile()


def timed(
  step: Any, state: Any, batch: Mapping[str, Any], steps: int
) -> tuple[list[float], list[float], Any]:
  """Losses, CPU seconds of each step behind the checked ones, and the last state."""
  batch = jax.tree.map(jnp.asarray, batch)
  losses, seconds = [], []
  for _ in range(CHECKED + steps):
    began = time.process_time()
    state, metrics = step(state, batch)
    losses.append(float(metrics['loss']))
    seconds.append(time.process_time() - began)
  return losses, seconds[CHECKED:], state


def weights_of(params: Any) -> dict[str, np.ndarray]:
  """Copies of the leaves by their path, 'encoder/block1/qkv/kernel'."""
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(params))
  return {optim.path_name(path): np.array(leaf) for path, leaf in leaves}


def in_pytorch(
  python: str, script: str, arrays: Mapping[str, np.ndarray], words: Sequence[Any]
) -> dict[str, Any]:
  """What the script beside this one prints as JSON, given the arrays in a file and the words."""
  with tempfile.TemporaryDirectory() as place:
    path = pathlib.Path(place) / 'given.npz'
    np.savez(path, **arrays)
    command = [python, pathlib.Path(__file__).with_name(script), path, *words]
    done = subprocess.run([str(word) for word in command], check=False, capture_output=True)
  if done.returncode:
    raise RuntimeError(f'{script} failed:\n{done.stderr.decode()}')
  return json.loads(done.stdout)


def compare(ours: Sequence[float], theirs: Sequence[float]) -> None:
  """Raises AssertionError unless the losses of the checked steps agree.

  The first to rounding. Adam divides gradients by their size, and so enlarges the rounding of those
  that are nearly zero: later ones within 1 %, less than a tenth of what a step changes.
  """
  np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
  np.testing.assert_allclose(ours[1:CHECKED], theirs[1:CHECKED], rtol=1e-2)


def about(**more: Any) -> dict[str, Any]:
  """The machine and the versions, for results.json."""
  versions = {'jax': jax.__version__, 'jaxlib': jaxlib.__version__}
  return {
    'processor': processor(), 'load': os.getloadavg(), 'versions': versions, **more,
  }  # fmt: skip
