"""Pretext tasks that are classifications: what was done to the image?

`Method.transform` does it, by the key and the example's global position, and says what it did in
`batch['pretext_label']`; a classifier on the encoder has to find out. The tasks differ in the
transform and in the head only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

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
from byoljax.methods.checks import check_widths
from byoljax.methods.plain import plain_init
from byoljax.models import heads
from byoljax.models.net import Inputs, Net, Statistics, stack

PyTree = Any
Transform = Callable[[Batch, jax.Array, jax.Array], Batch]


def no_inputs(batch: Batch) -> Inputs:
  """The `inputs` of a network whose parts read nothing but each other."""
  del batch
  return {}


def from_labels(
  net: Net,
  transform: Transform,
  *,
  inputs: Callable[[Batch], Inputs] = no_inputs,
  parts: bool = False,
) -> Method:
  """A method that classifies what its `transform` did.

  Args:
    net: outputs 'embedding' [m * b, D] and 'logits' [n, C].
    transform: (batch, key, step) -> batch with the view 0 of m * b images, m of each: all first
      ones, then all second ones and so on; and 'pretext_label' int32 [n] in [0, C).
    inputs: (transformed batch) -> further named inputs of the network's parts, in training.
    parts: whether an image's embedding is the mean over its m, such as tiles; otherwise it is that
      of the first one, which is the image as it is.

  Returns:
    A method with the metric 'pretext_accuracy'.
  """

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    made, bn = net.apply(params, state.bn, batch['views'][0], train=True, inputs=inputs(batch))
    logits, labels = made['logits'], batch['pretext_label']
    value = classification.cross_entropy(logits, labels)
    metrics = {'pretext_accuracy': classification.accuracy(logits, labels)}
    each = per_image(made['embedding'], len(batch['index']))
    embedding = each.mean(0) if parts else each[0]
    return value, Aux(Statistics(bn), metrics, embedding)

  init = plain_init(net, inputs=inputs)
  embed = evaluation_outputs(net, 'embedding', 'logits')
  return Method(init, loss, keep, embed, default_groups, net=net, transform=transform)


def image_classifier(
  make_encoder: MakeEncoder, setting: Setting, classes: int, hidden: Sequence[int] = ()
) -> Net:
  """An encoder under a classifier of whole images, for `from_labels`.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    classes: C.
    hidden: widths of hidden layers (linear, BN, ReLU) between the two; () is a linear classifier.

  Raises:
    ValueError: a width below 1.
  """
  check_widths(hidden=hidden)
  head = heads.MLPHead(
    features=(*hidden, classes),
    last_bias=True,
    bn_axis=setting.axis,
    dtype=jnp.dtype(setting.dtype),
  )
  return stack(
    (('encoder', 'embedding', make_encoder(setting.axis)), ('head', 'logits', head)),
  )


def per_image(stacked: jax.Array, count: int) -> jax.Array:
  """[m * b, ...], all first ones first, -> [m, b, ...] with b = count."""
  return stacked.reshape(-1, count, *stacked.shape[1:])
