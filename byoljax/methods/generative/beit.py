"""BEiT: masked tokens that are the codes of a codec (Bao et al. 2021, arXiv 2106.08254).

Rectangles of an image are hidden from a vision transformer, which names for every hidden patch the
code that a frozen codec (`Setting.given['codec']`: a run of vq_vae, vq_gan or dvae) has for that
place of the whole image. A learned vector stands in the place of a hidden patch's embedding; a
linear layer on the last tokens gives the logits, and only hidden patches count (equation 2).

There are as many codes as patches: where the codec's are smaller or larger than the patches, it is
given the image at another size, as the authors' tokenizer of 8 pixels a code is given 112 pixels
beside patches of 16 and 224.

Different from the authors' code: exactly the same number of patches is hidden in every image;
positions are those of our ViTs (`models.vit`), not relative ones; there are no learned scales of
the branches and no stochastic depth; the logits start at zero; the vector of a hidden patch is
kept with the head, so that the encoder is a ViT like any other.
"""

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byoljax import streams
from byoljax.losses import likelihoods
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
from byoljax.methods.checks import only_view
from byoljax.methods.generative.frozen import copy_of
from byoljax.methods.reconstruction.autoencoder import picture
from byoljax.models import decoders, vit
from byoljax.models.frozen_codec import codes_of
from byoljax.models.masked_decoder import CodePredictor
from byoljax.models.net import Inputs, Net, Statistics, stack
from byoljax.ops import masking

PyTree = Any
HEAD, LOGITS = 'decoder', 'logits'


class BEiTState(Statistics):
  """What BEiT keeps beside its parameters.

  Attributes:
    codec: the codec's {'params', 'bn'}; they never change.
  """

  codec: PyTree


def beit(
  net: Net, given: Any, setting: Setting, *, patch: int, mask_ratio: float, least_block: int
) -> Method:
  """The method over a network; `build` makes it.

  Args:
    net: outputs 'embedding' and 'logits' [b, n, K]; its encoder takes 'hidden' and 'filler'.
    given: the codec.
    setting: the run.
    patch: edge in pixels.
    mask_ratio: share of the patches that is hidden.
    least_block: places of the smallest rectangle; 0: places anywhere.
  """

  def asked(images: jax.Array, key: jax.Array, axis: str | None) -> jax.Array:
    """Which patches of each image are hidden, bool [b, h, w]."""
    height, width = images.shape[1] // patch, images.shape[2] // patch
    count = height * width
    hidden = count - masking.visible_count(count, mask_ratio)
    if least_block > hidden:
      raise ValueError(f'least_block={least_block} is more than the {hidden} hidden patches.')
    return masking.draw_masks(
      key, len(images), height, width, hidden, least_block=least_block, axis=axis
    )

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    del step
    view = only_view(batch)
    where = asked(view, key, setting.axis)
    seen = vit.with_patches(view, where, 0.0, patch)
    return batch | {'views': (seen,), 'target': view, 'asked': where}

  def codes(frozen: PyTree, images: jax.Array) -> jax.Array:
    """One for each patch, int32 [b, n]."""
    side = side_for(given, images.shape[1], images.shape[1] // patch)
    if side != images.shape[1]:
      shape = (len(images), side, side, images.shape[-1])
      images = jax.image.resize(images, shape, 'linear')
    return codes_of(given.net, frozen, images)

  def inputs(params: PyTree, where: jax.Array) -> Inputs:
    flat = where.reshape(len(where), -1)
    return {'encoder': {'hidden': flat, 'filler': params[HEAD]['mask']}}

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, BEiTState]:
    own = jax.random.fold_in(key, streams.ONLINE)
    params, bn = net.init(own, batch['views'][0])
    return params, BEiTState(bn, copy_of(given, own, batch['views'][0]))

  def loss(
    params: PyTree, state: BEiTState, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    view, where = batch['views'][0], batch['asked']
    found = codes(state.codec, batch['target'])
    made, bn = net.apply(params, state.bn, view, train=True, inputs=inputs(params, where))
    flat = where.reshape(found.shape)
    nats = likelihoods.categorical_nll(made[LOGITS], found)
    # As many in every image.
    value = jnp.where(flat, nats, 0.0).sum() / flat.sum()
    right = (made[LOGITS].argmax(-1) == found) & flat
    metrics = {
      'masked_accuracy': right.sum() / flat.sum(),
      'masked_bits': likelihoods.bits(lax.stop_gradient(value)),
    }
    return value, Aux(state.replace(bn=bn), metrics, made['embedding'])

  def pictures(
    params: PyTree, state: BEiTState, batch: Batch, key: jax.Array
  ) -> dict[str, jax.Array]:
    """What the codec makes of its codes, and of those that were named for the hidden patches."""
    view = batch['views'][0]
    where = asked(view, key, None)
    seen = vit.with_patches(view, where, 0.0, patch)
    made, _ = net.apply(params, state.bn, seen, train=False, inputs=inputs(params, where))
    found = codes(state.codec, view).reshape(where.shape)
    named = jnp.where(where, made[LOGITS].argmax(-1).reshape(where.shape), found)
    frozen = state.codec
    painted = (given.decode(frozen['params'], frozen['bn'], each) for each in (found, named))
    target, output = (decoders.fitted(each, view) for each in painted)
    shown = {'image': view, 'input': seen}
    return {name: picture(x, setting) for name, x in shown.items()} | {
      'target': target, 'output': output
    }  # fmt: skip

  return Method(
    init, loss, keep, evaluation_outputs(net, 'embedding'), default_groups, net=net,
    transform=transform, pictures=pictures,
  )  # fmt: skip


def side_for(given: Any, size: int, patches: int) -> int:
  """Pixels on each side of the image of which a codec makes one code for every patch.

  Args:
    given: the codec.
    size: pixels on each side of the image.
    patches: on each side.

  Raises:
    ValueError: it makes none of so many codes.
  """
  side = size // given.grid(size) * patches
  if given.grid(side) != patches:
    raise ValueError(
      f'the codec makes {given.grid(side)} codes on each side of {side} pixels, where there are '
      f'{patches} patches: choose encoder.patch_size so that both agree.'
    )
  return side


def build(
  make_encoder: MakeEncoder, setting: Setting, *, mask_ratio: float = 0.4, least_block: int = 16
) -> Method:
  """Builds BEiT from an encoder factory and its configuration.

  Args:
    make_encoder: a vision transformer.
    setting: the run; it must hold the codec.
    mask_ratio: share of the patches that is hidden, above 0 and below 1.
    least_block: places of the smallest rectangle; 0: places anywhere.

  Raises:
    ValueError: no codec, another encoder, or a value out of range.
  """
  given = setting.given.get('codec')
  if given is None:
    raise ValueError("BEiT needs a codec: set config.codec to a run, such as 'runs/dvae'.")
  if not 0 < mask_ratio < 1:
    raise ValueError(f'mask_ratio={mask_ratio} must be above 0 and below 1, such as 0.4.')
  if least_block < 0:
    raise ValueError(f'least_block={least_block} must be at least 0; 0 masks places anywhere.')
  encoder = make_encoder(setting.axis)
  if not isinstance(encoder, vit.ViT):
    raise ValueError(
      "BEiT needs a vision transformer, such as encoder.name='vit_micro', with encoder.input=rgb."
    )
  dtype = jnp.dtype(setting.dtype)
  parts = (
    ('encoder', 'embedding', encoder),
    (HEAD, LOGITS, CodePredictor(given.codes, dtype=dtype)),
  )
  net = stack(parts, reads={HEAD: 'tokens'})
  return beit(
    net, given, setting, patch=encoder.patch, mask_ratio=mask_ratio, least_block=least_block
  )
