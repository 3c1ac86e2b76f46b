"""A linear classifier on a frozen encoder, written as one more method.

Several heads train side by side on the same features, one per learning rate: their parameters are
stacked along a leading axis and their losses added, so no head sees another. Likewise several taps
of the network can get heads of their own, all trained in one pass over the images: the probe layer
by layer of the papers on pretext tasks (Goyal et al., arXiv 1905.01235). The encoder is part of
the method state. It runs in evaluation mode, gets no gradient, and comes out bit for bit as it went
in, which the caller checks.

Protocol of BYOL's linear evaluation (arXiv 2006.07733, appendix C.1): SGD with Nesterov momentum,
no weight decay, cosine schedule, random crops and flips only, the learning rate chosen on
held-out training images. The heads start at zero, which is where the convex problem may start as
well as anywhere; the authors' code draws them from a truncated normal. How other papers' probes
differ is configuration (`configs/linear.py`): the optimizer, the start, and MAE's normalization of
the features.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any

import flax.struct
import jax
from jax import lax
import jax.numpy as jnp

from byoljax import streams
from byoljax.losses import classification
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Setting,
  default_groups,
  keep,
)
from byoljax.models import heads, pooling
from byoljax.models.net import Net, stack
from byoljax.models.taps import gridded
from byoljax.suggest import check_name

PyTree = Any


Read = Callable[[PyTree, PyTree, jax.Array], dict[str, jax.Array]]
FEATURES = 'features'  # where the only heads are, in params['head']
PIXELS = 'pixels'


class FrozenEncoder(flax.struct.PyTreeNode):
  """The encoder under the probe: its parameters and running statistics, by role.

  Attributes:
    params: never change.
    bn: never change.
    norm: running statistics of each of the features, by name, where they are normalized.
  """

  params: PyTree
  bn: PyTree
  norm: PyTree


def linear_probe(
  frozen: Any,
  num_classes: int,
  num_heads: int,
  *,
  kernel_init: str = 'zeros',
  norm: Net | None = None,
  read: Read | None = None,
) -> Method:
  """Linear heads over a frozen network's features.

  Args:
    frozen: the network, see `method.Setting.given`.
    num_classes: C.
    num_heads: L, the number of stacked heads.
    kernel_init: how kernels are initialized, the same for every head: see `heads.LinearHead`.
    norm: normalizes the features before the heads; output 'normalized'. None: they are not.
    read: (params, running statistics, normalized images) -> features by name, [N, D] or maps
      [N, h, w, C], in evaluation mode. None: the network's own, by the name `FEATURES`.

  Returns:
    A method with parameters {'head': {name: {'kernel' [L, D, C], 'bias' [L, 1, C]}}}; `embed` adds
    the tap 'logits' [N, T * L * C], the T features in the order in which they are read.
  """

  head = stack((('head', 'logits', heads.LinearHead(num_classes, kernel_init)),))

  def _read(state: FrozenEncoder, images: jax.Array) -> dict[str, jax.Array]:
    if read is None:
      return {FEATURES: frozen.read(state.params, state.bn, images)}
    return read(state.params, state.bn, images)

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, FrozenEncoder]:
    params, bn = jax.tree.map(jnp.array, (frozen.params, frozen.bn))
    found = jax.eval_shape(_read, FrozenEncoder(params, bn, {}), batch['views'][0])
    made, statistics = {}, {}
    for name, shape in found.items():
      rows = jax.ShapeDtypeStruct((shape.shape[0], math.prod(shape.shape[1:])), shape.dtype)
      one = head.init(jax.random.fold_in(key, streams.HEAD), rows)[0]['head']['linear1']
      made[name] = {leaf: jnp.tile(value, (num_heads, 1, 1)) for leaf, value in one.items()}
      if norm:
        statistics[name] = norm.init(key, shape)[1]
    return {'head': made}, FrozenEncoder(params, bn, statistics)

  def _logits(
    params: PyTree, state: FrozenEncoder, found: dict[str, jax.Array], train: bool
  ) -> tuple[jax.Array, FrozenEncoder]:
    """[T * L, N, C] in float32."""
    each, statistics = [], dict(state.norm)
    for name, x in found.items():
      if norm:
        outputs, statistics[name] = norm.apply({'norm': {}}, state.norm[name], x, train=train)
        x = outputs['normalized']
      stacked = params['head'][name]
      x = x.reshape(x.shape[0], -1)
      each.append(jnp.einsum('nd,ldc->lnc', x, stacked['kernel']) + stacked['bias'])
    return jnp.concatenate(each), state.replace(norm=statistics)

  def loss(
    params: PyTree, state: FrozenEncoder, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    found = lax.stop_gradient(_read(state, batch['views'][0]))
    logits, state = _logits(params, state, found, train=True)
    each = jax.vmap(classification.cross_entropy, (0, None))(logits, batch['label'])
    right = jax.vmap(classification.accuracy, (0, None))(logits, batch['label'])
    metrics = {'loss': jnp.nanmin(each), 'top1': right.max()}
    return each.sum(), Aux(state, metrics, _last(found))

  def embed(params: PyTree, state: FrozenEncoder, images: jax.Array) -> dict[str, jax.Array]:
    found = _read(state, images)
    logits, _ = _logits(params, state, found, train=False)
    # Fewer heads than at first when the caller has picked some.
    rows = jnp.moveaxis(logits, 0, 1).reshape(images.shape[0], -1)
    return {'embedding': _last(found), 'logits': rows}

  return Method(init, loss, keep, embed, default_groups)


def _last(found: dict[str, jax.Array]) -> jax.Array:
  x = list(found.values())[-1]
  return x.reshape(x.shape[0], -1)


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  num_heads: int = 1,
  kernel_init: str = 'zeros',
  norm: bool = False,
  taps: Sequence[str] = (),
  dimensions: int = 9216,
  pool: str = 'mean',
) -> Method:
  """Builds the probe on a pretrained encoder.

  Args:
    make_encoder: not needed: `setting.given['encoder']` brings its own.
    setting: the run; it must name the classes and hold the network.
    num_heads: how many heads train side by side, one per learning rate.
    kernel_init: a key of `heads.KERNEL_INITS`.
    norm: batch normalization of the features, without scale and shift (MAE, arXiv 2111.06377,
      appendix A.1); of maps, channel by channel.
    taps: outputs of the network that all get heads of their own; 'pixels' are the images. () is the
      encoder's own output.
    dimensions: about how many values of a map the heads of a tap read, see `taps.gridded`.
    pool: how maps are pooled to that, 'mean' or 'max'.

  Raises:
    ValueError: the data have no labels, there is no encoder to probe, or an unknown kernel_init or
      pool, or dimensions below 1.
  """
  del make_encoder
  if setting.num_classes < 2:
    raise ValueError('a linear probe needs labelled images of at least 2 classes.')
  encoder = setting.given.get('encoder')
  if encoder is None:
    raise ValueError('a linear probe needs a pretrained encoder: set config.pretrained.')
  if kernel_init not in heads.KERNEL_INITS:
    raise ValueError(f"kernel_init='{kernel_init}' is not one of {', '.join(heads.KERNEL_INITS)}.")
  check_name('pool', pool, pooling.REDUCTIONS)
  if dimensions < 1:
    raise ValueError(f'dimensions={dimensions} must be at least 1, such as 9216.')

  def read(params: PyTree, bn: PyTree, images: jax.Array) -> dict[str, jax.Array]:
    found = encoder.net.apply(params, bn, images, train=False)[0] | {PIXELS: images}
    return {tap: gridded(found[tap], dimensions, pool, encoder.pool) for tap in taps}

  return linear_probe(
    encoder,
    setting.num_classes,
    num_heads,
    kernel_init=kernel_init,
    norm=stack((('norm', 'normalized', heads.FeatureNorm(setting.axis)),)) if norm else None,
    read=read if taps else None,
  )
