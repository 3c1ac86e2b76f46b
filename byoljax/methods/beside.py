"""A head that learns beside a method, from the embeddings that the method's encoder gives.

The head adds its parameters, its loss and its metrics and asks for no forward pass of its own. The
online probe is one, behind a stop-gradient; auxiliary tasks are others, whose gradients reach the
encoder.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from byoljax.method import Aux, Batch, Loss, Method, Phase
from byoljax.methods.checks import check_networks
from byoljax.models.net import Part, stack

PyTree = Any


class Head(NamedTuple):
  """What learns beside a method.

  Attributes:
    role: its key in `params`; its metrics are named '<role>/*'.
    stream: of `byoljax.streams`, for its initial weights.
    init: (key, embedding [b, D]) -> (parameters, running statistics).
    loss: (parameters, running statistics, embeddings, batch) -> (float32 scalar, running
      statistics, metrics). The embeddings are [b, D], of view 0 and of the others where the method
      encodes all views.
    part: the module, where evaluations and running statistics are to know it as a part of the
      network, fed with the embedding; None: neither, and it has no statistics.
    group: the optimizer group of its parameters.
    watches: whether it only watches: its loss is no part of what is shown as the method's.
  """

  role: str
  stream: int
  init: Callable[[jax.Array, jax.Array], tuple[PyTree, PyTree]]
  loss: Callable[
    [PyTree, PyTree, tuple[jax.Array, ...], Batch],
    tuple[jax.Array, PyTree, dict[str, jax.Array]],
  ]
  part: Part | None = None
  group: str = 'default'
  watches: bool = False


def with_head(method: Method, head: Head, *, weight: float = 1.0) -> Method:
  """The method with a head beside it; its loss is value + weight * head.loss.

  Args:
    method: any; its own computation is the same bit for bit, but for the gradient of the head.
    head: see `Head`.
    weight: of the head's loss.
  """
  role, in_network = head.role, head.part is not None

  def without(params: PyTree) -> PyTree:
    return {name: value for name, value in params.items() if name != role}

  def inner(state: PyTree) -> PyTree:
    return state.replace(bn=without(state.bn)) if in_network else state

  def outer(state: PyTree, statistics: PyTree) -> PyTree:
    return state.replace(bn=state.bn | {role: statistics}) if in_network else state

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
    params, state = method.init(key, batch)
    check_networks(method, params, state)
    embedding = method.embed(params, state, batch['views'][0])['embedding']
    own, statistics = head.init(jax.random.fold_in(key, head.stream), embedding)
    return params | {role: own}, outer(state, statistics)

  def with_head_loss(alone: Loss) -> Loss:
    def loss(
      params: PyTree, state: PyTree, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
      value, aux = alone(without(params), inner(state), batch, key, step)
      statistics = state.bn[role] if in_network else {}
      embeddings = (aux.embedding, *aux.others)
      added, statistics, metrics = head.loss(params[role], statistics, embeddings, batch)
      named = {f'{role}/{name}': metric for name, metric in metrics.items()}
      shown = {'loss': value} if head.watches else {}
      new_state = outer(aux.method_state, statistics)
      return value + weight * added, aux._replace(
        method_state=new_state, metrics=shown | aux.metrics | named
      )

    return loss

  def without_head(alone: Loss) -> Loss:
    def loss(
      params: PyTree, state: PyTree, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
      value, aux = alone(without(params), inner(state), batch, key, step)
      statistics = state.bn[role] if in_network else {}
      return value, aux._replace(method_state=outer(aux.method_state, statistics))

    return loss

  def post_step(
    params: PyTree, state: PyTree, step: jax.Array
  ) -> tuple[PyTree, PyTree, dict[str, jax.Array]]:
    moved, moved_state, metrics = method.post_step(without(params), inner(state), step)
    statistics = state.bn[role] if in_network else {}
    return moved | {role: params[role]}, outer(moved_state, statistics), metrics

  def embed(params: PyTree, state: PyTree, images: jax.Array) -> dict[str, jax.Array]:
    return method.embed(without(params), inner(state), images)

  def groups(params: PyTree) -> PyTree:
    own = jax.tree.map(lambda _: head.group, params[role])
    return method.groups(without(params)) | {role: own}

  # The first phase has the embeddings, and trains the head.
  phases = tuple(
    phase._replace(loss=without_head(phase.loss))
    if number
    else Phase(with_head_loss(phase.loss), (*phase.roles, role))
    for number, phase in enumerate(method.phases)
  )
  net = method.net
  if head.part is not None and net is not None:
    reads = dict(net.reads) | {role: net.parts[0][1]}
    net = stack((*net.parts, head.part), reads=reads)
  return method._replace(
    init=init,
    loss=with_head_loss(method.loss),
    post_step=post_step,
    embed=embed,
    groups=groups,
    phases=phases,
    net=net,
  )
