"""Masked autoencoders, MAE (He et al. 2021, arXiv 2111.06377), and SimMIM's simpler form.

Most of an image's patches are masked, a random set for each image. A vision transformer encodes the
visible ones alone; a small decoder, given mask tokens in the place of the others, predicts their
pixels. What it costs falls with the share that is masked: the encoder never sees a masked patch.

With `masked='filled'` and `decoder_depth` 0 it is SimMIM (Xie et al. 2021, arXiv 2111.09886): the
encoder sees the whole image, masked patches in the mean color of the data, and a linear layer
predicts them. It needs no vision transformer: a convolutional encoder is read at its last map, and
what is masked is as large as a place of that, or several: the authors mask squares of 32 pixels.

Different from the authors' code: weights are initialized as all our ViTs' (query, key and value as
three matrices, the class token near zero), positions are continuous (`models.vit`), and the visible
patches come in ascending order, which changes nothing. SimMIM's mask token is learned and stands in
the place of the patch's embedding; a patch of zeros is embedded as the learned bias, which visible
patches share.

The embedding that the online probe sees in training is that of the visible patches.
"""

from typing import Any

import jax
import jax.numpy as jnp

from byoljax.losses import masked_patches as losses
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
from byoljax.methods.plain import plain_init
from byoljax.methods.reconstruction.autoencoder import picture
from byoljax.models import decoders, vit
from byoljax.models.masked_decoder import MaskedDecoder
from byoljax.models.net import Inputs, Net, Statistics, stack
from byoljax.ops import masking
from byoljax.suggest import check_name

PyTree = Any
MASKED = ('dropped', 'filled')


def masked_autoencoder(
  net: Net,
  *,
  patch: int,
  mask_ratio: float,
  mask_size: int,
  norm_pixels: bool,
  error: str,
  dropped: bool,
  setting: Setting,
) -> Method:
  """A masked autoencoder over a network; `build` makes it.

  Args:
    net: outputs 'embedding' and 'pixels' [b, n, patch^2 C]; its decoder takes the input 'masked'
      bool [b, h, w], its encoder, with `dropped`, 'keep' int32 [b, k].
    patch: edge in pixels.
    mask_ratio: share of the patches that is masked.
    mask_size: edge in pixels of the squares of patches that are masked together.
    norm_pixels: whether patches are normalized to be targets.
    error: 'mse' or 'l1'.
    dropped: whether masked patches are left out of the encoder.
    setting: the run.
  """

  def hidden(images: jax.Array, key: jax.Array, axis: str | None) -> Batch:
    """The images without their masked patches, and which those are."""
    rows, columns = (side // mask_size for side in images.shape[1:3])
    # Of images that do not consist of patches `with_patches` tells.
    if mask_size != patch and (rows * mask_size, columns * mask_size) != images.shape[1:3]:
      raise ValueError(
        f'mask_size={mask_size} must divide the sides of the images, which have '
        f'{images.shape[1]} x {images.shape[2]} pixels.'
      )
    count, within = rows * columns, mask_size // patch
    visible = masking.visible_count(count, mask_ratio)
    masked = masking.draw_masks(key, len(images), rows, columns, count - visible, axis=axis)
    masked = masked.repeat(within, 1).repeat(within, 2)
    seen = vit.with_patches(images, masked, 0.0, patch)
    batch = {'views': (seen,), 'target': images, 'masked': masked}
    if not dropped:
      return batch
    flat = masked.reshape(len(images), -1)
    return batch | {'keep': masking.visible_places(flat, visible * within**2)}

  def inputs(batch: Batch) -> Inputs:
    own = {'decoder': {'masked': batch['masked']}}
    return own | ({'encoder': {'keep': batch['keep']}} if dropped else {})

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    del step
    return batch | hidden(only_view(batch), key, setting.axis)

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    made, bn = net.apply(params, state.bn, batch['views'][0], train=True, inputs=inputs(batch))
    targets = vit.patches(batch['target'], patch)
    if norm_pixels:
      targets = losses.normalized(targets)
    masked = batch['masked'].reshape(targets.shape[:2])
    value = losses.masked_error(made['pixels'], targets, masked, error)
    return value, Aux(Statistics(bn), {}, made['embedding'])

  def pictures(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array
  ) -> dict[str, jax.Array]:
    images = batch['views'][0]
    seen = hidden(images, key, None)
    made, _ = net.apply(params, state.bn, seen['views'][0], train=False, inputs=inputs(seen))
    pixels = made['pixels']
    if norm_pixels:
      # Of normalized patches nothing else is known: brightness and contrast are the true ones.
      center, scale = losses.statistics(vit.patches(images, patch))
      pixels = pixels * scale + center
    output = vit.with_patches(images, seen['masked'], pixels, patch)
    normalized = {'image': images, 'input': seen['views'][0], 'output': output}
    return {name: picture(x, setting) for name, x in normalized.items()}

  init = plain_init(net, inputs=inputs)
  embed = evaluation_outputs(net, 'embedding')
  return Method(
    init, loss, keep, embed, default_groups, net=net, transform=transform, pictures=pictures
  )


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  mask_ratio: float = 0.75,
  mask_size: int = 0,
  decoder_dim: int = 512,
  decoder_depth: int = 8,
  decoder_heads: int = 16,
  norm_pixels: bool = True,
  error: str = 'mse',
  masked: str = 'dropped',
) -> Method:
  """Builds a masked autoencoder from an encoder factory and its configuration.

  Args:
    make_encoder: a vision transformer; with `masked='filled'` any encoder with maps, called with
      the mapped axis.
    setting: the run.
    mask_ratio: share of the patches that is masked, above 0 and below 1.
    mask_size: edge in pixels of the squares that are masked, a multiple of a patch's; 0: as a
      patch.
    decoder_dim: width of the decoder, a multiple of 4 and of its heads.
    decoder_depth: blocks of the decoder; 0 is a linear layer on all tokens.
    decoder_heads: attention heads of the decoder.
    norm_pixels: whether each patch is normalized by its own mean and variance to be a target.
    error: 'mse', or 'l1' (SimMIM).
    masked: 'dropped': the encoder gets visible patches alone; 'filled': it sees whole images with
      masked patches in the mean color.

  Raises:
    ValueError: a value out of range, or an encoder that cannot leave patches out.
  """
  encoder = make_encoder(setting.axis)
  check_name('masked', masked, MASKED)
  check_name('error', error, losses.ERRORS)
  if not 0 < mask_ratio < 1:
    raise ValueError(f'mask_ratio={mask_ratio} must be above 0 and below 1, such as 0.75.')
  dropped = masked == 'dropped'
  _check_decoder(decoder_dim, decoder_depth, decoder_heads, dropped)
  tap, patch, grid = _tokens_of(encoder, len(setting.mean), dropped)
  mask_size = mask_size or patch
  if mask_size < patch or mask_size % patch:
    raise ValueError(
      f'mask_size={mask_size} must be a multiple of {patch}, the pixels on a side of a patch, or 0.'
    )
  decoder = MaskedDecoder(
    patch,
    len(setting.mean),
    decoder_dim,
    decoder_depth,
    decoder_heads,
    grid=grid,
    inserts=dropped,
    remat=getattr(encoder, 'remat', False),
    dtype=jnp.dtype(setting.dtype),
    attention=getattr(encoder, 'attention', 'xla'),
  )
  parts = (('encoder', 'embedding', encoder), ('decoder', 'pixels', decoder))
  return masked_autoencoder(
    stack(parts, reads={'decoder': tap}),
    patch=patch,
    mask_ratio=mask_ratio,
    mask_size=mask_size,
    norm_pixels=norm_pixels,
    error=error,
    dropped=dropped,
    setting=setting,
  )


def _tokens_of(encoder: Any, channels: int, dropped: bool) -> tuple[str, int, int]:
  """What the decoder reads, the edge of a patch in pixels, and how many make the positions' range.

  Raises:
    ValueError: the encoder cannot leave patches out.
  """
  if hasattr(encoder, 'patch'):
    return 'tokens', encoder.patch, encoder.grid
  if dropped:
    raise ValueError(
      "masked='dropped' needs an encoder that can leave patches out, a vision transformer such as "
      "encoder.name='vit_micro'; others take masked='filled'."
    )
  found = decoders.feature_map(encoder, channels)
  return found.tap, found.stride, vit.Size(0, 0, 0).grid


def _check_decoder(dim: int, depth: int, heads: int, dropped: bool) -> None:
  """Raises ValueError unless there is such a decoder."""
  if depth < 0 or (dropped and depth == 0):
    raise ValueError(
      f"decoder_depth={depth} must be at least 1, or 0 with masked='filled', where all patches "
      'have tokens.'
    )
  if dim < 4 or dim % 4 or heads < 1 or dim % heads:
    raise ValueError(
      f'decoder_dim={dim}, decoder_heads={heads}: the width must be a multiple of 4 and of the '
      'number of heads.'
    )
