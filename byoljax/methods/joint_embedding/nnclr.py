"""NNCLR: nearest-neighbor contrastive learning (Dwibedi et al. 2021, arXiv 2104.14548).

Contrastive learning whose positive is not the image itself: the projection of one view is replaced
by its nearest neighbor in a queue of past projections, and the prediction from the other view
shall be closer to that neighbor than the predictions of all other images in the batch are.

As in the paper (algorithm 1): the neighbor is the anchor of the softmax, the predictions of the
global batch are its candidates, so gradients flow into the predictor's side alone; both
directions are averaged; the projector has batch normalization after every layer, the predictor
after its first; the projections of view 0 enter the queue after the loss. The roles of anchor and
candidates are not exchanged.

Different from the paper:
- the queue starts empty, not with random vectors: a neighbor is searched among the rows that
  were really stored, and where there are none yet, at the first step, the projection itself is
  the positive;
- when the queue is larger than the data set, an image's own previous projection is among its
  candidates and likely to be the nearest. Keep the queue smaller than an epoch on small data.
"""

from collections.abc import Sequence
import functools
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
  comparison,
  default_groups,
  evaluation_outputs,
  keep,
)
from byoljax.methods import notes
from byoljax.methods.checks import check_sizes, require_other_images, two_views
from byoljax.models import heads
from byoljax.models.net import Net, Statistics, apply_each, stack
from byoljax.ops import memory, ring, sphere

PyTree = Any


class NnclrState(Statistics):
  """What NNCLR changes without a gradient.

  Attributes:
    queue: the support set, past projections of view 0 as unit vectors.
  """

  queue: ring.Queue


def nearest(
  queue: ring.Queue, z: jax.Array, *, size: int | None = None, axis: str | None = None
) -> tuple[jax.Array, jax.Array]:
  """The stored row with the largest inner product, float32 [b, D], and that product, [b].

  Args:
    queue: unit rows [K, D]; only the `filled` ones count.
    z: unit vectors [b, D]; where nothing is stored they are their own neighbors.
    size: K; needed where the rows may be this device's part of the queue (`ops.memory`).
    axis: the mapped axis over which they may be shared, or None.

  Returns:
    Neighbors and cosines; no gradient.
  """
  z = lax.stop_gradient(z)
  size = size or len(queue.items)
  found = memory.nearest(z, queue.items, filled=queue.filled, size=size, axis=axis)
  neighbors = jnp.where(queue.filled > 0, found, z)
  return neighbors, jnp.sum(neighbors * z, axis=-1)


def nnclr(net: Net, *, queue_size: int, dim: int, temperature: float, axis: str | None) -> Method:
  """NNCLR over a network; `build` makes it.

  Args:
    net: outputs 'embedding', 'projection' and 'prediction', the last two [b, dim].
    queue_size: K, rows of the support set.
    dim: D, size of a projection.
    temperature: of the softmax.
    axis: the mapped axis, or None.
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, NnclrState]:
    view, _ = two_views(batch)
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), view)
    queue = ring.init(jax.random.fold_in(key, streams.QUEUE), queue_size, dim)
    return params, NnclrState(bn, queue)

  def loss(
    params: PyTree, state: NnclrState, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    (on_first, on_second), bn = apply_each(net, params, state.bn, two_views(batch))
    z_first, z_second = (sphere.normalize(on['projection']) for on in (on_first, on_second))
    compared = (z_first, z_second, on_first['prediction'], on_second['prediction'])
    value, metrics = comparison(compare, compared, state, batch, key, step)
    rows = collectives.all_gather(lax.stop_gradient(z_first), axis)
    others = (on_second['embedding'],)
    new_state = state.replace(bn=bn)
    return value, Aux(new_state, metrics, on_first['embedding'], rows, others, compared)

  def compare(
    compared: tuple[jax.Array, ...], state: NnclrState, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    del key, step
    z_first, z_second, p_first, p_second = compared
    near_first, cosine = nearest(state.queue, z_first, size=queue_size, axis=axis)
    near_second, _ = nearest(state.queue, z_second, size=queue_size, axis=axis)
    require_other_images(len(z_first), axis)
    offset = collectives.axis_index(axis) * z_first.shape[0]

    def direction(neighbors: jax.Array, predictions: jax.Array) -> jax.Array:
      candidates = collectives.all_gather(sphere.normalize(predictions), axis)
      return contrastive.info_nce_in_batch(neighbors, candidates, temperature, offset=offset).mean()

    value = 0.5 * (direction(near_first, p_second) + direction(near_second, p_first))
    return value, {
      'neighbor_cosine': cosine.mean(),
      'queue_filled': state.queue.filled / queue_size,
    }

  def remember(state: NnclrState, rows: jax.Array, finite: jax.Array) -> NnclrState:
    return state.replace(queue=ring.push(state.queue, rows, finite, size=queue_size, axis=axis))

  embed = evaluation_outputs(net, 'embedding', 'projection')
  return Method(
    init,
    loss,
    keep,
    embed,
    default_groups,
    remember=remember,
    net=net,
    memories=ring.MEMORIES,
    encodes_all_views=True,
    compare=compare,
    only_encodes_views=True,
  )


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  projector: Sequence[int] = (2048, 2048, 256),
  predictor: Sequence[int] = (4096, 256),
  queue_size: int = 98304,
  temperature: float = 0.1,
) -> Method:
  """Builds NNCLR from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    projector: sizes of the projector's layers; all are followed by batch normalization.
    predictor: sizes of the predictor's layers; all but the last are.
    queue_size: rows of the support set.
    temperature: of the softmax.

  Raises:
    ValueError: a value out of range, sizes that do not fit together.
  """
  check_sizes(projector, predictor)
  contrastive.check_temperature(temperature)
  if queue_size < 1:
    raise ValueError(f'queue_size={queue_size} must be at least 1.')
  head = functools.partial(heads.MLPHead, bn_axis=setting.axis, dtype=jnp.dtype(setting.dtype))
  net = stack(
    (
      ('encoder', 'embedding', make_encoder(setting.axis)),
      ('projector', 'projection', head(features=tuple(projector), last_norm='bn')),
      ('predictor', 'prediction', head(features=tuple(predictor))),
    )
  )
  method = nnclr(
    net,
    queue_size=queue_size,
    dim=projector[-1],
    temperature=temperature,
    axis=setting.axis,
  )
  consequence = 'is likely to be its neighbor'
  return method._replace(notes=notes.of_queue(queue_size, setting, consequence))
