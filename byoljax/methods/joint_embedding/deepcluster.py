"""DeepCluster (Caron et al. 2018, arXiv 1807.05520).

Every epoch all images are clustered by their embeddings, and the encoder learns to classify the
cluster numbers, with a linear layer that starts anew after every clustering.

As in the authors' code: embeddings of un-augmented images in evaluation mode; PCA with whitening,
then unit length; k-means of all of them, 20 iterations; a fresh top layer from N(0, .01^2) with
zero bias. Give that layer a plain SGD without momentum (`optim.groups.head`), as they do: momentum
would carry over to weights that are gone.

Different from the authors' code:
- the authors sample images so that all clusters are seen equally often. Here the order of the data
  is a function of (seed, epoch) alone, so the loss of an image is weighted instead, by
  N / (K' n_c) with K' the number of clusters that are not empty and n_c the size of the image's
  own: the same expected gradient. The weights' mean over the data set is 1. An image alone in its
  cluster weighs N / K', where theirs is repeated as often within the epoch;
- a cluster that runs empty takes half of the largest, where faiss takes half of one that it draws;
- the encoder sees colors, where theirs sees the edges of gray images: `encoder.input='sobel'`;
- PCA keeps at most D and at most N - 1 components where the paper's 256 are not there;
- clusters are found on the encoder's embedding, which the top layer reads, as later
  re-implementations for ResNets do; AlexNet's and VGG's hidden layers are not part of the method.
"""

from typing import Any

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Refresh,
  Setting,
  default_groups,
  evaluation_outputs,
  keep,
)
from byoljax.methods.checks import only_view
from byoljax.models import heads
from byoljax.models.net import Net, Statistics, stack
from byoljax.ops import kmeans, sphere

PyTree = Any

_HEAD_SIGMA = 0.01


class DeepClusterState(Statistics):
  """What DeepCluster changes without a gradient.

  Attributes:
    labels: int32 [N], the cluster of every training image.
    sizes: int32 [K], images per cluster.
  """

  labels: jax.Array
  sizes: jax.Array


def weights(labels: jax.Array, sizes: jax.Array) -> jax.Array:
  """N / (K' n_c): float32 [b] for cluster numbers int32 [b] and the sizes [K] of all clusters.

  K' counts the clusters with an image. Every such cluster has the same total weight, N / K', and
  the mean over the N images is 1.
  """
  # In float32: the product of a number of clusters and a size may be beyond int32.
  occupied = jnp.sum(sizes > 0, dtype=jnp.float32)
  return jnp.sum(sizes) / (occupied * sizes[labels].astype(jnp.float32))


def deepcluster(
  net: Net,
  *,
  num_examples: int,
  num_clusters: int,
  pca_dim: int,
  iterations: int,
  every: int,
) -> Method:
  """DeepCluster over a network; `build` makes it.

  Args:
    net: outputs 'embedding' and 'logits' [b, K]; the role 'head' makes the latter.
    num_examples: N.
    num_clusters: K, at most N.
    pca_dim: components that PCA keeps, at most.
    iterations: of k-means.
    every: steps between two clusterings.
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, DeepClusterState]:
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), only_view(batch))
    # Never trained on: the first clustering comes before the first step.
    labels = jnp.arange(num_examples, dtype=jnp.int32) % num_clusters
    return params, DeepClusterState(bn, labels, jnp.bincount(labels, length=num_clusters))

  def loss(
    params: PyTree, state: DeepClusterState, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    outputs, bn = net.apply(params, state.bn, only_view(batch), train=True)
    labels = state.labels[batch['index']]
    log_probabilities = jax.nn.log_softmax(outputs['logits'])
    each = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    value = jnp.mean(weights(labels, state.sizes) * each)
    right = jnp.argmax(outputs['logits'], axis=-1) == labels
    metrics = {
      'pretext_top1': jnp.mean(right.astype(jnp.float32)),
      'collapse/largest_cluster': jnp.max(state.sizes) / num_examples,
    }
    return value, Aux(state.replace(bn=bn), metrics, outputs['embedding'])

  def cluster(
    params: PyTree, state: DeepClusterState, features: Any, key: jax.Array, step: int
  ) -> tuple[PyTree, DeepClusterState]:
    del step
    x = jnp.asarray(features()['embedding'], jnp.float32)
    x = sphere.normalize(kmeans.pca_whiten(x, min(pca_dim, x.shape[1], x.shape[0] - 1)))
    _, labels = kmeans.kmeans(
      x,
      num_clusters,
      key=jax.random.fold_in(key, streams.CLUSTERING),
      iterations=iterations,
      spherical=False,
      empty='split',
    )
    sizes = jnp.bincount(labels, length=num_clusters).astype(jnp.int32)
    head = _fresh(params['head'], jax.random.fold_in(key, streams.FRESH_HEAD))
    return params | {'head': head}, state.replace(labels=labels, sizes=sizes)

  embed = evaluation_outputs(net, 'embedding')
  return Method(
    init,
    loss,
    keep,
    embed,
    default_groups,
    Refresh(every, cluster),
    net=net,
    only_encodes_views=True,
  )


def _fresh(head: PyTree, key: jax.Array) -> PyTree:
  """A linear layer of the same shape that has seen nothing: N(0, .01^2), zero bias."""
  (name, layer), *rest = head.items()
  assert not rest, 'the top layer is one linear layer'
  noise = jax.random.normal(key, layer['kernel'].shape, jnp.float32)
  return {name: {'kernel': _HEAD_SIGMA * noise, 'bias': jnp.zeros_like(layer['bias'])}}


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  num_clusters: int = 10000,
  pca_dim: int = 256,
  iterations: int = 20,
) -> Method:
  """Builds DeepCluster from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run; the data are clustered once an epoch.
    num_clusters: the paper's 10000 for ImageNet, ten times its classes.
    pca_dim: components that PCA keeps, at most; fewer where the embedding or the data have fewer.
    iterations: of k-means.

  Raises:
    ValueError: fewer than two clusters or more than images; a value out of range.
  """
  if not 2 <= num_clusters <= setting.num_examples:
    raise ValueError(
      f'num_clusters={num_clusters} must be between 2 and the {setting.num_examples} training '
      f'images.'
    )
  if pca_dim < 1 or iterations < 1:
    raise ValueError(f'pca_dim={pca_dim} and iterations={iterations} must both be at least 1.')
  top = heads.MLPHead(
    features=(num_clusters,),
    last_bias=True,
    dtype=jnp.dtype(setting.dtype),
    kernel_init='normal_0.01',
  )
  net = stack((('encoder', 'embedding', make_encoder(setting.axis)), ('head', 'logits', top)))
  return deepcluster(
    net,
    num_examples=setting.num_examples,
    num_clusters=num_clusters,
    pca_dim=pca_dim,
    iterations=iterations,
    every=max(1, setting.length.steps_per_epoch),
  )
