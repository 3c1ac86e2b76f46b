"""From the `optim` part of a configuration to optimizers: one for every group of parameters.

A configuration holds base quantities; what depends on the length of the run or on the batch is
derived here. `groups` overrides fields for some parameters: `{'predictor': {'schedule':
'constant'}}` for a role, `{'bias_and_norm': {'base_lr': 0.0048}}` for all biases and normalization
parameters that do not belong to such a role.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from byoljax import optim
from byoljax.length import Length
from byoljax.optim import groups, lars, schedules
from byoljax.suggest import did_you_mean
from byoljax.wording import counted

PyTree = Any

BIAS_AND_NORM = 'bias_and_norm'
LR_UPDATES = ('step', 'epoch')
_ENDING = ('cosine', 'wsd')  # schedules with a rate that they end at
_SCHEDULE_FIELDS = (
  'base_lr', 'lr_scaling', 'schedule', 'start_lr', 'end_lr', 'min_lr', 'decay_at', 'decay_factor',
  'lr_update', 'weight_decay_end', 'decay',
)  # fmt: skip
# What the fields of schedules may be: others would let a rate rise in the end, or change its sign.
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
  'start_lr': (lambda share: 0 <= share <= 1, 'in [0, 1], a share of the highest rate'),
  'end_lr': (lambda share: 0 <= share <= 1, 'in [0, 1], a share of the highest rate'),
  'min_lr': (lambda rate: 0 <= rate < np.inf, '>= 0'),
  'decay_factor': (lambda factor: 0 < factor <= 1, 'in (0, 1]'),
  'weight_decay_end': (lambda decay: decay == -1 or 0 <= decay < np.inf, '>= 0, or -1 for none'),
}


class Recipe(NamedTuple):
  """The optimizers of a run.

  Attributes:
    schedule: step -> learning rate of the group 'default'.
    transformations: group name -> optimizer.
    settings: group name -> its fields, for `optim.param_report`.
    label: (tree of a method's group names, parameters) -> tree of this recipe's group names.
    warmup_steps: of every group.
  """

  schedule: schedules.Schedule | None
  transformations: dict[str, optax.GradientTransformation]
  settings: dict[str, dict[str, Any]]
  label: Callable[[PyTree, PyTree], PyTree]
  warmup_steps: int = 0

  @classmethod
  def of(cls, transformation: optax.GradientTransformation) -> 'Recipe':
    """One optimizer for all parameters but those that the method freezes, and a probe's."""

    def label(names: PyTree, params: PyTree) -> PyTree:
      del params
      kept = ('frozen', 'probe')
      return jax.tree.map(lambda name: name if name in kept else 'default', names)

    return cls(None, {'default': transformation}, {'default': {}}, label)

  def with_group(
    self, name: str, transformation: optax.GradientTransformation, settings: dict[str, Any]
  ) -> 'Recipe':
    """The same with an optimizer for one more group of the method's."""
    return self._replace(
      transformations=self.transformations | {name: transformation},
      settings=self.settings | {name: settings},
    )

  def starting(self, starts: Mapping[str, int]) -> 'Recipe':
    """The same for a method some of whose parameters start late (`Method.starts`).

    They have an optimizer of their own, like a group's: `clip_norm` limits the norm of their
    gradients apart from that of the others.

    `label` raises ValueError for a path at which there are no parameters.
    """
    late = {path: step for path, step in starts.items() if step > 0}
    if not late:
      return self

    def name(group: str, step: int) -> str:
      return f'{group} from {step}'

    def label(names: PyTree, params: PyTree) -> PyTree:
      found: set[str] = set()

      def one(path: tuple[Any, ...], group: str) -> str:
        place = groups.path_name(path) + '/'
        own = [prefix for prefix in late if place.startswith(prefix + '/')]
        found.update(own)
        known = own and group in self.transformations
        return name(group, max(late[prefix] for prefix in own)) if known else group

      labels = jax.tree_util.tree_map_with_path(one, self.label(names, params))
      for prefix in late:
        role = prefix.partition('/')[0]
        elsewhere = role in params and not jax.tree.leaves(params[role])  # Another phase's.
        if prefix not in found and not elsewhere:
          raise ValueError(f"no parameters are at '{prefix}', which is to start late.")
      return labels

    transformations, settings = dict(self.transformations), dict(self.settings)
    for group, tx in self.transformations.items():
      for step in sorted(set(late.values())):
        transformations[name(group, step)] = groups.start_at(step, tx)
        settings[name(group, step)] = self.settings[group]
    return self._replace(transformations=transformations, settings=settings, label=label)


def make_recipe(
  fields: Mapping[str, Any],
  length: Length,
  *,
  norm: lars.Norm = lars.l2_norm,
  where: str = 'optim',
) -> Recipe:
  """Builds the optimizers that `config.optim` describes.

  Args:
    fields: as in `configs/base.py`; 'groups' maps a role or 'bias_and_norm' to the fields that
      differ there. Fields that are absent take the defaults of `make_optimizer`.
    length: of the run; 'warmup' is a duration in it.
    norm: see `optim.make_optimizer`.
    where: the group of these fields, for messages.

  Raises:
    ValueError: an unknown field or name, or a value out of range.
  """
  own = {name: value for name, value in fields.items() if name not in ('groups', 'warmup')}
  overrides = {name: dict(value) for name, value in dict(fields.get('groups', {})).items()}
  for group, changes in overrides.items():
    for field in changes:
      if field not in own:
        raise ValueError(
          f'groups.{group}.{field} is not a field of the optimizer{did_you_mean(field, own)}'
        )
  warmup = length.steps(f'{where}.warmup', fields.get('warmup', '0 steps'))
  if warmup > length.total_steps:
    raise ValueError(
      f"{where}.warmup='{fields['warmup']}' is {counted(warmup, 'step')}, longer than the training "
      f'of {counted(length.total_steps, "step")}; make it longer, or warm up less: '
      f"{where}.warmup='0 steps'."
    )
  settings = {'default': own}
  for group, changes in overrides.items():
    # What a group says of its decay or its schedule holds to the end of the run.
    if 'weight_decay' in changes:
      changes.setdefault('weight_decay_end', -1.0)
    if changes.get('schedule', 'cosine') not in _ENDING:
      changes = {'end_lr': 0.0, 'min_lr': 0.0} | changes
    settings[group] = own | changes
  rates = {name: _schedule(each, length, warmup) for name, each in settings.items()}
  transformations = {
    name: _optimizer(each, rates[name], length, norm) for name, each in settings.items()
  }
  return Recipe(rates['default'], transformations, settings, _labeller(tuple(overrides)), warmup)


def steady_steps(fields: Mapping[str, Any], length: Length, where: str = 'optim') -> int:
  """Steps before the decay of a schedule 'wsd'; 0 of others, which move over the whole length.

  Args:
    fields: of an optimizer; 'decay' is a duration in the run.
    length: of the run.
    where: the group of these fields, for messages.

  Raises:
    ValueError: not a duration, or longer than the run.
  """
  if fields.get('schedule') != 'wsd':
    return 0
  text = fields.get('decay', '20 %')
  decay = length.steps(f'{where}.decay', text)
  if decay > length.total_steps:
    raise ValueError(
      f"{where}.decay='{text}' is {counted(decay, 'step')}, longer than the training of "
      f'{counted(length.total_steps, "step")}; shorten one or lengthen the other.'
    )
  return length.total_steps - decay


def _schedule(fields: Mapping[str, Any], length: Length, warmup: int) -> schedules.Schedule:
  optim.check(
    (field, fields[field], good(fields[field]), allowed)
    for field, (good, allowed) in _RANGES.items()
    if field in fields
  )
  scaling = fields.get('lr_scaling', 'linear')
  peak = schedules.peak_lr(fields['base_lr'], length.batch_size, scaling)
  name = fields.get('schedule', 'cosine')
  shape: dict[str, Any] = {'start': fields.get('start_lr', 0.0)}
  end = _end_share(fields, peak)
  if name in _ENDING:
    shape['end'] = end
  elif end:
    said = 'min_lr' if fields.get('min_lr') else 'end_lr'
    raise ValueError(
      f'{said}={fields[said]} is where a schedule {" or ".join(map(repr, _ENDING))} ends, but '
      f'schedule={name!r}: set {said} to 0.0.'
    )
  if name == 'wsd':
    shape['steady_steps'] = steady_steps(fields, length)
  if name == 'step':
    shape |= {'boundaries': tuple(fields['decay_at']), 'factor': fields['decay_factor']}
  made = schedules.make_schedule(
    name, peak, total_steps=length.total_steps, warmup_steps=warmup, **shape
  )
  lr_update = fields.get('lr_update', 'step')
  if lr_update not in LR_UPDATES:
    raise ValueError(f"lr_update='{lr_update}' is not one of {', '.join(LR_UPDATES)}.")
  return made if lr_update == 'step' else schedules.by_epoch(made, length.steps_per_epoch, warmup)


def _end_share(fields: Mapping[str, Any], peak: Any) -> float:
  """Where the rate ends, as a share of the peak: `end_lr`, or `min_lr`, which is a rate.

  A group whose rate is 0 throughout has none that it could end at.
  """
  end, least = fields.get('end_lr', 0.0), fields.get('min_lr', 0.0)
  if least and end:
    raise ValueError(f'end_lr={end} and min_lr={least} both say where the rate ends; give one.')
  if not least or not np.any(peak):
    return end
  if np.any(least > np.asarray(peak)):
    raise ValueError(
      f'min_lr={least} is above the rate that it is the end of, {np.min(peak):g} at base_lr='
      f'{fields["base_lr"]}: lower it, or set it to 0.0.'
    )
  return least / peak


def moving(length: Length, peak: schedules.Rate = 1.0) -> schedules.Schedule:
  """Half a cosine from `peak` to 0 over the part of the run in which things move."""
  steps = max(length.total_steps - length.steady_steps, 1)
  fall = schedules.cosine(peak, total_steps=steps)
  return schedules.from_step(length.steady_steps, fall) if length.steady_steps else fall


def _optimizer(
  fields: Mapping[str, Any], schedule: schedules.Schedule, length: Length, norm: lars.Norm
) -> optax.GradientTransformation:
  plain = {name: value for name, value in fields.items() if name not in _SCHEDULE_FIELDS}
  end = fields.get('weight_decay_end', -1.0)
  if end >= 0 and end != fields['weight_decay']:
    start = fields['weight_decay']
    fall = moving(length)
    plain['decay_schedule'] = lambda step: end + (start - end) * fall(step)
  return optim.make_optimizer(schedule=schedule, norm=norm, **plain)


def _labeller(overridden: tuple[str, ...]) -> Callable[[PyTree, PyTree], PyTree]:
  """Gives parameters of the group 'default' to the overridden group that they belong to."""

  def label(names: PyTree, params: PyTree) -> PyTree:
    roles = [name for name in overridden if name != BIAS_AND_NORM]
    for role in roles:
      if role not in params:
        valid = ', '.join([*params, BIAS_AND_NORM])
        raise ValueError(f'groups.{role}: there are no such parameters, only {valid}.')
      own = set(jax.tree.leaves(names[role]))  # None in another phase than the role's.
      if own and 'default' not in own:
        raise ValueError(
          f'groups.{role}: this optimizer trains none of these parameters, which belong to '
          f"'{', '.join(sorted(own))}': leave the group out."
        )

    def one(path: tuple[Any, ...], name: str) -> str:
      if name != 'default':
        return name
      role = groups.path_name(path).partition('/')[0]
      if role in roles:
        return role
      small = BIAS_AND_NORM in overridden and groups.is_bias_or_norm(path)
      return BIAS_AND_NORM if small else name

    return jax.tree_util.tree_map_with_path(one, names)

  return label
