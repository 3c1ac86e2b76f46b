"""InterCLR: invariance between images as well (Xie et al. 2020, arXiv 2008.11702).

MoCo v2 plus a branch between images. A memory bank holds the last key of every image, online
clustering gives every image a pseudo-class, and a query shall be close to a random entry of its own
class and far from entries of others:

  L = .75 InfoNCE(query, key; queue) + .25 InfoNCE(query, entry; bank, margin -.5)

As in the authors' code: one direction, view 0 asks and view 1 is the key; the margin helps the
positive (cos + .5) and is on the branch between images only; semi-hard negatives, drawn at random
from the nearest tenth of the bank; after the loss the entry is overwritten by the new key and its
image takes the class of the nearest centroid; centroids follow every ten steps; keys are shuffled
and normalized by groups, as MoCo's.

Different from the authors' code:
- negatives of the query's own class are masked, where theirs are drawn again: there are a few
  fewer. They are drawn with replacement;
- small clusters are dissolved and the largest split every `repair_every`, on the host, not in every
  step;
- centroids are unit vectors;
- every draw is a function of (key, global position), so nothing depends on the number of devices.

Every device holds the bank (656 MB for ImageNet), [b, N] similarities and [b, K, D] negatives.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from byoljax import streams
from byoljax.devices import collectives, mapping
from byoljax.losses import contrastive
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Refresh,
  Setting,
  default_groups,
  evaluation_outputs,
)
from byoljax.methods import notes
from byoljax.methods.checks import check_groups, check_sizes, two_views
from byoljax.models import heads
from byoljax.models.net import Net, WithTarget
from byoljax.ops import bank as bank_ops
from byoljax.ops import ema, kmeans, pseudo_classes, ring, shuffle, sphere

PyTree = Any
Schedule = Callable[[jax.Array], jax.Array]


class InterState(WithTarget):
  """What InterCLR changes without a gradient.

  Attributes:
    queue: keys of past batches, the negatives of the MoCo branch.
    bank: float32 [N, D], the last key of every training image, unit vectors.
    labels: int32 [N], the pseudo-class of every training image.
    centroids: float32 [C, D], unit vectors.
  """

  queue: ring.Queue
  bank: jax.Array
  labels: jax.Array
  centroids: jax.Array


class Constants(NamedTuple):
  """Numbers of the loss and of the clustering; see `build`."""

  num_examples: int
  dim: int
  queue_size: int
  num_clusters: int
  sampling: pseudo_classes.Sampling
  temperature: float
  margin: float
  intra_weight: float
  inter_weight: float
  warmup_steps: int
  centroid_every: int
  min_cluster_size: int
  repair_every: int


def interclr(net: Net, c: Constants, *, tau: Schedule, shuffled: bool, axis: str | None) -> Method:
  """InterCLR over a network; `build` makes it.

  Args:
    net: outputs 'embedding' and 'projection' [b, dim], for queries and for keys.
    c: see `Constants`.
    tau: step -> weight of the old key network in the moving average, in [0, 1].
    shuffled: whether the keys' images are permuted over the global batch.
    axis: the mapped axis, or None.
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, InterState]:
    view, _ = two_views(batch)
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), view)
    target_params, target_bn = jax.tree.map(jnp.copy, (params, bn))
    # Clusters of noise: the first clustering comes before the first step.
    return params, InterState(
      bn,
      target_params,
      target_bn,
      queue=ring.init(jax.random.fold_in(key, streams.QUEUE), c.queue_size, c.dim),
      bank=sphere.random_points(jax.random.fold_in(key, streams.BANK), c.num_examples, c.dim),
      labels=jnp.arange(c.num_examples, dtype=jnp.int32) % c.num_clusters,
      centroids=sphere.random_points(
        jax.random.fold_in(key, streams.CENTROIDS), c.num_clusters, c.dim
      ),
    )

  def keys_of(state: InterState, view: jax.Array, order: jax.Array) -> tuple[jax.Array, PyTree]:
    """Unit keys [b, D] of a view, constants, and the new statistics."""

    def encode(images: jax.Array) -> tuple[jax.Array, PyTree]:
      outputs, bn = net.apply(state.target_params, state.target_bn, images, train=True)
      return lax.stop_gradient(sphere.normalize(outputs['projection'])), bn

    return shuffle.through_shuffle(encode, view, order, axis) if shuffled else encode(view)

  def between_images(
    q: jax.Array, index: jax.Array, state: InterState, key: jax.Array
  ) -> jax.Array:
    """The loss of the branch between images, [b]."""
    positions = collectives.positions(len(index), axis)
    keys = jax.vmap(lambda position: jax.random.split(jax.random.fold_in(key, position)))(positions)
    classes = state.labels[index]
    positive = pseudo_classes.sample_positive(keys[:, 0], classes, state.labels, c.num_clusters)
    negatives, counts = pseudo_classes.sample_negatives(
      keys[:, 1], q, classes, state.bank, state.labels, c.sampling
    )
    near, far = state.bank[positive], state.bank[negatives]
    return contrastive.info_nce(q, near, far, c.temperature, margin=c.margin, negative_mask=counts)

  def remember(state: InterState, rows: PyTree, finite: jax.Array) -> InterState:
    places, k, nearest = rows
    queue = ring.push(state.queue, k, finite, size=c.queue_size, axis=axis)
    bank = bank_ops.update(state.bank, places, k, 0.0, valid=finite)
    places = jnp.where(finite, places, c.num_examples)
    return state.replace(
      queue=queue, bank=bank, labels=state.labels.at[places].set(nearest, mode='drop')
    )

  def loss(
    params: PyTree, state: InterState, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    (first, second), index = two_views(batch), batch['index']
    outputs, bn = net.apply(params, state.bn, first, train=True)
    q = sphere.normalize(outputs['projection'])
    k, target_bn = keys_of(state, second, jax.random.fold_in(key, streams.SHUFFLE))
    intra = contrastive.info_nce_in_memory(
      q, k, state.queue.items, c.temperature, size=c.queue_size, axis=axis
    ).mean()
    inter = between_images(q, index, state, jax.random.fold_in(key, streams.NEGATIVES)).mean()
    both = c.intra_weight * intra + c.inter_weight * inter
    value = jnp.where(step >= c.warmup_steps, both, intra)
    nearest = jnp.argmax(sphere.similarities(k, state.centroids), axis=-1).astype(jnp.int32)
    changed = jnp.mean((nearest != state.labels[index]).astype(jnp.float32))
    metrics = {'loss/intra': intra, 'loss/inter': inter, 'labels_changed': changed}
    rows = collectives.all_gather((index, k, nearest), axis)
    new_state = state.replace(bn=bn, target_bn=target_bn)
    return value, Aux(new_state, metrics, outputs['embedding'], rows)

  def post_step(
    params: PyTree, state: InterState, step: jax.Array
  ) -> tuple[PyTree, InterState, dict[str, jax.Array]]:
    now = tau(step)
    moved = ema.update(state.target_params, params, now)
    centroids = lax.cond(
      step % c.centroid_every == 0,
      functools.partial(pseudo_classes.centroids, axis=axis),
      lambda bank, labels, old: old,
      state.bank,
      state.labels,
      state.centroids,
    )
    return params, state.replace(target_params=moved, centroids=centroids), {'tau': now}

  embed = evaluation_outputs(net, 'embedding', 'projection')
  refresh = Refresh(c.repair_every, functools.partial(_recluster, c))
  return Method(
    init,
    loss,
    post_step,
    embed,
    default_groups,
    refresh,
    remember,
    net=net,
    memories=ring.MEMORIES,
    only_encodes_views=True,
  )


def _recluster(
  c: Constants, params: PyTree, state: InterState, features: Any, key: jax.Array, step: int
) -> tuple[PyTree, InterState]:
  """Clusters all images before the first step; later repairs the clusters."""
  if step == 0:
    bank = sphere.normalize(jnp.asarray(features()['projection']))
    centroids, labels = kmeans.kmeans(
      bank,
      c.num_clusters,
      key=jax.random.fold_in(key, streams.CLUSTERING),
      iterations=20,
      spherical=True,
      empty='split',
    )
    return params, state.replace(bank=bank, labels=labels, centroids=centroids)
  key = jax.random.fold_in(key, streams.CLUSTER_REPAIR)
  seed = int(jax.random.randint(key, (), 0, np.iinfo(np.int32).max))
  labels, centroids = pseudo_classes.repair(
    *mapping.fetch((state.bank, state.labels, state.centroids)),
    min_size=c.min_cluster_size,
    seed=seed,
  )
  return params, state.replace(labels=labels, centroids=centroids)


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  projector: Sequence[int] = (2048, 128),
  temperature: float = 0.2,
  tau: float = 0.999,
  queue_size: int = 65536,
  bn_groups: int = 8,
  num_clusters: int = 10000,
  sampling: str = 'semihard',
  pool_size: int = 0,
  num_negatives: int = 0,
  margin: float = -0.5,
  intra_weight: float = 0.75,
  inter_weight: float = 0.25,
  warmup: str = '0 epochs',
  centroid_every: int = 10,
  min_cluster_size: int = 20,
  repair_every: str = '500 steps',
  head_init: str = 'fan_in',
) -> Method:
  """Builds InterCLR from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis and the groups of batch normalization.
    setting: the run; `num_examples` is the size of the bank.
    projector: hidden and output sizes of the projector, which has no batch normalization.
    temperature: of both branches.
    tau: weight of the old key network, in [0, 1].
    queue_size: negatives of the MoCo branch.
    bn_groups: groups of the global batch with batch statistics of their own, as on so many GPUs; 0
      normalizes over the whole batch.
    num_clusters: pseudo-classes, the paper's 10000 for ImageNet.
    sampling: of negatives between images, one of `pseudo_classes.SAMPLING`.
    pool_size: entries to draw semi-hard or semi-easy negatives from; 0 = a tenth of the images. The
      paper: 128000.
    num_negatives: negatives between images per query; 0 = an eighth of the pool, but at most the
      paper's 16384.
    margin: subtracted from the positive's cosine between images; below 0 it helps.
    intra_weight: weight of the MoCo branch.
    inter_weight: weight of the branch between images.
    warmup: a duration, before which the weights are 1 and 0: pseudo-classes of an untrained encoder
      mislead it.
    centroid_every: steps between two computations of the centroids.
    min_cluster_size: smaller clusters are dissolved.
    repair_every: how often, a duration.
    head_init: how kernels of the heads start, a key of `heads.KERNEL_INITS`; 'torch' as in
      PyTorch.

  Raises:
    ValueError: a value out of range, or one that does not fit the number of images or the batch.
  """
  images = setting.num_examples
  pool = pool_size or max(1, images // 10)
  negatives = num_negatives or min(16384, max(1, pool // 8))
  draws = pseudo_classes.Sampling(sampling, pool, negatives)
  every = setting.length.steps('repair_every', repair_every)
  first = setting.length.steps('warmup', warmup)
  check_sizes(projector)
  check_groups(bn_groups, setting)
  contrastive.check_temperature(temperature)
  pseudo_classes.check_sampling(draws, images)
  if not 2 <= num_clusters <= images:
    raise ValueError(
      f'num_clusters={num_clusters} must be between 2 and the {images} training images.'
    )
  if min(queue_size, centroid_every, every) < 1 or min_cluster_size < 0:
    raise ValueError(
      f"queue_size={queue_size}, centroid_every={centroid_every} and repair_every='{repair_every}' "
      f'must be at least 1, min_cluster_size={min_cluster_size} at least 0.'
    )
  if min(intra_weight, inter_weight) < 0 or intra_weight == inter_weight == 0:
    raise ValueError(
      f'intra_weight={intra_weight} and inter_weight={inter_weight} must not be negative, and not '
      'both 0.'
    )
  if not -2 <= margin <= 2:
    raise ValueError(f'margin={margin} of cosines must be between -2 and 2.')
  head = heads.MLPHead(
    features=tuple(projector),
    norm=False,
    last_bias=True,
    dtype=jnp.dtype(setting.dtype),
    kernel_init=head_init,
  )
  net = heads.with_projector(make_encoder(setting.axis, bn_groups), head)
  constants = Constants(
    num_examples=images,
    dim=projector[-1],
    queue_size=queue_size,
    num_clusters=num_clusters,
    sampling=draws,
    temperature=temperature,
    margin=margin,
    intra_weight=intra_weight,
    inter_weight=inter_weight,
    warmup_steps=first,
    centroid_every=centroid_every,
    min_cluster_size=min_cluster_size,
    repair_every=every,
  )
  method = interclr(
    net, constants, tau=ema.constant_tau(tau), shuffled=bn_groups > 0, axis=setting.axis
  )
  return method._replace(
    notes=notes.of_queue(queue_size, setting, 'is among its negatives')
    + notes.of_late('warmup', warmup, first, setting, 'the branch between images never counts')
  )
