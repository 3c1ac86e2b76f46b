"""FixMatch: learning from few labels and many images (Sohn et al. 2020, arXiv 2001.07685).

A labelled image, weakly augmented, is learned by cross-entropy. Of an image without a label the
weakly augmented view names a class; where its probability is at least a threshold, the strongly
augmented view is to be that class. What is evaluated is a moving average of the weights.

As in the paper and in the authors' code: all images go through the network in one batch, so that
batch normalization sees them mixed; the second loss is a mean over all images without labels, also
those below the threshold; the average takes in weights that the optimizer has just written and
starts with the first ones, and it is evaluated with the running statistics of the network itself;
labelled images are among those without labels, too. Labels of the second stream are never looked at
(a test gives it wrong ones).

Different from the authors' code: the running statistics' momentum is the encoder's, 0.9, theirs
0.999; their wide ResNet has leaky ReLUs; the strong view is RandAugment and a cutout, where their
default for CIFAR-10 is CTAugment, which learns the strengths.

A batch holds two streams in fixed shares, see `data.batches.order.MixedOrder`; every image has both
views, of which labelled ones leave the strong one unused.
"""

from typing import Any

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.losses import classification, pseudo_labels
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Setting,
  default_groups,
  evaluation_outputs,
)
from byoljax.methods.checks import two_views
from byoljax.models import heads
from byoljax.models.net import Net, WithTarget, stack
from byoljax.ops import ema

PyTree = Any


def fixmatch(
  net: Net,
  shares: tuple[int, int],
  *,
  threshold: float,
  weight: float,
  tau: float,
  early: bool = False,
) -> Method:
  """FixMatch over a network; `build` makes it.

  Args:
    net: outputs 'embedding' and 'logits' [b, C].
    shares: rows with and without labels in each unit of a batch, in this order.
    threshold: smallest probability of a class that counts as a label.
    weight: of the loss of images without labels.
    tau: weight of the old average.
    early: whether that is less in the first steps.
  """
  average = (ema.early_tau if early else ema.constant_tau)(tau)

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, WithTarget]:
    view, _ = two_views(batch)
    if batch['label'].ndim != 1:
      raise ValueError('FixMatch is for images with one label each, and these have several.')
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), view)
    return params, WithTarget(bn, *jax.tree.map(jnp.copy, (params, bn)))

  def parts(x: jax.Array) -> list[jax.Array]:
    """The labelled and the other rows of a batch."""
    units = x.reshape(-1, sum(shares), *x.shape[1:])
    each = (units[:, : shares[0]], units[:, shares[0] :])
    return [part.reshape(-1, *x.shape[1:]) for part in each]

  def in_order(labelled: jax.Array, others: jax.Array) -> jax.Array:
    """The rows of a batch again."""
    units = [part.reshape(-1, share, *part.shape[1:])
             for part, share in zip((labelled, others), shares, strict=True)]  # fmt: skip
    return jnp.concatenate(units, axis=1).reshape(-1, *labelled.shape[1:])

  def loss(
    params: PyTree, state: WithTarget, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    if len(batch['label']) % sum(shares):
      raise ValueError(
        f'{len(batch["label"])} rows are no whole number of units of {shares[0]} labelled and '
        f'{shares[1]} unlabelled images.'
      )
    weak, strong = map(parts, two_views(batch))
    images = (weak[0], weak[1], strong[1])
    outputs, bn = net.apply(params, state.bn, jnp.concatenate(images), train=True)
    ends = [len(images[0]), len(images[0]) + len(images[1])]
    known, guessing, learning = jnp.split(outputs['logits'], ends)
    labels = parts(batch['label'])[0]
    own = classification.cross_entropy(known, labels)
    others = pseudo_labels.pseudo_label_loss(guessing, learning, threshold)
    sure = pseudo_labels.confident_labels(guessing, threshold) >= 0
    metrics = {
      'loss/labelled': own,
      'loss/unlabelled': others,
      'top1': classification.accuracy(known, labels),
      'confident': jnp.mean(sure.astype(jnp.float32)),
    }
    embedding = in_order(*jnp.split(outputs['embedding'], ends)[:2])
    return own + weight * others, Aux(state.replace(bn=bn), metrics, embedding)

  def post_step(
    params: PyTree, state: WithTarget, step: jax.Array
  ) -> tuple[PyTree, WithTarget, dict[str, jax.Array]]:
    own = {role: params[role] for role in state.target_params}
    now = average(step)
    moved = ema.update(state.target_params, own, now)
    return params, state.replace(target_params=moved, target_bn=state.bn), {'tau': now}

  embed = evaluation_outputs(net, 'embedding', 'logits')
  return Method(
    init, loss, post_step, embed, default_groups, net=net, classifies='target', streams=2
  )


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  threshold: float = 0.95,
  weight: float = 1.0,
  tau: float = 0.999,
  early: bool = False,
) -> Method:
  """Builds FixMatch from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are shared by all devices.
    setting: the run, with two streams of data, the labelled one first.
    threshold: smallest probability of a class that counts as a label, in [0, 1].
    weight: of the loss of images without labels, >= 0.
    tau: weight of the old average of the weights, in [0, 1].
    early: whether that is less in the first steps, see `ops.ema.early_tau`: for runs of hundreds or
      thousands of steps, whose end would still hold a part of the random start.

  Raises:
    ValueError: no labels, no second stream, or a value out of range.
  """
  if setting.num_classes < 2:
    raise ValueError('FixMatch needs labelled images of at least 2 classes.')
  if len(setting.shares) != 2:
    raise ValueError(
      'FixMatch learns from images with and without labels in each batch: set config.data.labels '
      "to which have one, such as '40', '10 per class', '1 %' or '100 %'."
    )
  if not 0 <= threshold <= 1:
    raise ValueError(f'threshold={threshold} is a probability: give 0 to 1.')
  if weight < 0:
    raise ValueError(f'weight={weight} must not be negative; 0 leaves supervised training.')
  net = stack(
    (
      ('encoder', 'embedding', make_encoder(setting.axis)),
      ('head', 'logits', heads.LinearHead(setting.num_classes)),
    )
  )
  labelled, others = setting.shares
  return fixmatch(net, (labelled, others), threshold=threshold, weight=weight, tau=tau, early=early)
