"""Classifiers of features as values: what is left of logistic regression, a linear probe, k-NN.

A readout is arrays and settings with one function, `logits`, from features [b, D] to scores [b, C]
whose softmax, at some temperature, are the classes' probabilities.
"""

import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from byoljax.ops import sphere

# The score of a class that had no image to learn from: no infinity, whose differences are NaN.
NEVER = -1e9
# Neighbors' prior: as much as one neighbor at hand, shared out among all classes.
PRIOR = 1.0
_ROWS = 1024


class Linear(NamedTuple):
  """x W + b, of features as they are or scaled to unit length.

  Attributes:
    kernel: float32 [D, C].
    bias: float32 [C].
    unit: whether features are scaled, x / (|x| + 1e-5), as for support vector machines.
  """

  kernel: np.ndarray
  bias: np.ndarray
  unit: bool = False

  def logits(self, features: jax.Array) -> jax.Array:
    """Scores float32 [b, C] of features [b, D]; differentiable."""
    x = jnp.asarray(features, jnp.float32)
    if self.unit:
      x = x / (jnp.linalg.norm(x, axis=1, keepdims=True) + 1e-5)
    return jnp.matmul(x, self.kernel, precision=lax.Precision.HIGHEST) + self.bias[None]


class Neighbors(NamedTuple):
  """Weighted k-NN (Wu et al. 2018, section 3.4): log of the classes' shares in the votes.

  The k rows of largest cosine similarity s vote for their class with exp((s - s_max) / T). To the
  votes one vote is added that is shared out evenly, so that a class without neighbors has a small
  probability rather than none: p_c = (votes_c + 1 / C) / (votes + 1). The prediction is that of
  `evals.knn`.

  Attributes:
    bank: float32 [N, D], rows of unit length.
    labels: int32 [N], in 0 ... C - 1.
    classes: C.
    k: at most N.
    temperature: T of the votes.
  """

  bank: np.ndarray
  labels: np.ndarray
  classes: int
  k: int
  temperature: float = 0.1

  def logits(self, features: jax.Array) -> jax.Array:
    """Scores float32 [b, C] of features [b, D]."""
    x = sphere.unit(jnp.asarray(features, jnp.float32))
    similarity = jnp.matmul(x, self.bank.T, precision=lax.Precision.HIGHEST)
    nearest, rows = lax.top_k(similarity, self.k)
    weights = jnp.exp((nearest - nearest[:, :1]) / self.temperature)
    votes = jnp.zeros((x.shape[0], self.classes), jnp.float32)
    own = jnp.take(jnp.asarray(self.labels), rows)
    votes = votes.at[jnp.arange(x.shape[0])[:, None], own].add(weights)
    share = (votes + PRIOR / self.classes) / (votes.sum(1, keepdims=True) + PRIOR)
    return jnp.log(share)


Readout = Linear | Neighbors
READOUTS: dict[str, type[Readout]] = {'linear': Linear, 'neighbors': Neighbors}


def neighbors(
  features: np.ndarray, labels: np.ndarray, *, classes: int, k: int, temperature: float = 0.1
) -> Neighbors:
  """k-NN with these images as the bank.

  Args:
    features: [N, D].
    labels: int [N], in 0 ... C - 1.
    classes: C.
    k: neighbors that vote; at most N do.
    temperature: T of the votes.
  """
  bank = np.asarray(sphere.unit(jnp.asarray(features, jnp.float32)))
  own = np.asarray(labels, np.int32)
  return Neighbors(bank, own, int(classes), min(int(k), len(bank)), float(temperature))


def logits_of(readout: Readout, features: np.ndarray) -> np.ndarray:
  """Scores float32 [N, C] of the features of a whole data set, block by block."""
  fields = readout._asdict()
  arrays = {name: x for name, x in fields.items() if isinstance(x, np.ndarray)}
  settings = tuple((name, x) for name, x in fields.items() if name not in arrays)
  made = [
    np.asarray(_logits(type(readout), settings, arrays, features[start : start + _ROWS]))
    for start in range(0, len(features), _ROWS)
  ]
  return np.concatenate(made) if made else np.zeros((0, 0), np.float32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits(
  kind: type[Readout], settings: tuple[tuple[str, Any], ...], arrays: Any, x: jax.Array
) -> jax.Array:
  """Compiled once for all readouts of a kind, of the same settings and shapes."""
  return kind(**dict(settings), **arrays).logits(x)
