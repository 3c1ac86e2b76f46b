"""Motion segmentation: which pixels will move? (Pathak et al. 2017, arXiv 1612.06370.)

From a single frame, a logistic regression at every pixel says whether what is there will have moved
in the frame after it: the fourth task of Doersch and Zisserman (arXiv 1708.07860), with their
per-pixel cross-entropy. What moves together has to be recognized as one thing to be told from what
it stands before, and things that move from things that do not.

The truth is a mask beside the frame, a field of the data, which follows the crop by its nearest
pixel; or, without one, the difference of the frame and its second frame, a second view with the
geometry of the first: 1 where any channel differs by more than `threshold`.

The papers' masks are made from optical flow; there is no flow here.
What a difference sees and what it does not: textured things and edges that move; not the inside of
a plain thing; both where something was and where it will be, of which only one is in the frame;
everything at once when the camera moves; and nothing that does not move at this moment. Where such
errors are as likely as not, a network that minimizes the cross-entropy averages over them, so
targets may be worse than what is learned from them.

Different from the papers: a decoder that doubles the sides of the last map up to the image's own,
where theirs predict coarse masks; frames are not chosen for having motion in them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from byoljax.evals import segmentation
from byoljax.losses import reconstruction as losses
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
from byoljax.methods.plain import plain_init
from byoljax.methods.reconstruction import autoencoder
from byoljax.methods.reconstruction.autoencoder import OUTPUT
from byoljax.models import decoders
from byoljax.models.net import Net, Statistics

PyTree = Any
SECOND = 'second'


def motion_segmentation(
  net: Net,
  setting: Setting,
  *,
  mask: str = 'moving',
  threshold: float = 0.1,
  moving_weight: float = 1.0,
) -> Method:
  """The method over a network; `build` makes it, and says what the arguments are.

  Args:
    net: outputs 'embedding' and 'output', logits [b, H, W, 1].
    setting: the run.
    mask: see `build`, as for the others.
    threshold: of differences.
    moving_weight: of pixels that move.
  """

  def differing(first: jax.Array, second: jax.Array) -> jax.Array:
    first, second = (autoencoder.to_pixels(view, setting) for view in (first, second))
    return difference_mask(second - first, threshold)

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    del key, step
    views = batch['views']
    if mask:
      _require(len(views) == 1, mask, f'but there are {len(views)} views: configure view1 alone.')
      _require(mask in batch, mask, 'but the batch has no such field: name it in data.fields.')
      target = (batch[mask][0] > 0).astype(jnp.float32)
    else:
      _require(len(views) == 2, mask, f'but the number of views is {len(views)}.')
      target = differing(*views)
    return batch | {'views': (views[0],), 'target': target}

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    (view,), target = batch['views'], batch['target']
    made, bn = net.apply(params, state.bn, view, train=True)
    logits = decoders.fitted(made[OUTPUT], view)
    weight = None
    if moving_weight != 1:
      weight = jnp.where(target > 0, jnp.float32(moving_weight), 1.0)
    value = losses.binary_cross_entropy(logits, target, weight)
    metrics = segmentation.binary_scores(logits > 0, target > 0, axis=setting.axis)
    metrics['moving'] = target.mean()
    return value, Aux(Statistics(bn), jax.lax.stop_gradient(metrics), made['embedding'])

  def pictures(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array
  ) -> dict[str, jax.Array]:
    del key
    view = batch['views'][0]
    made, _ = net.apply(params, state.bn, view, train=False)
    shown = {'image': autoencoder.picture(view, setting)}
    # Photographs that someone wants to look at have neither.
    if mask and mask in batch:
      shown['moving'] = (batch[mask][0] > 0).astype(jnp.float32)
    elif not mask and SECOND in batch:
      shown['differing'] = differing(view, batch[SECOND][0])
    return shown | {'predicted': jax.nn.sigmoid(decoders.fitted(made[OUTPUT], view))}

  init = plain_init(net)
  embed = evaluation_outputs(net, 'embedding')
  return Method(
    init, loss, keep, embed, default_groups, net=net, transform=transform, pictures=pictures
  )


def difference_mask(difference: jax.Array, threshold: float) -> jax.Array:
  """Where two frames differ.

  Args:
    difference: of their pixels in [0, 1], [b, H, W, C].
    threshold: above which a channel counts.

  Returns:
    float32 [b, H, W, 1], 0 or 1. No gradient.
  """
  changed = jnp.abs(difference).max(-1, keepdims=True) > threshold
  return jax.lax.stop_gradient(changed.astype(jnp.float32))


def _require(condition: bool, mask: str, what: str) -> None:
  if not condition:
    asked = f"takes its truth from the field '{mask}' and one view"
    if not mask:
      asked = (
        "compares two frames (mask=''): view1, and view2 with {'field': 'second', "
        "'geometry_of': 'view1'} and without changes of color"
      )
    raise ValueError(f'motion segmentation {asked}, {what}')


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  mask: str = 'moving',
  threshold: float = 0.1,
  moving_weight: float = 1.0,
  tap: str = '',
  decoder_width: int = 16,
) -> Method:
  """Builds motion segmentation from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    mask: the field of the data that is not 0 where something moves; '': there is none, and the
      truth is the difference to the second of two views.
    threshold: of that difference, in (0, 1), of pixels in [0, 1]: above the noise of the camera.
    moving_weight: of pixels that move, in the cross-entropy; others weigh 1. More finds more of
      them, also where nothing moves.
    tap: which of the encoder's maps the decoder reads; '' for the last one.
    decoder_width: channels of the decoder's last stage, see `decoders.ConvDecoder`.

  Raises:
    ValueError: an argument out of range, or an encoder without a map.
  """
  if not 0 < threshold < 1:
    raise ValueError(f'threshold={threshold} must be in (0, 1): pixels have values in [0, 1].')
  if moving_weight <= 0:
    raise ValueError(f'moving_weight={moving_weight} must be above 0.')
  net = autoencoder.encoder_decoder(make_encoder, setting, tap=tap, width=decoder_width, channels=1)
  return motion_segmentation(
    net, setting, mask=mask, threshold=threshold, moving_weight=moving_weight
  )
