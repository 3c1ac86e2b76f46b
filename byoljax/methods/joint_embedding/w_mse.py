"""W-MSE: whitening for self-supervised learning (Ermolov et al. 2020, arXiv 2007.06346).

Both views' projections are whitened with the statistics of the batch, so that they cannot collapse,
and drawn together on the unit sphere.

As in the authors' code with `joint_head` and `whiten_size=128`: both views go through the head in
one batch, so that its normalization sees them together, and random parts of the batch are whitened
apart, `whiten_draws` times (1 on CIFAR-10, 4 on STL-10 and Tiny ImageNet). By default each view has
a forward pass of its own and the whole global batch is whitened once, which needs no draw and is
less noisy.

Different from their code: the parts are drawn from the global batch, not from each GPU's; the
covariance is shrunk towards the identity by .001. A batch, or a part, must be larger than the
projection is wide.
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
  projector: Sequence[int] = (1024, 64),
  joint_head: bool = False,
  whiten_size: int = 0,
  whiten_draws: int = 1,
  head_init: str = 'fan_in',
) -> Method:
  """Builds W-MSE from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run; its batch must be larger than the projection.
    projector: sizes of its layers; no normalization on its output. A last size of 0 is half the
      batch, which whitening can estimate.
    joint_head: whether the head's normalization sees both views together.
    whiten_size: rows that are whitened together, a divisor of the batch; 0: all.
    whiten_draws: random divisions of the batch into such parts whose losses are averaged.
    head_init: how kernels of the heads start, a key of `heads.KERNEL_INITS`; 'torch' as in
      PyTorch.

  Raises:
    ValueError: an empty projector, a projection that the batch or a part of it is too small to
      whiten, or parts that do not divide it.
  """
  if projector and projector[-1] == 0:
    projector = (*projector[:-1], setting.length.batch_size // 2)
  check_sizes(projector)
  batch = setting.length.batch_size
  if whiten_draws < 1 or whiten_size < 0 or (whiten_size and batch % whiten_size):
    raise ValueError(
      f'whiten_size={whiten_size} must divide the batch of {batch}, or be 0 for all of it, and '
      f'whiten_draws={whiten_draws} be at least 1.'
    )
  rows = whiten_size or batch
  if projector[-1] >= rows:
    raise ValueError(
      f'{projector[-1]} dimensions cannot be whitened with a batch of {rows}: make the last number '
      f'of projector smaller, or {"whiten_size" if whiten_size else "the batch"} larger.'
    )
  head = heads.MLPHead(
    features=tuple(projector),
    bn_axis=setting.axis,
    dtype=jnp.dtype(setting.dtype),
    kernel_init=head_init,
  )
  net = heads.with_projector(make_encoder(setting.axis), head)

  def whole(a: jax.Array, b: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    return redundancy.w_mse(a, b, axis=setting.axis), {}

  def parts(a: jax.Array, b: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    draws = [
      jax.random.permutation(jax.random.fold_in(key, draw), batch) for draw in range(whiten_draws)
    ]
    orders = jnp.stack(draws).reshape(whiten_draws, -1, whiten_size)
    return redundancy.w_mse_of_parts(a, b, orders, axis=setting.axis), {}

  criterion = parts if whiten_size else whole
  return from_projections(net, criterion, joint_head=joint_head, random=bool(whiten_size))
