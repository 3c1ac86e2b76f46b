"""SwAV: swapped assignments between views (Caron et al. 2020, arXiv 2006.09882).

Scores of every crop against learned prototypes predict the codes that the Sinkhorn iteration gives
to the other crops. Codes come from the first two, large crops only, and prototypes get equal shares
of the global batch.

As in the authors' code: crops of one size go through the encoder together, all crops together
through the head; prototypes are unit vectors, normalized again after every step; they are not
trained in the beginning (`freeze`); small batches can be filled up with a queue of earlier
projections per large crop.

Different from the authors' code: the queue is one for all devices, where theirs is a part per GPU;
it fills from the first step and takes part from `queue_from` on, as soon as it is full, where
theirs is made at that epoch and takes part once it has filled. Batch statistics are shared by all
devices, theirs in large batches by groups of 8.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.scipy.special import entr

from byoljax import streams
from byoljax.devices import collectives
from byoljax.losses import clustering
from byoljax.method import Aux, Batch, MakeEncoder, Method, Setting, default_groups
from byoljax.methods import notes
from byoljax.methods.checks import check_sizes, several_views
from byoljax.models import heads
from byoljax.models.multicrop import apply_crops
from byoljax.models.net import Net, Statistics, output_shapes, stack
from byoljax.ops import ring, sinkhorn, sphere

PyTree = Any

LARGE_CROPS = 2


class SwavState(Statistics):
  """What SwAV changes without a gradient.

  Attributes:
    queues: earlier projections of each large crop, unit rows; () without a queue.
  """

  queues: tuple[ring.Queue, ...]


def swav(
  backbone: Net,
  head: Net,
  *,
  temperature: float,
  epsilon: float,
  iterations: int,
  freeze_steps: int,
  queue_size: int,
  queue_from: int,
  axis: str | None,
) -> Method:
  """SwAV over two networks; `build` makes them.

  Args:
    backbone: output 'embedding'.
    head: from embeddings to the outputs 'projection' and 'scores'; the role 'prototypes' is its
      last part.
    temperature: T of the predictions.
    epsilon: sharpness of the codes.
    iterations: of Sinkhorn.
    freeze_steps: steps before the prototypes are trained.
    queue_size: rows per large crop, 0 for none.
    queue_from: step from which the queue, once it is full, takes part.
    axis: the mapped axis.
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, SwavState]:
    view = several_views(batch)[0]
    params, bn = backbone.init(jax.random.fold_in(key, streams.ONLINE), view)
    shapes = output_shapes(backbone, params, bn, view)
    head_params, head_bn = head.init(jax.random.fold_in(key, streams.HEAD), shapes['embedding'])
    params, bn = _normalized(params | head_params), bn | head_bn
    width = params['prototypes']['kernel'].shape[0]
    first_rows = jax.random.fold_in(key, streams.QUEUE)
    queues = tuple(
      ring.init(jax.random.fold_in(first_rows, crop), queue_size, width)
      for crop in range(LARGE_CROPS if queue_size else 0)
    )
    return params, SwavState(bn, queues)

  def loss(
    params: PyTree, state: SwavState, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key
    crops, bn = apply_crops(backbone, params, state.bn, batch['views'], train=True)
    embeddings = jnp.stack([crop['embedding'] for crop in crops], axis=1)
    rows, views = embeddings.shape[:2]
    outputs, bn = head.apply(params, bn, embeddings.reshape(rows * views, -1), train=True)
    scores = outputs['scores'].reshape(rows, views, -1)
    projections = sphere.normalize(outputs['projection']).reshape(rows, views, -1)
    codes = [
      _codes(state, crop, scores[:, crop], params['prototypes']['kernel'], step)
      for crop in range(LARGE_CROPS)
    ]
    value = clustering.swapped_prediction(
      codes, [scores[:, crop] for crop in range(views)], temperature
    )
    rows = tuple(
      collectives.all_gather(lax.stop_gradient(projections[:, crop]), axis)
      for crop in range(len(state.queues))
    )
    shares = collectives.pmean(jnp.mean(codes[0], axis=0), axis)
    metrics = {'prototypes/perplexity': jnp.exp(jnp.sum(entr(shares)))}
    embedding, *others = (crop['embedding'] for crop in crops)
    return value, Aux(state.replace(bn=bn), metrics, embedding, rows, tuple(others))

  def remember(state: SwavState, rows: tuple[jax.Array, ...], finite: jax.Array) -> SwavState:
    pushed = [ring.push(*each, finite) for each in zip(state.queues, rows, strict=True)]
    return state.replace(queues=tuple(pushed))

  def _codes(
    state: SwavState, crop: int, scores: jax.Array, kernel: jax.Array, step: jax.Array
  ) -> jax.Array:
    """Assignments [b, K] of a large crop, constants."""

    def alone() -> jax.Array:
      return sinkhorn.assign(scores, epsilon=epsilon, iterations=iterations, axis=axis)

    if not state.queues:
      return alone()
    queue = state.queues[crop]

    def with_queue() -> jax.Array:
      return sinkhorn.assign(
        scores,
        epsilon=epsilon,
        iterations=iterations,
        axis=axis,
        extra=lax.stop_gradient(sphere.similarities(queue.items, kernel.T)),
      )

    return lax.cond((step >= queue_from) & (queue.filled == queue_size), with_queue, alone)

  def post_step(
    params: PyTree, state: SwavState, step: jax.Array
  ) -> tuple[PyTree, SwavState, dict[str, jax.Array]]:
    del step
    return _normalized(params), state, {}

  def embed(params: PyTree, state: SwavState, images: jax.Array) -> dict[str, jax.Array]:
    outputs, _ = backbone.apply(params, state.bn, images, train=False)
    projected, _ = head.apply(
      params, state.bn, outputs['embedding'], train=False, upto='projection'
    )
    return {'embedding': outputs['embedding'], 'projection': projected['projection']}

  return Method(
    init,
    loss,
    post_step,
    embed,
    default_groups,
    remember=remember,
    net=stack((*backbone.parts, *head.parts)),
    starts={'prototypes': freeze_steps},
    encodes_all_views=True,
    only_encodes_views=True,
  )


def _normalized(params: PyTree) -> PyTree:
  kernel = heads.normalize_prototypes(params['prototypes']['kernel'])
  return params | {'prototypes': {'kernel': kernel}}


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  projector: Sequence[int] = (2048, 128),
  prototypes: int = 3000,
  temperature: float = 0.1,
  epsilon: float = 0.05,
  iterations: int = 3,
  freeze: str = '1 epochs',
  queue_size: int = 0,
  queue_from: str = '15 epochs',
  head_init: str = 'fan_in',
) -> Method:
  """Builds SwAV from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    projector: hidden and output size; the projection is L2-normalized.
    prototypes: K >= 2; more than a batch and its queue can fill are of no use.
    temperature: T > 0.
    epsilon: sharpness of the codes > 0; .03 where the loss stays at log K.
    iterations: of Sinkhorn, >= 1.
    freeze: a duration, before which the prototypes are not trained.
    queue_size: rows per large crop; 0 for none, 3840 in the paper for batches of 256.
    queue_from: a duration, after which the queue takes part.
    head_init: how kernels of the heads start, a key of `heads.KERNEL_INITS`; 'torch' as in
      PyTorch.

  Raises:
    ValueError: values out of range.
  """
  check_sizes(projector)
  if prototypes < 2 or queue_size < 0 or epsilon <= 0 or iterations < 1 or temperature <= 0:
    raise ValueError(
      f'prototypes={prototypes} must be at least 2, queue_size={queue_size} 0 or more, '
      f'iterations={iterations} at least 1, epsilon={epsilon} and temperature={temperature} '
      f'positive.'
    )
  frozen = setting.length.steps('freeze', freeze)
  first = setting.length.steps('queue_from', queue_from)
  dtype = jnp.dtype(setting.dtype)
  projection = heads.MLPHead(
    features=tuple(projector),
    last_bias=True,
    bn_axis=setting.axis,
    dtype=dtype,
    kernel_init=head_init,
  )
  method = swav(
    stack((('encoder', 'embedding', make_encoder(setting.axis)),)),
    stack(
      (
        ('projector', 'projection', projection),
        ('prototypes', 'scores', heads.Prototypes(prototypes)),
      )
    ),
    temperature=temperature,
    epsilon=epsilon,
    iterations=iterations,
    freeze_steps=frozen,
    queue_size=queue_size,
    queue_from=first,
    axis=setting.axis,
  )
  late = notes.of_late('freeze', freeze, frozen, setting, 'the prototypes are never trained')
  if queue_size:
    never = 'the queue never takes part in the codes'
    late += (
      notes.of_late('queue_from', queue_from, first, setting, never)
      or notes.of_unfilled(queue_size, setting, never)
    )  # fmt: skip
  return method._replace(
    notes=notes.of_prototypes(prototypes, queue_size, setting)
    + notes.of_accumulation(setting)
    + late
  )
