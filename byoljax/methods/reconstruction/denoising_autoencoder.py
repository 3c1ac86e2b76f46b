"""Denoising autoencoder: what did the image look like before? (Vincent et al. 2008 and 2010.)

"Extracting and composing robust features with denoising autoencoders" (ICML 2008); "Stacked
denoising autoencoders" (JMLR 11, 3371): the noises of section 3.1, the two losses of section 2.2
and the emphasis on disturbed components of section 5.2.

As in the papers: the network sees the disturbed image only and is compared with the clean one.
Different from them: an encoder of convolutions with a decoder on its last map, trained all at
once, where theirs has fully connected layers that are trained one after the other with tied
weights; the errors are weighted means, not sums (`losses.reconstruction`); pixels are disturbed
with all of their channels (`data.augment.noise`). Squared errors are of normalized values.

A network that is told little noise and has a wide map copies its input: 'psnr' has to be above
'psnr_input', the disturbed image's own.
"""

from typing import Any

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.data.augment.noise import NOISES
from byoljax.devices import collectives
from byoljax.evals import image_quality
from byoljax.losses import reconstruction as losses
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
from byoljax.methods.reconstruction import autoencoder
from byoljax.methods.reconstruction.autoencoder import OUTPUT
from byoljax.models import decoders
from byoljax.models.net import Net, Statistics
from byoljax.suggest import check_name

PyTree = Any
LOSSES = ('mse', 'bce')


def denoising_autoencoder(
  net: Net,
  setting: Setting,
  *,
  noise: str = 'gaussian',
  level: float = 0.25,
  loss: str = 'mse',
  emphasis: tuple[float, float] = (1.0, 1.0),
) -> Method:
  """The method over a network; `build` makes it, and says what the arguments are.

  Args:
    net: outputs 'embedding' and 'output'.
    setting: the run.
    noise: see `build`, as for the others.
    level: of the noise.
    loss: 'mse' or 'bce'.
    emphasis: weights of disturbed and of other pixels.
  """

  def disturbed(view: jax.Array, key: jax.Array, axis: str | None) -> tuple[jax.Array, jax.Array]:
    keys = collectives.example_keys(jax.random.fold_in(key, streams.NOISE), len(view), axis)
    pixels = autoencoder.to_pixels(view, setting)
    noisy, hit = jax.vmap(lambda own, x: NOISES[noise](own, x, level))(keys, pixels)
    return autoencoder.to_normalized(noisy, setting), hit

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    del step
    view = only_view(batch)
    noisy, hit = disturbed(view, key, setting.axis)
    return batch | {'views': (noisy,), 'target': view, 'disturbed': hit}

  def pixels_of(output: jax.Array) -> jax.Array:
    """A decoder's output as it is shown."""
    if loss == 'bce':
      return jax.nn.sigmoid(output)
    return autoencoder.picture(output, setting)

  def value_of(output: jax.Array, target: jax.Array, hit: jax.Array) -> jax.Array:
    weight = None
    if emphasis[0] != emphasis[1]:
      weight = jnp.where(hit, *map(jnp.float32, emphasis))
    if loss == 'bce':
      clean = autoencoder.picture(target, setting)
      return losses.binary_cross_entropy(output, clean, weight)
    return losses.squared_error(output, target, weight)

  def objective(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    (noisy,), target = batch['views'], batch['target']
    made, bn = net.apply(params, state.bn, noisy, train=True)
    output = decoders.fitted(made[OUTPUT], target)
    value = value_of(output, target, batch['disturbed'])
    clean = autoencoder.picture(target, setting)
    given = autoencoder.picture(noisy, setting)
    metrics = {
      'psnr': image_quality.psnr(pixels_of(output), clean).mean(),
      'psnr_input': image_quality.psnr(given, clean).mean(),
    }
    return value, Aux(Statistics(bn), jax.lax.stop_gradient(metrics), made['embedding'])

  def pictures(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array
  ) -> dict[str, jax.Array]:
    view = batch['views'][0]
    noisy, _ = disturbed(view, key, None)
    made, _ = net.apply(params, state.bn, noisy, train=False)
    return {
      'image': autoencoder.picture(view, setting),
      'input': autoencoder.picture(noisy, setting),
      'output': pixels_of(decoders.fitted(made[OUTPUT], view)),
    }

  init = plain_init(net)
  embed = evaluation_outputs(net, 'embedding')
  return Method(
    init, objective, keep, embed, default_groups, net=net, transform=transform, pictures=pictures
  )


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  noise: str = 'gaussian',
  level: float = 0.25,
  loss: str = 'mse',
  emphasis: tuple[float, float] = (1.0, 1.0),
  tap: str = '',
  decoder_width: int = 16,
) -> Method:
  """Builds a denoising autoencoder from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    noise: 'gaussian', 'masking' or 'salt_pepper'; see `data.augment.noise`.
    level: sigma of 'gaussian', where images have values in [0, 1]; of the others the share of
      pixels, in (0, 1].
    loss: 'mse', or 'bce', whose output are probabilities of white.
    emphasis: weights (alpha, beta) of disturbed and of other pixels; (1, 0) looks at the disturbed
      ones alone. Gaussian noise disturbs all.
    tap: which of the encoder's maps the decoder reads; '' for the last one.
    decoder_width: channels of the decoder's last stage, see `decoders.ConvDecoder`.

  Raises:
    ValueError: an argument out of range, or an encoder without a map.
  """
  check_name('noise', noise, NOISES)
  check_name('loss', loss, LOSSES)
  if level <= 0 or (noise != 'gaussian' and level > 1):
    raise ValueError(f"level={level} of noise '{noise}': above 0, and a share is at most 1.")
  if len(emphasis) != 2 or min(emphasis) < 0 or max(emphasis) == 0:
    raise ValueError(
      f'emphasis={emphasis}: two weights of at least 0, not both 0, such as (1.0, 0.5).'
    )
  if noise == 'gaussian' and emphasis[0] != emphasis[1]:
    raise ValueError(
      f"emphasis={emphasis}: noise 'gaussian' disturbs every pixel, none can be emphasized: "
      "give two equal weights, or take 'masking' or 'salt_pepper'."
    )
  net = autoencoder.encoder_decoder(make_encoder, setting, tap=tap, width=decoder_width)
  return denoising_autoencoder(net, setting, noise=noise, level=level, loss=loss, emphasis=emphasis)
