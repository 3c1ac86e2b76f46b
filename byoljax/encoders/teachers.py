"""Classifiers to learn from: a linear evaluation's encoder with its chosen head."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from byoljax.config import Config, ConfigError, user_errors
from byoljax.method import Teacher
from byoljax.protocols import extraction
from byoljax.workdir import checkpoint, run_dir


def load(path: str, config: Config) -> Teacher:
  """Reads the classifier that a linear evaluation left behind.

  Args:
    path: the directory of a finished linear evaluation: runs/byol/evals/linear-online-100, say.
    config: the run that will learn from it: both must see equally normalized images.

  Raises:
    ConfigError: no finished linear evaluation there, or other statistics of the images.
  """
  if not path:
    raise ConfigError(
      'config.teacher is empty: name the directory of a linear evaluation, such as '
      'runs/byol/evals/linear-online-3750.'
    )
  home = pathlib.Path(path)
  protocol = run_dir.run_config(home)
  if protocol.get('task') != 'linear':
    raise ConfigError(f"config.teacher='{path}' is not the directory of a linear evaluation.")
  if protocol.linear.get('norm'):
    raise ConfigError(
      f"config.teacher='{path}' normalizes its features (linear.norm=true), which a teacher does "
      'not: evaluate with another protocol.'
    )
  encoder, source, _ = extraction.load_encoder(
    protocol.pretrained, protocol.network, protocol.get('tap', 'embedding')
  )
  for name in ('mean', 'std'):
    if tuple(source.data[name]) != tuple(config.data[name]):
      raise ConfigError(
        f'config.data.{name} differs: {tuple(config.data[name])} here, {tuple(source.data[name])} '
        f"where the teacher '{path}' was trained; use the same."
      )
  kernel, bias = _head(home, tuple(protocol.linear.base_lr))

  def logits(variables, images: jax.Array) -> jax.Array:
    features = encoder.read(variables['params'], variables['bn'], images)
    return features @ variables['kernel'] + variables['bias'][None, :]

  variables = {'params': encoder.params, 'bn': encoder.bn, 'kernel': kernel, 'bias': bias}
  return Teacher(logits, jax.tree.map(jnp.asarray, variables), kernel.shape[-1])


def _head(home: pathlib.Path, rates: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
  """Kernel [D, C] and bias [C] of the head that the evaluation chose among its learning rates."""
  try:
    result = json.loads((home / 'result.json').read_text())['result']
  except (OSError, ValueError, KeyError) as error:
    raise ConfigError(
      f"'{home}' holds no finished linear evaluation ({error}): run configs/linear.py to its end."
    ) from error
  with user_errors('config.teacher'):
    directory = checkpoint.checkpoint_directory(home)
    found = checkpoint.restore_subtrees(directory, [('params', 'head')])[('params', 'head')]
  chosen = rates.index(result['base_lr'])
  return found['kernel'][chosen], found['bias'][chosen, 0]
