"""What methods that give an image back have in common: the network, and pixels as people see them.

An encoder with a decoder on one of its maps, `models.decoders`: convolutional, so that an image of
any size gives one of its size.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byoljax.method import MakeEncoder, Setting
from byoljax.models import decoders
from byoljax.models.net import Net, stack

OUTPUT = 'output'


def encoder_decoder(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  tap: str = '',
  width: int = 16,
  channelwise: bool = False,
  channels: int = 0,
) -> Net:
  """An encoder and a decoder: outputs 'embedding' [b, D] and 'output' [b, H, W, C].

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    tap: which map the decoder reads; '' for the encoder's last one.
    width: channels of the decoder's last stage.
    channelwise: see `decoders.ConvDecoder`.
    channels: C; 0: those of the images.

  Raises:
    ValueError: an encoder without such a map, or a width below 1.
  """
  if width < 1:
    raise ValueError(f'decoder_width={width} must be at least 1.')
  encoder, seen = make_encoder(setting.axis), len(setting.mean)
  source = decoders.feature_map(encoder, seen, tap)
  decoder = decoders.ConvDecoder(
    stride=source.stride,
    width=width,
    channels=channels or seen,
    channelwise=channelwise,
    bn_axis=setting.axis,
    dtype=jnp.dtype(setting.dtype),
  )
  parts = (('encoder', 'embedding', encoder), ('decoder', OUTPUT, decoder))
  return stack(parts, reads={'decoder': source.tap})


def to_pixels(normalized: jax.Array, setting: Setting) -> jax.Array:
  """Normalized images [b, H, W, C] as values in [0, 1], where what was normalized was in it."""
  mean, std = _statistics(setting)
  return normalized.astype(jnp.float32) * std + mean


def to_normalized(pixels: jax.Array, setting: Setting) -> jax.Array:
  """The inverse of `to_pixels`."""
  mean, std = _statistics(setting)
  return (pixels - mean) / std


def shown(pixels: jax.Array) -> jax.Array:
  """Cut off to [0, 1], as a screen does it: what pictures and their quality are of."""
  return jnp.clip(pixels, 0.0, 1.0)


def picture(normalized: jax.Array, setting: Setting) -> jax.Array:
  """Normalized images as they are shown: values in [0, 1]."""
  return shown(to_pixels(normalized, setting))


def _statistics(setting: Setting) -> tuple[Any, Any]:
  mean, std = (np.asarray(x, np.float32).reshape(1, 1, 1, -1) for x in (setting.mean, setting.std))
  return mean, std
