"""What methods that predict colors have in common: what is asked at every place, and pictures.

The color of a place of the decoder's output is the mean color of the square of pixels that it
stands for; as a class it is a bin of the ab plane (`ops.color_bins`).
"""

from typing import Any

import jax
import jax.numpy as jnp

from byoljax.method import Setting
from byoljax.methods.reconstruction import autoencoder
from byoljax.models import decoders, place_heads, pooling
from byoljax.ops import color

# What CIE a* and b* are divided by where they are predicted as numbers, as in `models.inputs`.
AB_SCALE = 110.0
LOSSES = ('classification', 'regression')


def decoder(
  source: decoders.FeatureMap, setting: Setting, *, outputs: int, stride: int, width: int
) -> Any:
  """A decoder to one place for every `stride` pixels.

  A map that is as fine, or finer, is read by a `place_heads.PlaceHead`, with its own stride; others
  are doubled by a `decoders.ConvDecoder`.

  Args:
    source: the map.
    setting: the run.
    outputs: of every place.
    stride: in pixels, a power of two.
    width: channels before the outputs where the map is doubled.

  Raises:
    ValueError: a stride that is no power of two, or a width below 1.
  """
  if stride not in (1, 2, 4, 8, 16, 32, 64) or width < 1:
    raise ValueError(
      f'stride={stride} must be a power of two, at most 64, and decoder_width={width} at least 1.'
    )
  dtype = jnp.dtype(setting.dtype)
  if source.stride <= stride:
    return place_heads.PlaceHead(outputs, dtype)
  return decoders.ConvDecoder(
    stride=source.stride // stride,
    width=width,
    channels=outputs,
    bn_axis=setting.axis,
    dtype=dtype,
  )


def lab_of(view: jax.Array, setting: Setting) -> jax.Array:
  """CIE Lab float32 [b,H,W,3] of normalized images."""
  return color.rgb_to_lab(autoencoder.to_pixels(view, setting))


def at_places(values: jax.Array, outputs: jax.Array) -> jax.Array:
  """What pixels are on average at the places of a decoder's outputs: [b,H,W,C] -> [b,h,w,C]."""
  return pooling.adaptive_pool(values, outputs.shape[1])


def painted(lightness: jax.Array, ab: jax.Array) -> jax.Array:
  """Pictures in sRGB of lightness [b,H,W,1] and coarser colors [b,h,w,2], enlarged bilinearly."""
  return color.lab_to_rgb(jnp.concatenate([lightness, decoders.fitted(ab, lightness)], axis=-1))


def check(setting: Setting, loss: str) -> None:
  """Raises ValueError for images without three channels, or an unknown loss."""
  if len(setting.mean) != 3:
    raise ValueError(
      f'colors are those of images with 3 channels, but these have {len(setting.mean)}: take a '
      'method that needs no colors, such as context_encoder or mae.'
    )
  if loss not in LOSSES:
    raise ValueError(f'loss={loss!r} is not one of {", ".join(LOSSES)}.')
