"""A linear classifier on a frozen encoder, written as one more method.

Several heads train side by side on the same features, one per learning rate: their parameters are
stacked along a leading axis and their losses added, so no head sees another. The encoder is part of
the method state. It runs in evaluation mode, gets no gradient, and comes out bit for bit as it went
in, which the caller checks.

Protocol of BYOL's linear evaluation (arXiv 2006.07733, appendix C.1): SGD with Nesterov momentum,
no weight decay, cosine schedule, random crops and flips only, the learning rate chosen on
held-out training images. The heads start at zero, which is where the convex problem may start as
well as anywhere; the authors' code draws them from a truncated normal. How other papers' probes
differ is configuration (`configs/linear.py`): the optimizer, the start, and MAE's normalization of
the features.
"""

from typing import Any

import flax.struct
import jax
from jax import lax
import jax.numpy as jnp

from byoljax import streams
from byoljax.losses import classification
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Setting,
  default_groups,
  keep,
)
from byoljax.models import heads
from byoljax.models.net import Net, stack

PyTree = Any


class FrozenEncoder(flax.struct.PyTreeNode):
  """The encoder under the probe: its parameters and running statistics, by role.

  Attributes:
    params: never change.
    bn: never change.
    norm: running statistics of the features, {'norm': ...}, where they are normalized.
  """

  params: PyTree
  bn: PyTree
  norm: PyTree


def linear_probe(
  frozen: Any,
  num_classes: int,
  num_heads: int,
  *,
  kernel_init: str = 'zeros',
  norm: Net | None = None,
) -> Method:
  """Linear heads over a frozen network's features.

  Args:
    frozen: the network, see `method.Setting.given`.
    num_classes: C.
    num_heads: L, the number of stacked heads.
    kernel_init: how kernels are initialized, the same for every head: see `heads.LinearHead`.
    norm: normalizes the features before the heads; output 'normalized'. None: they are not.

  Returns:
    A method with parameters {'head': {'kernel' [L, D, C], 'bias' [L, 1, C]}}; `embed` adds the tap
    'logits' [N, L * C].
  """

  head = stack((('head', 'logits', heads.LinearHead(num_classes, kernel_init)),))

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, FrozenEncoder]:
    params, bn = jax.tree.map(jnp.array, (frozen.params, frozen.bn))
    features = jax.eval_shape(_features, FrozenEncoder(params, bn, {}), batch['views'][0])
    one = head.init(jax.random.fold_in(key, streams.HEAD), features)[0]['head']['linear1']
    kernel = jnp.tile(one['kernel'], (num_heads, 1, 1))
    bias = jnp.tile(one['bias'], (num_heads, 1, 1))
    statistics = norm.init(key, features)[1] if norm else {}
    return {'head': {'kernel': kernel, 'bias': bias}}, FrozenEncoder(params, bn, statistics)

  def _features(state: FrozenEncoder, images: jax.Array) -> jax.Array:
    return frozen.read(state.params, state.bn, images)

  def _normalized(
    state: FrozenEncoder, features: jax.Array, train: bool
  ) -> tuple[jax.Array, FrozenEncoder]:
    if norm is None:
      return features, state
    outputs, statistics = norm.apply({'norm': {}}, state.norm, features, train=train)
    return outputs['normalized'], state.replace(norm=statistics)

  def loss(
    params: PyTree, state: FrozenEncoder, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    features = lax.stop_gradient(_features(state, batch['views'][0]))
    inputs, state = _normalized(state, features, train=True)
    logits = _logits(params['head'], inputs)
    each = jax.vmap(classification.cross_entropy, (0, None))(logits, batch['label'])
    right = jax.vmap(classification.accuracy, (0, None))(logits, batch['label'])
    metrics = {'loss': jnp.nanmin(each), 'top1': right.max()}
    return each.sum(), Aux(state, metrics, features)

  def embed(params: PyTree, state: FrozenEncoder, images: jax.Array) -> dict[str, jax.Array]:
    features = _features(state, images)
    logits = _logits(params['head'], _normalized(state, features, train=False)[0])
    # Fewer heads than at first when the caller has picked some.
    rows = jnp.moveaxis(logits, 0, 1).reshape(images.shape[0], -1)
    return {'embedding': features, 'logits': rows}

  return Method(init, loss, keep, embed, default_groups)


def _logits(stacked: PyTree, features: jax.Array) -> jax.Array:
  """[N, D] -> [L, N, C] in float32."""
  return jnp.einsum('nd,ldc->lnc', features, stacked['kernel']) + stacked['bias']


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  num_heads: int = 1,
  kernel_init: str = 'zeros',
  norm: bool = False,
) -> Method:
  """Builds the probe on a pretrained encoder.

  Args:
    make_encoder: not needed: `setting.given['encoder']` brings its own.
    setting: the run; it must name the classes and hold the network.
    num_heads: how many heads train side by side, one per learning rate.
    kernel_init: a key of `heads.KERNEL_INITS`.
    norm: batch normalization of the features, without scale and shift (MAE, arXiv 2111.06377,
      appendix A.1).

  Raises:
    ValueError: the data have no labels, there is no encoder to probe, or an unknown kernel_init.
  """
  del make_encoder
  if setting.num_classes < 2:
    raise ValueError('a linear probe needs labelled images of at least 2 classes.')
  encoder = setting.given.get('encoder')
  if encoder is None:
    raise ValueError('a linear probe needs a pretrained encoder: set config.pretrained.')
  if kernel_init not in heads.KERNEL_INITS:
    raise ValueError(f"kernel_init='{kernel_init}' is not one of {', '.join(heads.KERNEL_INITS)}.")
  normalize = stack((('norm', 'normalized', heads.FeatureNorm(setting.axis)),)) if norm else None
  return linear_probe(
    encoder, setting.num_classes, num_heads, kernel_init=kernel_init, norm=normalize
  )
