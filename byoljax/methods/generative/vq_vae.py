"""VQ-VAE: an image as a map of codes out of a learned codebook (van den Oord et al. 2017).

"Neural discrete representation learning" (arXiv 1711.00937). Each place of the encoder's map is
replaced by the nearest of K codes, from which the decoder makes the image again:

    |x - output|^2 + beta |z - sg(e)|^2 (+ |sg(z) - e|^2)                      (equation 3)

with straight-through gradients. With `decay` the codebook follows by moving averages (appendix A.1,
the default, as in Sonnet's code); with decay 0 by the third term.

Different from the paper: dead codes are restarted (`ops.codebook`), so that no code is lost; means
in place of sums, over numbers and of normalized values, which stand for Sonnet's division by the
variance; codes begin as normals of deviation 1, Sonnet's as uniform numbers of variance 1 / D; any
convolutional encoder will do, `models.codecs` has the paper's networks. The prior of the paper is a
method of its own, on a finished run.
"""

from typing import Any

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.evals import image_quality
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
from byoljax.methods.generative.codec import CODES, OUTPUT, QUANTIZER, CodecState
from byoljax.methods.reconstruction import autoencoder
from byoljax.models import decoders, quantizers
from byoljax.models.net import Net

PyTree = Any


def vq_vae(net: Net, setting: Setting, *, beta: float, restart: float) -> Method:
  """The method over a network; `build` makes it.

  Args:
    net: outputs 'embedding', 'codes' and 'output', with a `quantizers.VectorQuantizer`.
    setting: the run.
    beta: weight of the commitment.
    restart: share of the mean use below which a code is put elsewhere; 0: never.
  """
  quantizer = codec.module_of(net, QUANTIZER)
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
    quantization, commitment = codec.quantization(made, beta, quantizer.decay)
    rows = codec.rows_for_dead_codes(made, key, count, setting.axis)
    clean, shown = (autoencoder.picture(x, setting) for x in (view, output))
    metrics = {
      'loss/reconstruction': error,
      'loss/commitment': commitment,
      'psnr': image_quality.psnr(shown, clean).mean(),
      **codec.use_metrics(made[CODES], count, setting.axis),
    }
    value = error + quantization
    return value, Aux(CodecState(bn, rows), jax.lax.stop_gradient(metrics), made['embedding'])

  def pictures(
    params: PyTree, state: CodecState, batch: Batch, key: jax.Array
  ) -> dict[str, jax.Array]:
    del key
    return codec.reconstructed(net, setting, params, state, batch)

  embed = evaluation_outputs(net, 'embedding')
  post_step = codec.restarting(restart)
  decode = codec.decoding(net, lambda x: autoencoder.picture(x, setting))
  return Method(
    init, objective, post_step, embed, default_groups, net=net, pictures=pictures, decode=decode
  )


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
  codec.check_codebook(codes, dim, decay, beta, restart)
  dtype = jnp.dtype(setting.dtype)
  quantizer = quantizers.VectorQuantizer(codes, dim, decay, setting.axis, dtype, setting.accumulate)
  net = codec.codec_net(make_encoder, setting, quantizer, decoder, tap)
  return vq_vae(net, setting, beta=beta, restart=restart)
