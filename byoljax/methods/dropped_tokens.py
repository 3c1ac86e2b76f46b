"""Token dropping: training on a random share of the patches of each view.

A vision transformer's work is nearly proportional to its tokens, and neighboring patches say much
the same: FLIP (Li et al. 2022, arXiv 2212.00794) leaves half or three quarters of them out of
contrastive training, in the way of masked autoencoders (He et al. 2021, arXiv 2111.06377). As in
FLIP, all networks of a method see the same patches of a view, a target network, too; in Masked
Siamese Networks (Assran et al. 2022, arXiv 2204.07141) the target sees all of them. FLIP ends with
a little training on whole images; ours does not. Evaluations see all patches.
"""

from collections.abc import Callable

import jax
import numpy as np

from byoljax import streams
from byoljax.devices import collectives
from byoljax.method import Batch, MakeEncoder, Method
from byoljax.models import kept_tokens


def build(
  method: Callable[[MakeEncoder], Method],
  make_encoder: MakeEncoder,
  share: float,
  *,
  channels: int,
  axis: str | None,
) -> Method:
  """A method that sees a random share of the patches of each view, others for each image.

  Args:
    method: encoder factory -> the method.
    make_encoder: makes a vision transformer, unless `share` is 1.
    share: of the patches that is kept, in (0, 1]; 1 keeps all, and the method as it is.
    channels: of the images.
    axis: the mapped axis.

  Returns:
    The method, whose `transform` adds to every view the channel that `models.kept_tokens` reads.

  Raises:
    ValueError: a share out of range, an encoder without tokens, or a method that does more with
      views than to encode them.
  """
  name = f'train.keep_tokens={share}'
  if not 0 < share <= 1:
    raise ValueError(f'{name} must be above 0 and at most 1, which keeps all patches.')
  made = method(make_encoder)
  if share == 1:
    return made
  if not made.only_encodes_views:
    raise ValueError(
      f'{name} is for joint-embedding methods, and this one needs its views whole: set it to 1.0.'
    )
  patch = getattr(make_encoder(axis), 'patch', 0)
  if not patch:
    raise ValueError(
      f'{name} leaves out tokens, and this encoder has none: set it to 1.0, or take a vision '
      "transformer such as encoder.name='vit_small'."
    )

  def make_kept(bn_axis: str | None, bn_groups: int = 0) -> kept_tokens.KeptTokens:
    return kept_tokens.KeptTokens(make_encoder(bn_axis, bn_groups), channels, share)

  made = method(make_kept)
  see = made.transform

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    seen, patches = see(batch, key, step), jax.random.fold_in(key, streams.KEPT_PATCHES)

    def marked(number: int, view: jax.Array) -> jax.Array:
      keys = collectives.example_keys(jax.random.fold_in(patches, number), len(view), axis)
      return kept_tokens.with_channel(view, keys, patch, share)

    return seen | {'views': tuple(marked(*each) for each in enumerate(seen['views']))}

  return made._replace(transform=transform)


def visible(view: np.ndarray, channels: int) -> np.ndarray:
  """A view to look at, [b,H,W,C]: patches that are left out are 0, the mean color of the data.

  Args:
    view: [b,H,W,C], or [b,H,W,C + 1] with what is kept.
    channels: C.
  """
  return view[..., :channels] * view[..., channels:] if view.shape[-1] == channels + 1 else view
