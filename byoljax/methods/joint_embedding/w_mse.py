"""W-MSE: whitening for self-supervised learning (Ermolov et al. 2020, arXiv 2007.06346).

Both views' projections are whitened with the statistics of the batch, so that they cannot collapse,
and drawn together on the unit sphere.

Different from the authors' code: the whitening sees the whole global batch at once, where theirs
cuts each device's batch into random sub-batches of 128 and whitens those, averaged over several
cuts. A batch must be larger than the projection is wide.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from byoljax.losses import redundancy
from byoljax.method import MakeEncoder, Method, Setting, check_sizes
from byoljax.methods.joint_embedding.two_projections import from_projections
from byoljax.models import heads
from byoljax.models.net import stack


def build(
  make_encoder: MakeEncoder, setting: Setting, *, projector: Sequence[int] = (1024, 64)
) -> Method:
  """Builds W-MSE from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run; its batch must be larger than the projection.
    projector: sizes of its layers; no normalization on its output. A last size of 0 is half the
      batch, which whitening can estimate.

  Raises:
    ValueError: an empty projector, or a projection that the batch is too small to whiten.
  """
  if projector and projector[-1] == 0:
    projector = (*projector[:-1], setting.micro_batch_size // 2)
  check_sizes(projector)
  if projector[-1] >= setting.micro_batch_size:
    raise ValueError(
      f'{projector[-1]} dimensions cannot be whitened with a batch of {setting.micro_batch_size}: '
      f'make the last number of projector smaller, or the batch larger.'
    )
  head = heads.MLPHead(
    features=tuple(projector), bn_axis=setting.axis, dtype=jnp.dtype(setting.dtype)
  )
  net = stack(
    (
      ('encoder', 'embedding', make_encoder(setting.axis)),
      ('projector', 'projection', head),
    )
  )

  def criterion(a: jax.Array, b: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    return redundancy.w_mse(a, b, axis=setting.axis), {}

  return from_projections(net, criterion)
