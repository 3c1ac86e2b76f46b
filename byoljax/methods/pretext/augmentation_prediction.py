"""By what do the augmentations of two views differ? (AugSelf: Lee et al. 2021, arXiv 2111.09613.)

From the embeddings of two views, side by side, small heads predict the differences of the
parameters that the views were drawn with: of the crop, of the color jitter and so on. As an
auxiliary task beside a method that seeks invariance it keeps in the encoder what that method throws
away; alone it is a pretext task without any.

As in the authors' code: a head for each kind of parameter, three layers with batch normalization on
the hidden ones; both orders of the views in one batch; the squared error of a tanh, averaged over
the parameters of a kind; for the flip a binary cross-entropy; crop and color unless more is asked
for.

Different from the authors' code: color is in units of the range that a view draws from, blur in
units of its largest sigma, so that all differences lie in [-1, 1]; solarization is there or not,
since its threshold is fixed here. The flip's label is 1 where the views differ. The center of a
crop lies in the image as its view shows it, mirrored where that is; theirs are both mirrored where
the first view is. Whether a view is gray can be asked for as well. What moves a view after its crop
is not, turns by quarters among it, which theirs predict: views that have it get a note.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.data.augment import drawn
from byoljax.devices import collectives
from byoljax.losses import classification
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
from byoljax.methods import beside
from byoljax.methods.checks import check_widths
from byoljax.models import heads
from byoljax.models.net import Net, Part, Statistics, apply_each, stack
from byoljax.suggest import check_name

PyTree = Any
ROLE, OUTPUT = 'augmentation', 'differences'
TARGETS = ('crop', 'color')
# What moves a view after its crop, which no target is about.
_UNTOLD = ('vflip_prob', 'turn_prob', 'rotate_degrees', 'shift', 'elastic', 'randaugment_ops')


class DifferenceHeads(nn.Module):
  """One `MLPHead` for each kind of parameter, on two embeddings side by side.

  Attributes:
    targets: kinds of parameters, see `drawn.COLUMNS`.
    hidden: widths of the hidden layers.
    bn_axis: see `MLPHead`.
    dtype: compute type.
  """

  targets: tuple[str, ...]
  hidden: tuple[int, ...] = (512, 512)
  bn_axis: str | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, other: jax.Array | None = None, *, train: bool) -> jax.Array:
    """[b,D] and [b,D] -> float32 [b,P], the predictions of all kinds; of x beside x without one."""
    pair = jnp.concatenate([x, x if other is None else other], axis=-1)
    made = [
      heads.MLPHead(
        features=(*self.hidden, width(name)),
        hidden_bias=False,
        last_bias=True,
        bn_axis=self.bn_axis,
        dtype=self.dtype,
        name=name,
      )(pair, train=train)
      for name in self.targets
    ]
    return jnp.concatenate(made, axis=-1)


def width(name: str) -> int:
  """How many parameters are of this kind."""
  columns = drawn.COLUMNS[name]
  return columns.stop - columns.start


def differences(first: jax.Array, second: jax.Array) -> dict[str, jax.Array]:
  """The parameters of the first view less those of the second, by kind; float32 [b, n] in [-1, 1].

  Args:
    first: `batch['drawn']` of a view, float32 [b, 12].
    second: of another.
  """

  def as_shown(view: jax.Array) -> jax.Array:
    x = drawn.COLUMNS['crop'].start + 1
    mirrored = view[:, drawn.COLUMNS['flip'].start] > 0
    return view.at[:, x].set(jnp.where(mirrored, 1.0 - view[:, x], view[:, x]))

  apart = as_shown(first) - as_shown(second)
  return {name: apart[:, columns] for name, columns in drawn.COLUMNS.items()}


def head(setting: Setting, *, targets: Sequence[str] = TARGETS, part: Part) -> beside.Head:
  """The prediction of differences, to be put beside a method.

  Args:
    setting: the run.
    targets: kinds of parameters, see `drawn.COLUMNS`.
    part: `part_of` them.
  """
  net = stack((part,))

  def init(key: jax.Array, embedding: jax.Array) -> tuple[PyTree, PyTree]:
    params, bn = net.init(key, embedding)
    return params[ROLE], bn[ROLE]

  def loss(
    params: PyTree, statistics: PyTree, embeddings: tuple[jax.Array, ...], batch: Batch
  ) -> tuple[jax.Array, PyTree, dict[str, jax.Array]]:
    first, second = embeddings[:2]
    one, other = batch['drawn'][:2]
    # Both orders of the two views, in one batch.
    x, y = jnp.concatenate([first, second]), jnp.concatenate([second, first])
    true = differences(jnp.concatenate([one, other]), jnp.concatenate([other, one]))
    inputs = {ROLE: {'other': y}}
    made, bn = net.apply({ROLE: params}, {ROLE: statistics}, x, train=True, inputs=inputs)
    value, metrics, start = jnp.zeros(()), {}, 0
    for name in targets:
      predicted = made[OUTPUT][:, start : start + width(name)]
      start += width(name)
      own, measured = _criterion(name, predicted, true[name], setting.axis)
      value += own
      metrics |= measured
    return value, bn[ROLE], metrics

  return beside.Head(ROLE, streams.AUXILIARY, init, loss, part)


def _criterion(
  name: str, predicted: jax.Array, true: jax.Array, axis: str | None
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss of one kind of parameter, and how well it is known."""
  if name == 'flip':
    labels = (true != 0).astype(jnp.int32)
    value = classification.binary_cross_entropy(predicted, labels)
    right = (predicted > 0) == (labels > 0)
    return value, {f'{name}/loss': value, f'{name}/accuracy': jnp.mean(right.astype(jnp.float32))}
  value = jnp.mean(jnp.square(jnp.tanh(predicted) - true))
  # Both orders are there, so the mean of the differences is 0: this is their variance.
  spread = collectives.pmean(jnp.mean(jnp.square(true)), axis)
  known = jnp.where(spread > 0, 1.0 - value / jnp.maximum(spread, 1e-12), 0.0)
  return value, {f'{name}/loss': value, f'{name}/r2': known}


def part_of(setting: Setting, targets: Sequence[str], hidden: Sequence[int]) -> Part:
  """The heads as a part of a network, after checking what is asked for.

  Raises:
    ValueError: no target, one twice or an unknown one; a width below 1.
  """
  targets = tuple(targets)
  for name in targets:
    check_name('target', name, drawn.COLUMNS)
  if not targets or len(set(targets)) != len(targets):
    raise ValueError(
      f'targets={targets} of the augmentation must be at least one of {", ".join(drawn.COLUMNS)}, '
      'each once.'
    )
  check_widths(hidden=hidden)
  module = DifferenceHeads(targets, tuple(hidden), setting.axis, jnp.dtype(setting.dtype))
  return ROLE, OUTPUT, module


def auxiliary(
  method: Method,
  setting: Setting,
  *,
  weight: float = 1.0,
  targets: Sequence[str] = TARGETS,
  hidden: Sequence[int] = (512, 512),
) -> Method:
  """The method with the prediction of differences beside it, between its views 0 and 1.

  Args:
    method: one whose trained encoder sees all views.
    setting: the run.
    weight: of the task's loss; 1 for STL-10 and 1/2 for ImageNet-100 in the paper.
    targets: kinds of parameters, see `drawn.COLUMNS`.
    hidden: widths of the heads' hidden layers.

  Raises:
    ValueError: a value out of range, or a method that encodes one view only.
  """
  if not method.encodes_all_views:
    raise ValueError(
      'augmentation prediction compares two views, but the trained encoder of this method sees one '
      "view only: take another method, or train both tasks with the method 'multi_task'."
    )
  if weight <= 0:
    raise ValueError(f'auxiliary_weight={weight} must be above 0; auxiliary= leaves the task out.')
  made = head(setting, targets=targets, part=part_of(setting, targets, hidden))
  method = method._replace(notes=method.notes + _notes(setting.views[:2]))
  return beside.with_head(method, made, weight=weight)


def _notes(views: Sequence[Any]) -> tuple[str, ...]:
  """Says which settings of the two views are not predicted, if any."""
  untold = [name for name in _UNTOLD if any(getattr(view, name) for view in views)]
  if not untold:
    return ()
  return (
    f'augmentation prediction has no target for {", ".join(untold)} of the views, and its crop is '
    'the one before them.',
  )


def two_views(net: Net) -> Method:
  """An encoder that sees two views and has no loss of its own, to put heads beside."""

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, Statistics]:
    if len(batch['views']) < 2:
      raise ValueError(
        'augmentation prediction compares two views of every image, but there is one: configure '
        'view1 and view2.'
      )
    params, bn = net.init(jax.random.fold_in(key, streams.ONLINE), batch['views'][0])
    return params, Statistics(bn)

  def loss(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    (first, second), bn = apply_each(net, params, state.bn, batch['views'][:2])
    aux = Aux(Statistics(bn), {}, first['embedding'], others=(second['embedding'],))
    return jnp.zeros(()), aux

  embed = evaluation_outputs(net, 'embedding')
  return Method(init, loss, keep, embed, default_groups, net=net, encodes_all_views=True)


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  targets: Sequence[str] = TARGETS,
  hidden: Sequence[int] = (512, 512),
) -> Method:
  """Builds augmentation prediction alone from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    targets: kinds of parameters, see `drawn.COLUMNS`.
    hidden: widths of the heads' hidden layers.

  Raises:
    ValueError: a value out of range.
  """
  net = stack((('encoder', 'embedding', make_encoder(setting.axis)),))
  return auxiliary(two_views(net), setting, targets=targets, hidden=hidden)
