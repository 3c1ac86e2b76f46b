"""Depth from a single image: how far away is what every pixel shows?

The protocol of BYOL on NYU v2 (arXiv 2006.07733), which is that of Laina et al. (arXiv 1606.00373):
a decoder of fast up-projection blocks on the last map, the reverse Huber loss over the pixels whose
depth is known; or a head that is linear in the features.

Different from the papers: the output starts at a constant, the mean depth that the caller gives,
and is not cut off at 0; crops are squares at a scale of their own, and depths are not divided by
it; no colors are changed unless the view says so.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from byoljax.losses import dense as losses
from byoljax.method import Batch, MakeEncoder, Method, Setting
from byoljax.methods.supervised import dense
from byoljax.methods.supervised.dense import HeadOptions
from byoljax.models.dense_heads import UP_CHANNELS

PyTree = Any


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  depth: str = 'depth',
  mean_depth: float = 0.0,
  frozen: bool = False,
  batch_norm: str = 'batch',
  head: str = 'up',
  taps: Sequence[str] = (),
  width: int = 256,
  up_channels: Sequence[int] = UP_CHANNELS,
) -> Method:
  """Builds the estimation of depth on an encoder.

  Args:
    make_encoder: the encoder that `setting.given['encoder']`, if any, belongs to.
    setting: the run.
    depth: the field of the data; 0, negative, infinite and NaN are unknown.
    mean_depth: what is predicted before training, in the unit of the field.
    frozen: whether the encoder stays as it is.
    batch_norm: see `dense.dense_method`.
    head: see `models.dense_heads`, as for those below.
    taps: see `dense.HeadOptions`.
    width: channels of the hidden layers of 'fcn'.
    up_channels: of each block of 'up'; () for none.

  Raises:
    ValueError: as `dense.dense_method`.
  """

  def loss_of(output: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    true = dense.require_field(batch, depth, 'depth')
    made, known = output[..., 0], jnp.isfinite(true) & (true > 0)
    value = losses.reverse_huber(made, true, known, axis=setting.axis)
    relative = jnp.abs(made - jnp.where(known, true, 1.0)) / jnp.where(known, true, 1.0)
    return value, {'rel': losses.mean_of_known(relative, known, axis=setting.axis)}

  return dense.dense_method(
    make_encoder,
    setting,
    loss_of,
    channels=1,
    options=HeadOptions(head, tuple(taps), width, tuple(up_channels)),
    frozen=frozen,
    batch_norm=batch_norm,
    start=mean_depth,
  )
