"""Context encoder: what is missing in the hole? (Pathak et al. 2016, arXiv 1604.07379.)

The network sees an image with a hole, filled with the mean color, and paints the hole: squared
error there alone, with weight `overlap_weight` on a border of `overlap` pixels of the hole that is
left to be seen, so that the painting fits on to its surroundings (their code). Optionally a
discriminator has to tell paintings from the truth (section 3.2): (1 - a) L2 + a * adversarial loss
with a = 0.001. It sees the hole alone, since seams would tell it everything. For features the paper
trains with L2 alone.

As in DCGAN the two players alternate, each with an optimizer of its own, as phases of a step; here
the generator moves first. 'simultaneous' descends one scalar of both terms, `losses.adversarial`.

Different from the authors' code: a hole for every image (`data.augment.holes`); errors are weighted
means, so that a border counts `overlap_weight` times a place of the hole, with another scale of the
whole; the decoder of `models.decoders` on the last map of any convolutional encoder, with their
channel-wise fully connected layer as an option, paints the whole image, of which the hole counts;
the discriminator sees holes at their place in an image of mean color and has normalization scales
that start at 1, theirs around it; they update the discriminator first, and set the biases of all
convolutions to 0 before each update.
"""

from typing import Any

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.data.augment import holes
from byoljax.devices import collectives
from byoljax.evals import image_quality
from byoljax.losses import adversarial as adversarial_losses
from byoljax.losses import reconstruction as losses
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Phase,
  Setting,
  default_groups,
  evaluation_outputs,
  keep,
)
from byoljax.methods.checks import only_view
from byoljax.methods.plain import plain_init
from byoljax.methods.reconstruction import autoencoder
from byoljax.methods.reconstruction.autoencoder import OUTPUT
from byoljax.models import decoders
from byoljax.models.discriminators import ConvDiscriminator
from byoljax.models.net import Net, Statistics, stack
from byoljax.suggest import check_name

PyTree = Any
FORMS = ('none', 'alternating', 'simultaneous')
DISCRIMINATOR, REALNESS = 'discriminator', 'realness'


def context_encoder(
  net: Net,
  setting: Setting,
  *,
  hole: str = 'region',
  share: float = 0.25,
  overlap: int = 0,
  overlap_weight: float = 10.0,
  adversarial: str = 'none',
  adversarial_weight: float = 0.001,
) -> Method:
  """The method over a network; `build` makes it, and says what the arguments are.

  Args:
    net: outputs 'embedding' and 'output'; with a discriminator 'realness', of the role
      'discriminator', too.
    setting: the run.
    hole: see `build`, as for the others.
    share: of the image.
    overlap: pixels.
    overlap_weight: of the border's errors.
    adversarial: 'none', 'alternating' or 'simultaneous'.
    adversarial_weight: a.
  """
  judge = stack(net.parts[-1:])  # The discriminator by itself, where there is one.

  def pierced(view: jax.Array, key: jax.Array, axis: str | None) -> tuple[jax.Array, jax.Array]:
    """What is to be painted, and what of it cannot be seen: bool [b, H, W, 1]."""
    keys = collectives.example_keys(jax.random.fold_in(key, streams.HOLES), len(view), axis)
    height, width = view.shape[1:3]
    holes.check_border(hole, overlap, height, width, share)
    painted = jax.vmap(lambda own: holes.HOLES[hole](own, height, width, share))(keys)
    return painted, holes.eroded(painted, overlap)

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    del step
    view = only_view(batch)
    painted, hidden = pierced(view, key, setting.axis)
    seen = jnp.where(hidden, 0.0, view)
    return batch | {'views': (seen,), 'target': view, 'painted': painted, 'hidden': hidden}

  def paint(params: PyTree, bn: PyTree, batch: Batch) -> tuple[jax.Array, jax.Array, PyTree]:
    """The painting, the embedding, and the moved statistics of encoder and decoder."""
    made, bn = net.apply(params, bn, batch['views'][0], train=True, upto=OUTPUT)
    return decoders.fitted(made[OUTPUT], batch['target']), made['embedding'], bn

  def look(params: PyTree, bn: PyTree, images: jax.Array, batch: Batch) -> tuple[jax.Array, PyTree]:
    """Logits of the discriminator for the holes of images, and its moved statistics."""
    alone = {DISCRIMINATOR: bn[DISCRIMINATOR]}
    held = jnp.where(batch['painted'], images, 0.0)
    made, moved = judge.apply({DISCRIMINATOR: params}, alone, held, train=True)
    return made[REALNESS], bn | moved

  def generate(
    params: PyTree, painting: jax.Array, bn: PyTree, batch: Batch
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The generator's loss, with no gradient for the discriminator."""
    weight = jnp.where(batch['hidden'], 1.0, jnp.where(batch['painted'], overlap_weight, 0.0))
    error = losses.squared_error(painting, batch['target'], weight)
    metrics = {'loss/reconstruction': error} | compared(painting, batch)
    if adversarial == 'none':
      return error, metrics
    logits, _ = look(jax.lax.stop_gradient(params[DISCRIMINATOR]), bn, painting, batch)
    fooled = adversarial_losses.fool(logits)
    value = (1.0 - adversarial_weight) * error + adversarial_weight * fooled
    return value, metrics | {'loss/adversarial': fooled}

  def discriminate(
    params: PyTree, painting: jax.Array, bn: PyTree, batch: Batch
  ) -> tuple[jax.Array, PyTree, dict[str, jax.Array]]:
    """The discriminator's loss, with no gradient for the generator, and its moved statistics."""
    real, bn = look(params[DISCRIMINATOR], bn, batch['target'], batch)
    fake, bn = look(params[DISCRIMINATOR], bn, jax.lax.stop_gradient(painting), batch)
    value = adversarial_losses.discriminate(real, fake)
    accuracy = adversarial_losses.accuracy(real, fake)
    return value, bn, {'loss/discriminator': value, 'discriminator_accuracy': accuracy}

  def generator_loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    painting, embedding, bn = paint(params, state.bn, batch)
    value, metrics = generate(params, painting, state.bn, batch)
    return value, Aux(Statistics(bn), metrics, embedding)

  def discriminator_loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    # The statistics of encoder and decoder have moved in the generator's phase.
    painting, embedding, _ = paint(params, state.bn, batch)
    value, bn, metrics = discriminate(params, painting, state.bn, batch)
    return value, Aux(Statistics(bn), metrics, embedding)

  def both(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    painting, embedding, bn = paint(params, state.bn, batch)
    value, metrics = generate(params, painting, state.bn, batch)
    judged, bn, more = discriminate(params, painting, bn, batch)
    return value + judged, Aux(Statistics(bn), metrics | more, embedding)

  def compared(painting: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    image = pixels(batch['target'])
    filled = pixels(jnp.where(batch['painted'], painting, batch['target']))
    metrics = {
      'psnr': image_quality.psnr(filled, image).mean(),
      'psnr_input': image_quality.psnr(pixels(batch['views'][0]), image).mean(),
    }
    return jax.lax.stop_gradient(metrics)

  def pixels(normalized: jax.Array) -> jax.Array:
    return autoencoder.picture(normalized, setting)

  def pictures(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array
  ) -> dict[str, jax.Array]:
    view = batch['views'][0]
    painted, hidden = pierced(view, key, None)
    seen = jnp.where(hidden, 0.0, view)
    made, _ = net.apply(params, state.bn, seen, train=False, upto=OUTPUT)
    filled = jnp.where(painted, decoders.fitted(made[OUTPUT], view), view)
    return {'image': pixels(view), 'input': pixels(seen), 'output': pixels(filled)}

  phases = ()
  if adversarial == 'alternating':
    generator = tuple(role for role, _, _ in net.parts if role != DISCRIMINATOR)
    phases = (Phase(generator_loss, generator), Phase(discriminator_loss, (DISCRIMINATOR,)))
  return Method(
    plain_init(net),
    both if adversarial == 'simultaneous' else generator_loss,
    keep,
    evaluation_outputs(net, 'embedding'),
    default_groups,
    net=net,
    transform=transform,
    phases=phases,
    pictures=pictures,
  )


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  hole: str = 'region',
  share: float = 0.25,
  overlap: int = 0,
  overlap_weight: float = 10.0,
  adversarial: str = 'none',
  adversarial_weight: float = 0.001,
  discriminator_width: int = 64,
  discriminator_stages: int = 4,
  tap: str = '',
  decoder_width: int = 16,
  channelwise: bool = False,
) -> Method:
  """Builds a context encoder from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    hole: 'center', 'blocks' or 'region'; see `data.augment.holes`.
    share: of the image that is missing, in (0, 1).
    overlap: pixels along the border of the hole that are seen and painted all the same; fewer than
      half of it.
    overlap_weight: of errors there, against 1 in the rest of the hole; above 0.
    adversarial: 'none'; 'alternating', with a discriminator that is trained by a second update in
      every step; or 'simultaneous', with one update of both.
    adversarial_weight: a of the adversarial loss, in [0, 1]; 1 - a of the squared error.
    discriminator_width: channels of its first stage; see `models.discriminators`.
    discriminator_stages: how often it halves the image, to no less than four pixels.
    tap: which of the encoder's maps the decoder reads; '' for the last one.
    decoder_width: channels of the decoder's last stage.
    channelwise: whether the decoder begins with a channel-wise fully connected layer; images of
      other sizes than the view's can then be encoded, but not painted.

  Raises:
    ValueError: an argument out of range, or an encoder without a map.
  """
  check_name('hole', hole, holes.HOLES)
  check_name('adversarial', adversarial, FORMS)
  if not 0 < share < 1:
    raise ValueError(f'share={share} of the image must be above 0 and below 1.')
  if overlap < 0 or overlap_weight <= 0:
    raise ValueError(
      f'overlap={overlap} must be at least 0 pixels, and overlap_weight={overlap_weight} above 0.'
    )
  if not 0 <= adversarial_weight <= 1:
    raise ValueError(f'adversarial_weight={adversarial_weight} must be in [0, 1].')
  if min(discriminator_width, discriminator_stages) < 1:
    raise ValueError(
      f'discriminator_width={discriminator_width} and discriminator_stages={discriminator_stages} '
      'must be at least 1.'
    )
  net = autoencoder.encoder_decoder(
    make_encoder, setting, tap=tap, width=decoder_width, channelwise=channelwise
  )
  if adversarial != 'none':
    critic = ConvDiscriminator(
      discriminator_width, discriminator_stages, setting.axis, jnp.dtype(setting.dtype)
    )
    net = stack((*net.parts, (DISCRIMINATOR, REALNESS, critic)), reads=dict(net.reads))
  return context_encoder(
    net,
    setting,
    hole=hole,
    share=share,
    overlap=overlap,
    overlap_weight=overlap_weight,
    adversarial=adversarial,
    adversarial_weight=adversarial_weight,
  )
