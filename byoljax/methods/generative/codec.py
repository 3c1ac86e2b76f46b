"""What methods with a codec have in common: image -> map -> codes -> vectors -> image.

The network is a stack of three parts, 'encoder', 'quantizer' and 'decoder', so that evaluations
read the codes like any other tap, and a prior takes the trained codec as one value.
"""

from typing import Any

import jax
import jax.numpy as jnp

from byoljax.devices import collectives
from byoljax.method import Batch, MakeEncoder, Setting
from byoljax.methods.reconstruction import autoencoder
from byoljax.models import decoders, quantizers
from byoljax.models.net import Net, Statistics, stack
from byoljax.ops import codebook

PyTree = Any
CODES, OUTPUT = 'codes', 'output'
QUANTIZER, DECODER = 'quantizer', 'decoder'
# What quantizers hand out; see `models.quantizers`.
LATENTS, VECTORS = f'{QUANTIZER}/latents', f'{QUANTIZER}/vectors'
QUANTIZED = f'{QUANTIZER}/quantized'


class CodecState(Statistics):
  """What a codec keeps beside its parameters.

  Attributes:
    rows: float32 [K, D], vectors of the last batch that dead codes are put on.
  """

  rows: jax.Array


def codec_net(
  make_encoder: MakeEncoder, setting: Setting, quantizer: Any, make_decoder: Any, tap: str
) -> Net:
  """Encoder, quantizer and decoder: outputs 'embedding', 'codes' [b, n] and 'output' [b, H, W, C].

  Args:
    make_encoder: called with the mapped axis.
    setting: the run.
    quantizer: a module of `models.quantizers`.
    make_decoder: (stride, channels) -> a module that makes an image of a map.
    tap: which of the encoder's maps is quantized; '' for its last one.

  Raises:
    ValueError: an encoder without such a map.
  """
  encoder, channels = make_encoder(setting.axis), len(setting.mean)
  source = decoders.feature_map(encoder, channels, tap)
  parts = (
    ('encoder', 'embedding', encoder),
    (QUANTIZER, CODES, quantizer),
    (DECODER, OUTPUT, make_decoder(source.stride, channels)),
  )
  return stack(parts, reads={QUANTIZER: source.tap, DECODER: QUANTIZED})


def with_vectors(net: Net) -> Net:
  """The same network with what the quantizer hands out among its outputs."""
  return stack(net.parts, (LATENTS, VECTORS, QUANTIZED), net.reads)


def decode(net: Net, params: PyTree, bn: PyTree, vectors: jax.Array) -> jax.Array:
  """The decoder alone, in evaluation mode: float32 [b, h, w, D] -> [b, H, W, C]."""
  (part,) = [part for part in net.parts if part[0] == DECODER]
  alone = stack((part,))
  made, _ = alone.apply({DECODER: params[DECODER]}, {DECODER: bn[DECODER]}, vectors, train=False)
  return made[OUTPUT]


def vectors_of(params: PyTree, bn: PyTree, codes: jax.Array) -> jax.Array:
  """The vectors float32 [..., D] of codes int32 [...]."""
  return quantizers.codebook_of(params[QUANTIZER], bn[QUANTIZER])[codes]


def use_metrics(codes: jax.Array, count: int, axis: str | None) -> dict[str, jax.Array]:
  """'perplexity' and 'codes_used' of the batch over all devices.

  Args:
    codes: float32 or int32 [b, n], of this device.
    count: K.
    axis: the mapped axis, or None.
  """
  hot = jax.nn.one_hot(codes.astype(jnp.int32).reshape(-1), count, dtype=jnp.float32)
  counts = collectives.psum(hot.sum(0), axis)
  used = jnp.sum(counts > 0).astype(jnp.float32)
  return {'perplexity': codebook.perplexity(counts), 'codes_used': used}


def reconstructed(
  net: Net, setting: Setting, params: PyTree, state: Statistics, batch: Batch
) -> dict[str, jax.Array]:
  """The `Method.pictures` of a codec whose output are normalized values."""
  view = batch['views'][0]
  made, _ = net.apply(params, state.bn, view, train=False)
  output = decoders.fitted(made[OUTPUT], view)
  return {
    'image': autoencoder.picture(view, setting),
    'output': autoencoder.picture(output, setting),
  }
