"""The 'random rescaled' baseline: a random network whose every unit fits the data.

Krähenbühl, Doersch, Donahue, Darrell, "Data-dependent initializations of convolutional neural
networks" (arXiv 1511.06856), its within-layer step on the network's own random kernels: layer by
layer, in the order in which they compute, every unit is made to have mean 0 and standard deviation
1 over some images (and all places of a map), given the layers below it that have been treated
already.

    kernel /= std(unit),   bias -> (bias - mean(unit)) / std(unit)

Batch normalization takes the images' mean and variance for its running statistics, which does the
same to the convolution below it, that has no bias. A linear layer without a bias is scaled only.
Units that are constant over the images keep their scale.

With weight normalization it is the scale that is divided, not the kernel: the data-dependent start
of Salimans and Kingma (arXiv 1602.07868, section 3). Layers that ask for another deviation than 1
(`ShiftedConv.scale`) get that.

Left out: the between-layer step, a factor for each layer that makes all of them learn at one rate
when the network is fine-tuned. It only scales the features of a network of convolutions and ReLUs,
and nothing is fine-tuned here. The paper's better start with k-means or principal components of
patches is another baseline, which tables call by these names.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from byoljax.models.net import BatchStats, Net, Params, read_source
from byoljax.models.pixelcnn import CausalConv
from byoljax.models.pixelcnn_pp import ShiftedConv

# A unit that varies by less than this counts as constant: ReLUs that are never on, say.
_LEAST_STD = 1e-6


def rescaled(
  net: Net, params: Params, batch_stats: BatchStats, images: jax.Array
) -> tuple[Params, BatchStats]:
  """Parameters and running statistics that fit the images; see the module.

  Args:
    net: a stack of convolutions, linear layers and batch normalization; other layers stay as they
      are.
    params: a random draw of `net.init`.
    batch_stats: its running statistics.
    images: float32 [b,H,W,3], as the network gets them. One forward pass of all: b counts.
  """

  @jax.jit
  def fit(params: Params, batch_stats: BatchStats, x: jax.Array) -> tuple[Params, BatchStats]:
    new_params, new_stats = {}, {}
    sources, made = dict(net.reads), {}
    for role, name, module in net.parts:
      if role in sources:
        x = read_source(sources[role], made)
      found: dict[tuple[str, ...], dict[str, jax.Array]] = {}
      variables = {'params': params[role], 'batch_stats': batch_stats[role]}
      module = _without_remat(module)
      with nn.intercept_methods(_recorder(found)):
        # Train mode: batch normalization sees what its running statistics are going to be.
        # Modules around others, too, read inner maps.
        mutable = ['batch_stats', 'intermediates']
        x, updates = module.apply(variables, x, train=True, mutable=mutable)
      made |= {
        f'{role}/{tap}': sown[0]
        for tap, sown in (updates.get('intermediates') or {}).items()
        if isinstance(sown, tuple)  # Otherwise those of a module within.
      }
      made[name] = x
      new_params[role] = _replaced(params[role], found)
      new_stats[role] = _replaced(batch_stats[role], found)
    return new_params, new_stats

  return fit(params, batch_stats, images)


def _without_remat(module: nn.Module) -> nn.Module:
  """The module, and those among its fields: what is computed twice cannot be written down."""
  changes: dict[str, Any] = {'remat': False} if getattr(module, 'remat', False) else {}
  for field in dataclasses.fields(module):
    within = getattr(module, field.name, None)
    if field.name != 'parent' and isinstance(within, nn.Module):
      changes[field.name] = _without_remat(within)
  return module.clone(**changes) if changes else module


def _recorder(found: dict[tuple[str, ...], dict[str, jax.Array]]) -> Any:
  """Normalizes what linear layers put out, and writes down the variables that do so by path."""

  def intercept(call: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any) -> Any:
    module = context.module
    if context.method_name != '__call__':
      return call(*args, **kwargs)
    if isinstance(module, nn.BatchNorm):
      mean, variance = _moments(args[0])
      found[module.path] = {'mean': mean, 'var': variance}
    y = call(*args, **kwargs)
    if not isinstance(module, nn.Dense | nn.Conv | nn.ConvTranspose | CausalConv | ShiftedConv):
      return y
    mean, variance = _moments(y)
    own = module.variables['params']
    std = jnp.sqrt(variance) / getattr(module, 'scale', 1.0)
    std = jnp.where(std > _LEAST_STD, std, 1.0)
    name = 'scale' if 'scale' in own else 'kernel'
    found[module.path] = {name: own[name] / _row(std, own[name])}
    if 'bias' not in own:
      return (y / _row(std, y)).astype(y.dtype)
    found[module.path]['bias'] = (own['bias'] - mean) / std
    return ((y - _row(mean, y)) / _row(std, y)).astype(y.dtype)

  return intercept


def _row(x: jax.Array, like: jax.Array) -> jax.Array:
  return x[(None,) * (like.ndim - 1)]


def _moments(y: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean and variance over all but the last axis, float32, in two passes."""
  y = lax.stop_gradient(y).astype(jnp.float32)
  axes = tuple(range(y.ndim - 1))
  mean = jnp.mean(y, axes)
  return mean, jnp.mean(jnp.square(y - _row(mean, y)), axes)


def _replaced(tree: Any, found: dict[tuple[str, ...], dict[str, jax.Array]]) -> Any:
  """The tree with what was found in the places of its namesakes."""

  def pick(path: Any, leaf: jax.Array) -> jax.Array:
    names = tuple(key.key for key in path)
    return found.get(names[:-1], {}).get(names[-1], leaf)

  return jax.tree_util.tree_map_with_path(pick, tree)
