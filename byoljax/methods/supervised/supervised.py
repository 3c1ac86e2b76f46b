"""Supervised training of a whole network, written as one more method: fine-tuning, or from scratch.

The encoder starts from `setting.given['encoder']` where there is one, the linear classifier on top
at zero (SimCLR v2's start), and everything is trained by cross-entropy on the labels. With
`head_layers` the first layers of the pretrained projector stay between the two, as SimCLR v2
fine-tunes (arXiv 2006.10029, section 2). Images with several labels each get one binary
classifier per class, the sum of whose losses is minimized.

Protocols differ in their optimizers, which are configuration, and in batch normalization: all of
those in our reference use the batch's statistics. For vision transformers, as MAE fine-tunes them:
stochastic depth (drop path), mixup, CutMix and label smoothing; layer-wise rates are the
optimizer's (`optim.layerwise`). Left out: RandAugment and random erasing, which MAE's recipe adds;
the encoder's momentum of running statistics is that of pretraining, which SimCLR and BYOL adapt to
the size of the data set.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from byoljax import streams
from byoljax.data.augment import mixing
from byoljax.devices import collectives
from byoljax.losses import classification
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Setting,
  evaluation_outputs,
  keep,
)
from byoljax.methods import checks
from byoljax.models import heads
from byoljax.models.net import Inputs, Net, Statistics, modules_in_order, stack
from byoljax.ops import stochastic_depth

PyTree = Any
ALL = 'all'
TARGETS = 'label_targets'


class Regularization(NamedTuple):
  """What keeps a large network from learning the training images by heart; 0 turns each off.

  Attributes:
    drop_path: how often the branches of a vision transformer's last block are left out, in [0, 1);
      those of the first never are.
    mixup: a of mixup's Beta(a, a).
    cutmix: a of CutMix's; with both, each batch is one of them.
    label_smoothing: in [0, 1).
  """

  drop_path: float = 0.0
  mixup: float = 0.0
  cutmix: float = 0.0
  label_smoothing: float = 0.0

  @property
  def mixes(self) -> bool:
    """Whether images are mixed."""
    return bool(self.mixup or self.cutmix)

  @property
  def soft(self) -> bool:
    """Whether labels become distributions over the classes."""
    return self.mixes or self.label_smoothing > 0

  def check_labels(self, several: bool) -> None:
    """Raises ValueError where images have several labels, which are not mixed or smoothed."""
    if several and self.soft:
      raise ValueError(
        'mixup, CutMix and label smoothing are for images with one label each: set them to 0.0.'
      )

  def check(self, encoder: Any) -> None:
    """Raises ValueError for a value out of range, or an encoder without branches to leave out."""
    for name in ('drop_path', 'label_smoothing'):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)} must be at least 0 and below 1.')
    for name in ('mixup', 'cutmix'):
      if getattr(self, name) < 0:
        raise ValueError(f'{name}={getattr(self, name)} must not be negative; 0 turns it off.')
    if self.drop_path and not hasattr(encoder, 'depth'):
      raise ValueError(
        f'drop_path={self.drop_path} needs a vision transformer, such as vit_base; leave it at 0.0.'
      )


NOTHING = Regularization()


def supervised(
  net: Net,
  start: Any,
  *,
  batch_norm: str,
  classes: int = 0,
  regularization: Regularization = NOTHING,
  frozen: Sequence[str] = (),
  axis: str | None = None,
) -> Method:
  """Supervised training of a network; `build` makes it.

  Args:
    net: outputs 'embedding' and 'logits' [b, C]; its role 'head' is the classifier.
    start: has the weights of some of its other roles, see `method.Setting.given`; or None.
    batch_norm: 'batch' normalizes with the batch's statistics, 'frozen' with the running ones.
    classes: C, for labels that are mixed or smoothed.
    regularization: see `Regularization`.
    frozen: paths in the parameters, 'encoder/stage1_block0', at which nothing is trained.
    axis: mapped axis.
  """
  soft = regularization.soft

  def is_frozen(path: tuple[Any, ...]) -> bool:
    place = jax.tree_util.keystr(path, simple=True, separator='/')
    return any(place.startswith(f'{prefix}/') for prefix in frozen)

  def groups(params: PyTree) -> PyTree:
    return jax.tree_util.tree_map_with_path(
      lambda path, _: 'frozen' if is_frozen(path) else 'default', params
    )

  def held(params: PyTree) -> PyTree:
    """Without gradients of what is frozen, which then need not be computed."""
    return jax.tree_util.tree_map_with_path(
      lambda path, x: lax.stop_gradient(x) if is_frozen(path) else x, params
    )

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, Statistics]:
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), checks.only_view(batch))
    if start is not None:
      roles = [role for role in params if role in start.params]  # It may have others, a decoder.
      params |= jax.tree.map(jnp.array, {role: start.params[role] for role in roles})
      bn |= jax.tree.map(jnp.array, {role: start.bn[role] for role in roles})
    return params, Statistics(bn)

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    del step
    if not soft:
      return batch
    regularization.check_labels(batch['label'].ndim == 2)
    targets = classification.smoothed(batch['label'], classes, regularization.label_smoothing)
    if not regularization.mixes:
      return batch | {TARGETS: targets}
    (view,) = batch['views']
    kept = mixing.weights(
      jax.random.fold_in(key, streams.MIXING),
      *view.shape[1:3],
      mixup=regularization.mixup,
      cutmix=regularization.cutmix,
    )
    mixed = mixing.mixed_images(view, kept)
    return batch | {'views': (mixed,), TARGETS: mixing.mixed_labels(targets, kept)}

  def inputs(key: jax.Array, count: int) -> Inputs:
    if not regularization.drop_path:
      return {}
    keys = collectives.example_keys(jax.random.fold_in(key, streams.DROP_PATH), count, axis)
    depth = net.parts[0][2].depth
    factors = stochastic_depth.branch_factors(keys, depth, regularization.drop_path)
    return {'encoder': {'branches': factors}}

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del step
    (view,), labels = batch['views'], batch['label']
    outputs, bn = net.apply(
      held(params), state.bn, view, train=batch_norm == 'batch', inputs=inputs(key, len(view))
    )
    logits = outputs['logits']
    metrics = (
      {} if labels.ndim == 2 else {'top1': classification.accuracy(logits, labels, axis=axis)}
    )
    if labels.ndim == 2:
      value = classification.binary_cross_entropy(logits, labels)
    elif soft:
      value = classification.soft_cross_entropy(logits, batch[TARGETS], axis=axis)
    else:
      value = classification.cross_entropy(logits, labels, axis=axis)
    return value, Aux(state.replace(bn=bn), metrics, outputs['embedding'])

  embed = evaluation_outputs(net, 'embedding', 'logits')
  return Method(init, loss, keep, embed, groups, net=net, transform=transform)


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  batch_norm: str = 'batch',
  head: dict[str, Any] | None = None,
  drop_path: float = 0.0,
  mixup: float = 0.0,
  cutmix: float = 0.0,
  label_smoothing: float = 0.0,
  freeze: str = '',
) -> Method:
  """Builds supervised training.

  Args:
    make_encoder: the encoder that `setting.given['encoder']`, if any, belongs to.
    setting: the run; it must name the classes.
    batch_norm: see `supervised`.
    head: arguments of the `heads.MLPHead`, cut after an activation, that stays between encoder and
      classifier; None: there is none.
    drop_path: see `Regularization`, as for the three below.
    mixup: a of mixup's Beta(a, a).
    cutmix: a of CutMix's.
    label_smoothing: how much of the label is spread over all classes.
    freeze: the last part of the encoder that keeps its weights, 'stage2' or 'conv5', with all
      before it; 'all': the whole encoder; '': none.

  Raises:
    ValueError: the data have no labels, an unknown `batch_norm`, a value out of range, an encoder
      without branches to leave out, or nothing to freeze or no such part.
  """
  if setting.num_classes < 2:
    raise ValueError('supervised training needs labelled images of at least 2 classes.')
  checks.check_batch_norm(batch_norm)
  regularization = Regularization(drop_path, mixup, cutmix, label_smoothing)
  encoder = make_encoder(setting.axis)
  regularization.check(encoder)
  parts = [('encoder', 'embedding', encoder)]
  if head:
    trunk = heads.MLPHead(**head, trunk=True, bn_axis=setting.axis, dtype=jnp.dtype(setting.dtype))
    parts.append(('projector', 'trunk', trunk))
  parts.append(('head', 'logits', heads.LinearHead(setting.num_classes, 'zeros')))
  return supervised(
    stack(parts),
    setting.given.get('encoder'),
    batch_norm=batch_norm,
    classes=setting.num_classes,
    regularization=regularization,
    frozen=frozen_parts(setting.given.get('encoder'), encoder, freeze, batch_norm),
    axis=setting.axis,
  )


def frozen_parts(start: Any, module: Any, freeze: str, batch_norm: str) -> tuple[str, ...]:
  """Paths of the encoder's parts up to the one that `freeze` names.

  Args:
    start: the encoder to start from, see `method.Setting.given`; or None.
    module: its module.
    freeze: see `build`.
    batch_norm: see `supervised`.

  Raises:
    ValueError: there is no encoder to start from, no such part, or batch normalization would go on
      with the batch's statistics.
  """
  if not freeze:
    return ()
  if start is None:
    raise ValueError(f"freeze='{freeze}' keeps weights that are there, but none are given.")
  if batch_norm != 'frozen':
    raise ValueError(
      f"freeze='{freeze}' keeps weights, and batch_norm='{batch_norm}' would change what they do "
      "with every batch: set batch_norm to 'frozen'."
    )
  parts = modules_in_order(module, start.preprocessing.example())
  ends = [place for place, part in enumerate(parts)
          if freeze == ALL or f'{part.rpartition("/")[2]}_'.startswith(f'{freeze}_')]  # fmt: skip
  if not ends:
    names = ', '.join(part.rpartition('/')[2] for part in parts)
    raise ValueError(f"freeze='{freeze}' is no part of the encoder: {names}, or '{ALL}'.")
  return tuple(f'encoder/{part}' for part in parts[: ends[-1] + 1])
