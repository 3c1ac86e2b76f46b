"""Classifiers to learn from: a linear evaluation's encoder with its chosen head."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np

from byoljax.config import ConfigError, user_errors
from byoljax.encoders import load as load_lib
from byoljax.encoders.encoder import Encoder, Preprocessing
from byoljax.methods.supervised.linear_probe import FEATURES
from byoljax.models import heads
from byoljax.models.net import stack
from byoljax.workdir import checkpoint, run_dir

LOGITS = 'logits'


def load(path: str) -> Encoder:
  """Reads the classifier that a linear evaluation left behind.

  Args:
    path: the directory of a finished linear evaluation: runs/byol/evals/linear-online-100, say.

  Returns:
    The encoder with the head behind it: its features are logits float32 [b, C].

  Raises:
    ConfigError: no finished linear evaluation there.
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
  encoder, _, _ = load_lib.load_encoder(protocol.pretrained, protocol.network, protocol.tap)
  return with_classifier(encoder, *_head(home, tuple(protocol.linear.base_lr)))


def with_classifier(encoder: Encoder, kernel: np.ndarray, bias: np.ndarray) -> Encoder:
  """A linear classifier on an encoder's features, as an encoder whose tap is 'logits'.

  Args:
    encoder: gives [b, D].
    kernel: [D, C].
    bias: [C].
  """
  net = stack(
    (
      *encoder.net.parts,
      ('pool', 'features', heads.Pool(encoder.pool or 'none')),
      ('head', LOGITS, heads.LinearHead(kernel.shape[-1])),
    ),
    reads=dict(encoder.net.reads) | {'pool': encoder.tap},
  )
  head = {'linear1': {'kernel': jnp.asarray(kernel), 'bias': jnp.asarray(bias)}}
  return Encoder(
    net,
    encoder.params | {'pool': {}, 'head': head},
    encoder.bn | {'pool': {}, 'head': {}},
    encoder.preprocessing,
    LOGITS,
    fields=encoder.fields,
  )


def require_same_normalization(
  name: str, theirs: Preprocessing, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
  """Raises ConfigError unless a teacher, say, sees images normalized as the student does."""
  for field, own, other in (('mean', mean, theirs.mean), ('std', std, theirs.std)):
    if tuple(own) != tuple(other):
      raise ConfigError(
        f'config.data.{field} differs: {tuple(own)} here, {tuple(other)} where the {name} was '
        'trained; use the same.'
      )


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
    where = ('params', 'head', FEATURES)
    found = checkpoint.restore_subtrees(directory, [where])[where]
  chosen = rates.index(result['base_lr'])
  return found['kernel'][chosen], found['bias'][chosen, 0]
