"""Triplet loss between images (FaceNet's loss, Schroff et al. 2015, arXiv 1503.03832).

The views of an image form a group. An anchor shall be nearer to every other view of its image than
to any view of another image, by a margin, in squared distance of unit vectors. Anchors, positives
and negatives come from the global batch.

Different from the paper: groups are images, as for exemplars (Dosovitskiy et al. 2014, arXiv
1406.6909, scaled up with this loss by Kolesnikov et al. 2019, arXiv 1901.09005), not people. A
public implementation of the latter normalizes vectors over the batch; here every vector is
divided by its own length.

All views go through the network in one batch, so batch statistics span them. Every device computes
the loss of the whole batch on gathered projections: it costs little beside the encoder, and the
hardest negative may be on any device.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from byoljax.losses import triplet as triplet_loss
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
from byoljax.methods.checks import check_sizes, require_other_images, several_views
from byoljax.methods.plain import plain_init
from byoljax.models import heads
from byoljax.models.multicrop import apply_crops
from byoljax.models.net import Net, Statistics

PyTree = Any


def triplet(net: Net, *, margin: float, mode: str, axis: str | None) -> Method:
  """Triplet learning over a network; `build` makes it.

  Args:
    net: outputs 'embedding' and 'projection'.
    margin: at least 0, in squared distance (0 to 4).
    mode: one of `losses.triplet.MODES`.
    axis: the mapped axis, or None.
  """

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    outputs, bn = apply_crops(net, params, state.bn, batch['views'], train=True)
    z = jnp.stack([view['projection'] for view in outputs], axis=1)
    require_other_images(len(z), axis)
    every, groups = triplet_loss.gather_groups(z, batch['index'], axis)
    value, active = triplet_loss.triplet(every, groups, margin=margin, mode=mode)
    metrics = {'active_triplets': active}
    embedding, *others = (view['embedding'] for view in outputs)
    return value, Aux(state.replace(bn=bn), metrics, embedding, others=tuple(others))

  embed = evaluation_outputs(net, 'embedding', 'projection')
  return Method(
    plain_init(net, lambda batch: several_views(batch)[0]),
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
  projector: Sequence[int] = (128,),
  margin: float = 0.2,
  mode: str = 'semi_hard',
) -> Method:
  """Builds triplet learning from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    projector: sizes of the layers from the embedding to the projection.
    margin: FaceNet's .2; .5 for exemplars.
    mode: 'all' triplets; 'batch_hard', the farthest positive and the nearest negative; or
      'semi_hard', the nearest negative that is farther than the positive.

  Raises:
    ValueError: an unknown mode, a margin out of range, an empty projector.
  """
  check_sizes(projector)
  if mode not in triplet_loss.MODES:
    raise ValueError(f"mode='{mode}' is not one of {', '.join(triplet_loss.MODES)}.")
  if not 0.0 <= margin <= 4.0:
    raise ValueError(
      f'margin={margin} must be between 0 and 4, the largest squared distance of unit vectors.'
    )
  head = heads.MLPHead(
    features=tuple(projector), bn_axis=setting.axis, dtype=jnp.dtype(setting.dtype)
  )
  net = heads.with_projector(make_encoder(setting.axis), head)
  method = triplet(net, margin=margin, mode=mode, axis=setting.axis)
  return method._replace(notes=notes.of_accumulation(setting))
