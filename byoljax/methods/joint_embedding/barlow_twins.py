"""Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230).

The cross-correlation of two views' projections, over the global batch, is drawn towards the
identity. Symmetric, no target, no predictor, no stop-gradient. Views are forward passes of their
own.

`off_diagonal` is .0051 in the authors' code and .005 in the paper. Their all-reduce of the
correlation is not differentiated across devices while their gradients are averaged, so that their
gradient is the true one divided by the number of devices; this is the true gradient on any number
of devices, and what LARS leaves of the difference is in the learning rate of biases and
normalization parameters, `optim.groups.bias_and_norm` in configs/barlow_twins.py.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from byoljax.losses import redundancy
from byoljax.method import MakeEncoder, Method, Setting
from byoljax.methods.checks import check_sizes
from byoljax.methods.joint_embedding.two_projections import from_projections
from byoljax.models import heads


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  projector: Sequence[int] = (8192, 8192, 8192),
  off_diagonal: float = 0.0051,
  loss_scale: float = 1.0,
  head_init: str = 'fan_in',
) -> Method:
  """Builds Barlow Twins from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    projector: sizes of its layers; wide is better. No normalization on its output.
    off_diagonal: weight of the off-diagonal terms, > 0; it belongs to the projector's width.
    loss_scale: factor on the loss, > 0; it matters to parameters that LARS does not adapt.
    head_init: how kernels of the heads start, a key of `heads.KERNEL_INITS`; 'torch' as in
      PyTorch.

  Raises:
    ValueError: an empty projector or a weight that is not positive.
  """
  check_sizes(projector)
  if off_diagonal <= 0 or loss_scale <= 0:
    raise ValueError(f'off_diagonal={off_diagonal} and loss_scale={loss_scale} must be positive.')
  head = heads.MLPHead(
    features=tuple(projector),
    hidden_bias=False,
    bn_axis=setting.axis,
    dtype=jnp.dtype(setting.dtype),
    kernel_init=head_init,
  )
  net = heads.with_projector(make_encoder(setting.axis), head)

  def criterion(a: jax.Array, b: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    value, terms = redundancy.barlow_twins(a, b, off_diagonal=off_diagonal, axis=setting.axis)
    return loss_scale * value, terms

  return from_projections(net, criterion)
