"""Classifiers to learn from: the encoder and the linear classifier that an evaluation left."""

import jax.numpy as jnp
import numpy as np

from byoljax.config import ConfigError
from byoljax.encoders import classifier
from byoljax.encoders.encoder import Encoder, Preprocessing
from byoljax.models import heads
from byoljax.models.net import stack
from byoljax.ops import readouts

# No network has parts or taps of these names, so that a classifier may read any tap.
POOL, HEAD, LOGITS = 'classifier_pool', 'classifier_head', 'classifier_logits'


def load(path: str) -> Encoder:
  """Reads a linear classifier, as `classifier.load` does.

  Args:
    path: what an evaluation left: runs/byol/evals/linear-online-100, say.

  Returns:
    The encoder with the classifier behind it: its features are logits float32 [b, C], without the
    temperature that calibrates them.

  Raises:
    ConfigError: there is none, or it is not a linear one of the features as they are.
  """
  if not path:
    raise ConfigError(
      'config.teacher is empty: name the directory of a linear evaluation, such as '
      'runs/byol/evals/linear-online-3750.'
    )
  made = classifier.load(path)
  readout = made.readout
  if not isinstance(readout, readouts.Linear) or readout.unit:
    raise ConfigError(
      f"config.teacher='{path}' is a classifier by neighbors, or one of features scaled to unit "
      'length, and a teacher is a linear one: name that of `byoljax linear` or `logistic`.'
    )
  return with_classifier(made.encoder, readout.kernel, readout.bias)


def with_classifier(encoder: Encoder, kernel: np.ndarray, bias: np.ndarray) -> Encoder:
  """A linear classifier on an encoder's features, as an encoder whose tap is `LOGITS`.

  Args:
    encoder: gives [b, D].
    kernel: [D, C].
    bias: [C].
  """
  net = stack(
    (
      *encoder.net.parts,
      (POOL, 'classifier_features', heads.Pool(encoder.pool or 'none')),
      (HEAD, LOGITS, heads.LinearHead(kernel.shape[-1])),
    ),
    reads=dict(encoder.net.reads) | {POOL: encoder.tap},
  )
  head = {'linear1': {'kernel': jnp.asarray(kernel), 'bias': jnp.asarray(bias)}}
  return Encoder(
    net,
    encoder.params | {POOL: {}, HEAD: head},
    encoder.bn | {POOL: {}, HEAD: {}},
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
