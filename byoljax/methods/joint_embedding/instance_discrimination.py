"""Instance discrimination with a memory bank (Wu et al. 2018, arXiv 1805.01978).

Every image is a class of its own. A bank holds one unit vector per image, a moving average of the
image's past projections, and the loss asks which entry a new projection of the image belongs to:
among all entries (`full_softmax`), among noise by noise-contrastive estimation (`nce`, the
paper's equation 7), or among noise by a softmax (`infonce`, the authors' later model).

As in the authors' code: one view per image; the bank is read before and written after the loss;
it starts with uniform noise of length about 1; NCE's normalizing constant is estimated once, from
the first batch, positives included, and never again.

Different from the authors' code:
- noise is a function of (key, global position of the example), so it does not depend on the number
  of devices; it is drawn with replacement, uniformly;
- `fill` starts the bank with the untrained network's projections, and `output_norm` normalizes over
  the batch after the projector: both off unless a recipe asks for them;
- `ensure_negatives` draws from the other N - 1 images directly, where theirs never checks;
- the constant is the mean over the batch of all devices, kept as a logarithm;
- batch statistics are shared by all devices;
- the proximal term (equation 9) is absent, as it is from their code.

The bank has N x D floats, 656 MB for ImageNet, on every device unless they share it
(`train.shard_state`). `nce` and `infonce` gather [b, K, D] entries of it; `full_softmax` needs
[b, N] similarities.
"""

from collections.abc import Sequence
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byoljax import streams
from byoljax.devices import collectives
from byoljax.losses import contrastive
from byoljax.losses import nce as nce_loss
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Refresh,
  Setting,
  default_groups,
  evaluation_outputs,
  keep,
)
from byoljax.methods.checks import check_sizes, only_view
from byoljax.models import heads
from byoljax.models.net import Net, Statistics
from byoljax.ops import bank as bank_ops
from byoljax.ops import memory, sphere

PyTree = Any

CRITERIA = ('full_softmax', 'nce', 'infonce')
_UNKNOWN = -1e30


class InstanceState(Statistics):
  """What instance discrimination changes without a gradient.

  Attributes:
    bank: float32 [N, D], one entry per training image.
    log_z: float32 [], logarithm of NCE's normalizing constant Z; -1e30 until the first batch.
  """

  bank: jax.Array
  log_z: jax.Array


def noise_indices(
  key: jax.Array,
  positions: jax.Array,
  count: int,
  size: int,
  exclude: jax.Array | None = None,
) -> jax.Array:
  """Uniform draws with replacement from 0, ..., size - 1: int32 [b, count].

  Args:
    key: the same on all devices.
    positions: int32 [b], the examples' positions in the global batch; row i is a function of the
      key and positions[i] alone.
    count: draws per example.
    size: N >= 2.
    exclude: int32 [b] or None; row i never holds exclude[i].
  """

  def row(position: jax.Array, own: jax.Array) -> jax.Array:
    own_key = jax.random.fold_in(key, position)
    if exclude is None:
      return jax.random.randint(own_key, (count,), 0, size)
    # One draw fewer, and those from `own` on move up by one: uniform over the others.
    drawn = jax.random.randint(own_key, (count,), 0, size - 1)
    return drawn + (drawn >= own)

  return jax.vmap(row)(positions, positions if exclude is None else exclude)


def instance_discrimination(
  net: Net,
  *,
  num_examples: int,
  dim: int,
  criterion: str,
  temperature: float,
  bank_momentum: float,
  num_noise: int,
  ensure_negatives: bool,
  refresh: Refresh | None,
  axis: str | None,
) -> Method:
  """Instance discrimination over a network; `build` makes it.

  Args:
    net: outputs 'embedding' and 'projection' [b, dim].
    num_examples: N, entries of the bank.
    dim: D, size of a projection.
    criterion: one of `CRITERIA`.
    temperature: of all criteria.
    bank_momentum: weight of an entry's old value in [0, 1).
    num_noise: K, noise entries per example; not used by 'full_softmax'.
    ensure_negatives: whether an image is never its own noise.
    refresh: what fills the bank, or None.
    axis: the mapped axis, or None.
  """

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, InstanceState]:
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), only_view(batch))
    entries = bank_ops.init(jax.random.fold_in(key, streams.BANK), num_examples, dim)
    return params, InstanceState(bn, entries, jnp.full((), _UNKNOWN, jnp.float32))

  def read(bank: jax.Array, index: jax.Array) -> jax.Array:
    return memory.take(bank, index, size=num_examples, axis=axis)

  def criterion_of(
    z: jax.Array, own: jax.Array, state: InstanceState, index: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """This device's loss, and log Z, of projections and the entries of the same images."""
    positive = jnp.sum(z * own, axis=-1) / temperature
    if criterion == 'full_softmax':
      total = memory.log_sum_exp(z, state.bank, temperature, size=num_examples, axis=axis)
      return jnp.mean(total - positive), state.log_z
    positions = collectives.positions(len(index), axis)
    exclude = index if ensure_negatives else None
    noise = read(state.bank, noise_indices(key, positions, num_noise, num_examples, exclude))
    if criterion == 'infonce':
      return contrastive.info_nce(z, own, noise, temperature).mean(), state.log_z
    negatives = jnp.einsum('bd,bkd->bk', z, noise, precision=lax.Precision.HIGHEST) / temperature
    measured = _log_constant(positive, negatives, num_examples, axis)
    log_z = jnp.where(state.log_z > _UNKNOWN, state.log_z, measured)
    each = nce_loss.nce(positive, negatives, log_z, num_noise, num_examples)
    return each.mean(), log_z

  def loss(
    params: PyTree, state: InstanceState, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del step
    outputs, bn = net.apply(params, state.bn, only_view(batch), train=True)
    z, index = sphere.normalize(outputs['projection']), batch['index']
    own = read(state.bank, index)
    negatives = jax.random.fold_in(key, streams.NEGATIVES)
    value, log_z = criterion_of(z, own, state, index, negatives)
    fixed = lax.stop_gradient(z)
    metrics = {
      'positive_cosine': jnp.mean(jnp.sum(fixed * sphere.normalize(own), axis=-1)),
    }
    if criterion == 'nce':
      metrics['log_z'] = log_z
    rows = collectives.all_gather((index, fixed), axis)
    return value, Aux(state.replace(bn=bn, log_z=log_z), metrics, outputs['embedding'], rows)

  def remember(state: InstanceState, rows: PyTree, finite: jax.Array) -> InstanceState:
    places, newest = rows
    bank = bank_ops.update(
      state.bank, places, newest, bank_momentum, valid=finite, size=num_examples, axis=axis
    )
    return state.replace(bank=bank)

  embed = evaluation_outputs(net, 'embedding', 'projection')
  return Method(
    init,
    loss,
    keep,
    embed,
    default_groups,
    refresh,
    remember,
    net=net,
    memories=(('bank',),),
    only_encodes_views=True,
  )


def _filled(
  params: PyTree, state: InstanceState, features: Any, key: jax.Array, step: int
) -> tuple[PyTree, InstanceState]:
  """The bank before the first step: every image's projection."""
  del key, step
  return params, state.replace(bank=sphere.normalize(jnp.asarray(features()['projection'])))


def _log_constant(
  positive: jax.Array, negatives: jax.Array, num_examples: int, axis: str | None
) -> jax.Array:
  """log Z = log(N mean exp(logit)) over the positives and noise of all devices; no gradient."""
  logits = lax.stop_gradient(jnp.concatenate([positive[:, None], negatives], axis=1))
  each = collectives.all_gather(jax.nn.logsumexp(logits)[None], axis)
  return jax.nn.logsumexp(each) + math.log(num_examples / (logits.size * each.size))


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  projector: Sequence[int] = (128,),
  criterion: str = 'nce',
  temperature: float = 0.07,
  bank_momentum: float = 0.5,
  num_noise: int = 4096,
  ensure_negatives: bool = False,
  output_norm: bool = False,
  fill: bool = False,
  head_init: str = 'fan_in',
) -> Method:
  """Builds instance discrimination from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run; `num_examples` is the size of the bank.
    projector: sizes of the layers from the embedding to the projection; one number is the paper's
      single linear layer.
    criterion: one of `CRITERIA`; the paper's `nce` for ImageNet, `full_softmax` for CIFAR-10.
    temperature: the paper's .07; .1 for CIFAR-10.
    bank_momentum: weight of the old entry, in [0, 1).
    num_noise: noise entries per example: 4096 for `nce`, 65536 for `infonce`.
    ensure_negatives: whether an image is never its own noise.
    output_norm: batch normalization without affine after the projector. An image's own entry is the
      oldest in the bank: a network that moves fast can tell entries by their age instead of by
      their image, from the mean of its projections, which this takes away. The paper has none.
    fill: whether the bank starts with the untrained network's projections; the paper: with noise,
      so that the first epoch has nothing to learn from.
    head_init: how kernels of the heads start, a key of `heads.KERNEL_INITS`; 'torch' as in
      PyTorch.

  Raises:
    ValueError: an unknown criterion, a value out of range, fewer than two images.
  """
  if criterion not in CRITERIA:
    raise ValueError(f"criterion='{criterion}' is not one of {', '.join(CRITERIA)}.")
  check_sizes(projector)
  contrastive.check_temperature(temperature)
  if not 0.0 <= bank_momentum < 1.0:
    raise ValueError(f'bank_momentum={bank_momentum} must be at least 0 and below 1.')
  if num_noise < 1:
    raise ValueError(f'num_noise={num_noise} must be at least 1.')
  if setting.num_examples < 2:
    raise ValueError(
      f'instance discrimination tells images apart and needs at least 2, got '
      f'{setting.num_examples}.'
    )
  head = heads.MLPHead(
    features=tuple(projector),
    last_bias=not output_norm,
    last_norm='bn_no_affine' if output_norm else 'none',
    bn_axis=setting.axis,
    dtype=jnp.dtype(setting.dtype),
    kernel_init=head_init,
  )
  net = heads.with_projector(make_encoder(setting.axis), head)
  return instance_discrimination(
    net,
    num_examples=setting.num_examples,
    dim=projector[-1],
    criterion=criterion,
    temperature=temperature,
    bank_momentum=bank_momentum,
    num_noise=num_noise,
    ensure_negatives=ensure_negatives,
    refresh=Refresh(setting.length.total_steps, _filled) if fill else None,
    axis=setting.axis,
  )
