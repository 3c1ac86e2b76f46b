"""What methods with a codec have in common: image -> map -> codes -> vectors -> image.

The network is a stack of three parts, 'encoder', 'quantizer' and 'decoder', so that evaluations
read the codes like any other tap, and a prior takes the trained codec as one value.
"""

from collections.abc import Callable, Mapping
import math
from typing import Any

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.devices import collectives
from byoljax.losses import codecs as losses
from byoljax.method import Batch, MakeEncoder, Setting, keep
from byoljax.methods.reconstruction import autoencoder
from byoljax.models import codecs, decoders, quantizers, vq_gan
from byoljax.models.net import Net, Statistics, stack
from byoljax.ops import codebook
from byoljax.suggest import check_name

PyTree = Any
CODES, OUTPUT = 'codes', 'output'
QUANTIZER, DECODER = 'quantizer', 'decoder'
# What quantizers hand out; see `models.quantizers`.
LATENTS, VECTORS = f'{QUANTIZER}/latents', f'{QUANTIZER}/vectors'
QUANTIZED = f'{QUANTIZER}/quantized'
HANDED_OUT = (LATENTS, VECTORS, QUANTIZED)


class CodecState(Statistics):
  """What a codec keeps beside its parameters.

  Attributes:
    rows: float32 [K, D], vectors of the last batch that dead codes are put on.
  """

  rows: jax.Array


def codec_net(
  make_encoder: MakeEncoder,
  setting: Setting,
  quantizer: Any,
  decoder: str,
  tap: str,
  channels: int = 0,
) -> Net:
  """Encoder, quantizer and decoder: outputs 'embedding', 'codes' [b, n] and 'output' [b, H, W, C].

  Args:
    make_encoder: called with the mapped axis.
    setting: the run.
    quantizer: a module of `models.quantizers`.
    decoder: size of the decoder, see `make_decoder`.
    tap: which of the encoder's maps is quantized; '' for its last one.
    channels: C of the output; 0: those of the images.

  Raises:
    ValueError: an encoder without such a map, or an unknown decoder.
  """
  made, seen = make_decoder(decoder, setting), len(setting.mean)
  encoder = make_encoder(setting.axis)
  source = decoders.feature_map(encoder, seen, tap)
  parts = (
    ('encoder', 'embedding', encoder),
    (QUANTIZER, CODES, quantizer),
    (DECODER, OUTPUT, made(source.stride, channels or seen)),
  )
  return stack(parts, reads={QUANTIZER: source.tap, DECODER: QUANTIZED})


def with_vectors(net: Net) -> Net:
  """The same network with what the quantizer hands out among its outputs."""
  return stack(net.parts, HANDED_OUT, net.reads)


def check_codebook(codes: int, dim: int, decay: float, beta: float, restart: float) -> None:
  """Raises ValueError for a codebook that does not make sense.

  Args:
    codes: K, at least 2.
    dim: D, at least 1.
    decay: in [0, 1).
    beta: 0 or more.
    restart: in [0, 1).
  """
  if codes < 2 or dim < 1:
    raise ValueError(f'codes={codes} must be at least 2, and dim={dim} at least 1.')
  if not 0 <= decay < 1:
    raise ValueError(f'decay={decay} must be in [0, 1); 0 is for a codebook with a gradient.')
  if not 0 <= beta < math.inf:
    raise ValueError(f'beta={beta} must be a number of at least 0.')
  if not 0 <= restart < 1:
    raise ValueError(f'restart={restart} of the mean use must be in [0, 1); 0 restarts no code.')


def make_decoder(name: str, setting: Setting) -> Callable[[int, int], Any]:
  """(stride, channels) -> the decoder of that size.

  Raises:
    ValueError: an unknown name.
  """
  sizes = {**codecs.CODECS, **vq_gan.VQ_GANS}
  check_name('decoder', name, sizes)
  module = codecs.CodecDecoder if name in codecs.CODECS else vq_gan.VQGANDecoder
  dtype = jnp.dtype(setting.dtype)
  return lambda stride, channels: module(sizes[name], stride, channels, dtype)


def module_of(net: Net, role: str) -> Any:
  """The module of a part of the network."""
  return {name: module for name, _, module in net.parts}[role]


def quantization(made: Mapping[str, jax.Array], beta: float, decay: float) -> tuple:
  """The loss of a codebook, (value, commitment): beta times this, and what moves the codes.

  Args:
    made: outputs of `with_vectors`.
    beta: of the commitment.
    decay: of the codebook's moving averages; 0: it has a gradient.
  """
  commitment = losses.commitment(made[LATENTS], made[VECTORS])
  value = beta * commitment
  if not decay:
    value += losses.codebook(made[LATENTS], made[VECTORS])
  return value, commitment


def rows_for_dead_codes(
  made: Mapping[str, jax.Array], key: jax.Array, count: int, axis: str | None
) -> jax.Array:
  """Vectors of the batch over all devices, one for each code: float32 [K, D]."""
  rows = jax.lax.stop_gradient(made[LATENTS])
  rows = rows.reshape(-1, rows.shape[-1])
  return codebook.drawn_rows(jax.random.fold_in(key, streams.RESTARTS), rows, count, axis)


def restarting(below: float) -> Callable[..., Any]:
  """The `Method.post_step` that puts dead codes on `CodecState.rows`; 0: that restarts none."""

  def post_step(
    params: PyTree, state: CodecState, step: jax.Array
  ) -> tuple[PyTree, CodecState, dict[str, jax.Array]]:
    del step
    own, bn = params[QUANTIZER], state.bn[QUANTIZER]
    lost = codebook.dead(bn['counts'], below).sum().astype(jnp.float32)
    own, bn = quantizers.restart(own, bn, state.rows, below)
    moved = state.replace(bn=state.bn | {QUANTIZER: bn})
    return params | {QUANTIZER: own}, moved, {'codes_restarted': lost}

  return post_step if below else keep


def decode(net: Net, params: PyTree, bn: PyTree, vectors: jax.Array) -> jax.Array:
  """The decoder alone, in evaluation mode: float32 [b, h, w, D] -> [b, H, W, C]."""
  (part,) = [part for part in net.parts if part[0] == DECODER]
  alone = stack((part,))
  made, _ = alone.apply({DECODER: params[DECODER]}, {DECODER: bn[DECODER]}, vectors, train=False)
  return made[OUTPUT]


def decoding(net: Net, shown: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
  """The `Method.decode` of a codec.

  Args:
    net: see `codec_net`.
    shown: the decoder's output -> images in [0, 1].
  """

  def decode_codes(params: PyTree, bn: PyTree, codes: jax.Array) -> jax.Array:
    return shown(decode(net, params, bn, vectors_of(params, bn, codes)))

  return decode_codes


def vectors_of(params: PyTree, bn: PyTree, codes: jax.Array) -> jax.Array:
  """The vectors float32 [..., D] of codes int32 [...]."""
  return jnp.asarray(quantizers.codebook_of(params[QUANTIZER], bn[QUANTIZER]))[codes]


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
  made, _ = net.apply(params, state.bn, view, train=False, upto=OUTPUT)
  output = decoders.fitted(made[OUTPUT], view)
  return {
    'image': autoencoder.picture(view, setting),
    'output': autoencoder.picture(output, setting),
  }
