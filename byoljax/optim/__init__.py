"""Optimizers as optax transformations: LARS in four forms, SGD, AdamW.

Beside them schedules, and masks and groups by parameter path.

    schedule = make_schedule('cosine', peak_lr(0.3, 4096), total_steps=K, warmup_steps=W)
    settings = {'default': dict(name='lars', weight_decay=1e-6), 'probe': dict(name='sgd')}
    specs = {group: make_optimizer(schedule=schedule, **s) for group, s in settings.items()}
    tx = make(method.groups, specs)
    print(param_report(params, method.groups(params), settings))

The learning rate of a step is `schedule(step)`: nothing has to be dug out of the optimizer's state.
"""

from collections.abc import Callable, Collection, Iterable
import functools
import inspect
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from byoljax import own
from byoljax.optim import lars
from byoljax.optim.groups import decay_mask, freeze, is_bias_or_norm, make, param_report, path_name
from byoljax.optim.layerwise import scale_by_layer
from byoljax.optim.schedules import (
  SCHEDULES,
  Schedule,
  constant,
  cosine,
  make_schedule,
  peak_lr,
  step_decay,
)
from byoljax.suggest import check_name

__all__ = [
  'OPTIMIZERS',
  'SCHEDULES',
  'Schedule',
  'constant',
  'cosine',
  'decay_mask',
  'freeze',
  'is_bias_or_norm',
  'make',
  'make_optimizer',
  'make_schedule',
  'param_report',
  'path_name',
  'peak_lr',
  'step_decay',
]


class _Settings(NamedTuple):
  """make_optimizer's arguments, checked, with what follows from them."""

  schedule: Schedule
  stacked: bool
  decayed: lars.Mask
  adapted: lars.Mask
  weight_decay: float
  decay_schedule: Schedule | None
  momentum: float
  nesterov: bool
  trust_coefficient: float
  b2: float
  eps: float
  norm: lars.Norm


Chain = tuple[optax.GradientTransformation, ...]


def _decay_and_adapt(s: _Settings) -> Chain:
  return (
    optax.add_decayed_weights(s.weight_decay, s.decayed),
    lars.scale_by_trust_ratio(s.trust_coefficient, s.adapted, s.stacked, s.norm),
  )


def _momentum(s: _Settings) -> Chain:
  return (optax.trace(s.momentum, s.nesterov),)


def _rate(s: _Settings) -> Chain:
  return (lars.scale_by_rate(s.schedule),)


def _lars_byol(s: _Settings) -> Chain:
  return *_decay_and_adapt(s), *_momentum(s), *_rate(s)


def _lars_simclr(s: _Settings) -> Chain:
  return *_decay_and_adapt(s), *_rate(s), *_momentum(s)


def _larc(s: _Settings, clip_at: Schedule | None = None) -> Chain:
  ratio = lars.scale_by_larc(
    s.trust_coefficient, s.weight_decay, s.decayed, s.adapted, s.stacked, clip_at, s.norm
  )
  return ratio, *_momentum(s), *_rate(s)


def _larc_clip(s: _Settings) -> Chain:
  return _larc(s, clip_at=s.schedule)


def _sgd(s: _Settings) -> Chain:
  return optax.add_decayed_weights(s.weight_decay, s.decayed), *_momentum(s), *_rate(s)


def _adamw(s: _Settings) -> Chain:
  if s.decay_schedule is None:
    decay = optax.add_decayed_weights(s.weight_decay, s.decayed)
  else:
    decay = lars.add_scheduled_decay(s.decay_schedule, s.decayed)
  return optax.scale_by_adam(s.momentum, s.b2, s.eps), decay, *_rate(s)


# name -> the chain between clipping and the sign; the four forms of LARS are written out in
# byoljax/optim/lars.py
OPTIMIZERS: dict[str, Callable[[_Settings], Chain]] = {
  'lars': _lars_byol,
  'lars_simclr': _lars_simclr,
  'larc': _larc,
  'larc_clip': _larc_clip,
  'sgd': _sgd,
  'adamw': _adamw,
}


def _of_the_users_own(name: str, s: _Settings) -> Chain:
  """An optax optimizer by the import path of a function that makes it.

  It is called with the schedule and, by name, with those of 'weight_decay', 'mask' (which
  parameters decay), 'momentum', 'nesterov' and 'b2' that it takes.
  """
  build = own.find('optimizer', name)
  given = {'weight_decay': s.weight_decay, 'mask': s.decayed, 'momentum': s.momentum,
           'nesterov': s.nesterov, 'b2': s.b2}  # fmt: skip
  taken = inspect.signature(build).parameters
  made = build(s.schedule, **{each: value for each, value in given.items() if each in taken})
  if not isinstance(made, optax.GradientTransformation):
    raise ValueError(
      f"the optimizer '{name}' returns {type(made).__name__}: it must return an optax "
      'GradientTransformation.'
    )
  return made, optax.scale(-1.0)  # Its updates are to be added as they are.


def check(fields: Iterable[tuple[str, float, bool, str]]) -> None:
  """Checks what fields are set to.

  Args:
    fields: of each its name, its value, whether that is allowed, and what is.

  Raises:
    ValueError: the first one that is not allowed.
  """
  for field, value, good, allowed in fields:
    if not good:
      raise ValueError(f'{field} must be {allowed}, got {value}')


def make_optimizer(
  name: str,
  *,
  schedule: Schedule,
  weight_decay: float = 0.0,
  decay_schedule: Schedule | None = None,
  momentum: float = 0.9,
  nesterov: bool = False,
  trust_coefficient: float = 1e-3,
  exclude_bias_and_norm: bool = True,
  unadapted: Collection[str] = (),
  clip_norm: float = 0.0,
  clip_tensor_norm: float = 0.0,
  layer_decay: float = 1.0,
  b2: float = 0.999,
  eps: float = 1e-8,
  norm: lars.Norm = lars.l2_norm,
) -> optax.GradientTransformation:
  """The named optimizer; its updates are to be added to the parameters.

  Stacked heads: when `schedule` gives rates [n], every parameter must have a leading axis of n.
  Each slice then gets its own rate, norms and clipping, and the n slices train exactly as n
  separate runs would. Feed gradients of the SUM of the n losses.

  Args:
    name: a key of OPTIMIZERS. LARS is 'lars' (BYOL's form), 'lars_simclr', 'larc' (apex),
      'larc_clip' (solo-learn). Or the import path (`byoljax.own`) of a function (schedule) -> optax
      optimizer, which may also take weight_decay, mask, momentum, nesterov and b2, by name.
    schedule: update number from 0 -> learning rate, [] or [n].
    weight_decay: lambda >= 0; added to the gradient, in 'adamw' decoupled: w -= lr lambda w.
    decay_schedule: update number from 0 -> lambda, in place of `weight_decay`; 'adamw' only.
    momentum: mu in [0, 1); of 'adamw' the decay of the first moment, beta_1.
    nesterov: the look-ahead form g + mu m; not used by 'adamw'.
    trust_coefficient: eta of LARS > 0 (published: 1e-3; 'larc_clip' 0.02).
    exclude_bias_and_norm: spare biases and normalization parameters weight decay and LARS
      adaptation, as the authors of all forms of LARS but 'larc' do; False as in SGD recipes
      after PyTorch.
    unadapted: roles whose kernels LARS decays and does not adapt: ('head',) for a supervised head,
      as in SimCLR's code; a kernel that starts at zero would hardly move.
    clip_norm: upper limit on the norm of all the group's gradients together, before anything else;
      0 for none.
    clip_tensor_norm: upper limit on the norm of each gradient tensor by itself; 0 for none.
    layer_decay: learning rates fall by this factor from each block of a vision transformer to the
      one below, see `layerwise`; 1 for one rate.
    b2: decay of AdamW's second moment.
    eps: AdamW's epsilon.
    norm: how the norm of a tensor is taken, of trust ratios and of clipping; another than the plain
      L2 norm where each device updates a shard of every tensor (`byoljax.train.sharding`).

  Raises:
    ValueError: an unknown name, or a value out of range.
  """
  if own.is_path(name):
    make_chain = functools.partial(_of_the_users_own, name)
  else:
    check_name('optimizer', name, OPTIMIZERS)
    make_chain = OPTIMIZERS[name]
  check(
    (
      ('weight_decay', weight_decay, 0 <= weight_decay < math.inf, '>= 0'),
      ('clip_norm', clip_norm, clip_norm >= 0, '>= 0'),
      ('clip_tensor_norm', clip_tensor_norm, clip_tensor_norm >= 0, '>= 0'),
      ('momentum', momentum, 0 <= momentum < 1, 'in [0, 1)'),
      ('trust_coefficient', trust_coefficient, 0 < trust_coefficient < math.inf, '> 0'),
      ('layer_decay', layer_decay, 0 < layer_decay <= 1, 'in (0, 1]'),
      ('b2', b2, 0 <= b2 < 1, 'in [0, 1)'),
      ('eps', eps, 0 < eps < math.inf, '> 0'),
    )
  )
  if decay_schedule is not None and name != 'adamw':
    raise ValueError(f"a schedule of the weight decay needs optimizer 'adamw', not {name!r}")
  stacked = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32)).ndim == 1
  chain = make_chain(
    _Settings(
      schedule=schedule,
      stacked=stacked,
      decayed=decay_mask(exclude_bias_and_norm),
      adapted=decay_mask(exclude_bias_and_norm, unadapted),
      weight_decay=weight_decay,
      decay_schedule=decay_schedule,
      momentum=momentum,
      nesterov=nesterov,
      trust_coefficient=trust_coefficient,
      b2=b2,
      eps=eps,
      norm=norm,
    )
  )
  clip = (lars.clip_by_norm(clip_norm, stacked, norm),) if clip_norm else ()
  if clip_tensor_norm:
    clip += (lars.clip_each_by_norm(clip_tensor_norm, stacked, norm),)
  layers = () if layer_decay == 1 else (scale_by_layer(layer_decay),)
  return optax.chain(*clip, *chain, *layers, optax.scale(-1.0))
