"""The one train step: per device, pure, and ignorant of the method that it trains.

    augment -> transform -> loss -> mean gradient -> optimizer -> remember, post_step -> metrics

Pretraining, a linear probe and fine-tuning all go through `train_step`. Randomness is a function
of (seed, step, example), so the step number in the state is the only cursor and a resumed run is
bit-equal to an uninterrupted one. `byoljax.train.sharding` distributes the optimizer's state and
the target over the devices by wrapping the optimizer and the method: nothing here changes with it.
"""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from byoljax import accumulation, streams
from byoljax.devices import collectives
from byoljax.method import COTANGENTS, Aux, Batch, Method, Phase, transformed

PyTree = Any
Metrics = dict[str, Any]  # A float32 scalar, or `Measured` where not every step has one.
Augment = Callable[[Batch, jax.Array], Batch]
Diagnose = Callable[[jax.Array, jax.Array], Metrics]
# () -> (params, opt_state, method_state, metrics of `Method.post_step`).
Finish = Callable[[], tuple[PyTree, PyTree, PyTree, Metrics]]


class TrainState(flax.struct.PyTreeNode):
  """Everything that training changes; arrays only.

  Attributes:
    step: int32 scalar, the number of optimizer steps done.
    params: what the optimizer trains, a dict of roles.
    opt_state: the optimizer's state; of a method with phases a tuple with that of each.
    method_state: what the method changes without a gradient (targets, statistics, queues).
    key: uint32 [2], the run's random key data; it never changes.
  """

  step: jax.Array
  params: PyTree
  opt_state: PyTree
  method_state: PyTree
  key: jax.Array


class Measured(NamedTuple):
  """A metric of some steps: a value, 0 where it is not known (JAX_DEBUG_NANS would mind a NaN)."""

  value: jax.Array
  known: jax.Array

  def __float__(self) -> float:
    return float(self.value) if self.known else math.nan


class Skipping(NamedTuple):
  """The optimizer's state where updates that are not finite are left out.

  Attributes:
    inner: the optimizer's own state.
    total: int32 scalar, how many updates were left out.
    in_a_row: int32 scalar, how many of them since the last one that was not.
    longest: int32 scalar, the most that there ever were in a row.
  """

  inner: PyTree
  total: jax.Array
  in_a_row: jax.Array
  longest: jax.Array


def init_state(
  method: Method,
  tx: optax.GradientTransformation,
  batch: Batch,
  seed: int,
  *,
  skip_non_finite: bool = False,
) -> TrainState:
  """Builds the state at step 0 from an augmented example batch (only its shapes matter).

  Raises:
    ValueError: two phases of the method train the same role, or one trains a role that is not
      there; or phases beside `Method.compare`.
  """
  return make_init(method, tx, batch, seed, skip_non_finite=skip_non_finite)()


def make_init(
  method: Method,
  tx: optax.GradientTransformation,
  batch: Batch,
  seed: int,
  *,
  skip_non_finite: bool = False,
) -> Callable[[], TrainState]:
  """`init_state` as a compiled function: its shapes and its values are traced once."""
  key = jax.random.key(seed)

  def create() -> TrainState:
    init_key, zero = jax.random.fold_in(key, streams.INIT), jnp.zeros((), jnp.int32)
    params, method_state = method.init(init_key, transformed(method, batch, init_key, zero))
    _check_phases(method, params)
    if method.phases:
      opt_state = tuple(tx.init(_trained(params, phase)) for phase in method.phases)
    else:
      opt_state = tx.init(params)
    if skip_non_finite:
      opt_state = Skipping(opt_state, *(jnp.zeros((), jnp.int32) for _ in range(3)))
    return TrainState(
      step=zero,
      params=params,
      opt_state=opt_state,
      method_state=method_state,
      key=jax.random.key_data(jax.random.fold_in(key, streams.STEPS)),
    )

  return jax.jit(create)


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  method: Method,
  tx: optax.GradientTransformation,
  augment: Augment,
  diagnose: Diagnose | None = None,
  accumulate: int = 1,
  skip_non_finite: bool = False,
  axis: str | None = collectives.AXIS,
) -> tuple[TrainState, Metrics]:
  """One optimizer step on this device's part of the batch.

  Args:
    state: the same on all devices.
    batch: this device's b examples, before augmentation.
    method: see `byoljax.method`.
    tx: the optimizer of all parameter groups.
    augment: (batch, step) -> batch with float32 'views'.
    diagnose: (embedding [b, D], step) -> metrics that are already global: collapse metrics.
    accumulate: splits the batch into this many micro-batches whose gradients are averaged, to save
      memory. The loss of a method that compares images (`Method.compare`) is that of the whole
      batch; batch statistics are per micro-batch; the optimizer, the target's moving average and
      every schedule still move once per step.
    skip_non_finite: whether a step whose loss or gradient is not finite changes nothing but the
      step's number: no parameter, optimizer state, moving average, statistic or memory. The state
      must be made with it, too. Adds the metrics 'skipped', such steps so far, and
      'skipped_in_a_row', the most of them one after the other so far.
    axis: the mapped axis, or None on a single device.

  Returns:
    The next state and the step's metrics, both equal on all devices.
  """
  step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
  transform_key = jax.random.fold_in(step_key, streams.TRANSFORM)
  loss_key = jax.random.fold_in(step_key, streams.LOSS)
  phases = method.phases or (Phase(method.loss, tuple(state.params)),)

  def gradients(phase: int, params: PyTree, method_state: PyTree) -> tuple[PyTree, Aux]:
    def key_of(number: int | jax.Array) -> jax.Array:
      return jax.random.fold_in(loss_key, number * len(phases) + phase)

    def seen_of(part: Batch, number: int | jax.Array) -> Batch:
      given = {name: part[name] for name in (COTANGENTS,) if name in part}
      rest = {name: value for name, value in part.items() if name not in given}
      key = jax.random.fold_in(transform_key, number)
      return method.transform(augment(rest, state.step), key, state.step) | given

    def of_part(method_state: PyTree, part: Batch, number: int | jax.Array) -> tuple[PyTree, Aux]:
      seen, key = seen_of(part, number), key_of(number)
      return _gradients(phases[phase], params, method_state, seen, key, state.step, axis)

    if accumulate == 1:
      return of_part(method_state, batch, 0)
    if method.compare is None:
      return accumulation.accumulated(of_part, method_state, batch, accumulate)

    def outputs(part: Batch, number: jax.Array) -> PyTree:
      seen = seen_of(part, number) | {COTANGENTS: None}
      return method.loss(params, method_state, seen, key_of(number), state.step)[1].compared

    def compare(compared: PyTree) -> tuple[jax.Array, Metrics]:
      assert method.compare is not None
      value, metrics = method.compare(compared, method_state, key_of(0), state.step)
      return collectives.pmean(value, axis), {'loss': value} | metrics

    return accumulation.compared(outputs, compare, of_part, method_state, batch, accumulate)

  def optimize(phase: int, params: PyTree, grads: PyTree) -> tuple[PyTree, PyTree]:
    trained = _trained(params, phases[phase])
    updates, opt_state = tx.update(grads, opt_states[phase], trained)
    return _merged(params, optax.apply_updates(trained, updates), phases[phase]), opt_state

  before = state.opt_state.inner if skip_non_finite else state.opt_state
  opt_states = list(before) if method.phases else [before]
  params, method_state = state.params, state.method_state
  grads, auxes, metrics = [], [], {}
  for phase in range(len(phases)):
    if phase:  # It sees the updates of the phases before it.
      params, opt_states[phase - 1] = optimize(phase - 1, params, grads[-1])
    own_grads, aux = gradients(phase, params, method_state)
    own_grads, own_metrics = collectives.pmean((own_grads, aux.metrics), axis)
    if phase:
      own_metrics['loss'] += metrics['loss']
    metrics |= own_metrics
    method_state = aux.method_state
    grads.append(own_grads)
    auxes.append(aux)

  norms = _gradient_norms(phases, grads, method.groups(state.params))
  # Depends on the whole backward pass, so that what it read is written in place afterwards.
  finite = jnp.isfinite(norms['grad_norm'])

  def finish() -> tuple[PyTree, PyTree, PyTree, Metrics]:
    remembered = accumulation.remember(method, method_state, auxes[0].rows, finite, accumulate)
    optimized, last = optimize(len(phases) - 1, params, grads[-1])
    moved, moved_state, moved_metrics = method.post_step(optimized, remembered, state.step)
    opt_state = (*opt_states[:-1], last) if method.phases else last
    return moved, opt_state, moved_state, moved_metrics

  if skip_non_finite:
    numbers = [*norms.values(), metrics['loss']]
    params, opt_state, method_state, own_metrics = skip_if_nonfinite(state, finish, numbers, axis)
    metrics |= {'skipped': opt_state.total, 'skipped_in_a_row': opt_state.longest}
  else:
    params, opt_state, method_state, own_metrics = finish()
  metrics |= norms | own_metrics
  if diagnose is not None:
    metrics |= diagnose(auxes[0].embedding, state.step)
  next_state = state.replace(
    step=state.step + 1, params=params, opt_state=opt_state, method_state=method_state
  )
  return next_state, metrics


def _gradients(
  phase: Phase,
  params: PyTree,
  method_state: PyTree,
  batch: Batch,
  key: jax.Array,
  step: jax.Array,
  axis: str | None,
) -> tuple[PyTree, Aux]:
  """Gradients of what a phase trains, on this device's part of a (micro-)batch."""

  def objective(trained: PyTree) -> tuple[jax.Array, Aux]:
    value, aux = phase.loss(_merged(params, trained, phase), method_state, batch, key, step)
    _check_aux(aux)
    # Averaged here, and the gradients again: this is right under every way of mapping the step.
    return collectives.pmean(value, axis), aux._replace(metrics={'loss': value} | aux.metrics)

  (_, aux), grads = jax.value_and_grad(objective, has_aux=True)(_trained(params, phase))
  return grads, aux


def _check_aux(aux: Any) -> None:
  """Raises ValueError, when traced, for a loss that returns something else, or a metric of many."""
  if not isinstance(aux, Aux):
    raise ValueError(f'the loss must return (value, Aux), not (value, {type(aux).__name__}).')
  for name, value in aux.metrics.items():
    if jnp.shape(value):
      raise ValueError(
        f"the metric '{name}' has the shape {list(jnp.shape(value))}: metrics are scalars, such as "
        'its mean.'
      )


def _check_phases(method: Method, params: PyTree) -> None:
  if method.phases and method.compare is not None:
    raise ValueError(
      'a method with phases cannot have `compare`, which is of the images of `loss`.'
    )
  trained = [role for phase in method.phases for role in phase.roles]
  for role in trained:
    if trained.count(role) > 1:
      raise ValueError(f"the role '{role}' is trained by several phases; each may train others.")
    if role not in params:
      raise ValueError(f"a phase trains '{role}', but there are only {', '.join(params)}.")


def _trained(params: PyTree, phase: Phase) -> PyTree:
  """The parameters that a phase trains; those of other roles are left out, their names are not."""
  return {role: value if role in phase.roles else {} for role, value in params.items()}


def _merged(params: PyTree, trained: PyTree, phase: Phase) -> PyTree:
  """All parameters, those of the phase's roles out of `trained`."""
  return params | {role: trained[role] for role in phase.roles}


def skip_if_nonfinite(
  state: TrainState, finish: Finish, numbers: list[jax.Array], axis: str | None
) -> tuple[PyTree, Skipping, PyTree, Metrics]:
  """What `finish` returns if all numbers are finite, else the state as it was; and the count."""
  fine = jnp.all(jnp.isfinite(jnp.stack(numbers)))
  # There are collectives in the branches: all devices must take the same.
  fine = collectives.pmean(fine.astype(jnp.float32), axis) == 1
  before: Skipping = state.opt_state
  nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(finish)[3])
  params, inner, method_state, metrics = jax.lax.cond(
    fine, finish, lambda: (state.params, before.inner, state.method_state, nothing)
  )
  metrics = {name: Measured(value, fine) for name, value in metrics.items()}
  in_a_row = jnp.where(fine, 0, before.in_a_row + 1)
  total = before.total + jnp.where(fine, 0, 1)
  counted = Skipping(inner, total, in_a_row, jnp.maximum(before.longest, in_a_row))
  return params, counted, method_state, metrics


def _gradient_norms(phases: tuple[Phase, ...], grads: list[PyTree], groups: PyTree) -> Metrics:
  """Global L2 norms: 'grad_norm' of the method's own parameters, 'probe/grad_norm' of the probe's.

  Kept apart because the probe's gradient depends on the labels, the method's must not.

  Args:
    phases: what is trained.
    grads: of each.
    groups: optimizer groups of all parameters.
  """
  own, probe = [], []
  for phase, tree in zip(phases, grads, strict=True):
    for role in phase.roles:
      names = jax.tree.leaves(groups[role])
      for leaf, group in zip(jax.tree.leaves(tree[role]), names, strict=True):
        (probe if group == 'probe' else own).append(leaf)
  norms = {'grad_norm': optax.tree.norm(own)}
  return norms | ({'probe/grad_norm': optax.tree.norm(probe)} if probe else {})
