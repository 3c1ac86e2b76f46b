"""Between BYOL and SimCLR: the ablations of BYOL's paper (arXiv 2006.07733, section 5, appendix F).

BYOL with switches: what the target network is (`target_mode`), whether there is a predictor, one
direction of the loss or both, and the negatives of SimCLR with a weight `beta` (appendix F.4). By
default it is BYOL; with `predictor=()`, `target_mode='none'` and beta = 1 it is SimCLR's loss on
BYOL's network. The rows of the paper's tables are variants of configs/bridge.py.

As in the paper tau is constant in the ablation of the target (`tau_schedule='constant'`) and rises
to 1 on a cosine elsewhere. Everything else is as in `byol`.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byoljax import streams
from byoljax.losses import bridge as losses
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
from byoljax.methods import notes
from byoljax.methods.checks import check_sizes, require_other_images, two_views
from byoljax.methods.plain import move_target
from byoljax.models import heads
from byoljax.models.net import Net, WithTarget, apply_each, stack
from byoljax.ops import ema

PyTree = Any
Schedule = Callable[[jax.Array], jax.Array]

TAU_SCHEDULES: dict[str, Callable[[float, int, int], Schedule]] = {
  'cosine': ema.cosine_tau,
  'constant': lambda tau, total_steps, steady_steps: ema.constant_tau(tau),
}
TARGET_MODES = ('ema', 'constant_random', 'stop_gradient', 'none')


def bridge(
  online: Net,
  target: Net,
  *,
  tau: Schedule,
  target_mode: str = 'ema',
  symmetric: bool = True,
  beta: float = 0.0,
  alpha: float = 0.1,
  axis: str | None = None,
) -> Method:
  """The ablations of BYOL over two networks; `build` makes them.

  Args:
    online: outputs 'embedding', 'projection' and, unless it is ablated, 'prediction'.
    target: outputs 'embedding' and 'projection'; its parameters are the online ones' namesakes.
    tau: step -> weight of the old target in the moving average, in [0, 1].
    target_mode: 'ema'; 'constant_random' (never updated); 'stop_gradient' (the online network
      behind a stop-gradient); 'none' (the online network, gradients included).
    symmetric: sum both directions of the loss, or predict view 1 from view 0 only.
    beta: weight of the negatives, 0 for none.
    alpha: their temperature.
    axis: the mapped axis, over which negatives are gathered.
  """
  separate = target_mode in ('ema', 'constant_random')

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, WithTarget]:
    view, _ = two_views(batch)
    params, bn = online.init(jax.random.fold_in(key, streams.ONLINE), view)
    if not separate:
      return params, WithTarget(bn, {}, {})
    target_params, target_bn = target.init(jax.random.fold_in(key, streams.TARGET), view)
    return params, WithTarget(bn, target_params, target_bn)

  def loss(
    params: PyTree, state: WithTarget, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    views = two_views(batch)
    (on_first, on_second), bn = apply_each(online, params, state.bn, views)
    (to_first, to_second), target_bn = (on_first, on_second), state.target_bn
    if separate:
      (to_first, to_second), target_bn = apply_each(
        target, state.target_params, state.target_bn, views
      )
    constant = (lambda z: z) if target_mode == 'none' else lax.stop_gradient
    p_first, p_second = _prediction(on_first), _prediction(on_second)
    z_first, z_second = constant(to_first['projection']), constant(to_second['projection'])
    value = _direction(p_first, z_first, z_second)
    if symmetric:
      value += _direction(p_second, z_second, z_first)
    pair = lax.stop_gradient((on_first['projection'], to_first['projection']))
    metrics = {'collapse/online_target_cosine': -regression.negative_cosine(*pair)}
    new_state = state.replace(bn=bn, target_bn=target_bn)
    return value, Aux(new_state, metrics, on_first['embedding'], others=(on_second['embedding'],))

  def _direction(p: jax.Array, own_view: jax.Array, other_view: jax.Array) -> jax.Array:
    """The loss of one view's predictions [b, D], given what the target makes of both views."""
    value = regression.cosine_regression(p, other_view)
    if beta:
      require_other_images(len(p), axis)
      value += beta * losses.dispersion(p, own_view, other_view, alpha, axis=axis)
    return value

  embed = evaluation_outputs(online, 'embedding', 'projection')
  return Method(
    init,
    loss,
    move_target(tau) if target_mode == 'ema' else keep,
    embed,
    default_groups,
    net=online,
    encodes_all_views=True,
    only_encodes_views=True,
  )


def _prediction(outputs: dict[str, jax.Array]) -> jax.Array:
  """The predictor's output, or the projection itself where the predictor is ablated."""
  return outputs.get('prediction', outputs['projection'])


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  projector: Sequence[int] = (4096, 256),
  predictor: Sequence[int] = (4096, 256),
  base_tau: float = 0.99,
  tau_schedule: str = 'cosine',
  target_mode: str = 'ema',
  symmetric: bool = True,
  beta: float = 0.0,
  alpha: float = 0.1,
) -> Method:
  """Builds an ablation of BYOL from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run; tau reaches 1 at its last step.
    projector: hidden and output sizes of the projector.
    predictor: hidden and output sizes of the predictor; () removes it (it will collapse).
    base_tau: tau at step 0, in [0, 1]; the paper's .99 for 300 epochs, .996 for 1000.
    tau_schedule: 'cosine', or 'constant' as in the paper's ablation of the target.
    target_mode: one of `TARGET_MODES`.
    symmetric: whether both directions of the loss are summed.
    beta: weight >= 0 of negatives in the loss: 0 is BYOL, 1 SimCLR's share.
    alpha: temperature > 0 of the negatives.

  Raises:
    ValueError: an unknown target mode, values out of range, sizes that do not fit together.
  """
  if target_mode not in TARGET_MODES:
    raise ValueError(f"target_mode='{target_mode}' is not one of {', '.join(TARGET_MODES)}.")
  if tau_schedule not in TAU_SCHEDULES:
    raise ValueError(f"tau_schedule='{tau_schedule}' is not one of {', '.join(TAU_SCHEDULES)}.")
  check_sizes(projector, predictor)
  if beta < 0 or alpha <= 0:
    raise ValueError(f'beta={beta} must be 0 or more and alpha={alpha} positive.')
  head = functools.partial(heads.MLPHead, bn_axis=setting.axis, dtype=jnp.dtype(setting.dtype))
  shared = (
    ('encoder', 'embedding', make_encoder(setting.axis)),
    ('projector', 'projection', head(features=tuple(projector))),
  )
  online = shared
  if predictor:
    online += (('predictor', 'prediction', head(features=tuple(predictor))),)
  method = bridge(
    stack(online),
    stack(shared),
    tau=TAU_SCHEDULES[tau_schedule](
      base_tau, setting.length.total_steps, setting.length.steady_steps
    ),
    target_mode=target_mode,
    symmetric=symmetric,
    beta=beta,
    alpha=alpha,
    axis=setting.axis,
  )
  return method._replace(notes=notes.of_accumulation(setting) if beta else ())
