"""Image GPT (Chen et al. 2020, *Generative pretraining from pixels*, ICML), autoregressive.

An image is a sequence of colors of a palette, pixel by pixel, row by row; a causal transformer
(`models.image_transformer`) predicts each from those before it. The palette is the k-means of the
data's colors, found before the first step. The paper's other objective, BERT's, is the method
`masked_tokens`.

The same on series of numbers, [T, C] for each, is next-step prediction: a number is one of K
values, given all steps before it and the channels before it in its own step. What is modeled is
discrete, a softmax over the values: it can have several modes, where a normal has one.

Different from the authors' code: the exact GELU, LayerNorm as in GPT-2, AdamW's decay, which
reaches all but biases and LayerNorms, tables of colors and places, too; the palette is of this
run's images, 16 colors of each, in place of the published one of ImageNet.
A "dimension" of 'bits_per_dim' is a pixel's color: log2 K bits for K equally probable ones.
"""

from typing import Any

import jax
from jax import lax

from byoljax.losses import likelihoods
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
from byoljax.methods.generative import palette as palette_lib
from byoljax.methods.generative.raster import HEAD, refuse_condition
from byoljax.methods.plain import plain_init
from byoljax.methods.reconstruction.autoencoder import picture
from byoljax.models.net import Statistics
from byoljax.models.token_transformer import generate
from byoljax.ops import curves
from byoljax.ops.sampling import Sampling

PyTree = Any


def build(make_encoder: MakeEncoder, setting: Setting) -> Method:
  """Builds image GPT from an encoder factory.

  Args:
    make_encoder: a causal `models.image_transformer.ImageTransformer`.
    setting: the run.

  Raises:
    ValueError: another encoder.
  """
  net = palette_lib.token_network(make_encoder, setting, 'gpt')
  encoder, head = net.parts[0][2], net.parts[1][2]

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    view = only_view(batch)
    made, bn = net.apply(params, state.bn, view, train=True)
    tokens = encoder.arranged(palette_lib.tokens_of(state, view))
    value = likelihoods.categorical_nll(made[HEAD], tokens).mean()
    metrics = {'bits_per_dim': likelihoods.bits(lax.stop_gradient(value))}
    return value, Aux(Statistics(bn), metrics, made['embedding'])

  def bits(params: PyTree, state: Statistics, batch: Batch) -> jax.Array:
    view = batch['views'][0]
    made, _ = net.apply(params, state.bn, view, train=False)
    tokens = encoder.arranged(palette_lib.tokens_of(state, view))
    return likelihoods.bits_of_each(likelihoods.categorical_nll(made[HEAD], tokens), tokens[0].size)

  def drawn(
    params: PyTree, state: Statistics, key: jax.Array, sampling: Sampling, prefix: Any = None
  ) -> jax.Array:
    """Normalized images; `prefix` are the first tokens."""
    own = params['encoder']['transformer']
    tokens = generate(encoder.model, own, head, params['decoder'], key, sampling, prefix=prefix)
    return encoder.as_image(palette_lib.colors_of(state, tokens))

  def sample(
    params: PyTree, state: Statistics, key: jax.Array, condition: Any, sampling: Sampling
  ) -> jax.Array:
    refuse_condition(condition)
    if sampling.size != encoder.grid:
      raise ValueError(
        f'size={sampling.size}: this transformer draws images of {encoder.grid} pixels.'
      )
    return picture(drawn(params, state, key, sampling), setting)

  def pictures(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array
  ) -> dict[str, jax.Array]:
    """The upper half, or the earlier one, and how the network goes on."""
    view = batch['views'][0]
    tokens = encoder.arranged(palette_lib.tokens_of(state, view))
    first = tokens[:, : encoder.places[0] // 2].reshape(len(view), -1)
    flat = view.reshape(len(view), -1, view.shape[-1])
    known = flat.at[:, first.shape[1] :].set(0.0).reshape(view.shape)
    output = drawn(params, state, key, Sampling(len(view), encoder.grid), first)
    shown = {'image': view, 'input': known, 'output': output}
    return {name: picture(x, setting) for name, x in shown.items()}

  def show(images: Any) -> Any:
    return curves.draw(encoder.arranged(images)[..., 0])

  return Method(
    plain_init(net), loss, keep, evaluation_outputs(net, 'embedding'), default_groups, net=net,
    refresh=palette_lib.fit_palette(), pictures=pictures, sample=sample,
    show=show if encoder.series else None, bits=bits,
  )  # fmt: skip
