"""Image transformers as methods have them: the network, and the palette of its tokens.

The palette is the k-means of the data's colors, found before the first step.
"""

from typing import Any

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.method import MakeEncoder, Refresh, Setting
from byoljax.methods.generative.raster import FEATURES, HEAD
from byoljax.models.image_transformer import ImageTransformer, names, nearest
from byoljax.models.net import Net, Statistics, stack
from byoljax.models.token_transformer import TokenHead
from byoljax.ops import kmeans

PyTree = Any
COLORS = 'colors'
_OF_AN_IMAGE, _AT_MOST, _ITERATIONS = 16, 200_000, 20


def some_colors(params: PyTree, state: Statistics, images: jax.Array) -> dict[str, jax.Array]:
  """{'colors': [N, 16 C]}: those of 16 pixels of each image, spread over it."""
  del params, state
  flat = jnp.asarray(images).reshape(len(images), -1, images.shape[-1])
  count = flat.shape[1]
  # No two in one column where sides are a power of two.
  places = (jnp.arange(_OF_AN_IMAGE) * (count // _OF_AN_IMAGE + 1)) % count
  return {COLORS: flat[:, places].reshape(len(images), -1)}


def tokens_of(state: Statistics, images: jax.Array) -> jax.Array:
  """The tokens of normalized images, one for each pixel: int32 [b,S,S]."""
  return nearest(state.bn['encoder']['palette'], images)


def colors_of(state: Statistics, tokens: jax.Array) -> jax.Array:
  """The inverse, up to the palette: normalized images [b,S,S,C]."""
  return jnp.take(jnp.asarray(state.bn['encoder']['palette']), tokens, axis=0)


def fit_palette() -> Refresh:
  """K-means of the colors of the training images, once, before step 0.

  Where there are fewer colors than the palette has places, the others keep what the network put
  there. A run that starts from given weights keeps their palette, whose numbers they know.
  """

  def apply(
    params: PyTree, state: Statistics, features: Any, key: jax.Array, step: int
  ) -> tuple[PyTree, Statistics]:
    if step > 0:
      return params, state
    own = state.bn['encoder']['palette']
    colors = jnp.asarray(features()[COLORS]).reshape(-1, own.shape[-1])
    colors = colors[:: -(-len(colors) // _AT_MOST)]
    found, _ = kmeans.kmeans(
      colors,
      min(len(own), len(colors)),
      key=jax.random.fold_in(key, streams.CLUSTERING),
      iterations=_ITERATIONS,
      spherical=False,
    )
    palette = own.at[: len(found)].set(found)
    return params, state.replace(bn=state.bn | {'encoder': {'palette': palette}})

  # Never again: later steps would give tokens another meaning.
  return Refresh(every=2**31 - 1, apply=apply, embed=some_colors, initial=True)


def token_network(make_encoder: MakeEncoder, setting: Setting, kind: str) -> Net:
  """An image transformer and a head: outputs 'embedding' [b, D] and 'logits' [b, S, S, K].

  Args:
    make_encoder: makes it.
    setting: the run.
    kind: 'gpt', causal, or 'bert'.

  Raises:
    ValueError: another encoder.
  """
  encoder = make_encoder(setting.axis)
  if not isinstance(encoder, ImageTransformer) or encoder.causal != (kind == 'gpt'):
    raise ValueError(
      f'this method needs encoder.name one of {", ".join(names(kind))}, with encoder.input=rgb.'
    )
  head = TokenHead(encoder.palette, dtype=jnp.dtype(setting.dtype))
  parts = (('encoder', 'embedding', encoder), ('decoder', HEAD, head))
  return stack(parts, reads={'decoder': FEATURES})
