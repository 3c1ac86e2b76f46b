"""BYOL: Bootstrap Your Own Latent (Grill et al. 2020, arXiv 2006.07733).

An online network (encoder, projector, predictor) predicts, from one view of an image, the
projection that a slowly moving target network (encoder, projector) gives to the other view.

As in the paper and in the authors' code: every view is a forward pass of its own, so batch
normalization sees one view at a time and its running statistics move twice a step; the two
directions of the loss are summed, not averaged; the target runs in train mode with its own batch
statistics, and only its parameters are moving averages; tau rises to 1 on a cosine, per optimizer
step; the average takes in the parameters that the optimizer has just written; the target starts as
an independent draw (`copy_target`: as a copy).

Different from the authors' code: the target holds no predictor and no classifier, which were never
used there; its running statistics are kept only so that it can be evaluated.

The ablations of the paper are the method `bridge`.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byoljax import streams
from byoljax.losses.regression import cosine_regression, negative_cosine
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Setting,
  default_groups,
  evaluation_outputs,
)
from byoljax.methods.checks import check_sizes, two_views
from byoljax.methods.plain import move_target
from byoljax.models import heads
from byoljax.models.net import Net, WithTarget, apply_each, stack
from byoljax.ops import ema

PyTree = Any
Schedule = Callable[[jax.Array], jax.Array]


def byol(online: Net, target: Net, *, tau: Schedule, copy_target: bool = False) -> Method:
  """BYOL over two networks; `build` makes them.

  Args:
    online: outputs 'embedding', 'projection' and 'prediction'.
    target: outputs 'embedding' and 'projection'; its parameters are the online ones' namesakes.
    tau: step -> weight of the old target in the moving average, in [0, 1].
    copy_target: whether the target starts as a copy of the online network.
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, WithTarget]:
    view, _ = two_views(batch)
    params, bn = online.init(jax.random.fold_in(key, streams.ONLINE), view)
    target_params, target_bn = target.init(jax.random.fold_in(key, streams.TARGET), view)
    if copy_target:
      target_params = jax.tree.map(jnp.copy, {role: params[role] for role in target_params})
    return params, WithTarget(bn, target_params, target_bn)

  def loss(
    params: PyTree, state: WithTarget, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    views = two_views(batch)
    (first, second), bn = apply_each(online, params, state.bn, views)
    targets, target_bn = apply_each(target, state.target_params, state.target_bn, views)
    z_first, z_second = (lax.stop_gradient(each['projection']) for each in targets)
    value = cosine_regression(first['prediction'], z_second)
    value += cosine_regression(second['prediction'], z_first)
    own = lax.stop_gradient(first['projection'])
    metrics = {'collapse/online_target_cosine': -negative_cosine(own, z_first)}
    new_state = state.replace(bn=bn, target_bn=target_bn)
    return value, Aux(new_state, metrics, first['embedding'], others=(second['embedding'],))

  embed = evaluation_outputs(online, 'embedding', 'projection')
  return Method(
    init,
    loss,
    move_target(tau),
    embed,
    default_groups,
    net=online,
    encodes_all_views=True,
    only_encodes_views=True,
  )


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  projector: Sequence[int] = (4096, 256),
  predictor: Sequence[int] = (4096, 256),
  base_tau: float = 0.99,
  last_bias: bool = False,
  copy_target: bool = False,
  head_init: str = 'fan_in',
  projection_norm: bool = False,
) -> Method:
  """Builds BYOL from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run; tau reaches 1 at its last step.
    projector: hidden and output sizes of the projector.
    predictor: hidden and output sizes of the predictor.
    base_tau: tau at step 0, in [0, 1]; the paper's .99 for 300 epochs, .996 for 1000.
    last_bias: whether the heads' last layers have a bias; theirs in PyTorch's re-implementations.
    copy_target: whether the target starts as a copy of the online network.
    head_init: how kernels of the heads start, a key of `heads.KERNEL_INITS`; 'torch' as in
      PyTorch.
    projection_norm: whether projections are normalized over the batch, without scale and shift, as
      in MoCo v3 and SimSiam; not in BYOL's paper.

  Raises:
    ValueError: a value out of range, sizes that do not fit together.
  """
  check_sizes(projector, predictor)
  if not predictor:
    raise ValueError('predictor=() is empty: without one BYOL collapses; see configs/bridge.py.')
  head = functools.partial(
    heads.MLPHead,
    last_bias=last_bias,
    bn_axis=setting.axis,
    dtype=jnp.dtype(setting.dtype),
    kernel_init=head_init,
  )
  last_norm = 'bn_no_affine' if projection_norm else 'none'
  shared = (
    ('encoder', 'embedding', make_encoder(setting.axis)),
    ('projector', 'projection', head(features=tuple(projector), last_norm=last_norm)),
  )
  prediction = ('predictor', 'prediction', head(features=tuple(predictor)))
  return byol(
    stack((*shared, prediction)),
    stack(shared),
    tau=ema.cosine_tau(base_tau, setting.length.total_steps, setting.length.steady_steps),
    copy_target=copy_target,
  )
