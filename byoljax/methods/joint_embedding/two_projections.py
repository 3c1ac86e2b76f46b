"""Methods whose loss is a function of two views' projections and of nothing else.

Barlow Twins, VICReg and W-MSE differ in the loss and in the projector only.
"""

from collections.abc import Callable
from typing import Any

import jax

from byoljax import streams
from byoljax.method import Aux, Batch, Method, default_groups, evaluation_outputs, keep
from byoljax.models.net import Net, Statistics, apply_each

PyTree = Any
Criterion = Callable[[jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def from_projections(net: Net, criterion: Criterion) -> Method:
  """A method without target, predictor or memory.

  Args:
    net: outputs 'embedding' and 'projection'. Each view is a forward pass of its own.
    criterion: (projections [b, D] of view 0, of view 1) -> (this device's loss, its named terms).

  Returns:
    A method with the metrics 'loss/<term>'.
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, Statistics]:
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), batch['views'][0])
    return params, Statistics(bn)

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    (first, second), bn = apply_each(net, params, state.bn, batch['views'])
    value, terms = criterion(first['projection'], second['projection'])
    metrics = {f'loss/{name}': term for name, term in terms.items()}
    return value, Aux(Statistics(bn), metrics, first['embedding'], others=(second['embedding'],))

  embed = evaluation_outputs(net, 'embedding', 'projection')
  return Method(init, loss, keep, embed, default_groups, net=net, encodes_all_views=True)
