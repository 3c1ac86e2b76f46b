"""Methods whose loss is a function of two views' projections and of nothing else.

Barlow Twins, VICReg and W-MSE differ in the loss and in the projector only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.method import Aux, Batch, Method, comparison, default_groups, evaluation_outputs, keep
from byoljax.methods.checks import two_views
from byoljax.methods.plain import plain_init
from byoljax.models.net import Net, Statistics, apply_each, stack

PyTree = Any
Criterion = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


def from_projections(
  net: Net, criterion: Criterion, *, joint_head: bool = False, random: bool = False
) -> Method:
  """A method without target, predictor or memory.

  Args:
    net: outputs 'embedding' and 'projection'. Each view is a forward pass of its own.
    criterion: (projections [b, D] of view 0, of view 1) -> (this device's loss, its named terms).
    joint_head: whether both views go through what follows the encoder in one batch, so that its
      normalization sees them together.
    random: whether `criterion` takes the step's key as its third argument.

  Returns:
    A method with the metrics 'loss/<term>'.
  """

  backbone, head = stack(net.parts[:1]), stack(net.parts[1:])

  def outputs(
    params: PyTree, bn: PyTree, views: Sequence[jax.Array]
  ) -> tuple[list[dict[str, jax.Array]], PyTree]:
    if not joint_head:
      return apply_each(net, params, bn, views)
    made, bn = apply_each(backbone, params, bn, views)
    embeddings = jnp.concatenate([each['embedding'] for each in made])
    together, bn = head.apply(params, bn, embeddings, train=True)
    halves = jnp.split(together['projection'], len(made))
    return [each | {'projection': half} for each, half in zip(made, halves, strict=True)], bn

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    (first, second), bn = outputs(params, state.bn, two_views(batch))
    compared = (first['projection'], second['projection'])
    value, metrics = comparison(compare, compared, state, batch, key, step)
    others = (second['embedding'],)
    aux = Aux(Statistics(bn), metrics, first['embedding'], others=others, compared=compared)
    return value, aux

  def compare(
    compared: tuple[jax.Array, jax.Array], state: Statistics, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    del state, step
    rest = (jax.random.fold_in(key, streams.DIVISION),) if random else ()
    value, terms = criterion(*compared, *rest)
    return value, {f'loss/{name}': term for name, term in terms.items()}

  embed = evaluation_outputs(net, 'embedding', 'projection')
  return Method(
    plain_init(net, lambda batch: two_views(batch)[0]),
    loss,
    keep,
    embed,
    default_groups,
    net=net,
    encodes_all_views=True,
    compare=compare,
    only_encodes_views=True,
  )
