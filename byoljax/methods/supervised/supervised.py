"""Supervised training of a whole network, written as one more method: fine-tuning, or from scratch.

The encoder starts from `setting.given['encoder']` where there is one, the linear classifier on top
at zero (SimCLR v2's start), and everything is trained by cross-entropy on the labels. With
`head_layers` the first layers of the pretrained projector stay between the two, as SimCLR v2
fine-tunes (arXiv 2006.10029, section 2). Images with several labels each get one binary
classifier per class, the sum of whose losses is minimized.

Protocols differ in their optimizers, which are configuration, and in batch normalization: all of
those in our reference use the batch's statistics. Left out: stochastic depth, mixup and layer-wise
rates, which MAE's and DINO's recipes add; the encoder's momentum of running statistics is that of
pretraining, which SimCLR and BYOL adapt to the size of the data set.
"""

from typing import Any

import jax
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
  evaluation_outputs,
  keep,
)
from byoljax.models import heads
from byoljax.models.net import Net, Statistics, stack

PyTree = Any
BATCH_NORMS = ('batch', 'frozen')


def supervised(net: Net, start: Any, *, batch_norm: str) -> Method:
  """Supervised training of a network; `build` makes it.

  Args:
    net: outputs 'embedding' and 'logits' [b, C]; its role 'head' is the classifier.
    start: has the weights of some of its other roles, see `method.Setting.given`; or None.
    batch_norm: 'batch' normalizes with the batch's statistics, 'frozen' with the running ones.
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, Statistics]:
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), batch['views'][0])
    if start is not None:
      params |= jax.tree.map(jnp.array, start.params)
      bn |= jax.tree.map(jnp.array, start.bn)
    return params, Statistics(bn)

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    train = batch_norm == 'batch'
    outputs, bn = net.apply(params, state.bn, batch['views'][0], train=train)
    labels, logits = batch['label'], outputs['logits']
    if labels.ndim == 2:
      value = classification.binary_cross_entropy(logits, labels)
      metrics = {}
    else:
      value = classification.cross_entropy(logits, labels)
      metrics = {'top1': classification.accuracy(logits, labels)}
    return value, Aux(state.replace(bn=bn), metrics, outputs['embedding'])

  embed = evaluation_outputs(net, 'embedding', 'logits')
  return Method(init, loss, keep, embed, default_groups, net=net)


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  batch_norm: str = 'batch',
  head: dict[str, Any] | None = None,
) -> Method:
  """Builds supervised training.

  Args:
    make_encoder: the encoder that `setting.given['encoder']`, if any, belongs to.
    setting: the run; it must name the classes.
    batch_norm: see `supervised`.
    head: arguments of the `heads.MLPHead`, cut after an activation, that stays between encoder and
      classifier; None: there is none.

  Raises:
    ValueError: the data have no labels, or an unknown `batch_norm`.
  """
  if setting.num_classes < 2:
    raise ValueError('supervised training needs labelled images of at least 2 classes.')
  if batch_norm not in BATCH_NORMS:
    raise ValueError(f"batch_norm='{batch_norm}' is not one of {', '.join(BATCH_NORMS)}.")
  parts = [('encoder', 'embedding', make_encoder(setting.axis))]
  if head:
    trunk = heads.MLPHead(**head, trunk=True, bn_axis=setting.axis, dtype=jnp.dtype(setting.dtype))
    parts.append(('projector', 'trunk', trunk))
  parts.append(('head', 'logits', heads.LinearHead(setting.num_classes, 'zeros')))
  return supervised(stack(parts), setting.given.get('encoder'), batch_norm=batch_norm)
