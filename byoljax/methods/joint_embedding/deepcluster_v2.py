"""DeepCluster-v2 (Caron et al. 2020, in the appendix of SwAV, arXiv 2006.09882).

Every epoch the images are clustered by the projections that the last epoch has left behind, and
all crops of an image learn to classify its cluster by their cosine to the clusters' centroids.
Nothing new is computed for the clustering: a bank keeps the last projections of the two large
crops.

As in the authors' code: crops of one size go through the encoder together, all crops together
through the head; several clusterings at once, each with a loss of its own, made from the
bank of crop 0 and of crop 1 in turn; spherical k-means, 10 iterations, from random entries of the
bank; an empty cluster keeps its centroid; centroids are the prototypes and are never trained; the
loss is averaged over clusterings and over all crops, the large ones included.

Different from the authors' code:
- the bank is indexed by image, so an image keeps its last projection when an epoch leaves it out;
  theirs is filled in the order of the batches and leaves such an image without a label;
- before the first epoch the bank is filled from un-augmented images in evaluation mode, with the
  same entry for both crops, instead of from a training epoch without updates;
- batch statistics are shared by all devices, not by groups of 8;
- the bank is on every device: 2 N D floats, 1.3 GB for ImageNet.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byoljax import streams
from byoljax.devices import collectives, mapping
from byoljax.losses import classification
from byoljax.method import Aux, Batch, MakeEncoder, Method, Refresh, Setting, default_groups, keep
from byoljax.methods.checks import check_sizes, several_views
from byoljax.models import heads
from byoljax.models.multicrop import apply_crops
from byoljax.models.net import Net, Statistics, output_shapes, stack
from byoljax.ops import bank as bank_ops
from byoljax.ops import kmeans, sphere

PyTree = Any

_LARGE = 2


class DeepClusterV2State(Statistics):
  """What DeepCluster-v2 changes without a gradient.

  Attributes:
    banks: two float32 [N, D], the last projections of crop 0 and of crop 1, unit vectors.
    prototypes: one float32 [K, D] per clustering, its centroids, unit vectors.
    labels: one int32 [N] per clustering, the cluster of every training image.
  """

  banks: tuple[jax.Array, jax.Array]
  prototypes: tuple[jax.Array, ...]
  labels: tuple[jax.Array, ...]


def deepcluster_v2(
  backbone: Net,
  head: Net,
  *,
  num_examples: int,
  dim: int,
  prototypes: Sequence[int],
  temperature: float,
  iterations: int,
  every: int,
  axis: str | None,
) -> Method:
  """DeepCluster-v2 over two networks; `build` makes them.

  Args:
    backbone: output 'embedding'.
    head: from embeddings to the output 'projection' [b, dim].
    num_examples: N.
    dim: D, size of a projection.
    prototypes: clusters of each clustering, at most N.
    temperature: of the softmax over prototypes.
    iterations: of k-means.
    every: steps between two clusterings.
    axis: the mapped axis, or None.
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, DeepClusterV2State]:
    view = several_views(batch)[0]
    params, bn = backbone.init(jax.random.fold_in(key, streams.ONLINE), view)
    shapes = output_shapes(backbone, params, bn, view)
    head_params, head_bn = head.init(jax.random.fold_in(key, streams.HEAD), shapes['embedding'])
    # Never trained on: the first clustering comes before the first step.
    entries = jax.random.fold_in(key, streams.BANK)
    first, second = (
      sphere.normalize(bank_ops.init(jax.random.fold_in(entries, crop), num_examples, dim))
      for crop in range(_LARGE)
    )
    points = jax.random.fold_in(key, streams.CENTROIDS)
    centroids = tuple(
      sphere.normalize(jax.random.normal(jax.random.fold_in(points, i), (count, dim)))
      for i, count in enumerate(prototypes)
    )
    labels = tuple(jnp.arange(num_examples, dtype=jnp.int32) % count for count in prototypes)
    state = DeepClusterV2State(bn | head_bn, (first, second), centroids, labels)
    return params | head_params, state

  def loss(
    params: PyTree, state: DeepClusterV2State, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    crops, bn = apply_crops(backbone, params, state.bn, batch['views'], train=True)
    embeddings = jnp.stack([crop['embedding'] for crop in crops], axis=1)
    rows, views = embeddings.shape[:2]
    outputs, bn = head.apply(params, bn, embeddings.reshape(rows * views, -1), train=True)
    z = sphere.normalize(outputs['projection'])
    losses, right = [], []
    for centroids, labels in zip(state.prototypes, state.labels, strict=True):
      wanted = jnp.repeat(labels[batch['index']], views)
      logits = sphere.similarities(z, centroids) / temperature
      losses.append(classification.cross_entropy(logits, wanted))
      right.append(jnp.mean((jnp.argmax(logits, axis=-1) == wanted).astype(jnp.float32)))
    value = jnp.mean(jnp.stack(losses))
    metrics = {'pretext_top1': jnp.mean(jnp.stack(right))}
    large = lax.stop_gradient(z).reshape(rows, views, -1)[:, :_LARGE]
    newest = collectives.all_gather((batch['index'], large), axis)
    embedding, *others = (crop['embedding'] for crop in crops)
    return value, Aux(state.replace(bn=bn), metrics, embedding, newest, tuple(others))

  def remember(state: DeepClusterV2State, rows: PyTree, finite: jax.Array) -> DeepClusterV2State:
    places, large = rows
    first, second = (
      bank_ops.update(bank, places, large[:, crop], 0.0, valid=finite)
      for crop, bank in enumerate(state.banks)
    )
    return state.replace(banks=(first, second))

  def embed(params: PyTree, state: DeepClusterV2State, images: jax.Array) -> dict[str, jax.Array]:
    outputs, _ = backbone.apply(params, state.bn, images, train=False)
    projected, _ = head.apply(params, state.bn, outputs['embedding'], train=False)
    return outputs | projected

  def cluster(
    params: PyTree, state: DeepClusterV2State, features: Any, key: jax.Array, step: int
  ) -> tuple[PyTree, DeepClusterV2State]:
    if step == 0:
      filled = sphere.normalize(jnp.asarray(features()['projection']))
      banks = (filled, jnp.copy(filled))
    else:
      first, second = mapping.fetch(state.banks)
      banks = (jnp.asarray(first), jnp.asarray(second))
    starts = jax.random.fold_in(key, streams.CLUSTERING)
    found = [
      kmeans.kmeans(
        banks[i % _LARGE],
        count,
        key=jax.random.fold_in(starts, i),
        iterations=iterations,
        spherical=True,
        empty='keep',
      )
      for i, count in enumerate(prototypes)
    ]
    centroids, labels = zip(*found, strict=True)
    return params, state.replace(banks=banks, prototypes=centroids, labels=labels)

  return Method(
    init,
    loss,
    keep,
    embed,
    default_groups,
    Refresh(every, cluster),
    remember,
    only_encodes_views=True,
  )


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  projector: Sequence[int] = (2048, 128),
  prototypes: Sequence[int] = (3000, 3000, 3000),
  temperature: float = 0.1,
  iterations: int = 10,
  head_init: str = 'fan_in',
) -> Method:
  """Builds DeepCluster-v2 from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run; the data are clustered once an epoch.
    projector: hidden and output sizes of the projector.
    prototypes: clusters of each clustering.
    temperature: of the softmax over prototypes.
    iterations: of k-means.
    head_init: how kernels of the heads start, a key of `heads.KERNEL_INITS`; 'torch' as in
      PyTorch.

  Raises:
    ValueError: no clustering, one with fewer than two clusters or more than images; a value out of
      range.
  """
  check_sizes(projector)
  if not prototypes:
    raise ValueError('prototypes=() is empty: give the clusters of each clustering, as (3000,).')
  for count in prototypes:
    if not 2 <= count <= setting.num_examples:
      raise ValueError(
        f'prototypes={tuple(prototypes)}: {count} clusters must be between 2 and the '
        f'{setting.num_examples} training images.'
      )
  if temperature <= 0 or iterations < 1:
    raise ValueError(
      f'temperature={temperature} must be above 0 and iterations={iterations} at least 1.'
    )
  projection = heads.MLPHead(
    features=tuple(projector),
    last_bias=True,
    bn_axis=setting.axis,
    dtype=jnp.dtype(setting.dtype),
    kernel_init=head_init,
  )
  encoder_part = ('encoder', 'embedding', make_encoder(setting.axis))
  head_part = ('projector', 'projection', projection)
  method = deepcluster_v2(
    stack((encoder_part,)),
    stack((head_part,)),
    num_examples=setting.num_examples,
    dim=projector[-1],
    prototypes=tuple(prototypes),
    temperature=temperature,
    iterations=iterations,
    every=max(1, setting.length.steps_per_epoch),
    axis=setting.axis,
  )
  return method._replace(net=stack((encoder_part, head_part)), encodes_all_views=True)
