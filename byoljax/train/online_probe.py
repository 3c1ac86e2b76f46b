"""The online probe: a linear classifier that watches the embedding while a method trains.

It never touches the encoder: it sees the embedding behind a stop-gradient, has parameters, an
optimizer and metrics of its own, and training is bit-equal with and without it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from byoljax import optim, streams
from byoljax.length import Length
from byoljax.losses import classification
from byoljax.method import Batch, Method
from byoljax.methods.beside import Head, with_head
from byoljax.models import heads
from byoljax.models.net import stack
from byoljax.optim.recipe import moving

PyTree = Any


class ProbeOptions(NamedTuple):
  """The optimizer of the online probe: SGD with Nesterov momentum and a cosine schedule.

  Attributes:
    base_lr: learning rate per 256 examples.
    momentum: in [0, 1).
  """

  base_lr: float = 0.2
  momentum: float = 0.9


def add(method: Method, num_classes: int, axis: str | None) -> Method:
  """Adds a linear classifier that watches the embedding; see `with_online_probe`.

  Its loss and accuracy are means over the labelled images of a micro-batch on all devices of
  `axis`.
  """
  head = stack((('probe', 'logits', heads.LinearHead(num_classes)),))

  def apply(params: PyTree, x: jax.Array) -> jax.Array:
    return head.apply({'probe': params}, {'probe': {}}, x, train=True)[0]['logits']

  def loss(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    value = classification.cross_entropy(logits, labels, axis=axis)
    return value, {'loss': value, 'top1': classification.accuracy(logits, labels, axis=axis)}

  return with_online_probe(method, lambda key, x: head.init(key, x)[0]['probe'], apply, loss)


def optimizer(
  probe: ProbeOptions, length: Length
) -> tuple[optax.GradientTransformation, dict[str, Any]]:
  """The probe's optimizer, and its fields for the table of parameters."""
  settings = {'name': 'sgd', 'momentum': probe.momentum, 'nesterov': True}
  rate = moving(length, optim.peak_lr(probe.base_lr, length.batch_size))
  return optim.make_optimizer(schedule=rate, **settings), settings


def with_online_probe(
  method: Method,
  head_init: Callable[[jax.Array, jax.Array], PyTree],
  head_apply: Callable[[PyTree, jax.Array], jax.Array],
  probe_loss: Callable[[jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]],
) -> Method:
  """Adds a linear classifier that watches the embedding and never touches it.

  The probe sees the embedding of view 0 behind a stop-gradient, its parameters form the optimizer
  group 'probe', and its metrics are named 'probe/*'. The encoder's training is bit-equal with and
  without it, whatever the labels are.

  Args:
    method: the method to watch.
    head_init: (key, embedding [b, D]) -> head parameters.
    head_apply: (head parameters, embedding [b, D]) -> logits [b, C].
    probe_loss: (logits [b, C], labels int32 [b]) -> (scalar, metrics); labels of -1 do not count.

  Returns:
    The method with one more role, 'probe', in its parameters.
  """

  def init(key: jax.Array, embedding: jax.Array) -> tuple[PyTree, PyTree]:
    return head_init(key, embedding), {}

  def loss(
    params: PyTree, statistics: PyTree, embeddings: tuple[jax.Array, ...], batch: Batch
  ) -> tuple[jax.Array, PyTree, dict[str, jax.Array]]:
    logits = head_apply(params, jax.lax.stop_gradient(embeddings[0]))
    value, metrics = probe_loss(logits, batch['label'])
    return value, statistics, metrics

  probe = Head('probe', streams.PROBE, init, loss, group='probe', watches=True)
  return with_head(method, probe)
