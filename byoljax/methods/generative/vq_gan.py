"""VQ-GAN: a VQ-VAE whose reconstructions have to look real (Esser, Rombach and Ommer 2021).

"Taming transformers for high-resolution image synthesis" (arXiv 2012.09841, section 3.1). The codec

    |x - output| + perceptual terms + codebook terms (beta = 0.25) + w * lambda * -D(output)

and a discriminator of patches with hinge losses are two phases of a step. lambda balances the two
gradients in the decoder's last layer (equation 7). The discriminator and its part of the codec's
loss begin at `start`.

As in their code: absolute errors; w = 0.8; the discriminator sees whole images. Different from it:
beta weighs the commitment, as in the paper, and not the codebook; lambda is that of the global
batch, theirs each GPU's. In place of LPIPS, whose weights need labels and a download, `perceptual`
weighs a comparison of edges (`losses.codecs.gradient_difference`), and `features` one of the maps
of an encoder that a run has trained (`Setting.given['perceptual']`, frozen; no channel has a
learned weight, `losses.codecs.feature_distance`). With the pixels' scale they change, too: errors
are of normalized values. Codebook and restarts are those of `vq_vae`: codes begin as normals of
deviation 1, theirs uniform within 1 / K of 0. The discriminator's normalization has scales that
begin at 1, theirs at normals of deviation 0.02 around it.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.devices import collectives
from byoljax.evals import image_quality
from byoljax.losses import adversarial
from byoljax.losses import codecs as losses
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Phase,
  Setting,
  default_groups,
  evaluation_outputs,
)
from byoljax.methods import notes
from byoljax.methods.checks import only_view
from byoljax.methods.generative import codec
from byoljax.methods.generative.codec import CODES, DECODER, OUTPUT, QUANTIZED, QUANTIZER
from byoljax.methods.generative.frozen import copy_of
from byoljax.methods.reconstruction import autoencoder
from byoljax.models import decoders, quantizers
from byoljax.models.discriminators import PatchDiscriminator
from byoljax.models.net import Net, stack

PyTree = Any
DISCRIMINATOR, REALNESS = 'discriminator', 'realness'


class Weights(NamedTuple):
  """Of the terms of the codec's loss.

  Attributes:
    beta: of the commitment.
    perceptual: of edges.
    features: of the maps of the perceptual network, if there is one.
    adversarial: w; at 0 the codec ignores the discriminator.
    start: step from which on there is a discriminator.
  """

  beta: float
  perceptual: float
  features: float
  adversarial: float
  start: int


class JudgedState(codec.CodecState):
  """What a VQ-GAN keeps that compares images by a network.

  Attributes:
    perceptual: the network's {'params', 'bn'}; they never change.
  """

  perceptual: PyTree


def vq_gan(net: Net, setting: Setting, weights: Weights, *, restart: float) -> Method:
  """The method over a network; `build` makes it.

  Args:
    net: outputs 'embedding', 'codes', 'output' and 'realness'.
    setting: the run, perhaps with a perceptual network.
    weights: of the losses.
    restart: share of the mean use below which a code is put elsewhere; 0: never.
  """
  quantizer, axis = codec.module_of(net, QUANTIZER), setting.axis
  painter = stack(net.parts[:-1], codec.HANDED_OUT, net.reads)
  judge, pen = stack(net.parts[-1:]), stack((net.parts[-2],))
  last = codec.module_of(net, DECODER).last_layer
  perceptual: Any = setting.given.get('perceptual')

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, codec.CodecState]:
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), only_view(batch))
    rows = jnp.zeros((quantizer.codes, quantizer.dim), jnp.float32)
    if perceptual is None:
      return params, codec.CodecState(bn, rows)
    return params, JudgedState(bn, rows, copy_of(perceptual, key, only_view(batch)))

  def look(params: PyTree, bn: PyTree, images: jax.Array) -> tuple[jax.Array, PyTree]:
    """Logits of the discriminator, and the statistics with its own moved."""
    made, moved = judge.apply(
      {DISCRIMINATOR: params}, {DISCRIMINATOR: bn[DISCRIMINATOR]}, images, train=True
    )
    return made[REALNESS], bn | moved

  def maps(frozen: PyTree, images: jax.Array) -> list[jax.Array]:
    made, _ = perceptual.net.apply(frozen['params'], frozen['bn'], images, train=False)
    return [made[tap] for tap in perceptual.taps]

  def distance(state: Any, output: jax.Array, view: jax.Array) -> jax.Array:
    """Between the maps of both in the perceptual network; 0 where there is none."""
    if perceptual is None or not weights.features:
      return jnp.zeros((), jnp.float32)
    frozen = jax.lax.stop_gradient(state.perceptual)
    return losses.feature_distance(maps(frozen, output), maps(frozen, view))

  def error_of(state: codec.CodecState, output: jax.Array, view: jax.Array) -> jax.Array:
    value = jnp.mean(jnp.abs(output - view))
    if weights.perceptual:
      value += weights.perceptual * losses.gradient_difference(output, view)
    return value + weights.features * distance(state, output, view)

  def balance(
    params: PyTree, state: codec.CodecState, vectors: jax.Array, view: jax.Array, fool: Any
  ) -> jax.Array:
    """lambda: how much larger the gradient of the error is in the decoder's last layer."""
    own = params[DECODER]

    def paint(kernel: jax.Array) -> jax.Array:
      changed = own | {last: own[last] | {'kernel': kernel}}
      made, _ = pen.apply({DECODER: changed}, {DECODER: state.bn[DECODER]}, vectors, train=True)
      return decoders.fitted(made[OUTPUT], view)

    output, pull = jax.vjp(paint, own[last]['kernel'])
    terms = (lambda x: error_of(state, x, view), fool)
    gradients = [pull(jax.grad(term)(output))[0] for term in terms]
    return losses.adaptive_weight(*collectives.pmean(gradients, axis))

  def codec_loss(
    params: PyTree, state: codec.CodecState, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    view = only_view(batch)
    made, bn = painter.apply(params, state.bn, view, train=True)
    output = decoders.fitted(made[OUTPUT], view)
    error = error_of(state, output, view)
    quantization, commitment = codec.quantization(made, weights.beta, quantizer.decay)
    value = error + quantization
    clean, shown = (autoencoder.picture(x, setting) for x in (view, output))
    metrics = {
      'loss/reconstruction': error,
      'loss/commitment': commitment,
      'psnr': image_quality.psnr(shown, clean).mean(),
      **codec.use_metrics(made[CODES], quantizer.codes, axis),
    }
    if perceptual is not None:
      metrics['loss/features'] = distance(state, output, view)
    if weights.adversarial:
      frozen = jax.lax.stop_gradient(params[DISCRIMINATOR])

      def fool(images: jax.Array) -> jax.Array:
        return adversarial.hinge_fool(look(frozen, state.bn, images)[0])

      held = jax.lax.stop_gradient((params, state, made[QUANTIZED]))
      ratio = jnp.where(step >= weights.start, balance(*held, view, fool), 0.0)
      fooled = fool(output)
      value += weights.adversarial * ratio * fooled
      metrics |= {'loss/adversarial': fooled, 'adaptive_weight': ratio}
    rows = codec.rows_for_dead_codes(made, key, quantizer.codes, axis)
    moved = state.replace(bn=state.bn | bn, rows=rows)
    return value, Aux(moved, jax.lax.stop_gradient(metrics), made['embedding'])

  def discriminator_loss(
    params: PyTree, state: codec.CodecState, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key
    view = only_view(batch)
    # The codec's statistics have moved in its own phase.
    made, _ = painter.apply(params, state.bn, view, train=True)
    fake = jax.lax.stop_gradient(decoders.fitted(made[OUTPUT], view))
    real_logits, bn = look(params[DISCRIMINATOR], state.bn, view)
    fake_logits, bn = look(params[DISCRIMINATOR], bn, fake)
    value = adversarial.hinge_discriminate(real_logits, fake_logits)
    metrics = {
      'loss/discriminator': value,
      'discriminator_accuracy': adversarial.accuracy(real_logits, fake_logits),
    }
    value *= jnp.where(step >= weights.start, 1.0, 0.0)
    return value, Aux(state.replace(bn=bn), jax.lax.stop_gradient(metrics), made['embedding'])

  def pictures(
    params: PyTree, state: codec.CodecState, batch: Batch, key: jax.Array
  ) -> dict[str, jax.Array]:
    del key
    return codec.reconstructed(net, setting, params, state, batch)

  roles = tuple(role for role, _, _ in net.parts[:-1])
  return Method(
    init,
    codec_loss,
    codec.restarting(restart),
    evaluation_outputs(net, 'embedding'),
    default_groups,
    net=net,
    phases=(Phase(codec_loss, roles), Phase(discriminator_loss, (DISCRIMINATOR,))),
    pictures=pictures,
    decode=codec.decoding(net, lambda x: autoencoder.picture(x, setting)),
  )


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  codes: int = 1024,
  dim: int = 256,
  decay: float = 0.0,
  beta: float = 0.25,
  restart: float = 0.1,
  perceptual: float = 0.1,
  features: float = 1.0,
  adversarial_weight: float = 0.8,
  start: str = '0 steps',
  discriminator_width: int = 64,
  discriminator_stages: int = 3,
  tap: str = '',
  decoder: str = 'codec',
) -> Method:
  """Builds a VQ-GAN from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis.
    setting: the run.
    codes: see `vq_vae`, as for the next four.
    dim: numbers of a code.
    decay: of the codebook's moving averages; 0: it is learned by its gradient.
    beta: weight of the commitment.
    restart: share of the mean use below which a code starts anew.
    perceptual: 0 or more; the weight of the comparison of edges.
    features: 0 or more; the weight of that of the maps of `setting.given['perceptual']`, if any.
    adversarial_weight: w, 0 or more.
    start: a duration, before which there is no discriminator.
    discriminator_width: channels of its first stage.
    discriminator_stages: how often it halves the image.
    tap: which of the encoder's maps is quantized; '' for the last one.
    decoder: size of the decoder, see `codec.make_decoder`.

  Raises:
    ValueError: an argument out of range, or an encoder without a map.
  """
  codec.check_codebook(codes, dim, decay, beta, restart)
  if not all(0 <= weight < math.inf for weight in (perceptual, features, adversarial_weight)):
    raise ValueError(
      f'perceptual={perceptual}, features={features} and adversarial_weight={adversarial_weight} '
      'must be numbers of at least 0.'
    )
  if min(discriminator_width, discriminator_stages) < 1:
    raise ValueError(
      f'discriminator_width={discriminator_width} and discriminator_stages={discriminator_stages} '
      'must be at least 1.'
    )
  dtype = jnp.dtype(setting.dtype)
  quantizer = quantizers.VectorQuantizer(codes, dim, decay, setting.axis, dtype, setting.accumulate)
  net = codec.codec_net(make_encoder, setting, quantizer, decoder, tap)
  critic = PatchDiscriminator(discriminator_width, discriminator_stages, setting.axis, dtype)
  net = stack((*net.parts, (DISCRIMINATOR, REALNESS, critic)), reads=dict(net.reads))
  first = setting.length.steps('start', start)
  weights = Weights(beta, perceptual, features, adversarial_weight, first)
  method = vq_gan(net, setting, weights, restart=restart)
  consequence = 'the discriminator never begins, and costs its part of every step'
  return method._replace(notes=notes.of_late('start', start, first, setting, consequence))
