"""PixelCNN (van den Oord et al. 2016, arXiv 1601.06759), plain and gated (arXiv 1606.05328).

The probability of an image is the product of those of its numbers, one color of one pixel after the
other, each given all before it: p(x) = prod_i p(x_i | x_1 ... x_{i-1}), row by row, in a pixel red
before green before blue. A network of masked convolutions (`models.pixelcnn`) predicts all factors
in one pass, a softmax over the K values each. Samples are drawn number by number.

Different from the papers: with K below 256 the images are coarser than bytes, which small networks
learn sooner; bits are then those of the coarser numbers. Images that were cropped and resized are
rounded to bytes first, so that the network sees what it has to predict. All values are equally
probable at first.
"""

from typing import Any

import jax
import jax.numpy as jnp

from byoljax.losses import likelihoods
from byoljax.method import MakeEncoder, Method, Setting
from byoljax.methods.generative import raster
from byoljax.models.net import stack
from byoljax.models.pixelcnn import PIXELCNNS, PixelCNN, PixelHead
from byoljax.ops import sampling as drawing
from byoljax.ops.sampling import Sampling


def build(
  make_encoder: MakeEncoder, setting: Setting, *, levels: int = 256, hidden: int = 1024
) -> Method:
  """Builds a PixelCNN from an encoder factory and its configuration.

  Args:
    make_encoder: a `models.pixelcnn.PixelCNN`.
    setting: the run.
    levels: K, values of a number: 2 to 256.
    hidden: channels of the last layer before the logits.

  Raises:
    ValueError: a value out of range, or an encoder that is no PixelCNN.
  """
  raster.check_levels(levels)
  if hidden < 1:
    raise ValueError(f'hidden={hidden} must be at least 1.')
  encoder, colors = make_encoder(setting.axis), len(setting.mean)
  if not isinstance(encoder, PixelCNN):
    raise ValueError(
      'a PixelCNN needs an encoder that sees nothing of what it predicts: '
      f'encoder.name one of {", ".join(PIXELCNNS)}, with encoder.input=rgb.'
    )
  head = PixelHead(levels, hidden, colors, dtype=jnp.dtype(setting.dtype))
  parts = (('encoder', 'embedding', encoder), ('decoder', raster.HEAD, head))
  net = stack(parts, reads={'decoder': raster.FEATURES})
  return raster.raster_model(net, setting, categorical(levels, colors))


def categorical(levels: int, colors: int) -> raster.Distribution:
  """A softmax over the K values of every color, from logits [..., C, K]."""

  def draw(
    keys: jax.Array,
    place: jax.Array,
    logits: jax.Array,
    numbers: jax.Array,
    color: jax.Array,
    sampling: Sampling,
  ) -> jax.Array:
    own: Any = jax.lax.dynamic_index_in_dim(logits, color, axis=1, keepdims=False)
    return numbers.at[:, color].set(drawing.draw(keys, place, own, sampling))

  return raster.Distribution(levels, likelihoods.categorical_nll, draw, passes=colors)
