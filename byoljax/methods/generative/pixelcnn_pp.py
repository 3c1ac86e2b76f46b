"""PixelCNN++ (Salimans et al. 2017, arXiv 1701.05517).

As PixelCNN, but a pixel's colors are predicted together, by a mixture of M logistics on a scale of
values in place of a softmax over 256 of them: neighboring values are alike, and red moves the mean
of green, both that of blue. The network (`models.pixelcnn_pp`) sees far through lower resolutions.

As in the authors' code kernels may be normalized, with first values that fit some images
(`encoder.weight_norm`), and an average of the weights may follow them, which samples, likelihoods
and the network 'target' are of (`average`).

Different from it: first values are fitted to 64 images spread over the training set, without
dropout, where theirs are a batch of 16. Its temperature scales the logistics and divides the
mixture's logits; values have no list of their own that top-k or top-p could cut.
"""

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.devices import collectives
from byoljax.losses import likelihoods
from byoljax.method import MakeEncoder, Method, Setting
from byoljax.methods.generative import raster
from byoljax.models.net import Inputs, stack
from byoljax.models.pixelcnn_pp import PIXELCNN_PPS, MixtureHead, PixelCNNpp
from byoljax.ops.sampling import Sampling


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  levels: int = 256,
  mixtures: int = 10,
  dropout: bool = True,
  average: float = 0.0,
) -> Method:
  """Builds PixelCNN++ from an encoder factory and its configuration.

  Args:
    make_encoder: a `models.pixelcnn_pp.PixelCNNpp`.
    setting: the run.
    levels: K, values of a number: 2 to 256.
    mixtures: M.
    dropout: whether half of the activations in blocks are dropped in training.
    average: decay of the average of the weights, in [0, 1); 0: there is none.

  Raises:
    ValueError: a value out of range, another encoder, or images without three colors.
  """
  raster.check_levels(levels)
  if mixtures < 1:
    raise ValueError(f'mixtures={mixtures} must be at least 1.')
  if not 0 <= average < 1:
    raise ValueError(f'average={average} must be in [0, 1), such as 0.9995; 0 keeps no average.')
  if len(setting.mean) != 3:
    raise ValueError(f'PixelCNN++ needs images of 3 colors, not {len(setting.mean)}.')
  encoder = make_encoder(setting.axis)
  if not isinstance(encoder, PixelCNNpp):
    raise ValueError(
      f'PixelCNN++ needs encoder.name one of {", ".join(PIXELCNN_PPS)}, with encoder.input=rgb.'
    )

  def dropped(key: jax.Array, count: int) -> Inputs:
    own = jax.random.fold_in(key, streams.DROPOUT)
    return {'encoder': {'keys': collectives.example_keys(own, count, setting.axis)}}

  head = MixtureHead(mixtures, encoder.weight_norm)
  parts = (('encoder', 'embedding', encoder), ('decoder', raster.HEAD, head))
  net = stack(parts, reads={'decoder': raster.FEATURES})
  noise = dropped if dropout else None
  return raster.raster_model(
    net, setting, logistics(levels), noise, average=average, fitted=encoder.weight_norm
  )


def logistics(levels: int) -> raster.Distribution:
  """Mixtures of logistics, from a network's output [..., M, 10]."""

  def nll(output: jax.Array, numbers: jax.Array) -> jax.Array:
    return likelihoods.logistics_nll(output, numbers, levels)

  def draw(
    keys: jax.Array,
    place: jax.Array,
    output: jax.Array,
    numbers: jax.Array,
    part: jax.Array,
    sampling: Sampling,
  ) -> jax.Array:
    del part
    if sampling.top_k or sampling.top_p < 1:
      raise ValueError(
        f'top_k={sampling.top_k}, top_p={sampling.top_p}: logistics have no list of values to cut; '
        'leave them at 0 and 1 and lower the temperature.'
      )
    found = likelihoods.logistics_of(output)
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
    gumbel, uniform = jax.vmap(lambda key: _noise(key, found.logits.shape[1]))(own)
    which = jnp.argmax(found.logits + sampling.temperature * gumbel, axis=-1)
    chosen = jax.tree.map(
      lambda x: jnp.take_along_axis(x, which.reshape(-1, *(1,) * (x.ndim - 1)), axis=1), found
    )
    noise = jnp.log(uniform) - jnp.log1p(-uniform)
    spread = sampling.temperature * jnp.exp(chosen.log_scales[:, 0]) * noise
    x = jnp.zeros((len(numbers), 3), jnp.float32)
    for color in range(3):
      mean = likelihoods.means_of(chosen, x)[:, 0, color]
      value = jnp.clip(mean + spread[:, color], -1.0, 1.0)
      # The number in whose bin it is: what comes after is given that.
      number = jnp.round((value + 1.0) * 0.5 * (levels - 1)).astype(jnp.int32)
      numbers = numbers.at[:, color].set(number)
      x = x.at[:, color].set(2.0 * likelihoods.values_of(number, levels) - 1.0)
    return numbers

  return raster.Distribution(levels, nll, draw, passes=1)


def _noise(key: jax.Array, mixtures: int) -> tuple[jax.Array, jax.Array]:
  """Of the choice of a logistic, [M], and of its three colors, in (0, 1)."""
  edge = 1e-5
  uniform = jax.random.uniform(
    jax.random.fold_in(key, streams.MIXTURES), (3,), minval=edge, maxval=1 - edge
  )
  return jax.random.gumbel(key, (mixtures,)), uniform
