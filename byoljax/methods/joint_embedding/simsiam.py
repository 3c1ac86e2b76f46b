"""SimSiam (Chen and He 2020, arXiv 2011.10566).

One network, no target, no negatives: the prediction of each view is drawn towards the projection
of the other, through which no gradient flows. Views are forward passes of their own, statistics
are shared by all devices.

As in the authors' code: the last batch normalization of the projector has neither scale nor shift;
the predictor is a bottleneck without normalization on its output. Its learning rate is constant in
their recipe: see `groups` in configs/simsiam.py.

Different from the authors' code: the projector's linear layers have no bias at all, where theirs
leaves one, frozen, in front of a normalization that removes it.

Ablations: `stop_gradient=False` and `predictor=()`, both of which collapse in the paper.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byoljax.losses import regression
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
from byoljax.methods.checks import check_sizes, two_views
from byoljax.methods.plain import plain_init
from byoljax.models import heads
from byoljax.models.net import Net, Statistics, apply_each, stack

PyTree = Any


def simsiam(net: Net, *, stop_gradient: bool = True) -> Method:
  """SimSiam over a network; `build` makes it.

  Args:
    net: outputs 'embedding', 'projection' and, unless it is ablated, 'prediction'.
    stop_gradient: whether the projections are constants to the loss.
  """
  constant = lax.stop_gradient if stop_gradient else (lambda z: z)

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    (first, second), bn = apply_each(net, params, state.bn, two_views(batch))
    p_first = first.get('prediction', first['projection'])
    p_second = second.get('prediction', second['projection'])
    value = 0.5 * (
      regression.negative_cosine(p_first, constant(second['projection']))
      + regression.negative_cosine(p_second, constant(first['projection']))
    )
    return value, Aux(Statistics(bn), {}, first['embedding'], others=(second['embedding'],))

  embed = evaluation_outputs(net, 'embedding', 'projection')
  return Method(
    plain_init(net, lambda batch: two_views(batch)[0]),
    loss,
    keep,
    embed,
    default_groups,
    net=net,
    encodes_all_views=True,
    only_encodes_views=True,
  )


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  projector: Sequence[int] = (2048, 2048, 2048),
  predictor: Sequence[int] = (512, 2048),
  stop_gradient: bool = True,
  head_init: str = 'fan_in',
) -> Method:
  """Builds SimSiam from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    projector: sizes of its layers; two layers are enough on CIFAR-10.
    predictor: bottleneck and output size; () removes it.
    stop_gradient: False lets gradients through the projections.
    head_init: how kernels of the heads start, a key of `heads.KERNEL_INITS`; 'torch' as in
      PyTorch.

  Raises:
    ValueError: sizes that do not fit together.
  """
  check_sizes(projector, predictor)
  head = functools.partial(
    heads.MLPHead,
    hidden_bias=False,
    bn_axis=setting.axis,
    dtype=jnp.dtype(setting.dtype),
    kernel_init=head_init,
  )
  parts = (
    ('encoder', 'embedding', make_encoder(setting.axis)),
    ('projector', 'projection', head(features=tuple(projector), last_norm='bn_no_affine')),
  )
  if predictor:
    last = head(features=tuple(predictor), last_bias=True)
    parts += (('predictor', 'prediction', last),)
  return simsiam(stack(parts), stop_gradient=stop_gradient)
