"""MoCo v1 and v2 (He et al. 2019, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297).

A query identifies its key among a queue of earlier keys by InfoNCE. Keys come from a slowly moving
copy of the query's network. v1 and v2 differ in the head, the temperature, the views and the
schedule only.

As in the authors' code: the positive of a query is its own key and the queue its only negatives;
keys enter the queue after they were used; one direction (`symmetric` adds the other, as their
CIFAR-10 notebook does); the key network starts as a copy and only its parameters are averages; the
heads have no batch normalization.

Their batch normalization is per GPU, and the images of the keys are shuffled over the GPUs, so that
a query cannot be matched by the statistics that it shares with its key. Here `bn_groups` splits the
global batch into that many parts with statistics of their own, on any number of devices: 8 groups
on one device are what 8 GPUs were. Different from theirs: running statistics are averaged over the
groups, where theirs are those of the first GPU. The queue need not be a multiple of the batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byoljax import streams
from byoljax.devices import collectives
from byoljax.losses import contrastive
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Setting,
  default_groups,
  evaluation_outputs,
)
from byoljax.methods import notes
from byoljax.methods.checks import check_groups, check_sizes, two_views
from byoljax.methods.plain import move_target
from byoljax.models import heads
from byoljax.models.net import Net, WithTarget, output_shapes
from byoljax.ops import ema, ring, shuffle, sphere

PyTree = Any
Schedule = Callable[[jax.Array], jax.Array]


class MocoState(WithTarget):
  """What MoCo changes without a gradient.

  Attributes:
    queue: earlier keys, unit rows.
  """

  queue: ring.Queue


def moco(
  net: Net,
  *,
  tau: Schedule,
  temperature: float,
  queue_size: int,
  shuffled: bool,
  symmetric: bool,
  axis: str | None,
) -> Method:
  """MoCo over a network; `build` makes it.

  Args:
    net: outputs 'embedding' and 'projection', for queries and for keys.
    tau: step -> weight of the old key network in the moving average, in [0, 1].
    temperature: T of InfoNCE.
    queue_size: K, the number of negatives.
    shuffled: whether the keys' images are permuted over the global batch.
    symmetric: whether the other direction is added.
    axis: the mapped axis.
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, MocoState]:
    view, _ = two_views(batch)
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), view)
    width = output_shapes(net, params, bn, view)['projection'].shape[-1]
    queue = ring.init(jax.random.fold_in(key, streams.QUEUE), queue_size, width)
    target_params, target_bn = jax.tree.map(jnp.copy, (params, bn))
    return params, MocoState(bn, target_params, target_bn, queue)

  def loss(
    params: PyTree, state: MocoState, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del step
    first, second = two_views(batch)
    pairs = ((first, second), (second, first)) if symmetric else ((first, second),)
    bn, target_bn, losses, queries, keys = state.bn, state.target_bn, [], [], []
    orders = jax.random.fold_in(key, streams.SHUFFLE)
    for number, (query_view, key_view) in enumerate(pairs):
      outputs, bn = net.apply(params, bn, query_view, train=True)
      order = jax.random.fold_in(orders, number)
      k, target_bn = _keys(state.target_params, target_bn, key_view, order)
      of_pair = contrastive.info_nce_in_memory(
        outputs['projection'], k, state.queue.items, temperature, size=queue_size, axis=axis
      )
      losses.append(of_pair)
      queries.append(outputs)
      keys.append(k)
    value = jnp.sum(jnp.stack([jnp.mean(each) for each in losses]))
    new_state = state.replace(bn=bn, target_bn=target_bn)
    rows = jnp.concatenate([collectives.all_gather(k, axis) for k in keys])
    metrics = {
      'collapse/online_target_cosine': jnp.mean(
        jnp.sum(lax.stop_gradient(sphere.normalize(queries[0]['projection'])) * keys[0], axis=-1)
      ),
    }
    embedding, *others = (query['embedding'] for query in queries)
    return value, Aux(new_state, metrics, embedding, rows, tuple(others))

  def _keys(
    target_params: PyTree, target_bn: PyTree, view: jax.Array, order: jax.Array
  ) -> tuple[jax.Array, PyTree]:
    """Unit keys [b, D] of a view, constants, and the new statistics."""

    def encode(images: jax.Array) -> tuple[jax.Array, PyTree]:
      outputs, moved = net.apply(target_params, target_bn, images, train=True)
      return lax.stop_gradient(sphere.normalize(outputs['projection'])), moved

    return shuffle.through_shuffle(encode, view, order, axis) if shuffled else encode(view)

  def remember(state: MocoState, rows: jax.Array, finite: jax.Array) -> MocoState:
    return state.replace(queue=ring.push(state.queue, rows, finite, size=queue_size, axis=axis))

  embed = evaluation_outputs(net, 'embedding', 'projection')
  return Method(
    init,
    loss,
    move_target(tau),
    embed,
    default_groups,
    remember=remember,
    net=net,
    memories=ring.MEMORIES,
    encodes_all_views=symmetric,
    only_encodes_views=True,
  )


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  projector: Sequence[int] = (2048, 128),
  projector_norm: bool = False,
  temperature: float = 0.2,
  tau: float = 0.999,
  queue_size: int = 65536,
  bn_groups: int = 8,
  symmetric: bool = False,
  head_init: str = 'fan_in',
) -> Method:
  """Builds MoCo from an encoder factory and its configuration; the defaults are v2's.

  Args:
    make_encoder: called with the mapped axis and `bn_groups`.
    setting: the run.
    projector: (128,) for v1, (2048, 128) for v2.
    projector_norm: batch normalization after its hidden layers; the paper has none.
    temperature: .07 for v1, .2 for v2.
    tau: weight of the old key network, in [0, 1].
    queue_size: K >= 1.
    bn_groups: parts of the global batch with statistics of their own; the keys' images are shuffled
      among them. 0: statistics of the whole batch, no shuffling.
    symmetric: whether each view is a query once.
    head_init: how kernels of the heads start, a key of `heads.KERNEL_INITS`; 'torch' as in
      PyTorch.

  Raises:
    ValueError: values out of range, or a batch that does not split into the groups.
  """
  check_sizes(projector)
  check_groups(bn_groups, setting)
  contrastive.check_temperature(temperature)
  if queue_size < 1:
    raise ValueError(f'queue_size={queue_size} must be at least 1, the keys that are remembered.')
  head = heads.MLPHead(
    features=tuple(projector),
    norm=projector_norm,
    last_bias=True,
    bn_axis=setting.axis,
    bn_groups=bn_groups,
    dtype=jnp.dtype(setting.dtype),
    kernel_init=head_init,
  )
  net = heads.with_projector(make_encoder(setting.axis, bn_groups), head)
  method = moco(
    net,
    tau=ema.constant_tau(tau),
    temperature=temperature,
    queue_size=queue_size,
    shuffled=bn_groups > 0,
    symmetric=symmetric,
    axis=setting.axis,
  )
  return method._replace(notes=notes.of_queue(queue_size, setting, 'is among its negatives'))
