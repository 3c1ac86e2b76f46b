"""The discrete VAE of DALL-E: codes that are drawn, not looked up (Ramesh et al. 2021).

"Zero-shot text-to-image generation" (arXiv 2102.12092, section 2.1 and appendix A). The encoder
gives K logits at each place, the decoder reads a relaxed draw, the Gumbel-softmax, and predicts a
logit-Laplace distribution of each number of the image:

    (-log p(x | codes) + beta KL(q(codes | x) | uniform)) / (H W C)

with the temperature on a cosine from `tau` to `tau_end` and beta rising to `kl_weight`. As in the
paper the loss is divided by the numbers of an image and pixels keep 0.1 away from 0 and 1. The
log-likelihood is that of such continuous numbers, no bits of the image.

Different from the paper: the networks are those of our other codecs (theirs: 4 groups of 2 blocks
with 7x7 and 3x3 kernels and max-pools; its codes reach the decoder through a 1x1 convolution, which
is the codebook here). The paper averages the weights over the steps with a decay of 0.999, here
those of the last step are used.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.devices import collectives
from byoljax.evals import image_quality
from byoljax.losses import codecs as losses
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
from byoljax.methods import notes
from byoljax.methods.checks import only_view
from byoljax.methods.generative import codec
from byoljax.methods.generative.codec import CODES, LATENTS, OUTPUT, QUANTIZER
from byoljax.methods.plain import plain_init
from byoljax.methods.reconstruction import autoencoder
from byoljax.models import decoders, quantizers
from byoljax.models.net import Net, Statistics, stack

PyTree = Any


def dvae(net: Net, setting: Setting, *, temperature: Any, kl_weight: Any) -> Method:
  """The method over a network; `build` makes it.

  Args:
    net: outputs 'embedding', 'codes' and 'output' [b, H, W, 2 C], with a `GumbelQuantizer`.
    setting: the run.
    temperature: step -> of the Gumbel-softmax.
    kl_weight: step -> beta.
  """
  count, channels = codec.module_of(net, QUANTIZER).codes, len(setting.mean)
  watched = stack(net.parts, (LATENTS,), net.reads)

  def noise(key: jax.Array, params: PyTree, bn: PyTree, view: jax.Array) -> jax.Array:
    """Of Gumbel's distribution, [b, h, w, K], each example's own."""
    shape = jax.eval_shape(lambda: watched.apply(params, bn, view, train=False)[0][LATENTS]).shape
    keys = collectives.example_keys(
      jax.random.fold_in(key, streams.GUMBEL), len(view), setting.axis
    )
    return jax.vmap(lambda own: jax.random.gumbel(own, shape[1:], jnp.float32))(keys)

  def painted(output: jax.Array) -> jax.Array:
    """mu as an image; behind it is ln b."""
    return losses.unsqueezed(jax.nn.sigmoid(output[..., :channels]))

  def objective(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    view = only_view(batch)
    drawn = {'noise': noise(key, params, state.bn, view), 'temperature': temperature(step)}
    made, bn = watched.apply(params, state.bn, view, train=True, inputs={QUANTIZER: drawn})
    pixels = autoencoder.picture(view, setting)
    output = decoders.fitted(made[OUTPUT], view)
    mu, log_scale = jnp.split(output, 2, axis=-1)
    likelihood = losses.logit_laplace(mu, log_scale, losses.squeezed(pixels)).mean()
    divergence = losses.divergence_from_uniform(made[LATENTS]).sum((1, 2)).mean()
    value = likelihood + kl_weight(step) * divergence / math.prod(view.shape[1:])
    metrics = {
      'loss/likelihood': likelihood,
      'loss/divergence': divergence,
      'temperature': temperature(step),
      'psnr': image_quality.psnr(painted(output), pixels).mean(),
      **codec.use_metrics(made[CODES], count, setting.axis),
    }
    return value, Aux(Statistics(bn), jax.lax.stop_gradient(metrics), made['embedding'])

  def pictures(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array
  ) -> dict[str, jax.Array]:
    del key
    view = batch['views'][0]
    made, _ = net.apply(params, state.bn, view, train=False)
    output = painted(decoders.fitted(made[OUTPUT], view))
    return {'image': autoencoder.picture(view, setting), 'output': output}

  embed = evaluation_outputs(net, 'embedding')
  return Method(
    plain_init(net, only_view),
    objective,
    keep,
    embed,
    default_groups,
    net=net,
    pictures=pictures,
    decode=codec.decoding(net, painted),
  )


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  codes: int = 8192,
  dim: int = 128,
  tau: float = 1.0,
  tau_end: float = 0.0625,
  tau_length: str = '5 %',
  kl_weight: float = 6.6,
  kl_warmup: str = '5000 steps',
  tap: str = '',
  decoder: str = 'codec',
) -> Method:
  """Builds a discrete VAE from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis.
    setting: the run.
    codes: K, at least 2.
    dim: D, numbers of a code.
    tau: temperature of the Gumbel-softmax at step 0.
    tau_end: temperature from `tau_length` on; above 0.
    tau_length: a duration.
    kl_weight: beta in the end, 0 or more.
    kl_warmup: a duration, over which beta rises from 0 on a cosine.
    tap: which of the encoder's maps is quantized; '' for the last one.
    decoder: size of the decoder, see `codec.make_decoder`.

  Raises:
    ValueError: an argument out of range, or an encoder without a map.
  """
  if codes < 2 or dim < 1:
    raise ValueError(f'codes={codes} must be at least 2, and dim={dim} at least 1.')
  if not (0 < tau < math.inf and 0 < tau_end < math.inf):
    raise ValueError(f'tau={tau} and tau_end={tau_end} are temperatures and must be above 0.')
  if not 0 <= kl_weight < math.inf:
    raise ValueError(f'kl_weight={kl_weight} must be a number of at least 0.')
  cooling, rising = (
    setting.length.steps(name, text)
    for name, text in (('tau_length', tau_length), ('kl_warmup', kl_warmup))
  )
  quantizer = quantizers.GumbelQuantizer(codes, dim, jnp.dtype(setting.dtype))
  net = codec.codec_net(
    make_encoder, setting, quantizer, decoder, tap, channels=2 * len(setting.mean)
  )
  method = dvae(
    net,
    setting,
    temperature=lambda step: _cosine(step, cooling, tau, tau_end),
    kl_weight=lambda step: _cosine(step, rising, 0.0, kl_weight),
  )
  late = (
    ('tau_length', tau_length, cooling, f'the temperature does not reach tau_end={tau_end}'),
    ('kl_warmup', kl_warmup, rising, f'the divergence does not get its weight of {kl_weight}'),
  )
  # A change that ends with the run is none too long.
  found = tuple(
    note
    for name, length, end, what in late
    for note in notes.of_late(name, length, end - 1, setting, what)
  )
  return method._replace(notes=found)


def _cosine(step: jax.Array, length: int, first: float, last: float) -> jax.Array:
  """From `first` at step 0 to `last` at step `length`, on half a cosine, float32."""
  done = jnp.clip(jnp.asarray(step, jnp.float32) / max(1, length), 0.0, 1.0)
  done = jnp.where(length > 0, done, 1.0)
  return last + (first - last) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
