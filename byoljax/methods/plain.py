"""The usual `init` and `post_step` of methods."""

from collections.abc import Callable
from typing import Any

import jax

from byoljax import streams
from byoljax.method import Batch
from byoljax.models.net import Inputs, Net, Statistics, WithTarget
from byoljax.ops import ema

PyTree = Any


def first_view(batch: Batch) -> jax.Array:
  """View 0."""
  return batch['views'][0]


def plain_init(
  net: Net,
  view: Callable[[Batch], jax.Array] = first_view,
  inputs: Callable[[Batch], Inputs] | None = None,
) -> Callable[[jax.Array, Batch], tuple[PyTree, Statistics]]:
  """The `init` of a method that keeps nothing but the running statistics of a network.

  Args:
    net: the network.
    view: (batch) -> the images that it sees; raises ValueError for a batch that does not suit.
    inputs: (batch) -> further named inputs of the network's parts; None: there are none.
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, Statistics]:
    further = () if inputs is None else (inputs(batch),)
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), view(batch), *further)
    return params, Statistics(bn)

  return init


def move_target(
  tau: Callable[[jax.Array], jax.Array],
) -> Callable[[PyTree, WithTarget, jax.Array], tuple[PyTree, WithTarget, dict[str, jax.Array]]]:
  """The `post_step` of a method whose target follows: its weights are tau of the old ones.

  Args:
    tau: (step) -> float32 scalar in [0, 1], the metric 'tau'.
  """

  def post_step(
    params: PyTree, state: WithTarget, step: jax.Array
  ) -> tuple[PyTree, WithTarget, dict[str, jax.Array]]:
    now = tau(step)
    shared = {role: params[role] for role in state.target_params}
    moved = ema.update(state.target_params, shared, now)
    return params, state.replace(target_params=moved), {'tau': now}

  return post_step
