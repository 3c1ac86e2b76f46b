"""Colorization: which colors does a gray picture have? (Zhang, Isola and Efros 2016.)

Colorful image colorization, arXiv 1603.08511. Of the lightness alone the network makes, for every
few pixels, a distribution over bins of the ab plane; the loss is the cross-entropy with the soft
encoding of the true color (equation 2), weighted by how rare the color is (equations 3 and 4).
Pictures show the annealed mean of the distribution (equation 5).

How rare colors are is counted on the training images themselves, in their first epoch: the state
holds how often every bin was the nearest one, as whole numbers, so that they do not depend on the
number of devices, and they stay as they are from the second epoch on (and from 2^32 pixels on).
Until an epoch is over the weights are those of what was counted so far. Pictures without a color,
whose a and b are nowhere beyond 5, weigh nothing, as in the authors' code, and are not counted.

Different from the paper: the bins are made by a rule (`ops.color_bins`); the color of a place is
the mean of its pixels; losses are means, not sums, over pixels; the prior is of augmented views.
The encoder is any, and what it is given is gray whatever its input: with
`encoder.input='lightness'` evaluations give it gray images, too. For 'vgg_dilated', the paper's,
`stride=4` adds a linear classifier of its last map and nothing else. 'regression' is the paper's
baseline, equation 1, with colors in units of 110.
"""

from typing import Any

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.devices import collectives
from byoljax.losses import colorization as losses
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
from byoljax.methods.reconstruction import autoencoder, colors
from byoljax.models.decoders import feature_map
from byoljax.models.net import Net, Statistics, stack
from byoljax.ops import color_bins

PyTree = Any
GRAY = 5.0  # units of a and b, up to which an image is gray everywhere
_MOST = 2**32 - 1


class ColorState(Statistics):
  """The method state of colorization.

  Attributes:
    counts: how often every bin was the nearest one in the first epoch, uint32 [Q].
  """

  counts: jax.Array


def colorization(
  net: Net,
  setting: Setting,
  *,
  grid: float = color_bins.GRID,
  bins: int = color_bins.COUNT,
  neighbors: int = color_bins.NEIGHBORS,
  sigma: float = color_bins.SIGMA,
  uniform: float = 0.5,
  temperature: float = color_bins.TEMPERATURE,
  loss: str = 'classification',
) -> Method:
  """Colorization over a network; `build` makes it, and says what the arguments are.

  Args:
    net: outputs 'embedding' and 'output', [b, h, w, Q] or, with 'regression', [b, h, w, 2].
    setting: the run.
    grid: see `build`, as for the others.
    bins: Q, or 0.
    neighbors: K.
    sigma: of the soft encoding and of the smoothing of the prior.
    uniform: lambda.
    temperature: T.
    loss: 'classification' or 'regression'.
  """
  centers = color_bins.ab_bins(grid, bins)

  def gray(view: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The image without its color, normalized, and its color in Lab."""
    lab = colors.lab_of(view, setting)
    pixels = colors.painted(lab[..., :1], jnp.zeros_like(lab[..., 1:]))
    return autoencoder.to_normalized(pixels, setting), lab

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    del key, step
    seen, lab = gray(only_view(batch))
    return batch | {'views': (seen,), 'ab': lab[..., 1:]}

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, ColorState]:
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), batch['views'][0])
    return params, ColorState(bn, jnp.zeros(len(centers), jnp.uint32))

  def decoded(output: jax.Array) -> jax.Array:
    """Colors ab [b,h,w,2]."""
    if loss == 'regression':
      return output * colors.AB_SCALE
    return color_bins.annealed_mean(output, centers, temperature)

  def counted(which: jax.Array, colored: jax.Array, step: jax.Array) -> jax.Array:
    """How often the nearest bins occur in the global batch, in the first epoch."""
    pixels = which.size * collectives.axis_size(setting.axis) * setting.accumulate
    steps = min(setting.length.steps_per_epoch, _MOST // pixels)
    here = jnp.broadcast_to(colored & (step < steps), which.shape)
    return collectives.psum(color_bins.count_bins(which, here, len(centers)), setting.axis)

  def objective(
    params: PyTree, state: ColorState, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key
    made, bn = net.apply(params, state.bn, batch['views'][0], train=True)
    output = made['output']
    truth = colors.at_places(batch['ab'], output)
    colored = jnp.max(jnp.abs(batch['ab']), axis=(1, 2, 3), keepdims=True)[..., 0] > GRAY
    which, shares = color_bins.encode(truth, centers, neighbors, sigma)
    nearest = which[..., 0]
    if loss == 'regression':
      weights = jnp.broadcast_to(colored, nearest.shape).astype(jnp.float32)
      value = losses.squared_error(output, truth / colors.AB_SCALE, weights)
      metrics = {}
    else:
      prior = color_bins.smoothed(state.counts, centers, sigma)
      weights = color_bins.rebalancing(prior, uniform)[nearest] * colored
      value = losses.soft_cross_entropy(output, which, shares, weights)
      hit = jnp.argmax(output, axis=-1) == nearest
      metrics = {'pretext_accuracy': jnp.mean(hit, dtype=jnp.float32)}
    for name, ab in (('chroma', decoded(output)), ('chroma_truth', truth)):
      ab = jax.lax.stop_gradient(ab)
      metrics[name] = jnp.mean(jnp.sqrt(jnp.sum(jnp.square(ab), axis=-1)))
    rows = counted(nearest, colored, step)
    return value, Aux(ColorState(bn, state.counts), metrics, made['embedding'], rows)

  def remember(state: ColorState, rows: jax.Array, finite: jax.Array) -> ColorState:
    return state.replace(counts=state.counts + jnp.where(finite, rows, jnp.zeros_like(rows)))

  def pictures(
    params: PyTree, state: ColorState, batch: Batch, key: jax.Array
  ) -> dict[str, jax.Array]:
    del key
    seen, lab = gray(batch['views'][0])
    made, _ = net.apply(params, state.bn, seen, train=False)
    return {
      'image': autoencoder.picture(batch['views'][0], setting),
      'input': autoencoder.picture(seen, setting),
      'output': colors.painted(lab[..., :1], decoded(made['output'])),
    }

  return Method(
    init,
    objective,
    keep,
    evaluation_outputs(net, 'embedding'),
    default_groups,
    remember=remember,
    net=net,
    transform=transform,
    pictures=pictures,
  )


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  grid: float = color_bins.GRID,
  bins: int = color_bins.COUNT,
  neighbors: int = color_bins.NEIGHBORS,
  sigma: float = color_bins.SIGMA,
  uniform: float = 0.5,
  temperature: float = color_bins.TEMPERATURE,
  loss: str = 'classification',
  tap: str = '',
  stride: int = 4,
  decoder_width: int = 64,
) -> Method:
  """Builds colorization from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    grid: side of the bins in units of CIE Lab.
    bins: Q, how many: those nearest to the colors of sRGB; 0 for all squares that these are in.
    neighbors: bins of a color's soft encoding; 1 is the nearest alone.
    sigma: of that encoding and of the smoothing of the prior, in units of CIE Lab.
    uniform: lambda in (0, 1], the uniform share in the weights of colors; with 1 all weigh alike.
    temperature: T of the annealed mean, above 0; for pictures and the metric 'chroma' only.
    loss: 'classification', or 'regression' of a and b themselves.
    tap: which of the encoder's maps the decoder reads; '' for the last one.
    stride: pixels from one predicted color to the next, a power of two; a finer map keeps its own.
    decoder_width: channels of the decoder's last stage, where the map is coarser than that.

  Raises:
    ValueError: an argument out of range, images without three channels, an encoder without a map.
  """
  colors.check(setting, loss)
  if not 0 < uniform <= 1:
    raise ValueError(f'uniform={uniform} must be in (0, 1]: 1 for equal weights.')
  centers = color_bins.ab_bins(grid, bins)
  color_bins.check(neighbors, sigma, temperature, len(centers))
  encoder = make_encoder(setting.axis)
  source = feature_map(encoder, len(setting.mean), tap)
  outputs = 2 if loss == 'regression' else len(centers)
  head = colors.decoder(source, setting, outputs=outputs, stride=stride, width=decoder_width)
  parts = (('encoder', 'embedding', encoder), ('decoder', 'output', head))
  return colorization(
    stack(parts, reads={'decoder': source.tap}),
    setting,
    grid=grid,
    bins=bins,
    neighbors=neighbors,
    sigma=sigma,
    uniform=uniform,
    temperature=temperature,
    loss=loss,
  )
