"""Layer-wise learning rates for fine-tuning transformers: lower layers move less.

BEiT's and MAE's rule (Bao et al. 2021, arXiv 2106.08254; the authors' code): with d blocks, what
belongs to layer i learns at decay^(d + 1 - i) times the rate. Layer 0 is what comes before the
blocks (patch embedding, class token, positions), layer i block i, and layer d + 1 everything
behind: the last normalization and the heads, at the full rate (timm counts that normalization to
the last block).
"""

import re
from typing import Any

import jax
import optax

from byoljax.optim.groups import path_name

_BLOCK = re.compile(r'encoder/block(\d+)/')
_FIRST = re.compile(r'encoder/(patch_embed/|cls$|registers$|positions$)')


def layer_factors(params: Any, decay: float) -> Any:
  """The tree of factors of the learning rate, floats in (0, 1].

  Args:
    params: by role; in 'encoder' a vision transformer, all of its blocks.
    decay: from each layer to the one below it, in (0, 1].

  Raises:
    ValueError: the encoder has no numbered blocks.
  """
  names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  blocks = [int(found[1]) for name in names if (found := _BLOCK.match(name))]
  if not blocks and any(name.startswith('encoder/') for name in names):
    raise ValueError(
      f'layer_decay={decay} needs an encoder of numbered blocks, a vision transformer such as '
      'vit_base; leave it at 1.0 for others.'
    )
  top = max(blocks, default=0) + 1

  def factor(path: tuple[Any, ...], _: Any) -> float:
    name = path_name(path)
    block = _BLOCK.match(name)
    layer = int(block[1]) if block else 0 if _FIRST.match(name) else top
    return decay ** (top - layer)

  return jax.tree_util.tree_map_with_path(factor, params)


def scale_by_layer(decay: float) -> optax.GradientTransformation:
  """Multiplies updates, weight decay included, by `layer_factors`."""

  def init(params: Any) -> optax.EmptyState:
    layer_factors(params, decay)  # Refuses what has no layers before anything is trained.
    return optax.EmptyState()

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    factors = layer_factors(updates, decay)
    return jax.tree.map(lambda u, factor: u * factor, updates, factors), state

  return optax.GradientTransformation(init, update)
