"""VQ-VAE: an image as a map of codes out of a learned codebook (van den Oord et al. 2017).

"Neural discrete representation learning" (arXiv 1711.00937). Each place of the encoder's map is
replaced by the nearest of K codes, from which the decoder makes the image again:

    |x - output|^2 + beta |z - sg(e)|^2 (+ |sg(z) - e|^2)                      (equation 3)

with straight-through gradients. With `decay` the codebook follows by moving averages (appendix A.1,
the default, as in Sonnet's code); with decay 0 by the third term.

Different from the paper: dead codes are restarted (`ops.codebook`), so that no code is lost; means
in place of sums, over numbers and of normalized values, which stand for Sonnet's division by the
variance; any convolutional encoder will do, `models.codecs` has the paper's networks. The prior of
the paper is a method of its own, on a finished run.
"""

from typing import Any

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.evals import image_quality
from byoljax.losses import codecs as losses
from byoljax.losses import reconstruction
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Setting,
  default_groups,
  evaluation_outputs,
)
from byoljax.methods.checks import only_view
from byoljax.methods.generative import codec
from byoljax.methods.generative.codec import CODES, LATENTS, OUTPUT, QUANTIZER, VECTORS, CodecState
from byoljax.methods.reconstruction import autoencoder
from byoljax.models import codecs, decoders, quantizers
from byoljax.models.net import Net
from byoljax.ops import codebook
from byoljax.suggest import unknown

PyTree = Any


def vq_vae(net: Net, setting: Setting, *, beta: float, restart: float) -> Method:
  """The method over a network; `build` makes it.

  Args:
    net: outputs 'embedding', 'codes' and 'output', with a `quantizers.VectorQuantizer`.
    setting: the run.
    beta: weight of the commitment.
    restart: share of the mean use below which a code is put elsewhere; 0: never.
  """
  quantizer = {role: module for role, _, module in net.parts}[QUANTIZER]
  count, watched = quantizer.codes, codec.with_vectors(net)

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, CodecState]:
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), only_view(batch))
    return params, CodecState(bn, jnp.zeros((count, quantizer.dim), jnp.float32))

  def objective(
    params: PyTree, state: CodecState, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del step
    view = only_view(batch)
    made, bn = watched.apply(params, state.bn, view, train=True)
    output = decoders.fitted(made[OUTPUT], view)
    error = reconstruction.squared_error(output, view)
    commitment = losses.commitment(made[LATENTS], made[VECTORS])
    value = error + beta * commitment
    if not quantizer.decay:
      value += losses.codebook(made[LATENTS], made[VECTORS])
    rows = jax.lax.stop_gradient(made[LATENTS]).reshape(-1, quantizer.dim)
    own = jax.random.fold_in(key, streams.RESTARTS)
    rows = codebook.drawn_rows(own, rows, count, setting.axis)
    clean, shown = (autoencoder.picture(x, setting) for x in (view, output))
    metrics = {
      'loss/reconstruction': error,
      'loss/commitment': commitment,
      'psnr': image_quality.psnr(shown, clean).mean(),
      **codec.use_metrics(made[CODES], count, setting.axis),
    }
    return value, Aux(CodecState(bn, rows), jax.lax.stop_gradient(metrics), made['embedding'])

  def post_step(
    params: PyTree, state: CodecState, step: jax.Array
  ) -> tuple[PyTree, CodecState, dict[str, jax.Array]]:
    del step
    if not restart:
      return params, state, {}
    own, bn = params[QUANTIZER], state.bn[QUANTIZER]
    lost = codebook.dead(bn['counts'], restart).sum().astype(jnp.float32)
    own, bn = quantizers.restart(own, bn, state.rows, restart)
    moved = state.replace(bn=state.bn | {QUANTIZER: bn})
    return params | {QUANTIZER: own}, moved, {'codes_restarted': lost}

  def pictures(
    params: PyTree, state: CodecState, batch: Batch, key: jax.Array
  ) -> dict[str, jax.Array]:
    del key
    return codec.reconstructed(net, setting, params, state, batch)

  embed = evaluation_outputs(net, 'embedding')
  return Method(init, objective, post_step, embed, default_groups, net=net, pictures=pictures)


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  codes: int = 512,
  dim: int = 64,
  decay: float = 0.99,
  beta: float = 0.25,
  restart: float = 0.1,
  tap: str = '',
  decoder: str = 'codec',
) -> Method:
  """Builds a VQ-VAE from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis.
    setting: the run.
    codes: K, at least 2.
    dim: D, numbers of a code.
    decay: of the codebook's moving averages, in [0, 1); 0: it is learned by its gradient.
    beta: weight of the commitment, 0 or more.
    restart: share of the mean use below which a code is put on an output of the encoder, in [0, 1);
      0 never does.
    tap: which of the encoder's maps is quantized; '' for the last one.
    decoder: size of the decoder, a name of `models.codecs.CODECS`.

  Raises:
    ValueError: an argument out of range, or an encoder without a map.
  """
  check_codebook(codes, dim, decay, beta, restart)
  if decoder not in codecs.CODECS:
    raise ValueError(unknown('decoder', decoder, codecs.CODECS))
  dtype = jnp.dtype(setting.dtype)

  def make_decoder(stride: int, channels: int) -> Any:
    return codecs.CodecDecoder(codecs.CODECS[decoder], stride, channels, dtype)

  quantizer = quantizers.VectorQuantizer(codes, dim, decay, setting.axis, dtype)
  net = codec.codec_net(make_encoder, setting, quantizer, make_decoder, tap)
  return vq_vae(net, setting, beta=beta, restart=restart)


def check_codebook(codes: int, dim: int, decay: float, beta: float, restart: float) -> None:
  """Raises ValueError for a codebook that does not make sense; arguments as for `build`."""
  if codes < 2 or dim < 1:
    raise ValueError(f'codes={codes} must be at least 2, and dim={dim} at least 1.')
  if not 0 <= decay < 1:
    raise ValueError(f'decay={decay} must be in [0, 1); 0 is for a codebook with a gradient.')
  if beta < 0:
    raise ValueError(f'beta={beta} must not be negative.')
  if not 0 <= restart < 1:
    raise ValueError(f'restart={restart} of the mean use must be in [0, 1); 0 restarts no code.')
