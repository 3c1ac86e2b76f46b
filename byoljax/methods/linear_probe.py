"""A linear classifier on a frozen encoder, written as one more method.

Several heads train side by side on the same features, one per learning rate: their parameters are
stacked along a leading axis and their losses added, so no head sees another. The encoder is part of
the method state. It runs in evaluation mode, gets no gradient, and comes out bit for bit as it went
in, which the caller checks.

Protocol of BYOL's linear evaluation (arXiv 2006.07733, appendix C.1): SGD with Nesterov momentum,
no weight decay, cosine schedule, random crops and flips only, the learning rate chosen on
held-out training images. The heads start at zero, which is where the convex problem may start as
well as anywhere; the authors' code draws them from a truncated normal.
"""

from typing import Any

import flax.struct
import jax
from jax import lax
import jax.numpy as jnp

from byoljax.losses import classification
from byoljax.method import Aux, Batch, MakeEncoder, Method, Setting, default_groups, keep
from byoljax.models.net import Net, stack

PyTree = Any


class FrozenEncoder(flax.struct.PyTreeNode):
  """The encoder under the probe: its parameters and running statistics, by role."""

  params: PyTree
  bn: PyTree


def linear_probe(
  net: Net, frozen: tuple[PyTree, PyTree], num_classes: int, num_heads: int
) -> Method:
  """Linear heads over a network whose output 'embedding' they see.

  Args:
    net: the encoder as a one-part stack of role 'encoder'.
    frozen: its parameters and running statistics, {'encoder': ...} each.
    num_classes: C.
    num_heads: L, the number of stacked heads.

  Returns:
    A method with parameters {'head': {'kernel' [L, D, C], 'bias' [L, 1, C]}}; `embed` adds the tap
    'logits' [N, L * C].
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, FrozenEncoder]:
    del key
    state = FrozenEncoder(*jax.tree.map(jnp.array, frozen))
    size = jax.eval_shape(_features, state, batch['views'][0]).shape[-1]
    kernel = jnp.zeros((num_heads, size, num_classes), jnp.float32)
    bias = jnp.zeros((num_heads, 1, num_classes), jnp.float32)
    return {'head': {'kernel': kernel, 'bias': bias}}, state

  def _features(state: FrozenEncoder, images: jax.Array) -> jax.Array:
    return net.apply(state.params, state.bn, images, train=False)[0]['embedding']

  def loss(
    params: PyTree, state: FrozenEncoder, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    features = lax.stop_gradient(_features(state, batch['views'][0]))
    logits = _logits(params['head'], features)
    each = jax.vmap(classification.cross_entropy, (0, None))(logits, batch['label'])
    right = jax.vmap(classification.accuracy, (0, None))(logits, batch['label'])
    metrics = {'loss': jnp.nanmin(each), 'top1': right.max()}
    return each.sum(), Aux(state, metrics, features)

  def embed(params: PyTree, state: FrozenEncoder, images: jax.Array) -> dict[str, jax.Array]:
    features = _features(state, images)
    logits = _logits(params['head'], features)
    # Fewer heads than at first when the caller has picked some.
    rows = jnp.moveaxis(logits, 0, 1).reshape(images.shape[0], -1)
    return {'embedding': features, 'logits': rows}

  return Method(init, loss, keep, embed, default_groups)


def _logits(head: PyTree, features: jax.Array) -> jax.Array:
  """[N, D] -> [L, N, C] in float32."""
  return jnp.einsum('nd,ldc->lnc', features, head['kernel']) + head['bias']


def build(make_encoder: MakeEncoder, setting: Setting, *, num_heads: int = 1) -> Method:
  """Builds the probe on a pretrained encoder.

  Args:
    make_encoder: the encoder that `setting.pretrained` belongs to.
    setting: the run; it must name the classes and hold the encoder's weights.
    num_heads: how many heads train side by side, one per learning rate.

  Raises:
    ValueError: the data have no labels, or there is no encoder to probe.
  """
  if setting.num_classes < 2:
    raise ValueError('a linear probe needs labelled images of at least 2 classes.')
  if setting.pretrained is None:
    raise ValueError('a linear probe needs a pretrained encoder: set config.pretrained.')
  net = stack((('encoder', 'embedding', make_encoder(setting.axis)),))
  return linear_probe(net, setting.pretrained, setting.num_classes, num_heads)
