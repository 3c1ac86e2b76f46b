"""From the `optim` part of a configuration to optimizers: one for every group of parameters.

A configuration holds base quantities; what depends on the length of the run or on the batch is
derived here. `groups` overrides fields for some parameters: `{'predictor': {'schedule':
'constant'}}` for a role, `{'bias_and_norm': {'base_lr': 0.0048}}` for all biases and normalization
parameters that do not belong to such a role.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

import jax
import optax

from byoljax import optim
from byoljax.optim import groups, lars, schedules

PyTree = Any

BIAS_AND_NORM = 'bias_and_norm'
GRANULARITIES = ('step', 'epoch')
_SCHEDULE_FIELDS = (
  'base_lr', 'lr_scaling', 'schedule', 'start_lr', 'end_lr', 'decay_at', 'decay_factor',
  'granularity', 'weight_decay_end',
)  # fmt: skip


class Recipe(NamedTuple):
  """The optimizers of a run.

  Attributes:
    schedule: step -> learning rate of the group 'default'.
    transformations: group name -> optimizer.
    settings: group name -> its fields, for `optim.param_report`.
    label: (tree of a method's group names, parameters) -> tree of this recipe's group names.
  """

  schedule: schedules.Schedule
  transformations: dict[str, optax.GradientTransformation]
  settings: dict[str, dict[str, Any]]
  label: Callable[[PyTree, PyTree], PyTree]


def make_recipe(
  fields: Mapping[str, Any],
  *,
  batch_size: int,
  total_steps: int,
  steps_per_epoch: int,
  warmup_steps: int = 0,
  norm: lars.Norm = lars.l2_norm,
) -> Recipe:
  """Builds the optimizers that `config.optim` describes.

  Args:
    fields: as in `configs/base.py`, without 'warmup'; 'groups' maps a role or 'bias_and_norm' to
      the fields that differ there. Fields that are absent take the defaults of `make_optimizer`.
    batch_size: global examples per optimizer step.
    total_steps: length of the run.
    steps_per_epoch: for schedules that move once an epoch.
    warmup_steps: of every group.
    norm: see `optim.make_optimizer`.

  Raises:
    ValueError: an unknown field or name, or a value out of range.
  """
  own = {name: value for name, value in fields.items() if name != 'groups'}
  overrides = {name: dict(value) for name, value in dict(fields.get('groups', {})).items()}
  for group, changes in overrides.items():
    for field in changes:
      if field not in own:
        close = get_close_matches(field, own, n=1)
        hint = f'; did you mean {close[0]!r}?' if close else ''
        raise ValueError(f'groups.{group}.{field} is not a field of the optimizer{hint}')
  length = (batch_size, total_steps, steps_per_epoch, warmup_steps)
  settings = {'default': own} | {name: own | changes for name, changes in overrides.items()}
  rates = {name: _schedule(each, *length) for name, each in settings.items()}
  transformations = {
    name: _optimizer(each, rates[name], total_steps, norm) for name, each in settings.items()
  }
  return Recipe(rates['default'], transformations, settings, _labeller(tuple(overrides)))


def _schedule(
  fields: Mapping[str, Any], batch: int, total: int, per_epoch: int, warmup: int
) -> schedules.Schedule:
  peak = schedules.peak_lr(fields['base_lr'], batch, fields.get('lr_scaling', 'linear'))
  name = fields.get('schedule', 'cosine')
  shape: dict[str, Any] = {'start': fields.get('start_lr', 0.0)}
  if name == 'cosine':
    shape['end'] = fields.get('end_lr', 0.0)
  if name == 'step':
    shape |= {'boundaries': tuple(fields['decay_at']), 'factor': fields['decay_factor']}
  made = schedules.make_schedule(name, peak, total_steps=total, warmup_steps=warmup, **shape)
  granularity = fields.get('granularity', 'step')
  if granularity not in GRANULARITIES:
    raise ValueError(f"granularity='{granularity}' is not one of {', '.join(GRANULARITIES)}.")
  return made if granularity == 'step' else schedules.by_epoch(made, per_epoch, warmup)


def _optimizer(
  fields: Mapping[str, Any], schedule: schedules.Schedule, total: int, norm: lars.Norm
) -> optax.GradientTransformation:
  plain = {name: value for name, value in fields.items() if name not in _SCHEDULE_FIELDS}
  end = fields.get('weight_decay_end', -1.0)
  if end >= 0 and end != fields['weight_decay']:
    start = fields['weight_decay']
    rise = schedules.cosine(1.0, total_steps=total)
    plain['decay_schedule'] = lambda step: end + (start - end) * rise(step)
  return optim.make_optimizer(schedule=schedule, norm=norm, **plain)


def _labeller(overridden: tuple[str, ...]) -> Callable[[PyTree, PyTree], PyTree]:
  """Gives parameters of the group 'default' to the overridden group that they belong to."""

  def label(names: PyTree, params: PyTree) -> PyTree:
    roles = [name for name in overridden if name != BIAS_AND_NORM]
    for role in roles:
      if role not in params:
        valid = ', '.join([*params, BIAS_AND_NORM])
        raise ValueError(f'groups.{role}: there are no such parameters, only {valid}.')

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
