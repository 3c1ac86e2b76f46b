"""Masked tokens: BERT (Devlin et al. 2018, arXiv 1810.04805) on the colors of an image.

Some pixels of an image, as colors of a palette, are hidden from a transformer that sees all others,
before and behind, and it names them. Of what is to be named most is hidden, some is replaced by
another color at random, and some is left as it is, so that every token may be asked for (BERT's 80,
10 and 10 %). With all of it hidden it is the second objective of image GPT (Chen et al. 2020).
Hidden are places anywhere, or rectangles as in BEiT (Bao et al. 2021, arXiv 2106.08254), which is
a method of its own: it names the codes of a codec.

It predicts tokens of a data set, but there is no product of its predictions that is a probability
of images: nothing is sampled, and there are no bits per dimension.

Different from the papers: exactly the same number of tokens is asked for in every image; what
stands for a hidden token is learned and starts as a normal, where image GPT has zeros; the palette
is found as in `image_gpt`; there is no further layer before the logits.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byoljax import streams
from byoljax.devices import collectives
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
from byoljax.methods.generative.raster import HEAD
from byoljax.methods.plain import plain_init
from byoljax.methods.reconstruction.autoencoder import picture
from byoljax.models.net import Statistics
from byoljax.ops import masking

PyTree = Any


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  mask_ratio: float = 0.15,
  treatment: Sequence[float] = (0.8, 0.1, 0.1),
  least_block: int = 0,
) -> Method:
  """Builds masked prediction of tokens from an encoder factory and its configuration.

  Args:
    make_encoder: a `models.image_transformer.ImageTransformer` that sees in both directions.
    setting: the run.
    mask_ratio: share of the tokens that is asked for, above 0 and below 1.
    treatment: shares of these that are hidden, replaced by another token, and left; 1 together.
    least_block: places of the smallest rectangle; 0: places anywhere.

  Raises:
    ValueError: a value out of range, or another encoder.
  """
  _check(mask_ratio, treatment, least_block)
  net = palette_lib.token_network(make_encoder, setting, 'bert')
  encoder = net.parts[0][2]
  grid, colors = encoder.grid, encoder.palette
  if encoder.series:
    raise ValueError('masked_tokens reads images, not series: train image_gpt on these.')
  asked_for = grid**2 - masking.visible_count(grid**2, mask_ratio)
  if least_block > asked_for:
    raise ValueError(
      f'least_block={least_block} is more than the {asked_for} tokens that are asked for.'
    )

  def asked(images: jax.Array, key: jax.Array, axis: str | None) -> jax.Array:
    """Which tokens of each image are asked for, bool [b,S,S]."""
    return masking.draw_masks(
      key, len(images), grid, grid, asked_for, least_block=least_block, axis=axis
    )

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    del step
    view = only_view(batch)
    encoder.check_size(view)
    where = asked(view, key, setting.axis)
    own = jax.random.fold_in(key, streams.REPLACED)
    keys = collectives.example_keys(own, len(view), setting.axis)
    chance, other = jax.vmap(lambda key: jax.random.uniform(key, (2, grid, grid)), 0, 1)(keys)
    hidden = where & (chance < treatment[0])
    replaced = where & (chance >= treatment[0]) & (chance < treatment[0] + treatment[1])
    seen = jnp.where(hidden[..., None], 0.0, view)
    other = jnp.where(replaced, jnp.floor(other * colors).astype(jnp.int32), -1)
    return batch | {
      'views': (seen,), 'target': view, 'asked': where, 'hidden': hidden, 'other': other
    }  # fmt: skip

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    tokens, where = palette_lib.tokens_of(state, batch['target']), batch['asked']
    given = jnp.where(batch['other'] >= 0, batch['other'], tokens)
    inputs = {'encoder': {'tokens': given, 'hidden': batch['hidden']}}
    made, bn = net.apply(params, state.bn, batch['views'][0], train=True, inputs=inputs)
    nats = likelihoods.categorical_nll(made[HEAD], tokens)
    total = len(where) * asked_for
    value = jnp.where(where, nats, 0.0).sum() / total
    right = (made[HEAD].argmax(-1) == tokens) & where
    metrics = {'masked_accuracy': right.sum() / total, 'masked_bits': likelihoods.bits(value)}
    return value, Aux(Statistics(bn), lax.stop_gradient(metrics), made['embedding'])

  def pictures(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array
  ) -> dict[str, jax.Array]:
    """With all that is asked for hidden, and named by its most probable color."""
    view = batch['views'][0]
    where = asked(view, key, None)
    inputs = {'encoder': {'hidden': where}}
    made, _ = net.apply(params, state.bn, view, train=False, inputs=inputs)
    tokens = jnp.where(where, made[HEAD].argmax(-1), palette_lib.tokens_of(state, view))
    named = palette_lib.colors_of(state, tokens)
    shown = {'image': view, 'input': jnp.where(where[..., None], 0.0, view), 'output': named}
    return {name: picture(x, setting) for name, x in shown.items()}

  return Method(
    plain_init(net), loss, keep, evaluation_outputs(net, 'embedding'), default_groups, net=net,
    transform=transform, refresh=palette_lib.fit_palette(), pictures=pictures,
  )  # fmt: skip


def _check(mask_ratio: float, treatment: Sequence[float], least_block: int) -> None:
  """Raises ValueError unless the values make sense."""
  if not 0 < mask_ratio < 1:
    raise ValueError(f'mask_ratio={mask_ratio} must be above 0 and below 1, such as 0.15.')
  if len(treatment) != 3 or min(treatment) < 0 or abs(sum(treatment) - 1) > 1e-6:
    raise ValueError(
      f'treatment={tuple(treatment)} must be the shares that are hidden, replaced and left, which '
      'are 1 together, such as (0.8, 0.1, 0.1).'
    )
  if not treatment[0] + treatment[1]:
    raise ValueError(
      f'treatment={tuple(treatment)} shows everything that is asked for: hide or replace some.'
    )
  if least_block < 0:
    raise ValueError(f'least_block={least_block} must be at least 0; 0 masks places anywhere.')
