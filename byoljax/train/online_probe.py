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
from byoljax.method import Aux, Batch, Loss, Method, Phase
from byoljax.models import heads
from byoljax.models.net import stack

PyTree = Any


class ProbeOptions(NamedTuple):
  """The optimizer of the online probe: SGD with Nesterov momentum and a cosine schedule.

  Attributes:
    base_lr: learning rate per 256 examples.
    momentum: in [0, 1).
  """

  base_lr: float = 0.2
  momentum: float = 0.9


def add(method: Method, num_classes: int) -> Method:
  """Adds a linear classifier that watches the embedding; see `with_online_probe`."""
  head = stack((('probe', 'logits', heads.LinearHead(num_classes)),))

  def apply(params: PyTree, x: jax.Array) -> jax.Array:
    return head.apply({'probe': params}, {'probe': {}}, x, train=True)[0]['logits']

  def loss(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    value = classification.cross_entropy(logits, labels)
    return value, {'loss': value, 'top1': classification.accuracy(logits, labels)}

  return with_online_probe(method, lambda key, x: head.init(key, x)[0]['probe'], apply, loss)


def optimizer(
  probe: ProbeOptions, length: Length
) -> tuple[optax.GradientTransformation, dict[str, Any]]:
  """The probe's optimizer, and its fields for the table of parameters."""
  settings = {'name': 'sgd', 'momentum': probe.momentum, 'nesterov': True}
  rate = optim.cosine(
    optim.peak_lr(probe.base_lr, length.batch_size), total_steps=length.total_steps
  )
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

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
    params, state = method.init(key, batch)
    embedding = method.embed(params, state, batch['views'][0])['embedding']
    head = head_init(jax.random.fold_in(key, streams.PROBE), embedding)
    return params | {'probe': head}, state

  def with_probe_loss(inner: Loss) -> Loss:
    def loss(
      params: PyTree, state: PyTree, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
      value, aux = inner(_without_probe(params), state, batch, key, step)
      logits = head_apply(params['probe'], jax.lax.stop_gradient(aux.embedding))
      probe_value, metrics = probe_loss(logits, batch['label'])
      named = {f'probe/{name}': metric for name, metric in metrics.items()}
      # The probe is no part of what is shown as the method's loss.
      return value + probe_value, aux._replace(metrics={'loss': value} | aux.metrics | named)

    return loss

  def without_probe(inner: Loss) -> Loss:
    return lambda params, *rest: inner(_without_probe(params), *rest)

  def post_step(
    params: PyTree, state: PyTree, step: jax.Array
  ) -> tuple[PyTree, PyTree, dict[str, jax.Array]]:
    inner, state, metrics = method.post_step(_without_probe(params), state, step)
    return inner | {'probe': params['probe']}, state, metrics

  def embed(params: PyTree, state: PyTree, images: jax.Array) -> dict[str, jax.Array]:
    return method.embed(_without_probe(params), state, images)

  def groups(params: PyTree) -> PyTree:
    probe = jax.tree.map(lambda _: 'probe', params['probe'])
    return method.groups(_without_probe(params)) | {'probe': probe}

  # The first phase has the embedding, and trains the probe.
  phases = tuple(
    phase._replace(loss=without_probe(phase.loss))
    if number
    else Phase(with_probe_loss(phase.loss), (*phase.roles, 'probe'))
    for number, phase in enumerate(method.phases)
  )
  return method._replace(
    init=init,
    loss=with_probe_loss(method.loss),
    post_step=post_step,
    embed=embed,
    groups=groups,
    phases=phases,
  )


def _without_probe(params: PyTree) -> PyTree:
  return {role: value for role, value in params.items() if role != 'probe'}
