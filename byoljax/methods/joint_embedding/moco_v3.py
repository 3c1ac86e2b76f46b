"""MoCo v3 (Chen, Xie and He 2021, arXiv 2104.02057).

BYOL's networks with InfoNCE: the prediction of each view identifies the key that the target network
gives to the image's other view among those of the global batch. There is no queue. Batch statistics
are shared by all devices.

As in the authors' code: each direction is 2T times the cross-entropy and both are added; no linear
layer has a bias; outputs of the projector are normalized without scale and shift, those of the
predictor only for ViTs (`predictor_norm`); the target starts as a copy; tau rises to 1 on a cosine.
ViTs are steadier with a patch projection that is never trained (`freeze_patch_embed`).
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byoljax import streams
from byoljax.devices import collectives
from byoljax.losses import contrastive
from byoljax.losses.regression import negative_cosine
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Setting,
  comparison,
  default_groups,
  evaluation_outputs,
)
from byoljax.methods.checks import check_sizes, require_other_images, two_views
from byoljax.methods.plain import move_target
from byoljax.models import heads
from byoljax.models.net import Net, WithTarget, apply_each, stack
from byoljax.ops import ema

PyTree = Any
Schedule = Callable[[jax.Array], jax.Array]

PATCH_EMBED = 'patch_embed'


def moco_v3(
  online: Net,
  target: Net,
  *,
  tau: Schedule,
  temperature: float,
  freeze_patch_embed: bool,
  axis: str | None,
) -> Method:
  """MoCo v3 over two networks; `build` makes them.

  Args:
    online: outputs 'embedding', 'projection' and 'prediction'.
    target: outputs 'embedding' and 'projection'; its parameters are the online ones' namesakes.
    tau: step -> weight of the old target in the moving average, in [0, 1].
    temperature: T of InfoNCE.
    freeze_patch_embed: whether the encoder's patch projection is never trained.
    axis: the mapped axis.
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, WithTarget]:
    view, _ = two_views(batch)
    params, bn = online.init(jax.random.fold_in(key, streams.ONLINE), view)
    copies = ({role: tree[role] for role in ('encoder', 'projector')} for tree in (params, bn))
    return params, WithTarget(bn, *(jax.tree.map(jnp.copy, tree) for tree in copies))

  def loss(
    params: PyTree, state: WithTarget, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    views = two_views(batch)
    outputs, bn = apply_each(online, params, state.bn, views)
    keys, target_bn = apply_each(target, state.target_params, state.target_bn, views)
    k_first, k_second = (lax.stop_gradient(each['projection']) for each in keys)
    compared = (*(each['prediction'] for each in outputs), k_first, k_second)
    value, compared_metrics = comparison(compare, compared, state, batch, key, step)
    own = lax.stop_gradient(outputs[0]['projection'])
    metrics = compared_metrics | {
      'collapse/online_target_cosine': -negative_cosine(own, k_first),
    }
    new_state = state.replace(bn=bn, target_bn=target_bn)
    embedding, other = (view['embedding'] for view in outputs)
    return value, Aux(new_state, metrics, embedding, others=(other,), compared=compared)

  def compare(
    compared: tuple[jax.Array, ...], state: WithTarget, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    del state, key, step
    q_first, q_second, k_first, k_second = compared
    k_first, k_second = lax.stop_gradient((k_first, k_second))
    return _contrast(q_first, k_second) + _contrast(q_second, k_first), {}

  def _contrast(q: jax.Array, k: jax.Array) -> jax.Array:
    """One direction, averaged over this device's queries."""
    require_other_images(len(q), axis)
    offset = collectives.axis_index(axis) * k.shape[0]
    everyone = collectives.all_gather(k, axis)
    losses = contrastive.info_nce_in_batch(q, everyone, temperature, offset=offset)
    return 2.0 * temperature * jnp.mean(losses)

  def groups(params: PyTree) -> PyTree:
    names = default_groups(params)
    if freeze_patch_embed:
      frozen = jax.tree.map(lambda _: 'frozen', params['encoder'][PATCH_EMBED])
      names['encoder'] = {**names['encoder'], PATCH_EMBED: frozen}
    return names

  embed = evaluation_outputs(online, 'embedding', 'projection')
  return Method(
    init,
    loss,
    move_target(tau),
    embed,
    groups,
    net=online,
    encodes_all_views=True,
    compare=compare,
    only_encodes_views=True,
  )


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  projector: Sequence[int] = (4096, 256),
  predictor: Sequence[int] = (4096, 256),
  predictor_norm: bool = False,
  temperature: float = 1.0,
  base_tau: float = 0.99,
  freeze_patch_embed: bool = False,
  head_init: str = 'fan_in',
) -> Method:
  """Builds MoCo v3 from an encoder factory and its configuration; the defaults are ResNet-50's.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run; tau reaches 1 at its last step.
    projector: (4096, 256), for ViTs (4096, 4096, 256).
    predictor: hidden and output size.
    predictor_norm: whether the prediction is normalized over the batch: True for ViTs.
    temperature: 1 for ResNet-50, .2 for ViTs.
    base_tau: tau at step 0, in [0, 1].
    freeze_patch_embed: whether the patches' projection keeps its first weights; for ViTs alone.
    head_init: how kernels of the heads start, a key of `heads.KERNEL_INITS`; 'torch' as in
      PyTorch.

  Raises:
    ValueError: values out of range, sizes that do not fit together, nothing to freeze.
  """
  check_sizes(projector, predictor)
  contrastive.check_temperature(temperature)
  if not predictor:
    raise ValueError('predictor=() is empty: give its hidden and output size, such as (4096, 256).')
  encoder = make_encoder(setting.axis)
  if freeze_patch_embed and not hasattr(encoder, 'patch'):
    raise ValueError(
      'freeze_patch_embed=True needs a vision transformer, such as vit_small; set it to False.'
    )
  head = functools.partial(
    heads.MLPHead,
    hidden_bias=False,
    bn_axis=setting.axis,
    dtype=jnp.dtype(setting.dtype),
    kernel_init=head_init,
  )
  shared = (
    ('encoder', 'embedding', encoder),
    ('projector', 'projection', head(features=tuple(projector), last_norm='bn_no_affine')),
  )
  last_norm = 'bn_no_affine' if predictor_norm else 'none'
  last = ('predictor', 'prediction', head(features=tuple(predictor), last_norm=last_norm))
  return moco_v3(
    stack((*shared, last)),
    stack(shared),
    tau=ema.cosine_tau(base_tau, setting.length.total_steps, setting.length.steady_steps),
    temperature=temperature,
    freeze_patch_embed=freeze_patch_embed,
    axis=setting.axis,
  )
